/**
 * What a running ComfyUI says of its own folders.
 *
 * Its map is the surest there is: custom nodes change it after start. Its paths mean something here only when it runs on
 * this machine, which is checked before they are used.
 *
 * Source: ComfyUI, `/system_stats` and `/internal/folder_paths`.
 */
import { existsSync } from 'node:fs';
import { isAbsolute } from 'node:path';
import * as z from 'zod';
import { throwIfAborted } from '../common/abort.js';
import { BridgeError, messageOf } from '../common/errors.js';

export interface RunningComfyUI {
  readonly url: string;
  readonly version: string | undefined;
  /** Folder type to absolute folders, in search order. */
  readonly folders: ReadonlyMap<string, readonly string[]>;
  /** Its command line, as far as it names folders. */
  readonly flags: RunningFlags;
}

export interface RunningFlags {
  readonly baseDirectory?: string;
  readonly inputDirectory?: string;
  readonly outputDirectory?: string;
}

const REQUEST_TIMEOUT_MS = 3000;
const MAX_ANSWER_BYTES = 10_000_000;

const statsSchema = z.object({
  system: z.object({ comfyui_version: z.string().optional(), argv: z.array(z.string()).default([]) }),
});
const foldersSchema = z.record(z.string(), z.array(z.string()));

/**
 * Asks a running ComfyUI.
 *
 * @throws {BridgeError} `UPSTREAM_UNAVAILABLE` when it does not answer, answers something else, or runs on another machine.
 */
export async function askRunningComfyUI(url: string): Promise<RunningComfyUI> {
  const base = url.replace(/\/+$/, '');
  const { system } = await getJson(`${base}/system_stats`, statsSchema);
  const folders = new Map(Object.entries(await getJson(`${base}/internal/folder_paths`, foldersSchema)));
  const all = [...folders.values()].flat();
  if (!all.some((path) => isAbsolute(path) && existsSync(path))) {
    throw new BridgeError(
      'UPSTREAM_UNAVAILABLE',
      `The ComfyUI at ${base} runs on another machine, or in a container: none of its folders (${all.slice(0, 3).join(', ')}, …) is here. Name the folders of this machine with --comfyui or --base-directory.`,
      { details: { url: base } },
    );
  }
  return { url: base, version: system.comfyui_version, folders, flags: readFlags(system.argv) };
}

/** `--flag value` and `--flag=value`; relative values mean a working folder that is not told, so they are left out. */
export function readFlags(argv: readonly string[]): RunningFlags {
  const valueOf = (flag: string): string | undefined => {
    const at = argv.findIndex((argument) => argument === flag || argument.startsWith(`${flag}=`));
    const argument = argv[at];
    const value = argument === flag ? argv[at + 1] : argument?.slice(flag.length + 1);
    return value !== undefined && isAbsolute(value) ? value : undefined;
  };
  const named = {
    baseDirectory: valueOf('--base-directory'),
    inputDirectory: valueOf('--input-directory'),
    outputDirectory: valueOf('--output-directory'),
  };
  return Object.fromEntries(Object.entries(named).filter(([, value]) => value !== undefined));
}

async function getJson<T>(url: string, schema: z.ZodType<T>): Promise<T> {
  const text = await getText(url, { maxBytes: MAX_ANSWER_BYTES, timeoutMs: REQUEST_TIMEOUT_MS });
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (error) {
    throw unavailable(url, 'the answer is not JSON', error);
  }
  const parsed = schema.safeParse(json);
  if (!parsed.success) throw unavailable(url, 'the answer is not what ComfyUI gives');
  return parsed.data;
}

interface GetOptions {
  readonly maxBytes: number;
  readonly timeoutMs: number;
  readonly signal?: AbortSignal | undefined;
}

/** The text of an answer, as much of it as is allowed. @throws {BridgeError} `UPSTREAM_UNAVAILABLE`; `CANCELLED` */
export async function getText(url: string, { maxBytes, timeoutMs, signal }: GetOptions): Promise<string> {
  const limit = AbortSignal.timeout(timeoutMs);
  try {
    const response = await fetch(url, { signal: signal === undefined ? limit : AbortSignal.any([limit, signal]) });
    if (!response.ok) throw unavailable(url, `status ${response.status}`);
    const parts: Uint8Array[] = [];
    let bytes = 0;
    for await (const part of (response.body ?? []) as AsyncIterable<Uint8Array>) {
      bytes += part.byteLength;
      if (bytes > maxBytes) throw unavailable(url, `the answer is longer than ${maxBytes} bytes`);
      parts.push(part);
    }
    return Buffer.concat(parts).toString('utf8');
  } catch (error) {
    throwIfAborted(signal);
    if (error instanceof BridgeError) throw error;
    throw unavailable(
      url,
      error instanceof Error && error.cause instanceof Error ? error.cause.message : messageOf(error),
      error,
    );
  }
}

function unavailable(url: string, problem: string, cause?: unknown): BridgeError {
  return new BridgeError(
    'UPSTREAM_UNAVAILABLE',
    `No ComfyUI answers at ${url}: ${problem}. Is it running, and is the address right?`,
    { cause, details: { url } },
  );
}
