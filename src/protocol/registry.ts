/** Queries of the registry as they come over HTTP and from nodes. */
import * as z from 'zod';

const flag = z.enum(['true', 'false', '1', '0']).transform((text) => text === 'true' || text === '1');
const text = z.string().min(1).max(1000);
const bytes = z.coerce.number().min(0);

export const modelQuerySchema = z.object({
  folder: text.exactOptional(),
  kind: text.exactOptional(),
  base: text.exactOptional(),
  dtype: text.exactOptional(),
  format: text.exactOptional(),
  status: text.exactOptional(),
  algorithm: text.exactOptional(),
  encoder: text.exactOptional(),
  license: text.exactOptional(),
  text: text.exactOptional(),
  minBytes: bytes.exactOptional(),
  maxBytes: bytes.exactOptional(),
  listed: flag.exactOptional(),
  shadowed: flag.exactOptional(),
  sort: z.enum(['name', 'size', 'modified', 'parameters', 'kind', 'base', 'folder', 'rank']).exactOptional(),
  descending: flag.exactOptional(),
  limit: z.coerce.number().int().min(0).max(1_000_000).exactOptional(),
  offset: z.coerce.number().int().min(0).exactOptional(),
});

export const STAT_GROUPINGS = [
  'folder',
  'kind',
  'base',
  'dtype',
  'directory',
  'extension',
  'format',
  'status',
] as const;
export type StatGrouping = (typeof STAT_GROUPINGS)[number];
export const groupingSchema = z.enum(STAT_GROUPINGS);
