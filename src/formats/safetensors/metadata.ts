/**
 * The `__metadata__` of a safetensors file, and nothing else of it: for showing, not for loading.
 *
 * Source: ComfyUI 0.3.64, server.py, `/view_metadata`.
 */
import { basename } from 'node:path';
import { ModelFormatError, messageOf } from '../../common/errors.js';
import { openRegularFile } from '../../common/regular-file.js';
import { isJsonObject, parseJson, type JsonObject, type JsonValue } from '../../protocol/json.js';

/**
 * @param maxHeaderBytes A larger header counts as having none.
 * @returns undefined where there is none.
 * @throws {ModelFormatError} `SAFETENSORS_INVALID` for a file that has no header, or no JSON in it.
 */
export async function readSafetensorsMetadata(path: string, maxHeaderBytes: number): Promise<JsonObject | undefined> {
  const invalid = (problem: string, cause?: unknown): ModelFormatError =>
    new ModelFormatError('SAFETENSORS_INVALID', `${basename(path)} is no sound safetensors file: ${problem}.`, {
      cause,
      details: { path },
    });
  const file = await openRegularFile(path);
  try {
    const prefix = Buffer.alloc(8);
    if ((await file.read(prefix, 0, 8, 0)).bytesRead < 8) throw invalid('it is too short for a header');
    const length = prefix.readBigUInt64LE();
    if (length === 0n || length > BigInt(maxHeaderBytes)) return undefined;
    const json = Buffer.alloc(Number(length));
    const { bytesRead } = await file.read(json, 0, json.length, 8);
    if (bytesRead < json.length) throw invalid('its header is cut off');
    let header: JsonValue;
    try {
      header = parseJson(json.toString('utf8'));
    } catch (error) {
      throw invalid(messageOf(error), error);
    }
    if (!isJsonObject(header)) throw invalid('its header is not an object');
    const metadata = header.get('__metadata__');
    return isJsonObject(metadata) ? metadata : undefined;
  } finally {
    await file.close();
  }
}
