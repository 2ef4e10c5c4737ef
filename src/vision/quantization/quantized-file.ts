/** What is known of an int8 file: kept in the file's own metadata, in one place and one form. */
import * as z from 'zod';
import { systemCodeOf, BridgeError } from '../../common/errors.js';
import { readSafetensorsHeader } from '../../formats/index.js';
import { SCHEMES, type Scheme } from './scheme.js';

/** A token that is farther from exact arithmetic than this makes the whole model unfit. */
export const REQUIRED_COSINE = 0.999;
/** Room that a file has for its description. */
export const METADATA_BYTES = 512;
/** Raised when files are made in another way; older ones are left alone and unused. */
export const QUANTIZATION_VERSION = 1;

export interface QuantizedFile {
  readonly scheme: Scheme;
  /** Smallest cosine to exact arithmetic, over probe pictures, outputs and tokens. */
  readonly cosine: number;
  /** Of the weights that it was made from. */
  readonly sha256: string;
}

const KEY = 'vision_bridge';
const schema = z.object({
  version: z.literal(QUANTIZATION_VERSION),
  scheme: z.enum(SCHEMES),
  cosine: z.number().min(REQUIRED_COSINE).max(1),
  sha256: z.string().length(64),
});

export function describeQuantized(file: QuantizedFile): Record<string, string> {
  return { [KEY]: JSON.stringify({ version: QUANTIZATION_VERSION, ...file }) };
}

/** The description of a file, or undefined where there is none that this version made. */
export async function readQuantizedFile(path: string): Promise<QuantizedFile | undefined> {
  try {
    const { metadata } = await readSafetensorsHeader(path);
    return schema.safeParse(JSON.parse(metadata.get(KEY) ?? 'null')).data;
  } catch (error) {
    // Missing, cut short by a crash, or not ours: it is made again.
    if (error instanceof BridgeError || error instanceof SyntaxError || systemCodeOf(error) !== undefined)
      return undefined;
    throw error;
  }
}
