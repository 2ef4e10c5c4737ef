/**
 * The prompt protocol under load, against the server as a process: readiness, prompt to success, accepting, many clients.
 *
 *     npm run build && npx tsx test/bench/protocol.ts
 *
 * Model-free graph: PreviewAny of a text, never answered from the cache. Prints each figure beside its bound and exits
 * with 1 when one is missed. Memory per client needs /proc.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { createServer, type AddressInfo } from 'node:net';
import { Agent, request } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import WebSocket from 'ws';
import { createDemoTree } from '../../src/cli/demo/tree.js';
import { printLine } from '../../src/cli/output.js';
import { printTable } from '../../src/cli/table.js';
import { silentLogger } from '../../src/common/logger.js';
import { PromptQueue } from '../../src/graph/index.js';
import { startServer } from '../../src/server/index.js';
import { startTestBridge } from '../support/bridge.js';
import { fixtureNodes } from '../support/fixture-nodes.js';

const STARTS = 5;
const ROUND_TRIPS = 300;
const WARM_UP = 100;
const CLIENTS = 1000;
const WATCHED_PROMPTS = 200;
const QUEUED = 2000;
const BOUNDS = { readyMs: 500, roundTripMs: 1.7, acceptMs: 20, clientKb: 50 };

const main = new URL('../../dist/cli/main.js', import.meta.url).pathname;
const tree = await createDemoTree();
const agent = new Agent({ keepAlive: true, maxSockets: 1 });

interface Served {
  readonly process: ChildProcess;
  readonly port: number;
  readonly readyMs: number;
}

async function serve(): Promise<Served> {
  const probe = createServer().listen(0, '127.0.0.1');
  await once(probe, 'listening');
  const { port } = probe.address() as AddressInfo;
  await new Promise((resolve) => probe.close(resolve));
  const begin = performance.now();
  const child = spawn(
    process.execPath,
    [main, 'serve', '--comfyui', tree.root, '--data-directory', tree.dataDirectory, '--port', String(port)],
    { stdio: ['ignore', 'pipe', 'ignore'] },
  );
  await once(child.stdout, 'data');
  await call(port, 'GET', '/system_stats');
  return { process: child, port, readyMs: performance.now() - begin };
}

async function stop({ process: child }: Served): Promise<void> {
  const closed = once(child, 'close');
  child.kill('SIGTERM');
  await closed;
}

function call(port: number, method: string, path: string, body?: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const sent = request({ agent, host: '127.0.0.1', port, method, path }, (response) => {
      let text = '';
      response.on('data', (data: Buffer) => (text += data.toString()));
      response.on('end', () => {
        resolve(text);
      });
    });
    sent.on('error', reject);
    sent.end(body);
  });
}

let label = 0;
/** No two alike. */
function promptBody(clientId?: string): string {
  label += 1;
  const prompt = { '1': { class_type: 'PreviewAny', inputs: { source: `text ${label}` } } };
  return JSON.stringify({ prompt, ...(clientId === undefined ? {} : { client_id: clientId }) });
}

async function connect(port: number, clientId: string): Promise<WebSocket> {
  const socket = new WebSocket(`ws://127.0.0.1:${port}/ws?clientId=${clientId}`, { perMessageDeflate: false });
  await once(socket, 'message');
  return socket;
}

function quantile(values: readonly number[], part: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(part * sorted.length))] ?? Number.NaN;
}

async function residentKb({ process: { pid } }: Served): Promise<number> {
  const status = await readFile(`/proc/${pid ?? 'self'}/status`, 'utf8');
  return Number(/VmRSS:\s+(\d+)/.exec(status)?.[1]);
}

async function measureRoundTrips(port: number): Promise<number[]> {
  const socket = await connect(port, 'bench');
  let onSuccess: (() => void) | undefined;
  socket.on('message', (data: Buffer) => {
    if (data.includes('"execution_success"')) onSuccess?.();
  });
  const times: number[] = [];
  for (let i = 0; i < WARM_UP + ROUND_TRIPS; i += 1) {
    const body = promptBody('bench');
    const succeeded = new Promise<void>((resolve) => (onSuccess = resolve));
    const begin = performance.now();
    const answered = call(port, 'POST', '/prompt', body);
    await succeeded;
    if (i >= WARM_UP) times.push(performance.now() - begin);
    await answered;
  }
  socket.terminate();
  return times;
}

