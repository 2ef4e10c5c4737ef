/** Plays a recorded conversation against a server of its own, and tells the differences. */
import { createHash } from 'node:crypto';
import { mkdir, mkdtemp, rm, unlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import WebSocket from 'ws';
import { createBridge } from '../../../src/bridge.js';
import { silentLogger } from '../../../src/common/logger.js';
import { parseConfig } from '../../../src/config.js';
import { PromptQueue } from '../../../src/graph/index.js';
import { writeJson, type Jsonable } from '../../../src/protocol/json.js';
import { startServer } from '../../../src/server/index.js';
import { fixtureNodes } from '../../support/fixture-nodes.js';
import { comparableFrame, comparableImage, describeFrame, describeImage, parseBody } from './bodies.js';
import type { Difference } from './differences.js';
import { send, type Answer } from './exchange.js';
import { Matcher, type Excuse, type Mismatch } from './matching.js';
import { orderOutputs } from './output-order.js';
import type { Exchange, Scenario, Step } from './scenario.js';

type Event = Record<string, unknown>;

interface Client {
  readonly socket: WebSocket;
  readonly events: (Event | Promise<Event>)[];
}

/** Events whose number depends on timing where a run is interrupted or a client reconnects. */
const TIMING_DEPENDENT = new Set(['progress', 'progress_state']);
/** Longer than any node of a recording takes, on a machine that is busy. */
const WAIT_LIMIT_MS = 20_000;
/** Statuses whose bodies come from an HTTP library, and differ from one to the next. */
const LIBRARY_BODIES = new Set([404, 405, 413, 500]);

const CLOCK_TICK_MS = 10;

/**
 * Every difference from the recording that is not intended, and every intended one that is not there.
 *
 * ComfyUI runs independent output nodes in an order that means nothing; we run them in the order of the prompt. So the
 * prompt is sent with its output nodes in the order in which the recording shows them; where it shows none, it may be
 * theirs or its reverse.
 */
export async function replay(scenario: Scenario, intended: readonly Difference[]): Promise<string[]> {
  const differences = await replayOnce(scenario, intended, false);
  if (differences.length === 0) return [];
  const reversed = await replayOnce(scenario, intended, true);
  return reversed.length === 0 ? [] : differences;
}

/** Told each answer and each event that the server sent. */
export type Observer = (message: unknown) => void;

/** Plays a recording for what the server says in it. */
export async function observe(scenario: Scenario, observer: Observer): Promise<void> {
  await replayOnce(scenario, [], false, observer);
}

async function replayOnce(
  scenario: Scenario,
  intended: readonly Difference[],
  isReversed: boolean,
  observer: Observer = () => undefined,
): Promise<string[]> {
  const base = await mkdtemp(join(tmpdir(), 'vision-bridge-replay-'));
  try {
    for (const [path, { base64, length }] of Object.entries(scenario.setup?.files ?? {})) {
      await mkdir(dirname(join(base, path)), { recursive: true });
      const bytes = base64 === undefined ? Buffer.alloc(length ?? 0) : Buffer.from(base64, 'base64');
      await writeFile(join(base, path), bytes);
    }
    await mkdir(join(base, 'input'), { recursive: true });
    const config = parseConfig({
      baseDirectory: base,
      dataDirectory: join(base, 'data'),
      tempDirectory: join(base, 'temp'),
      userDirectory: join(base, 'user'),
      port: 0,
      ...flagValues(scenario.server_flags ?? []),
    });
    await using whole = await createBridge(config, silentLogger);
    const nodes = new Map([...whole.nodes, ...fixtureNodes.map((node) => [node.classType, node] as const)]);
    await using queue = new PromptQueue({ table: nodes, logger: whole.logger });
    await using server = await startServer({ ...whole, nodes, queue });
    const outputClasses = new Set(
      [...nodes.values()].filter(({ isOutputNode }) => isOutputNode).map(({ classType }) => classType),
    );
    const sent = { ...scenario, steps: orderOutputs(scenario.steps, outputClasses, isReversed) };
    return await new Replay(server.url, base, sent, intended, observer).play();
  } finally {
    await rm(base, { recursive: true, force: true });
  }
}

/** `--enable-cors-header X` to `{ enableCorsHeader: 'X' }`. */
function flagValues(flags: readonly string[]): Record<string, string | boolean> {
  const values: Record<string, string | boolean> = {};
  flags.forEach((flag, i) => {
    if (!flag.startsWith('--')) return;
    const name = flag.slice(2).replaceAll(/-([a-z])/g, (_dash, letter: string) => letter.toUpperCase());
    const next = flags[i + 1];
    values[name] = next === undefined || next.startsWith('--') ? true : next;
  });
  return values;
}

class Replay {
  readonly #url: string;
  readonly #base: string;
  readonly #scenario: Scenario;
  readonly #intended: readonly Difference[];
  readonly #observer: Observer;
  readonly #met = new Set<Difference>();
  readonly #matcher: Matcher;
  readonly #clients = new Map<string, Client>();
  readonly #differences: string[] = [];
  /** The latest `etag` and `last-modified` of each path. */
  readonly #validators = new Map<string, { etag: string; time: string }>();

  constructor(url: string, base: string, scenario: Scenario, intended: readonly Difference[], observer: Observer) {
    this.#url = url;
    this.#base = base;
    this.#scenario = scenario;
    this.#intended = intended;
    this.#observer = observer;
    this.#matcher = new Matcher(base);
    this.#matcher.bind('<port>', new URL(url).port);
  }

  async play(): Promise<string[]> {
    for (const [index, step] of this.#scenario.steps.entries()) await this.#step(step, `step ${index}`);
    await sleep(30); // stragglers
    for (const [label, expected] of Object.entries(this.#scenario.ws)) await this.#compareEvents(label, expected);
    for (const { socket } of this.#clients.values()) socket.terminate();
    for (const entry of this.#intended) {
      if (!this.#met.has(entry)) this.#differences.push(`${entry.place} ${entry.field}: an entry that is not needed`);
    }
    return this.#differences;
  }

  #compare(expected: unknown, actual: unknown, place: string, field: string): void {
    this.#tell(place, this.#matcher.compare(expected, actual, field, this.#excuse(place)));
  }

  #tell(place: string, mismatches: readonly Mismatch[]): void {
    for (const { field, expected, actual } of mismatches)
      this.#differences.push(`${place} ${field}: recorded ${show(expected)}, got ${show(actual)}`);
  }

  /** An entry of the list excuses a difference only where we give what the entry says. */
  #excuse(place: string): Excuse {
    return ({ field, actual }) => {
      const entry = this.#intended.find((candidate) => candidate.place === place && candidate.field === field);
      if (entry === undefined || this.#matcher.compare(entry.ours, actual ?? null, field).length > 0) return false;
      this.#met.add(entry);
      return true;
    };
  }

  async #step(step: Step, place: string): Promise<void> {
    if ('request' in step) await this.#exchange(step, place);
    else if ('ws_connect' in step) await this.#connect(step.ws_connect);
    else if ('ws_send' in step) this.#send(step.ws_send);
    else if ('ws_close' in step) await this.#close(step.ws_close.client);
    else if ('wait_event' in step) await this.#waitFor(step.wait_event, place);
    else if ('wait_idle' in step) await this.#waitIdle();
    else if ('sleep_ms' in step) await sleep(step.sleep_ms);
    else await unlink(join(this.#base, step.remove_file));
  }

  async #exchange({ request, response: expected }: Exchange, place: string): Promise<void> {
    const path = request.path.split('?')[0] ?? '';
    const known = this.#validators.get(request.path);
    const headers = Object.fromEntries(
      Object.entries(request.headers ?? {}).map(([name, value]) => [
        name,
        this.#matcher.fill(value.replace('<etag>', known?.etag ?? '').replace('<time>', known?.time ?? '')),
      ]),
    );
    const answer = await send(this.#url, request, headers, (text) => this.#matcher.fill(text));
    // Listings go by time: files that are written within one tick of the clock have no order.
    if (path.includes('/upload/')) await sleep(CLOCK_TICK_MS);
    this.#observer(parseBody(answer.body.toString()));
    const { etag, 'last-modified': time } = answer.headers;
    if (typeof etag === 'string' || typeof time === 'string')
      this.#validators.set(request.path, { etag: etag ?? '', time: time ?? '' });
    this.#compare(expected.status, answer.status, place, 'status');
    if (answer.status !== expected.status) return;
    const isLibrarys =
      LIBRARY_BODIES.has(expected.status) && expected.headers['content-type']?.includes('json') !== true;
    this.#compareHeaders(expected, answer, place, isLibrarys);
    if (!isLibrarys && request.method !== 'HEAD') await this.#compareBody(expected, answer, place);
    if (path.endsWith('/history')) this.#compareOrder(expected.body, answer, place);
  }

  #compareHeaders(expected: Exchange['response'], { headers }: Answer, place: string, isLibrarys: boolean): void {
    for (const [name, value] of Object.entries(expected.headers)) {
      if (name === 'content-length' || (isLibrarys && name === 'content-type')) continue;
      const got = headers[name];
      if (name === 'allow') this.#compare(sortedWords(value), sortedWords(String(got ?? '')), place, 'headers.allow');
      else this.#compare(value, got, place, `headers.${name}`);
    }
  }

  async #compareBody(expected: Exchange['response'], { body }: Answer, place: string): Promise<void> {
    const { body_binary: binary, body_text: text } = expected;
    const isSameFile = binary?.sha256 === createHash('sha256').update(body).digest('hex');
    if (isSameFile) return;
    if (binary?.image !== undefined) {
      this.#compare(comparableImage(binary.image), await describeImage(body), place, 'image');
    } else if (binary !== undefined) {
      this.#compare(binary.sha256, createHash('sha256').update(body).digest('hex'), place, 'sha256');
    } else if (text !== undefined) {
      this.#compare(text, body.toString(), place, 'body_text');
    } else if (expected.body === null && expected.headers['content-type']?.includes('json') !== true) {
      this.#compare('', body.toString(), place, 'body');
    } else if (expected.body !== undefined) {
      this.#compare(expected.body, parseBody(body.toString()), place, 'body');
    }
  }

  /** The history's order of keys is the order of completion. */
  #compareOrder(expected: unknown, { body }: Answer, place: string): void {
    if (typeof expected !== 'object' || expected === null) return;
    const got: unknown = parseBody(body.toString());
    if (typeof got === 'object' && got !== null)
      this.#compare(Object.keys(expected), Object.keys(got), place, 'body keys');
  }

  async #connect({ client, path }: { client: string; path: string }): Promise<void> {
    const socket = new WebSocket(this.#url.replace('http', 'ws') + path);
    // A label that connects again goes on with its list.
    const events = this.#clients.get(client)?.events ?? [];
    const before = events.length;
    this.#clients.set(client, { socket, events });
    socket.on('message', (data, isBinary) => {
      events.push(
        isBinary
          ? describeFrame(data as Buffer).then((binary) => ({ binary }))
          : { json: parseBody((data as Buffer).toString()) },
      );
    });
    while (events.length === before) await sleep(2);
  }

  #send({ client, json, raw, binary_base64: binary }: Extract<Step, { ws_send: unknown }>['ws_send']): void {
    const text = raw ?? writeJson(json as Jsonable);
    this.#clients.get(client)?.socket.send(binary === undefined ? text : Buffer.from(binary, 'base64'));
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
    { client, type, data = {}, count = 1 }: Extract<Step, { wait_event: unknown }>['wait_event'],
    place: string,
  ): Promise<void> {
    const isMatch = (event: unknown): boolean => {
      const json = (event as { json?: { type: string; data: Record<string, unknown> } }).json;
      return (
        json?.type === type &&
        Object.entries(data).every(([key, value]) => this.#matcher.compare(value, json.data[key], key).length === 0)
      );
    };
    for (let waited = 0; waited < WAIT_LIMIT_MS; waited += 5) {
      if ((this.#clients.get(client)?.events.filter(isMatch).length ?? 0) >= count) return;
      await sleep(5);
    }
    this.#compare(type, undefined, place, 'event');
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

  async #compareEvents(label: string, expected: readonly Record<string, unknown>[]): Promise<void> {
    const isLoose = (this.#scenario.notes ?? []).length > 0;
    const significant = (events: readonly Record<string, unknown>[]): Record<string, unknown>[] =>
      isLoose
        ? events.filter((event) => !TIMING_DEPENDENT.has((event as { json?: { type: string } }).json?.type ?? 'binary'))
        : [...events];
    const wanted = significant(expected);
    const sent = await eventsOf(this.#clients.get(label));
    for (const event of sent) this.#observer(event);
    const got = significant(sent);
    const place = `client ${label}`;
    for (let i = 0; i < Math.max(wanted.length, got.length); i += 1) {
      const before = this.#differences.length;
      const { binary } = (wanted[i] ?? {}) as { binary?: Record<string, unknown> };
      const want = binary === undefined ? wanted[i] : { binary: comparableFrame(binary) };
      this.#compare(want, got[i], place, `[${i}]`);
      // After one missing event all others are out of step.
      if (this.#differences.length > before && typeOf(wanted[i]) !== typeOf(got[i])) return;
    }
  }
}

/** With binary frames described, which takes a moment. */
async function eventsOf(client: Client | undefined): Promise<Event[]> {
  const events: Event[] = [];
  for (const event of client?.events ?? []) events.push(await event);
  return events;
}

function typeOf(event: unknown): unknown {
  return (event as { json?: { type: unknown } } | undefined)?.json?.type;
}

function sortedWords(text: string): string {
  return text.split(/,\s*/).sort().join();
}

function show(value: unknown): string {
  return value === undefined ? 'nothing' : writeJson(value as Jsonable).slice(0, 300);
}
