/** What queries need of a model file: small enough to keep all of them in memory. The rest is read when one is asked for. */
import { stampKey } from '../formats/index.js';
import type { AdapterFacts, ModelKind, VisionFacts } from './classify/facts.js';
import type { FileStat, ModelFormat, ModelReading, ModelStatus, PickleFacts } from './read-model.js';

/** Raised when rows or details change their form or the rules their answers: files are then read again. */
export const INDEX_VERSION = 3;

export interface ModelRow {
  readonly status: ModelStatus;
  readonly problem?: string;
  readonly format?: ModelFormat;
  readonly kind?: ModelKind;
  readonly baseModel?: string;
  readonly variant?: string;
  readonly encoder?: string;
  readonly architecture?: string;
  /** The dtype of most parameters. */
  readonly dtype?: string;
  readonly tensorCount?: number;
  readonly parameterCount?: number;
  readonly algorithm?: string;
  readonly rank?: number;
  readonly title?: string;
  readonly license?: string;
  readonly triggerWords?: readonly string[];
  readonly vision?: VisionFacts;
  readonly adapter?: AdapterFacts;
  readonly verdict?: PickleFacts['verdict'];
  /** What a dangerous pickle would import. */
  readonly dangerous?: readonly string[];
  readonly warnings?: number;
}

/** Words and names that a row keeps; the details have them all. */
const MAX_WORDS = 12;
const MAX_TITLE = 200;

/** The identity under which a file's row is kept. */
export function rowKey({ device, inode, sizeBytes, modifiedMs }: FileStat): string {
  return stampKey({ device, inode, sizeBytes, modifiedMs });
}

export function rowOf({ status, problem, format, facts, pickle }: ModelReading): ModelRow {
  const row = {
    status,
    problem,
    format,
    kind: facts?.kind,
    baseModel: facts?.baseModel,
    variant: facts?.variant,
    encoder: facts?.encoder,
    architecture: facts?.architecture,
    dtype: facts === undefined ? undefined : dominantDtype(facts.dtypes),
    tensorCount: facts?.tensorCount,
    parameterCount: facts?.parameterCount,
    algorithm: facts?.lora?.algorithm,
    rank: facts?.lora?.rank,
    title: facts?.title?.slice(0, MAX_TITLE),
    license: facts?.license?.slice(0, MAX_TITLE),
    triggerWords: facts?.triggerWords?.slice(0, MAX_WORDS),
    vision: facts?.vision,
    adapter: facts?.adapter,
    verdict: pickle?.verdict,
    dangerous: pickle?.dangerous?.slice(0, MAX_WORDS),
    warnings: facts?.warnings?.length,
  };
  return Object.fromEntries(Object.entries(row).filter(([, value]) => value !== undefined)) as unknown as ModelRow;
}

function dominantDtype(dtypes: Readonly<Record<string, { readonly parameters: number }>>): string | undefined {
  let found: string | undefined;
  let most = -1;
  for (const [name, { parameters }] of Object.entries(dtypes)) {
    if (parameters <= most) continue;
    most = parameters;
    found = name;
  }
  return found;
}
