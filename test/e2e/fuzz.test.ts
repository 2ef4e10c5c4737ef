/**
 * Random prompts, requests and websocket messages against the server as a process: each gets an answer, none is a defect,
 * and a good prompt runs afterwards.
 *
 * `FUZZ_RUNS` says how many of each kind (20000 for the long form), `FUZZ_SEED` repeats a run; the titles name the seed.
 */
import fc from 'fast-check';
import { request as httpRequest } from 'node:http';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import WebSocket from 'ws';
import { HAS_PROC } from '../support/memory.js';
import {
  randomGraph,
  randomMessage,
  randomPromptBody,
  randomRequest,
  type ObjectInfo,
  type RandomRequest,
} from '../support/random-requests.js';
import { startServedProcess, type ServedProcess } from '../support/served-process.js';

const RUNS = Number(process.env['FUZZ_RUNS'] ?? 400);
const SEED = Number(process.env['FUZZ_SEED'] ?? Math.floor(Math.random() * 2 ** 31));
/** Without an answer for so long, there is none. */
const PATIENCE_MS = 15_000;
/** Room for a machine that other tests keep busy. */
const TIME_LIMIT_MS = 120_000 + RUNS * 150;
/** Caches, history and log fill up at first; what leaks goes on. */
const MAX_RESIDENT_MB = 900;
/** Errors of JavaScript itself, as opposed to those that a node means: a value that no check caught. */
const DEFECTS = new Set(['ReferenceError', 'SyntaxError', 'RangeError', 'Error', 'INTERNAL']);
const DEFECT_TEXT = /Cannot (read|set|convert|mix)|is not (a function|iterable|a constructor)|undefined|call stack/;

interface Allowed {
  readonly method: string;
  readonly path: RegExp;
  readonly reason: string;
}

/** Answers with 500 that are meant. */
const ALLOWED_500: readonly Allowed[] = [];

let served: ServedProcess;
let info: ObjectInfo;
beforeAll(async () => {
  served = await startServedProcess('--max-upload-size', '1', '--max-history', '100');
  const form = new FormData();
  form.set('image', new Blob([served.picture]), 'demo.png');
  expect((await fetch(`${served.url}/upload/image`, { method: 'POST', body: form })).status).toBe(200);
  info = (await (await fetch(`${served.url}/object_info`)).json()) as ObjectInfo;
}, 60_000);
afterAll(async () => {
  await served[Symbol.asyncDispose]();
});

interface Answer {
  readonly status: number;
  readonly text: string;
}

function send({ method, path, headers, body }: RandomRequest): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const { hostname, port } = new URL(served.url);
    const length = body === undefined ? {} : { 'content-length': body.length };
    const call = httpRequest({ hostname, port, method, path, headers: { ...headers, ...length }, agent: false });
    call.setTimeout(PATIENCE_MS, () => call.destroy(new Error(`no answer in ${PATIENCE_MS} ms`)));
    call.on('upgrade', (_response, socket) => {
      socket.destroy();
      resolve({ status: 101, text: '' });
    });
    call.on('response', (response) => {
      let text = '';
      response.on('data', (data: Buffer) => (text += data.toString()));
      response.on('error', reject);
      response.on('end', () => {
        resolve({ status: response.statusCode ?? 0, text });
      });
    });
    call.on('error', reject);
    call.end(body);
  });
}

async function connect(clientId: string): Promise<WebSocket> {
  const socket = new WebSocket(`${served.url.replace('http', 'ws')}/ws?clientId=${clientId}`);
  await new Promise((resolve, reject) => socket.once('message', resolve).once('error', reject));
  return socket;
}

/** Runs prompts one after the other, and tells how each ended. */
class Runner implements Disposable {
  readonly #socket: WebSocket;
  readonly #ended = new Map<string, Readonly<Record<string, unknown>>>();
  #wake: (() => void) | undefined;

  constructor(socket: WebSocket) {
    this.#socket = socket;
    socket.on('message', (data: Buffer, isBinary) => {
      if (isBinary) return;
      const event = JSON.parse(data.toString()) as { type: string; data: { prompt_id?: unknown } };
      if (!/^execution_(success|error|interrupted)$/.test(event.type)) return;
      this.#ended.set(String(event.data.prompt_id), { type: event.type, ...event.data });
      this.#wake?.();
    });
  }

