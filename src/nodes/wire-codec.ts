/** How one type of link is written into a node call and read from it, and what all types share. */
import { stat } from 'node:fs/promises';
import { InvalidRequestError } from '../common/errors.js';
import type { Jsonable, JsonObject } from '../protocol/json.js';
import type { Tensor } from '../tensor/tensor.js';
import type { NodeServices } from './services.js';

export type WireServices = Pick<NodeServices, 'paths' | 'vision' | 'ipadapter'>;

export interface WireValue {
  readonly value: Jsonable;
  readonly tensors?: Readonly<Record<string, Tensor>>;
}

export interface Codec {
  decode(value: JsonObject, tensors: ReadonlyMap<string, Tensor>, services: WireServices): unknown;
  encode(value: unknown): WireValue | Promise<WireValue>;
}

/** @throws {InvalidRequestError} for a value of another kind. */
export function expectKind(value: JsonObject, kind: string): void {
  const given = value.get('kind');
  if (given !== kind)
    throw new InvalidRequestError(`a value of kind "${kind}" is needed, not ${JSON.stringify(given ?? null)}.`);
}

/** A text that changes when a file is written or replaced, and is the same on every host that shares it. */
export async function fileIdentity(path: string): Promise<string> {
  const { size, mtimeMs } = await stat(path);
  return `${size}-${Math.trunc(mtimeMs)}`;
}

/** @throws {InvalidRequestError} when a file is not the one that a handle was made for; a handle may leave it open. */
export async function checkIdentity(
  path: string,
  identity: string | undefined,
  { folder, name }: { folder: string; name: string },
): Promise<void> {
  if (identity === undefined || identity === (await fileIdentity(path))) return;
  throw new InvalidRequestError(`${name} was replaced since it was loaded; load it again.`, {
    details: { folder, name },
  });
}
