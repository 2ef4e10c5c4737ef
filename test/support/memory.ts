/** A server as a process of its own, encodes over HTTP, and what memory it and its inference process hold. Linux only. */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import sharp from 'sharp';
import { createDemoTree } from '../../src/cli/demo/tree.js';
import { serializeSafetensors } from '../../src/formats/index.js';
import { u8Tensor, type U8Tensor } from '../../src/tensor/tensor.js';
import { seededRandom } from './random.js';
import { writeTinyModel } from './tiny-model.js';

const MAIN = new URL('../../src/cli/main.ts', import.meta.url).pathname;
const LOADER = import.meta.resolve('tsx');
const MODEL = 'tiny.safetensors';
const CALLERS = 4;
/** Every so many requests send their picture as a PNG in a form. */
const PNG_EVERY = 5;
const SIDES = [32, 64, 100, 224, 320] as const;
/** Long enough for what is freed to be given back. */
const REST_MS = 3000;

/** Where the system does not say what memory a process holds, nothing can be measured. */
export const HAS_PROC = existsSync('/proc/self/status');

/** Memory of a process's own: what it allocated, not pages of files that the system reads, keeps and drops as it likes. */
export interface Resident {
  readonly serverMb: number;
  readonly inferenceMb: number;
  /** Pages of files that both have mapped: programs, and what was touched of the store, up to its bound. */
  readonly filesMb: number;
}

export interface MemoryFigures {
  readonly first: Resident;
  readonly last: Resident;
  /** Sum at the end by sum at first. */
  readonly growth: number;
}

interface Plan {
  readonly encodes: number;
  /** The first sample is taken after so many encodes, when everything is loaded and warm. */
  readonly firstSampleAfter: number;
  readonly seed?: number;
}

/** Starts a server, sends the encodes of the plan, and samples twice. */
export async function measureMemory({ encodes, firstSampleAfter, seed = 1 }: Plan): Promise<MemoryFigures> {
  await using tree = await createDemoTree();
  await writeTinyModel(join(tree.root, 'models', 'clip_vision', MODEL));
  const server = spawn(
    process.execPath,
    [
      ...['--import', LOADER, MAIN, 'serve', '--json', '--port', '0', '--log-level', 'error'],
      ...['--comfyui', tree.root, '--data-directory', tree.dataDirectory],
    ],
    { stdio: ['ignore', 'pipe', 'ignore'] },
  );
  try {
    const url = await addressOf(server);
    const random = seededRandom(seed);
    await sendEncodes(url, firstSampleAfter, random);
    const first = await sample(url, server);
    await sendEncodes(url, encodes - firstSampleAfter, random);
    const last = await sample(url, server);
    return { first, last, growth: sumMb(last) / sumMb(first) };
  } finally {
    if (server.exitCode === null && server.signalCode === null) {
      const exited = once(server, 'exit');
      server.kill('SIGTERM');
      await exited;
    }
  }
}

export function sumMb({ serverMb, inferenceMb }: Resident): number {
  return serverMb + inferenceMb;
}

async function addressOf({ stdout }: ChildProcess): Promise<string> {
  let text = '';
  for await (const data of stdout ?? []) {
    text += String(data);
    if (text.includes('}')) return (JSON.parse(text) as { url: string }).url;
  }
  throw new Error('the server did not start');
}

async function sendEncodes(url: string, count: number, random: () => number): Promise<void> {
  let sent = 0;
  const call = async (): Promise<void> => {
    while (sent < count) {
      sent += 1;
      const response = await fetch(`${url}/bridge/v1/encode?model=${MODEL}`, {
        method: 'POST',
        body: await bodyOf(randomPicture(random), sent % PNG_EVERY === 0),
      });
      const bytes = await response.arrayBuffer();
      if (response.status !== 200) throw new Error(`HTTP ${response.status}: ${Buffer.from(bytes).toString()}`);
    }
  };
  await Promise.all(Array.from({ length: CALLERS }, call));
}

function randomPicture(random: () => number): U8Tensor {
  const side = (): number => SIDES[Math.floor(random() * SIDES.length)] ?? SIDES[0];
  const [height, width] = [side(), side()];
  return u8Tensor(
    [1, height, width, 3],
    Uint8Array.from({ length: height * width * 3 }, () => random() * 256),
  );
}

async function bodyOf(picture: U8Tensor, isPng: boolean): Promise<FormData | Uint8Array<ArrayBuffer>> {
  if (!isPng) return serializeSafetensors({ image: picture });
  const [, height = 0, width = 0] = picture.shape;
  const png = await sharp(picture.data, { raw: { width, height, channels: 3 } })
    .png()
    .toBuffer();
  const form = new FormData();
  form.set('image', new Blob([Uint8Array.from(png)]), 'random.png');
  return form;
}

async function sample(url: string, server: ChildProcess): Promise<Resident> {
  await sleep(REST_MS);
  const health = (await (await fetch(`${url}/bridge/v1/health`)).json()) as { inference: { pid: number | null } };
  const { pid } = health.inference;
  return {
    serverMb: residentMb(server.pid, 'RssAnon'),
    inferenceMb: residentMb(pid, 'RssAnon'),
    filesMb: residentMb(server.pid, 'RssFile') + residentMb(pid, 'RssFile'),
  };
}

function residentMb(pid: number | null | undefined, kind: 'RssAnon' | 'RssFile'): number {
  if (pid === null || pid === undefined) throw new Error('there is no such process');
  const kilobytes = new RegExp(`${kind}:\\s+(\\d+)`).exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1];
  if (kilobytes === undefined) throw new Error(`the system does not say what memory process ${pid} holds`);
  return (Number(kilobytes) * 1024) / 1e6;
}