  async run(body: string): Promise<{ status: number; end?: Readonly<Record<string, unknown>> }> {
    this.#ended.clear();
    const headers = { 'content-type': 'application/json' };
    const { status, text } = await send({ method: 'POST', path: '/prompt', headers, body: Buffer.from(body) });
    if (status !== 200) return { status };
    const { prompt_id: id } = JSON.parse(text) as { prompt_id: string };
    const timer = setTimeout(() => this.#wake?.(), PATIENCE_MS);
    const from = performance.now();
    while (!this.#ended.has(id) && performance.now() - from < PATIENCE_MS)
      await new Promise<void>((resolve) => (this.#wake = resolve));
    clearTimeout(timer);
    const end = this.#ended.get(id);
    return end === undefined ? { status } : { status, end };
  }

  [Symbol.dispose](): void {
    this.#socket.terminate();
  }
}

let label = 0;
async function expectGoodPrompt(): Promise<void> {
  using runner = new Runner(await connect('fuzz'));
  label += 1;
  const graph = { '1': { class_type: 'PreviewAny', inputs: { source: `still here ${label}` } } };
  const { status, end } = await runner.run(JSON.stringify({ prompt: graph, client_id: 'fuzz' }));
  expect([status, end?.['type']]).toEqual([200, 'execution_success']);
  expect(served.isRunning).toBe(true);
  if (HAS_PROC) expect(served.residentMb()).toBeLessThan(MAX_RESIDENT_MB);
}

const settings = { numRuns: RUNS, seed: SEED } as const;

describe(`${RUNS} random inputs of each kind, seed ${SEED}`, () => {
  it(
    'prompts are refused with 400 or run to an end, and no node fails through a defect',
    async () => {
      using runner = new Runner(await connect('fuzz'));
      const counts = { refused: 0, succeeded: 0, failed: 0 };
      const check = async (body: string): Promise<void> => {
        const { status, end } = await runner.run(body);
        if (status === 400) counts.refused += 1;
        else if (end?.['type'] === 'execution_success') counts.succeeded += 1;
        else counts.failed += 1;
        expect([200, 400], served.log).toContain(status);
        if (status === 400) return;
        expect(end, 'the prompt never ended').toBeDefined();
        if (end?.['type'] !== 'execution_error') return;
        expect(DEFECTS, JSON.stringify(end)).not.toContain(end['exception_type']);
        expect(end['exception_message'], JSON.stringify(end)).not.toMatch(DEFECT_TEXT);
      };
      await fc.assert(fc.asyncProperty(randomPromptBody(randomGraph(info)), check), settings);
      // Otherwise the prompts say nothing of what runs.
      expect(Math.min(...Object.values(counts)), JSON.stringify(counts)).toBeGreaterThan(RUNS / 50);
      await expectGoodPrompt();
    },
    TIME_LIMIT_MS,
  );

  it(
    'requests are answered, and with 500 only where that is meant',
    async () => {
      const check = async (request: RandomRequest): Promise<void> => {
        const { status, text } = await send(request);
        if (status !== 500) return;
        const isMeant = ALLOWED_500.some(({ method, path }) => method === request.method && path.test(request.path));
        expect(isMeant, `${text}\n${served.log.slice(-2000)}`).toBe(true);
      };
      await fc.assert(fc.asyncProperty(randomRequest, check), settings);
      await expectGoodPrompt();
    },
    TIME_LIMIT_MS,
  );

  it(
    'websocket messages leave a connection that still answers',
    async () => {
      const check = async (message: string | Buffer): Promise<void> => {
        const socket = await connect('messages');
        const answered = new Promise((resolve, reject) => socket.once('pong', resolve).once('close', reject));
        socket.send(message);
        socket.ping();
        await answered;
        socket.terminate();
      };
      await fc.assert(fc.asyncProperty(randomMessage, check), settings);
      await expectGoodPrompt();
      expect(served.log).not.toContain('defect');
    },
    TIME_LIMIT_MS,
  );
});
