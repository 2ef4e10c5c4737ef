/**
 * A small ComfyUI client, as any script would write it: websocket for events, HTTP for the rest.
 *
 * Knows nothing of Vision Bridge; it would talk to ComfyUI in the same way.
 */
import { randomUUID } from 'node:crypto';
import WebSocket from 'ws';
import * as z from 'zod';
import { BridgeError, messageOf } from '../../common/errors.js';

const eventSchema = z.object({ type: z.string(), data: z.record(z.string(), z.unknown()) });
const acceptedSchema = z.object({ prompt_id: z.string() });
const uploadedSchema = z.object({ name: z.string(), subfolder: z.string(), type: z.string() });

export type ComfyEvent = z.output<typeof eventSchema>;
type Json = Readonly<Record<string, unknown>>;

/** A prompt that runs for longer than this has gone wrong. */
const RUN_TIMEOUT_MS = 60_000;

export class ComfyClient implements AsyncDisposable {
  readonly #url: string;
  readonly #socket: WebSocket;
  readonly #clientId: string;
  readonly #listeners = new Set<(event: ComfyEvent) => void>();

  private constructor(url: string, clientId: string, socket: WebSocket) {
    this.#url = url;
    this.#clientId = clientId;
    this.#socket = socket;
    socket.on('message', (data, isBinary) => {
      if (isBinary || !(data instanceof Buffer)) return;
      const event = eventSchema.parse(JSON.parse(data.toString('utf8')));
      for (const listener of this.#listeners) listener(event);
    });
  }

  /** @param url `http://host:port` of a ComfyUI-compatible server. */
  static async connect(url: string): Promise<ComfyClient> {
    const clientId = randomUUID();
    const socket = new WebSocket(`${url.replace(/^http/, 'ws')}/ws?clientId=${clientId}`);
    const client = new ComfyClient(url, clientId, socket);
    await new Promise<void>((resolve, reject) => {
      socket.once('open', resolve);
      socket.once('error', reject);
    });
    return client;
  }

  async uploadImage(name: string, bytes: Uint8Array<ArrayBuffer>): Promise<string> {
    const form = new FormData();
    form.set('image', new Blob([bytes], { type: 'image/png' }), name);
    return uploadedSchema.parse(await this.#json('/upload/image', { method: 'POST', body: form })).name;
  }

  /** Submits a prompt and waits for its end; every event on the way goes to `onEvent`. Gives the prompt id. */
  async run(prompt: Json, onEvent: (event: ComfyEvent) => void): Promise<string> {
    let promptId: string | undefined;
    let settle: { resolve: () => void; reject: (error: Error) => void } | undefined;
    const finished = new Promise<void>((resolve, reject) => {
      settle = { resolve, reject };
    });
    const timer = setTimeout(() => {
      settle?.reject(new BridgeError('INTERNAL', `The prompt did not finish within ${RUN_TIMEOUT_MS / 1000} s.`));
    }, RUN_TIMEOUT_MS);
    const listener = (event: ComfyEvent): void => {
      onEvent(event);
      if (event.type === 'execution_error') {
        settle?.reject(
          new BridgeError('INTERNAL', `The prompt failed: ${String(event.data['exception_message']).trim()}`),
        );
      }
      // The end mark of ComfyUI: `executing` without a node. History is complete from here on.
      if (event.type === 'executing' && event.data['node'] === null) settle?.resolve();
    };
    this.#listeners.add(listener);
    // A failure may come before anyone waits.
    finished.catch(() => undefined);
    try {
      const body = JSON.stringify({ prompt, client_id: this.#clientId });
      promptId = acceptedSchema.parse(await this.#json('/prompt', { method: 'POST', body })).prompt_id;
      await finished;
      return promptId;
    } finally {
      clearTimeout(timer);
      this.#listeners.delete(listener);
    }
  }

  async history(promptId: string): Promise<unknown> {
    return this.#json(`/history/${promptId}`, {});
  }

  /** The bytes of a file that a prompt made. */
  async view(file: { filename: string; subfolder: string; type: string }): Promise<Uint8Array> {
    const response = await fetch(`${this.#url}/view?${new URLSearchParams(file).toString()}`);
    if (!response.ok) throw new BridgeError('NOT_FOUND', `/view answered ${response.status} for ${file.filename}.`);
    return new Uint8Array(await response.arrayBuffer());
  }

  async #json(path: string, init: RequestInit): Promise<unknown> {
    let response: Response;
    try {
      response = await fetch(this.#url + path, init);
    } catch (error) {
      throw new BridgeError('RUNTIME_UNAVAILABLE', `${this.#url} does not answer: ${messageOf(error)}`, {
        cause: error,
      });
    }
    const body = await response.text();
    if (!response.ok) throw new BridgeError('INTERNAL', `${path} answered ${response.status}: ${body}`);
    return JSON.parse(body) as unknown;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#socket.readyState === WebSocket.CLOSED) return;
    const closed = new Promise<void>((resolve) =>
      this.#socket.once('close', () => {
        resolve();
      }),
    );
    this.#socket.close();
    await closed;
  }
}
