/**
 * The websocket hub: who is connected under which client id, and what each is sent.
 *
 * A later connection with the same id takes the earlier one's place, and the earlier socket is closed; when a socket
 * closes, only its own registration goes. A client that does not read is dropped, never waited for, and so is one that
 * does not answer pings: its machine is gone, or it hangs.
 */
import { randomUUID } from 'node:crypto';
import type { WebSocket } from 'ws';
import type { LogEntry } from '../common/log-book.js';
import type { Logger } from '../common/logger.js';
import type { GraphEvent } from '../graph/index.js';
import { isJsonObject, parseJson, writeJson, type Jsonable } from '../protocol/json.js';
import { previewFrame, previewFrameWithMetadata, textFrame } from './frames.js';

export interface HubOptions {
  readonly queueRemaining: () => number;
  /** Display id of the node that a client's own prompt is at. */
  readonly runningNode: (clientId: string) => string | undefined;
  readonly features: () => Jsonable;
  readonly logger: Logger;
  readonly limits?: Partial<HubLimits>;
}

export interface HubLimits {
  /** Connections at once; more are refused. */
  readonly maxClients: number;
  /** What may wait for a client that reads slowly. */
  readonly maxBufferedBytes: number;
  readonly pingIntervalMs: number;
  /** A client that was not heard of for so long is dropped. Generous: scripts read only now and then. */
  readonly silenceMs: number;
}

const DEFAULT_LIMITS: HubLimits = {
  maxClients: 10_000,
  maxBufferedBytes: 64 * 1024 * 1024,
  pingIntervalMs: 60_000,
  silenceMs: 600_000,
};

interface Client {
  readonly id: string;
  readonly socket: WebSocket;
  /** ComfyUI: exactly JSON true. */
  wantsPreviewMetadata: boolean;
  /** Ours: told of the progress of scans. Clients of ComfyUI do not know such events, and are not sent any. */
  wantsScans: boolean;
  hasSpoken: boolean;
  lastHeardMs: number;
}

const REPLACED = 4000;
const TRY_AGAIN_LATER = 1013;
const MAX_CLIENT_ID_LENGTH = 4096;

export class Hub {
  readonly #options: HubOptions;
  readonly #limits: HubLimits;
  readonly #clients = new Map<string, Client>();
  /** Sockets whose place another one took, until they are closed. */
  readonly #replaced = new Set<WebSocket>();
  readonly #logSubscribers = new Set<string>();
  readonly #timer: NodeJS.Timeout;

