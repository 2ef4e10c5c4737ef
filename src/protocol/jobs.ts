/**
 * Jobs: queue and history as one list, as newer clients read it.
 *
 * Fields that would be null are left out. Source: comfyui-protocol, "/api/jobs".
 */
import { isJsonObject, type Jsonable, type JsonObject, type JsonValue } from './json.js';
import type { HistoryEntry, QueueItem } from './prompt.js';

export const JOB_STATUSES = ['pending', 'in_progress', 'completed', 'failed', 'cancelled'] as const;
export type JobStatus = (typeof JOB_STATUSES)[number];

export interface Job {
  readonly status: JobStatus;
  readonly item: QueueItem;
  /** Of jobs that ended. */
  readonly entry?: HistoryEntry;
}

type Fields = Readonly<Record<string, Jsonable>>;

const MEDIA_KEYS = new Set(['images', 'video', 'audio', '3d', 'text']);
const TEXT_ENDINGS = /\.(txt|json|md|csv|yaml|yml|xml|log)$/i;
const MODEL_ENDINGS = /\.(glb|gltf|obj|fbx|stl|ply|usdz|splat|spz|ksplat)$/i;
const MAX_PREVIEW_TEXT = 1024;

export function endedJob(entry: HistoryEntry): Job {
  const isInterrupted = entry.status.messages.some(([name]) => name === 'execution_interrupted');
  const status = entry.status.status_str === 'success' ? 'completed' : isInterrupted ? 'cancelled' : 'failed';
  return { status, item: entry.item, entry };
}

/** Milliseconds from start to end; undefined for a job that did not end. */
export function jobDuration({ entry }: Job): number | undefined {
  const start = timestampOf(entry, 'execution_start');
  const end = endOf(entry);
  return start === undefined || end === undefined ? undefined : end - start;
}

export function jobWorkflowId({ item }: Job): string | undefined {
  const info = item.extraData.get('extra_pnginfo');
  const workflow = isJsonObject(info) ? info.get('workflow') : undefined;
  const id = isJsonObject(workflow) ? workflow.get('id') : undefined;
  return typeof id === 'string' ? id : undefined;
}

/** One entry of the list. */
export function jobJson(job: Job): Fields {
  const { status, item, entry } = job;
  const outputs = entry === undefined ? [] : [...mediaOf(entry)];
  const error = entry?.status.messages.find(([name]) => name === 'execution_error')?.[1];
  return {
    id: item.promptId,
    status,
    priority: item.number,
    create_time: item.createdMs,
    execution_start_time: timestampOf(entry, 'execution_start'),
    execution_end_time: endOf(entry),
    execution_error: error,
    ...(entry === undefined
      ? {}
      : {
          outputs_count: outputs.length,
          previewable_outputs_count: outputs.filter(({ isPreviewable }) => isPreviewable).length,
          preview_output: chooseOutput(outputs),
        }),
    workflow_id: jobWorkflowId(job),
  };
}

/** One job with all that is known of it. */
export function jobDetailJson(job: Job): Fields {
  const { item, entry } = job;
  return {
    ...jobJson(job),
    ...(entry === undefined
      ? {}
      : {
          outputs: entry.outputs,
          execution_status: { ...entry.status, messages: entry.status.messages.map((message) => [...message]) },
        }),
    workflow: { prompt: item.prompt, extra_data: item.extraData },
  };
}

function timestampOf(entry: HistoryEntry | undefined, name: string): number | undefined {
  const at = entry?.status.messages.find(([event]) => event === name)?.[1]['timestamp'];
  return typeof at === 'number' ? at : undefined;
}

function endOf(entry: HistoryEntry | undefined): number | undefined {
  return (
    timestampOf(entry, 'execution_success') ??
    timestampOf(entry, 'execution_error') ??
    timestampOf(entry, 'execution_interrupted')
  );
}

interface Medium {
  readonly nodeId: string;
  readonly key: string;
  readonly item: JsonObject | string;
  readonly isPreviewable: boolean;
}

/** Every output of a job that is a file or a text; what stands under `animated` are flags. */
function* mediaOf({ outputs }: HistoryEntry): Generator<Medium> {
  for (const [nodeId, ui] of outputs) {
    for (const [key, items] of entriesOf(ui)) {
      if (key === 'animated' || !Array.isArray(items)) continue;
      for (const item of items as readonly Jsonable[]) {
        if (key === 'text' && typeof item === 'string') yield { nodeId, key, item, isPreviewable: true };
        const file = new Map(entriesOf(item)) as JsonObject;
        if (typeof file.get('filename') === 'string')
          yield { nodeId, key, item: file, isPreviewable: isShown(key, file) };
      }
    }
  }
}

function entriesOf(value: Jsonable): Iterable<[string, Jsonable]> {
  if (value instanceof Map) return value as ReadonlyMap<string, Jsonable>;
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? Object.entries(value) : [];
}

function nameOf(file: JsonObject): string {
  const name = file.get('filename');
  return typeof name === 'string' ? name : '';
}

function isShown(key: string, file: JsonObject): boolean {
  if (MEDIA_KEYS.has(key)) return true;
  const format = file.get('format');
  if (typeof format === 'string' && /^(video|audio)\//.test(format)) return true;
  const name = nameOf(file);
  return MODEL_ENDINGS.test(name) || TEXT_ENDINGS.test(name);
}

/** Saved media first, then any medium, then saved text, then text itself. */
function chooseOutput(media: readonly Medium[]): Jsonable {
  const shown = media.filter(({ isPreviewable }) => isPreviewable);
  const isTextFile = ({ item }: Medium): boolean => typeof item !== 'string' && TEXT_ENDINGS.test(nameOf(item));
  const files = shown.filter(({ item }) => typeof item !== 'string');
  const chosen =
    files.find((medium) => !isTextFile(medium) && fieldOf(medium, 'type') === 'output') ??
    files.find((medium) => !isTextFile(medium)) ??
    files[0] ??
    shown[0];
  if (chosen === undefined) return undefined;
  const { nodeId, key, item } = chosen;
  if (typeof item !== 'string') return new Map<string, JsonValue>([...item, ['nodeId', nodeId], ['mediaType', key]]);
  const isLong = item.length > MAX_PREVIEW_TEXT;
  return {
    content: item.slice(0, MAX_PREVIEW_TEXT),
    ...(isLong ? { truncated: true } : {}),
    nodeId,
    mediaType: key,
  };
}

function fieldOf({ item }: Medium, name: string): JsonValue | undefined {
  return typeof item === 'string' ? undefined : item.get(name);
}
