/** The server as a process that is killed or told to stop: with --persist-queue no accepted prompt is lost. */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, writeFile } from 'node:fs/promises';
import { createServer, type AddressInfo } from 'node:net';
import { join } from 'node:path';
import sharp from 'sharp';
import { afterAll, beforeAll, expect, it } from 'vitest';
import WebSocket from 'ws';
import { createDemoTree, type DemoTree } from '../../src/cli/demo/tree.js';

const main = new URL('../../src/cli/main.ts', import.meta.url).pathname;
const loader = import.meta.resolve('tsx');
const KILLS = 3;
const PROMPTS = 60;
const CALLERS = 8;

let tree: DemoTree;
beforeAll(async () => {
  tree = await createDemoTree();
  await mkdir(join(tree.root, 'input'), { recursive: true });
  // Large enough that prompts come in faster than they run.
  await sharp({ create: { width: 400, height: 300, channels: 3, background: { r: 1, g: 2, b: 3 } } })
    .png()
    .toFile(join(tree.root, 'input', 'picture.png'));
  await writeFile(join(tree.root, 'input', 'readme.txt'), 'not a picture');
});
afterAll(async () => {
  await tree[Symbol.asyncDispose]();
});

interface Served {
  readonly process: ChildProcess;
  readonly url: string;
}

async function serve(port: number, ...flags: string[]): Promise<Served> {
  const folders = ['--comfyui', tree.root, '--data-directory', tree.dataDirectory];
  const child = spawn(
    process.execPath,
    ['--import', loader, main, 'serve', ...folders, '--port', String(port), '--log-level', 'error', ...flags],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  );
  await once(child.stdout, 'data');
  return { process: child, url: `http://127.0.0.1:${port}` };
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** No two alike, so that none is answered from the cache. */
const promptOf = (label: string): object => ({
  '1': { class_type: 'LoadImage', inputs: { image: 'picture.png', label } },
  '2': { class_type: 'PreviewImage', inputs: { images: ['1', 0] } },
});

async function submit(url: string, promptId: string): Promise<boolean> {
  const body = JSON.stringify({ prompt: promptOf(promptId), prompt_id: promptId, client_id: 'watcher' });
  const response = await fetch(`${url}/prompt`, { method: 'POST', body });
  return response.ok && ((await response.json()) as { prompt_id: string }).prompt_id === promptId;
}

/** Ids of prompts that ended, as the websocket tells them. */
async function watch(url: string): Promise<Set<string>> {
  const ended = new Set<string>();
  const socket = new WebSocket(`${url.replace('http', 'ws')}/ws?clientId=watcher`);
  socket.on('message', (data: Buffer) => {
    const event = JSON.parse(data.toString()) as { type: string; data: { prompt_id: string } };
    if (event.type === 'execution_success') ended.add(event.data.prompt_id);
  });
  socket.on('error', () => undefined);
  await once(socket, 'open');
  return ended;
}

const remaining = async (url: string): Promise<number> =>
  ((await (await fetch(`${url}/prompt`)).json()) as { exec_info: { queue_remaining: number } }).exec_info
    .queue_remaining;

async function end({ process: child }: Served, signal: NodeJS.Signals): Promise<void> {
  const closed = once(child, 'close');
  child.kill(signal);
  await closed;
}

it(`runs every accepted prompt although the process is killed ${KILLS} times`, { timeout: 120_000 }, async () => {
  const port = await freePort();
  const accepted = new Set<string>();
  const ended = new Set<string>();
  let survived = 0;
  for (let round = 0; round < KILLS; round += 1) {
    const server = await serve(port, '--persist-queue');
    survived += await remaining(server.url);
    const seen = await watch(server.url);
    let next = 0;
    const call = async (): Promise<void> => {
      for (let i = next++; i < PROMPTS; i = next++) {
        const id = `round-${round}-${i}`;
        // The kill cuts calls off: what was not answered was not accepted.
        if (await submit(server.url, id).catch(() => false)) accepted.add(id);
        if (i === PROMPTS - 20) server.process.kill('SIGKILL');
      }
    };
    const closed = once(server.process, 'close');
    await Promise.all(Array.from({ length: CALLERS }, call));
    await closed;
    for (const id of seen) ended.add(id);
  }
  const server = await serve(port, '--persist-queue');
  await expect.poll(() => remaining(server.url), { timeout: 60_000, interval: 50 }).toBe(0);
  const history = (await (await fetch(`${server.url}/history`)).json()) as Record<string, unknown>;
  await end(server, 'SIGTERM');
  expect(survived).toBeGreaterThan(0);
  expect([...accepted].filter((id) => !ended.has(id) && history[id] === undefined)).toEqual([]);
});

it('finishes the running prompt when told to stop, and keeps the waiting ones', { timeout: 60_000 }, async () => {
  const port = await freePort();
  const first = await serve(port, '--persist-queue');
  const ended = await watch(first.url);
  const ids = Array.from({ length: 30 }, (_none, i) => `stop-${i}`);
  expect(await Promise.all(ids.map((id) => submit(first.url, id)))).not.toContain(false);
  await end(first, 'SIGTERM');
  expect(first.process.exitCode).toBe(0);
  expect(ended.size).toBeLessThan(ids.length);
  const second = await serve(port, '--persist-queue');
  await expect.poll(() => remaining(second.url), { timeout: 30_000, interval: 50 }).toBe(0);
  const history = (await (await fetch(`${second.url}/history`)).json()) as Record<string, unknown>;
  await end(second, 'SIGTERM');
  // Each ran exactly once: what ended before the stop is not in the new history.
  expect(ids.filter((id) => ended.has(id) === (history[id] !== undefined))).toEqual([]);
});
