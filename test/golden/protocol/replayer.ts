/** Plays a recorded conversation against a server of its own, and tells the first difference. */
import { mkdir, mkdtemp, rm, unlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import WebSocket from 'ws';
import { z } from 'zod';
import { createBridge } from '../../../src/bridge.js';
import { silentLogger } from '../../../src/common/logger.js';
import { parseConfig } from '../../../src/config.js';
import { PromptQueue } from '../../../src/graph/index.js';
import { startServer } from '../../../src/server/index.js';
import { fixtureNodes } from '../../support/fixture-nodes.js';
import { Matcher } from './matching.js';

const fileSchema = z.object({ base64: z.string().optional(), length: z.number().optional() });
const partSchema = z.object({
  name: z.string(),
  value: z.string().optional(),
  filename: z.string().optional(),
  content_type: z.string().optional(),
  data_base64: z.string().optional(),
});
const stepSchema = z.union([
  z.object({
    request: z.object({
      method: z.string(),
      path: z.string(),
      headers: z.record(z.string(), z.string()).optional(),
      body: z.unknown().optional(),
      body_text: z.string().optional(),
      body_base64: z.string().optional(),
      multipart: z.array(partSchema).optional(),
    }),
    response: z.object({
      status: z.number(),
      headers: z.record(z.string(), z.string()).optional(),
      body: z.unknown().optional(),
      body_text: z.string().optional(),
    }),
  }),
  z.object({ ws_connect: z.object({ client: z.string(), path: z.string() }) }),
  z.object({
    ws_send: z.object({
      client: z.string(),
      json: z.unknown().optional(),
      raw: z.string().optional(),
      binary_base64: z.string().optional(),
    }),
  }),
  z.object({ ws_close: z.object({ client: z.string() }) }),
  z.object({
    wait_event: z.object({
      client: z.string(),
      type: z.string(),
      data: z.record(z.string(), z.unknown()).optional(),
      count: z.number().optional(),
    }),
  }),
  z.object({ wait_idle: z.literal(true) }),
  z.object({ sleep_ms: z.number() }),
  z.object({ remove_file: z.string() }),
]);

export const scenarioSchema = z.object({
  name: z.string(),
  description: z.string(),
  server_flags: z.array(z.string()).optional(),
  notes: z.array(z.string()).optional(),
  setup: z.object({ files: z.record(z.string(), fileSchema) }).optional(),
  steps: z.array(stepSchema),
  ws: z.record(z.string(), z.array(z.unknown())).default({}),
});
export type Scenario = z.output<typeof scenarioSchema>;
type RequestStep = Extract<Scenario['steps'][number], { request: unknown }>;

interface Client {
  readonly socket: WebSocket;
  readonly events: unknown[];
}

/** Events whose number depends on timing where a run is interrupted or a client reconnects. */
const TIMING_DEPENDENT = new Set(['progress', 'progress_state']);
const WAIT_LIMIT_MS = 3000;

/** Every difference from the recording, as far as it can be told after the first. */
export async function replay(scenario: Scenario): Promise<string[]> {
  const base = await mkdtemp(join(tmpdir(), 'vision-bridge-replay-'));
  for (const [path, { base64, length }] of Object.entries(scenario.setup?.files ?? {})) {
    await mkdir(dirname(join(base, path)), { recursive: true });
    await writeFile(join(base, path), base64 === undefined ? Buffer.alloc(length ?? 0) : Buffer.from(base64, 'base64'));
  }
  await mkdir(join(base, 'input'), { recursive: true });
  const config = parseConfig({
    baseDirectory: base,
    dataDirectory: join(base, 'data'),
    tempDirectory: join(base, 'temp'),
    port: 0,
  });
  await using whole = await createBridge(config, silentLogger);
  const nodes = new Map([...whole.nodes, ...fixtureNodes.map((node) => [node.classType, node] as const)]);
  await using queue = new PromptQueue({ table: nodes, logger: silentLogger });
  await using server = await startServer({ ...whole, nodes, queue });
  const run = new Replay(server.url, base, scenario);
  try {
    return await run.play();
  } finally {
    await rm(base, { recursive: true, force: true });
  }
}

class Replay {
  readonly #url: string;
  readonly #base: string;
  readonly #scenario: Scenario;
  readonly #matcher = new Matcher();
  readonly #clients = new Map<string, Client>();
  readonly #differences: string[] = [];

  constructor(url: string, base: string, scenario: Scenario) {
    this.#url = url;
    this.#base = base;
    this.#scenario = scenario;
  }

  async play(): Promise<string[]> {
    for (const [index, step] of this.#scenario.steps.entries()) await this.#step(step, `step ${index}`);
    await sleep(30); // stragglers
    for (const [label, expected] of Object.entries(this.#scenario.ws)) this.#compareEvents(label, expected);
    for (const { socket } of this.#clients.values()) socket.terminate();
    return this.#differences;
  }

  #note(problem: string | undefined, at: string): void {
    if (problem !== undefined) this.#differences.push(`${at}${problem}`);
  }

  async #step(step: Scenario['steps'][number], at: string): Promise<void> {
    if ('request' in step) await this.#request(step, at);
    else if ('ws_connect' in step) await this.#connect(step.ws_connect);
    else if ('ws_send' in step) this.#send(step.ws_send);
    else if ('ws_close' in step) await this.#close(step.ws_close.client);
    else if ('wait_event' in step) await this.#waitFor(step.wait_event, at);
    else if ('wait_idle' in step) await this.#waitIdle();
    else if ('sleep_ms' in step) await sleep(step.sleep_ms);
    else await unlink(join(this.#base, step.remove_file));
  }

  async #request({ request, response: expected }: RequestStep, at: string): Promise<void> {
    const response = await fetch(this.#url + this.#matcher.fill(request.path), {
      method: request.method,
      headers: request.headers ?? {},
      ...(request.method === 'GET' || request.method === 'HEAD' ? {} : { body: this.#bodyOf(request) }),
    });
    const text = await response.text();
    if (response.status !== expected.status)
      this.#note(`: recorded status ${expected.status}, got ${response.status} ${text.slice(0, 200)}`, at);
    if (expected.body !== undefined && expected.headers?.['content-type']?.includes('json') === true) {
      this.#note(this.#matcher.compare(expected.body, parse(text)), `${at} ${request.path} body`);
    }
  }

  #bodyOf(request: RequestStep['request']): string | Buffer | FormData | null {
    if (request.body !== undefined) return this.#matcher.fill(JSON.stringify(request.body));
    if (request.body_text !== undefined) return this.#matcher.fill(request.body_text);
    if (request.body_base64 !== undefined) return Buffer.from(request.body_base64, 'base64');
    if (request.multipart === undefined) return null;
    const form = new FormData();
    for (const { name, value, filename, content_type: type, data_base64: data } of request.multipart) {
      if (value !== undefined) form.append(name, value);
      else
        form.append(
          name,
          new Blob([Buffer.from(data ?? '', 'base64')], type === undefined ? {} : { type }),
          filename ?? '',
        );
    }
    return form;
  }

  async #connect({ client, path }: { client: string; path: string }): Promise<void> {
    const socket = new WebSocket(this.#url.replace('http', 'ws') + path);
    // A label that connects again goes on with its list.
    const events = this.#clients.get(client)?.events ?? [];
    const before = events.length;
    this.#clients.set(client, { socket, events });
    socket.on('message', (data, isBinary) => {
      events.push(isBinary ? describeFrame(data as Buffer) : { json: parse((data as Buffer).toString()) });
    });
    while (events.length === before) await sleep(2);
  }

  #send({
    client,
    json,
    raw,
    binary_base64: binary,
  }: {
    client: string;
    json?: unknown;
    raw?: string | undefined;
    binary_base64?: string | undefined;
  }): void {
    this.#clients
      .get(client)
      ?.socket.send(binary === undefined ? (raw ?? JSON.stringify(json)) : Buffer.from(binary, 'base64'));
  }

  async #close(client: string): Promise<void> {
    const socket = this.#clients.get(client)?.socket;
    if (socket === undefined || socket.readyState === WebSocket.CLOSED) return;
    const closed = new Promise((resolve) => socket.once('close', resolve));
    socket.close();
    await closed;
    await sleep(10); // the server's side
  }

  async #waitFor(
    {
      client,
      type,
      data = {},
      count = 1,
    }: { client: string; type: string; data?: Record<string, unknown> | undefined; count?: number | undefined },
    at: string,
  ): Promise<void> {
    const isMatch = (event: unknown): boolean => {
      const json = (event as { json?: { type: string; data: Record<string, unknown> } }).json;
      return (
        json?.type === type &&
        Object.entries(data).every(([key, value]) => this.#matcher.compare(value, json.data[key]) === undefined)
      );
    };
    for (let waited = 0; waited < WAIT_LIMIT_MS; waited += 5) {
      if ((this.#clients.get(client)?.events.filter(isMatch).length ?? 0) >= count) return;
      await sleep(5);
    }
    this.#note(`: ${type} did not come`, at);
  }

  async #waitIdle(): Promise<void> {
    for (;;) {
      const { exec_info: info } = (await (await fetch(`${this.#url}/prompt`)).json()) as {
        exec_info: { queue_remaining: number };
      };
      if (info.queue_remaining === 0) break;
      await sleep(5);
    }
    await sleep(30);
  }

  #compareEvents(label: string, expected: readonly unknown[]): void {
    const isLoose = (this.#scenario.notes ?? []).length > 0;
    const significant = (events: readonly unknown[]): unknown[] =>
      isLoose
        ? events.filter((event) => !TIMING_DEPENDENT.has((event as { json?: { type: string } }).json?.type ?? 'binary'))
        : [...events];
    const wanted = significant(expected);
    const got = significant(this.#clients.get(label)?.events ?? []);
    for (let i = 0; i < Math.max(wanted.length, got.length); i += 1) {
      const problem = compareEvent(this.#matcher, wanted[i], got[i]);
      if (problem === undefined) continue;
      this.#note(problem, `client ${label} event ${i}`);
      return;
    }
  }
}

function compareEvent(matcher: Matcher, expected: unknown, got: unknown): string | undefined {
  if (expected === undefined) return `: not in the recording: ${JSON.stringify(got).slice(0, 200)}`;
  const { binary } = expected as { binary?: Record<string, unknown> };
  if (binary === undefined) return matcher.compare(expected, got);
  const frame = (got as { binary?: Record<string, unknown> } | undefined)?.binary;
  // Encoders differ: what is compared is the kind of frame, its text and its metadata.
  const keys = ['event_type', 'image_type', 'node_id', 'text', 'metadata'].filter((key) => Object.hasOwn(binary, key));
  return matcher.compare(
    Object.fromEntries(keys.map((key) => [key, binary[key]])),
    frame === undefined ? frame : Object.fromEntries(keys.map((key) => [key, frame[key]])),
  );
}

function describeFrame(data: Buffer): unknown {
  const kind = data.readUInt32BE(0);
  const length = data.readUInt32BE(4);
  if (kind === 1) return { binary: { event_type: 1, image_type: length } };
  const head = data.subarray(8, 8 + length).toString();
  if (kind === 3) return { binary: { event_type: 3, node_id: head, text: data.subarray(8 + length).toString() } };
  return { binary: { event_type: kind, metadata: parse(head) } };
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return text;
  }
}
