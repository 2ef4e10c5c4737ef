/**
 * Accepted prompts on disk until they are done with, for --persist-queue.
 *
 * An environment of its own: unlike everything else in the store, a prompt cannot be made again. LMDB commits before a
 * prompt counts as accepted, so neither a killed process nor a crash of the system loses one; a prompt that was running
 * runs again at the next start. Secrets are not part of a queue item, so none is written.
 */
import { join } from 'node:path';
import type { Database, RootDatabase } from 'lmdb';
import { BridgeError, messageOf } from '../common/errors.js';
import type { Logger } from '../common/logger.js';
import { isJsonObject, parseJson, writeJson, type JsonValue } from '../protocol/json.js';
import type { QueueItem } from '../protocol/prompt.js';
import { openEnvironment } from './environment.js';

export class PromptJournal implements AsyncDisposable {
  readonly #root: RootDatabase;
  readonly #prompts: Database<string, number>;
  readonly #logger: Logger;
  readonly #keys = new Map<QueueItem, number>();
  #nextKey = 1;

  private constructor(root: RootDatabase, logger: Logger) {
    this.#root = root;
    this.#prompts = root.openDB<string, number>({ name: 'prompts' });
    this.#logger = logger;
  }

  /** @param name Tells the journals of several servers apart. */
  static async open(directory: string, name: string, logger: Logger): Promise<PromptJournal> {
    return new PromptJournal(await openEnvironment(join(directory, `queue-${name}`), logger), logger);
  }

  /** What was accepted and not finished, in order of acceptance. Entries that cannot be read are dropped with a warning. */
  takeUnfinished(): QueueItem[] {
    const items: QueueItem[] = [];
    for (const { key, value } of this.#prompts.getRange()) {
      this.#nextKey = key + 1;
      try {
        const item = readItem(parseJson(value, { keepsFloats: true }));
        this.#keys.set(item, key);
        items.push(item);
      } catch (error) {
        this.#logger.warn({ key, reason: messageOf(error) }, 'a kept prompt cannot be read and is dropped');
        this.#remove(key, 'unknown');
      }
    }
    return items;
  }

  /** Settles when the prompt is on disk. */
  async accepted(item: QueueItem): Promise<void> {
    const key = this.#nextKey;
    this.#nextKey += 1;
    this.#keys.set(item, key);
    const { number, promptId, prompt, extraData, outputs, clientId, createdMs } = item;
    await this.#prompts.put(
      key,
      writeJson({ number, promptId, prompt, extraData, outputs, clientId: clientId ?? null, createdMs }),
    );
  }

  finished(item: QueueItem): void {
    const key = this.#keys.get(item);
    if (key === undefined) return;
    this.#keys.delete(item);
    this.#remove(key, item.promptId);
  }

  #remove(key: number, promptId: string): void {
    this.#prompts.remove(key).catch((error: unknown) => {
      // It will run once more after a restart: better than never.
      this.#logger.warn({ promptId, reason: messageOf(error) }, 'a finished prompt stays in the journal');
    });
  }

  /** Waits for writes that are under way. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#root.close();
  }
}

function readItem(value: JsonValue): QueueItem {
  const broken = new BridgeError('INTERNAL', 'The entry is no prompt.');
  if (!isJsonObject(value)) throw broken;
  const [number, promptId, createdMs] = [value.get('number'), value.get('promptId'), value.get('createdMs')];
  const [prompt, extraData, outputs] = [value.get('prompt'), value.get('extraData'), value.get('outputs')];
  const clientId = value.get('clientId');
  if (typeof number !== 'number' || typeof promptId !== 'string' || typeof createdMs !== 'number') throw broken;
  if (!isJsonObject(prompt) || !isJsonObject(extraData) || !Array.isArray(outputs)) throw broken;
  return {
    number,
    promptId,
    prompt,
    extraData,
    outputs: (outputs as readonly JsonValue[]).filter((id) => typeof id === 'string'),
    clientId: typeof clientId === 'string' ? clientId : undefined,
    createdMs,
  };
}
