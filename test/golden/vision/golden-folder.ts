/** Where the vision cases lie: beside the tests, or any folder of the same format. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import type { z } from 'zod';

export const goldenVisionFolder = resolve(process.env['GOLDEN_VISION_DIR'] ?? import.meta.dirname);

const isWhole = existsSync(join(goldenVisionFolder, 'ipadapter', 'index.json'));
/** The folder whose `ipadapter` part is tested: our own where a folder of further cases leaves that part out. */
export const goldenAdapterRoot = isWhole ? goldenVisionFolder : import.meta.dirname;

/** Names in a folder; none where a folder of further cases leaves that part out. */
export const listed = (folder: string): string[] => (existsSync(folder) ? readdirSync(folder) : []);

/** A list of cases; `absent` where a folder of further cases leaves that part out. */
export function readCases<Schema extends z.ZodType>(
  path: string,
  schema: Schema,
  absent: z.output<Schema>,
): z.output<Schema> {
  return existsSync(path) ? schema.parse(JSON.parse(readFileSync(path, 'utf8'))) : absent;
}
