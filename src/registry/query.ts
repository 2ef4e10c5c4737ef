/** Filters, order and pages over the files of the index. */
import { extname } from 'node:path';
import type { ModelEntry } from './entry.js';

export interface ModelQuery {
  readonly folder?: string;
  readonly kind?: string;
  /** A base model, or the family that it belongs to: `flux` finds `flux-dev`. */
  readonly base?: string;
  readonly dtype?: string;
  readonly format?: string;
  readonly status?: string;
  readonly algorithm?: string;
  readonly encoder?: string;
  readonly license?: string;
  /** Part of the name, title or a trigger word, in any case; every word of it must occur. */
  readonly text?: string;
  readonly minBytes?: number;
  readonly maxBytes?: number;
  readonly listed?: boolean;
  readonly shadowed?: boolean;
  readonly sort?: SortField;
  readonly descending?: boolean;
  readonly limit?: number;
  readonly offset?: number;
}

export const SORT_FIELDS = ['name', 'size', 'modified', 'parameters', 'kind', 'base', 'folder', 'rank'] as const;
type SortField = (typeof SORT_FIELDS)[number];

const SORT_KEYS: Readonly<Record<SortField, (entry: ModelEntry) => string | number | undefined>> = {
  name: ({ name }) => name,
  size: ({ sizeBytes }) => sizeBytes,
  modified: ({ modifiedMs }) => modifiedMs,
  parameters: ({ row }) => row?.parameterCount,
  kind: ({ row }) => row?.kind,
  base: baseOf,
  folder: ({ folder }) => folder,
  rank: ({ row }) => row?.rank,
};

export interface QueryResult {
  /** Files that fit, before the limit. */
  readonly total: number;
  readonly models: readonly ModelEntry[];
}

export function queryModels(entries: readonly ModelEntry[], query: ModelQuery): QueryResult {
  const words = (query.text ?? '').toLowerCase().split(/\s+/).filter(Boolean);
  const found = entries.filter((entry) => fits(entry, query, words));
  if (query.sort !== undefined) {
    const key = SORT_KEYS[query.sort];
    const sign = query.descending === true ? -1 : 1;
    found.sort((a, b) => compare(key(a), key(b), sign));
  }
  const { offset = 0, limit = found.length } = query;
  return { total: found.length, models: found.slice(offset, offset + limit) };
}

function fits(entry: ModelEntry, query: ModelQuery, words: readonly string[]): boolean {
  const { row } = entry;
  const is = (wanted: string | undefined, value: string | undefined): boolean =>
    wanted === undefined ||
    (wanted === 'unknown' ? value === undefined : value?.toLowerCase() === wanted.toLowerCase());
  return (
    is(query.folder, entry.folder) &&
    is(query.kind, row?.kind) &&
    isBase(query.base, baseOf(entry)) &&
    is(query.dtype, row?.dtype) &&
    is(query.format, row?.format) &&
    is(query.status, row?.status) &&
    is(query.algorithm, row?.algorithm) &&
    is(query.encoder, row?.encoder) &&
    (query.license === undefined || row?.license?.toLowerCase().includes(query.license.toLowerCase()) === true) &&
    (query.minBytes === undefined || entry.sizeBytes >= query.minBytes) &&
    (query.maxBytes === undefined || entry.sizeBytes <= query.maxBytes) &&
    (query.listed === undefined || entry.listedByComfyUI === query.listed) &&
    (query.shadowed === undefined || (entry.shadowedBy !== undefined) === query.shadowed) &&
    (words.length === 0 || hasWords(entry, words))
  );
}

function isBase(wanted: string | undefined, base: string | undefined): boolean {
  if (wanted === undefined) return true;
  if (wanted === 'unknown') return base === undefined;
  return base === wanted || base?.startsWith(`${wanted}-`) === true;
}

/** The base model: what the header shows, or else what a file beside the model claims. */
export function baseOf({ row, beside }: ModelEntry): string | undefined {
  return row?.baseModel ?? beside?.claims.baseModel;
}

/** Who says so: `header`, or the name of the file beside it. */
function baseSourceOf({ row, beside }: ModelEntry): string | undefined {
  if (row?.baseModel !== undefined) return 'header';
  return beside?.claims.baseModel === undefined ? undefined : beside.baseModelSource;
}

function titleOf({ row, beside }: ModelEntry): string | undefined {
  return row?.title ?? beside?.claims.title;
}

function triggerWordsOf({ row, beside }: ModelEntry): readonly string[] | undefined {
  return row?.triggerWords ?? beside?.claims.triggerWords;
}

function hasWords(entry: ModelEntry, words: readonly string[]): boolean {
  const { name, row, beside } = entry;
  const told = [row?.title, beside?.claims.title, row?.triggerWords, beside?.claims.triggerWords, beside?.claims.tags];
  const text = [name, ...told.flatMap((part) => part ?? [])].join('\n').toLowerCase();
  return words.every((word) => text.includes(word));
}

/** What is unknown comes last, whatever the direction. */
function compare(a: string | number | undefined, b: string | number | undefined, sign: number): number {
  if (a === undefined || b === undefined) return a === b ? 0 : a === undefined ? 1 : -1;
  return a < b ? -sign : a > b ? sign : 0;
}

/** Columns of a listing, by the name under which they are asked for. */
export const MODEL_FIELDS: Readonly<
  Record<string, (entry: ModelEntry) => string | number | boolean | readonly string[] | undefined>
> = {
  name: ({ name }) => name,
  folder: ({ folder }) => folder,
  kind: ({ row }) => row?.kind,
  base: baseOf,
  baseSource: baseSourceOf,
  variant: ({ row }) => row?.variant,
  size: ({ sizeBytes }) => sizeBytes,
  sizeOnDisk: ({ sizeOnDisk }) => sizeOnDisk,
  dtype: ({ row }) => row?.dtype,
  parameters: ({ row }) => row?.parameterCount,
  tensors: ({ row }) => row?.tensorCount,
  rank: ({ row }) => row?.rank,
  algorithm: ({ row }) => row?.algorithm,
  encoder: ({ row }) => row?.encoder,
  architecture: ({ row }) => row?.architecture,
  title: titleOf,
  license: ({ row }) => row?.license,
  triggerWords: triggerWordsOf,
  format: ({ row }) => row?.format,
  status: ({ row }) => row?.status,
  problem: ({ row }) => row?.problem,
  extension: ({ name }) => extname(name).toLowerCase(),
  modified: ({ modifiedMs }) => new Date(modifiedMs).toISOString(),
  listed: ({ listedByComfyUI }) => listedByComfyUI,
  shadowedBy: ({ shadowedBy }) => shadowedBy,
  parts: ({ shards }) => shards?.parts.length,
  missingParts: ({ shards }) => (shards === undefined || shards.missing.length === 0 ? undefined : shards.missing),
  sidecars: ({ beside }) => (beside === undefined || beside.sidecars.length === 0 ? undefined : beside.sidecars),
  preview: ({ beside }) => beside?.preview,
  path: ({ path }) => path,
};