/** Every client must get the same status events, in the same order: the count goes up by one and down by one. */
async function measureClients(served: Served): Promise<{ kbPerClient: number; seconds: number; wrong: number }> {
  const before = await residentKb(served);
  const counts: number[][] = [];
  const sockets: WebSocket[] = [];
  for (let i = 0; i < CLIENTS; i += 1) {
    const socket = await connect(served.port, `client-${i}`);
    const seen: number[] = [];
    socket.on('message', (data: Buffer) => {
      if (!data.includes('"status"')) return;
      const event = JSON.parse(data.toString()) as {
        type: string;
        data: { status?: { exec_info: { queue_remaining: number } } };
      };
      if (event.data.status !== undefined) seen.push(event.data.status.exec_info.queue_remaining);
    });
    counts.push(seen);
    sockets.push(socket);
  }
  await sleep(500);
  const kbPerClient = ((await residentKb(served)) - before) / CLIENTS;
  const begin = performance.now();
  for (let i = 0; i < WATCHED_PROMPTS; i += 1) await call(served.port, 'POST', '/prompt', promptBody());
  const expected = WATCHED_PROMPTS * 3; // queued, taken, done
  while (counts.some(({ length }) => length < expected) && performance.now() - begin < 60_000) await sleep(10);
  const seconds = (performance.now() - begin) / 1000;
  const [first] = counts;
  const wrong = counts.filter((seen) => seen.length !== expected || seen.join() !== first?.join()).length;
  for (const socket of sockets) socket.terminate();
  await sleep(200);
  return { kbPerClient, seconds, wrong };
}

/** Behind a prompt that takes longer than all of this, so that every one has to wait; server and client in one process. */
async function measureAccepting(): Promise<{ times: number[]; waiting: number }> {
  await using started = await startTestBridge();
  const nodes = new Map(fixtureNodes.map((node) => [node.classType, node] as const));
  await using queue = new PromptQueue({ table: nodes, logger: silentLogger });
  await using server = await startServer({ ...started.bridge, nodes, queue });
  const submit = (steps: number): Promise<string> => {
    const slow = { class_type: 'FxSteps', inputs: { steps, delay_ms: 1000, preview: 'none' } };
    const echo = { class_type: 'FxEcho', inputs: { value: ['1', 0] } };
    return call(server.port, 'POST', '/prompt', JSON.stringify({ prompt: { '1': slow, '2': echo } }));
  };
  const times: number[] = [];
  await submit(1000);
  for (let i = 0; i < QUEUED; i += 1) {
    const begin = performance.now();
    await submit(1);
    times.push(performance.now() - begin);
  }
  return { times, waiting: queue.pending.length };
}

try {
  const starts: number[] = [];
  for (let i = 0; i < STARTS; i += 1) {
    const served = await serve();
    starts.push(served.readyMs);
    await stop(served);
  }
  const served = await serve();
  const roundTrips = await measureRoundTrips(served.port);
  const { kbPerClient, seconds, wrong } = await measureClients(served);
  await stop(served);
  agent.destroy();
  const { times: accepts, waiting } = await measureAccepting();
  const rows: [string, number, number][] = [
    ['ready after start, ms, median', quantile(starts, 0.5), BOUNDS.readyMs],
    ['prompt to success, ms, p50', quantile(roundTrips, 0.5), BOUNDS.roundTripMs],
    [`accept of ${QUEUED}, ms, p99`, quantile(accepts, 0.99), BOUNDS.acceptMs],
    ['memory of an idle client, kB', kbPerClient, BOUNDS.clientKb],
    [`of ${CLIENTS} clients, those that missed an event`, wrong, 0],
  ];
  printTable(
    ['figure', 'measured', 'bound'],
    rows.map(([name, value, bound]) => [name, value.toFixed(2), bound]),
  );
  printLine(`${waiting} prompts waited after the last was accepted`);
  printLine(`${CLIENTS} clients saw ${WATCHED_PROMPTS} prompts in ${seconds.toFixed(1)} s`);
  if (rows.some(([, value, bound]) => value > bound)) process.exitCode = 1;
} finally {
  agent.destroy();
  await tree[Symbol.asyncDispose]();
}