  constructor(options: HubOptions) {
    this.#options = options;
    this.#limits = { ...DEFAULT_LIMITS, ...options.limits };
    this.#timer = setInterval(() => {
      this.#ping();
    }, this.#limits.pingIntervalMs);
    this.#timer.unref();
  }

  get size(): number {
    return this.#clients.size;
  }

  connect(socket: WebSocket, requestedId: string | undefined): void {
    const isGiven = requestedId !== undefined && requestedId !== '';
    const id = isGiven ? requestedId.slice(0, MAX_CLIENT_ID_LENGTH) : randomUUID().replaceAll('-', '');
    const replaced = this.#clients.get(id);
    if (replaced === undefined && this.#clients.size >= this.#limits.maxClients) {
      socket.close(TRY_AGAIN_LATER, 'too many clients');
      return;
    }
    const client: Client = {
      id,
      socket,
      wantsPreviewMetadata: false,
      wantsScans: false,
      hasSpoken: false,
      lastHeardMs: Date.now(),
    };
    this.#clients.set(id, client);
    if (replaced !== undefined) this.#replace(replaced.socket);
    const hear = (): void => {
      client.lastHeardMs = Date.now();
    };
    socket.on('pong', hear);
    socket.on('ping', hear);
    socket.on('message', (data, isBinary) => {
      hear();
      if (!isBinary && data instanceof Buffer) this.#receive(client, data.toString('utf8'));
    });
    socket.on('close', () => {
      this.#replaced.delete(socket);
      if (this.#clients.get(id) !== client) return;
      this.#clients.delete(id);
      this.#logSubscribers.delete(id);
    });
    socket.on('error', (error) => {
      this.#options.logger.debug({ clientId: id, reason: error.message }, 'websocket failed');
    });
    this.#sendJson(client, 'status', {
      status: { exec_info: { queue_remaining: this.#options.queueRemaining() } },
      sid: id,
    });
    const node = this.#options.runningNode(id);
    if (node !== undefined) this.#sendJson(client, 'executing', { node });
  }

  /** Sends an event of the executor to those it is for. */
  deliver(event: GraphEvent): void {
    const targets = this.#targets(event.to);
    if (targets.length === 0) return;
    if (event.kind === 'json') {
      // Encoded once, however many it goes to.
      const text = Buffer.from(writeJson({ type: event.type, data: event.data }));
      for (const client of targets) this.#send(client, text, false);
    } else if (event.kind === 'text') {
      const frame = textFrame(event.nodeId, event.text);
      for (const client of targets) this.#send(client, frame);
    } else {
      // Broadcasts always take the older form.
      const withMetadata = targets.filter((client) => event.to !== undefined && client.wantsPreviewMetadata);
      if (event.moment === 'before-progress') {
        for (const client of withMetadata) this.#send(client, previewFrameWithMetadata(event.image, event.place));
      } else {
        for (const client of targets.filter((target) => !withMetadata.includes(target)))
          this.#send(client, previewFrame(event.image));
      }
    }
  }

  /** Progress of a scan, for clients that announced `supports_registry_events`. */
  deliverScan(progress: Readonly<Record<string, Jsonable>>): void {
    const targets = [...this.#clients.values()].filter(({ wantsScans }) => wantsScans);
    if (targets.length === 0) return;
    const text = writeJson({ type: 'vision_bridge_registry', data: progress });
    for (const client of targets) this.#send(client, text);
  }

  setLogSubscription(clientId: string, isEnabled: boolean): void {
    if (isEnabled && this.#clients.has(clientId)) this.#logSubscribers.add(clientId);
    else this.#logSubscribers.delete(clientId);
  }

  deliverLog(entry: LogEntry): void {
    if (this.#logSubscribers.size === 0) return;
    const text = writeJson({ type: 'logs', data: { entries: [{ ...entry }], size: null } });
    for (const id of this.#logSubscribers) {
      const client = this.#clients.get(id);
      if (client !== undefined) this.#send(client, text);
    }
  }

  close(): void {
    clearInterval(this.#timer);
    const sockets = [...[...this.#clients.values()].map(({ socket }) => socket), ...this.#replaced];
    for (const socket of sockets) socket.close(1001, 'the server stops');
    for (const socket of sockets) socket.terminate();
    this.#clients.clear();
    this.#replaced.clear();
    this.#logSubscribers.clear();
  }

  /** Closes politely; whoever does not answer that is gone at the next ping. */
  #replace(socket: WebSocket): void {
    this.#replaced.add(socket);
    socket.close(REPLACED, 'another connection took this client id');
  }

  #ping(): void {
    const oldest = Date.now() - this.#limits.silenceMs;
    for (const { id, socket, lastHeardMs } of this.#clients.values()) {
      if (lastHeardMs < oldest) {
        this.#options.logger.warn({ clientId: id }, 'a client does not answer; it is dropped');
        socket.terminate();
      } else if (socket.readyState === socket.OPEN) socket.ping();
    }
    for (const socket of this.#replaced) socket.terminate();
  }

  #targets(to: string | undefined): Client[] {
    if (to === undefined) return [...this.#clients.values()];
    const client = this.#clients.get(to);
    return client === undefined ? [] : [client];
  }

  /** Only one message is known, and only as the first JSON object of a connection. */
  #receive(client: Client, text: string): void {
    let message;
    try {
      message = parseJson(text);
    } catch {
      this.#options.logger.debug({ clientId: client.id }, 'a websocket message that is not JSON was ignored');
      return;
    }
    if (!isJsonObject(message) || client.hasSpoken) return;
    client.hasSpoken = true;
    if (message.get('type') !== 'feature_flags') return;
    const flags = message.get('data');
    client.wantsPreviewMetadata = isJsonObject(flags) && flags.get('supports_preview_metadata') === true;
    client.wantsScans = isJsonObject(flags) && flags.get('supports_registry_events') === true;
    this.#sendJson(client, 'feature_flags', this.#options.features());
  }

  #sendJson(client: Client, type: string, data: Jsonable): void {
    this.#send(client, writeJson({ type, data }));
  }

  #send(client: Client, data: string | Buffer, isBinary = typeof data !== 'string'): void {
    const { socket } = client;
    if (socket.readyState !== socket.OPEN) return;
    if (socket.bufferedAmount > this.#limits.maxBufferedBytes) {
      this.#options.logger.warn(
        { clientId: client.id, bufferedBytes: socket.bufferedAmount },
        'a client does not read; it is dropped',
      );
      socket.terminate();
      return;
    }
    socket.send(data, { binary: isBinary });
  }
}
