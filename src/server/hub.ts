/**
 * The websocket hub: who is connected under which client id, and what each is sent.
 *
 * A later connection with the same id takes the earlier one's place, and the earlier socket is closed; when a socket
 * closes, only its own registration goes. A client that does not read is dropped, never waited for.
 */
import { randomUUID } from 'node:crypto';
import type { WebSocket } from 'ws';
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
}

interface Client {
  readonly id: string;
  readonly socket: WebSocket;
  /** ComfyUI: exactly JSON true. */
  wantsPreviewMetadata: boolean;
  hasSpoken: boolean;
}

/** What may wait for a client that reads slowly. */
const MAX_BUFFERED_BYTES = 64 * 1024 * 1024;
const REPLACED = 4000;

export class Hub {
  readonly #options: HubOptions;
  readonly #clients = new Map<string, Client>();

  constructor(options: HubOptions) {
    this.#options = options;
  }

  get size(): number {
    return this.#clients.size;
  }

  connect(socket: WebSocket, requestedId: string | undefined): void {
    const id = requestedId === undefined || requestedId === '' ? randomUUID().replaceAll('-', '') : requestedId;
    const client: Client = { id, socket, wantsPreviewMetadata: false, hasSpoken: false };
    const replaced = this.#clients.get(id);
    this.#clients.set(id, client);
    replaced?.socket.close(REPLACED, 'another connection took this client id');
    socket.on('message', (data, isBinary) => {
      if (!isBinary && data instanceof Buffer) this.#receive(client, data.toString('utf8'));
    });
    socket.on('close', () => {
      if (this.#clients.get(id) === client) this.#clients.delete(id);
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
      const text = writeJson({ type: event.type, data: event.data });
      for (const client of targets) this.#send(client, text);
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

  close(): void {
    for (const { socket } of this.#clients.values()) socket.close(1001, 'the server stops');
    for (const { socket } of this.#clients.values()) socket.terminate();
    this.#clients.clear();
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
    this.#sendJson(client, 'feature_flags', this.#options.features());
  }

  #sendJson(client: Client, type: string, data: Jsonable): void {
    this.#send(client, writeJson({ type, data }));
  }

  #send(client: Client, data: string | Buffer): void {
    const { socket } = client;
    if (socket.readyState !== socket.OPEN) return;
    if (socket.bufferedAmount > MAX_BUFFERED_BYTES) {
      this.#options.logger.warn(
        { clientId: client.id, bufferedBytes: socket.bufferedAmount },
        'a client does not read; it is dropped',
      );
      socket.terminate();
      return;
    }
    socket.send(data);
  }
}
