/**
 * Encoding, inside the inference process: build the session on first use, and run pictures of all waiting calls together.
 *
 * Pictures arrive as the encoder sees them, in 8 bits; resampling was done in the server's threads. The parent sends a path,
 * not a header: the file is looked at again here, so that a file that was replaced is never run with the offsets of the
 * old one.
 */
import { BridgeError, ModelFormatError } from '../common/errors.js';
import { normalize } from '../image/index.js';
import { nextMessages, singleOperation, type Operation, type OperationCall } from '../runtime/index.js';
import { elementCount, f32Tensor, type F32Tensor, type U8Tensor } from '../tensor/tensor.js';
import type { OutputName } from './families/index.js';
import { PIXEL_VALUES } from './graph.js';
import type { ResolvedModel, VisionModel } from './model.js';
import type { Outputs } from './output.js';
import { OpenModels, type ModelRequest, type OpenModel } from './open-models.js';

/** Name under which the parent calls it. */
export const ENCODE_OPERATION = 'vision.encode';
/** Loads a model without running it. */
export const LOAD_OPERATION = 'vision.load';

export interface EncodeRequest extends ModelRequest {
  readonly outputs: readonly OutputName[];
  /** u8 `[B, H, W, 3]` as the encoder sees them, or pixel values f32 `[B, 3, H, W]`. */
  readonly pictures: U8Tensor | F32Tensor;
}

export interface EncodeReply {
  /** Stamp of the file that was run. */
  readonly stamp: string;
  /** Where it ran. */
  readonly device: string;
  readonly outputs: Outputs;
}

/** One call, being filled row by row. */
interface Job {
  readonly call: OperationCall;
  readonly request: EncodeRequest;
  readonly count: number;
  readonly results: Map<OutputName, F32Tensor>;
  done: number;
  /** Its share of the runs that its rows were part of. */
  runMs: number;
}

interface Row {
  readonly job: Job;
  readonly index: number;
}

/** Both operations over the same sessions, by name. */
export function createEncodeOperations(): Readonly<Record<string, Operation>> {
  const models = new OpenModels();
  const load = singleOperation(async (call) => {
    await models.acquire(call.payload as ModelRequest, 0, (progress) => {
      call.report(progress);
    });
  });
  return { [LOAD_OPERATION]: load, [ENCODE_OPERATION]: createEncodeOperation(models) };
}

function createEncodeOperation(models: OpenModels): Operation {
  return {
    keyOf(payload) {
      const { path, precision, quantized, device, keepsAllStates, intermediate } = payload as EncodeRequest;
      return JSON.stringify([path, precision, quantized, device, keepsAllStates, intermediate]);
    },
    async run(calls) {
      // Both sides of the channel are this program.
      const jobs = calls.map((call): Job => {
        const request = call.payload as EncodeRequest;
        return { call, request, count: request.pictures.shape[0] ?? 0, results: new Map(), done: 0, runMs: 0 };
      });
      const [first] = jobs;
      if (first === undefined) return;
      const pictures = jobs.reduce((sum, { count }) => sum + count, 0);
      const opened = await models.acquire(first.request, pictures, (progress) => {
        for (const { call } of jobs) call.report(progress);
      });
      await runJobs(opened, jobs);
    },
    tidy: () => models.tidy(),
  };
}

async function runJobs({ resolved, session, microBatch }: OpenModel, jobs: readonly Job[]): Promise<void> {
  const { model } = resolved;
  let rows = jobs.filter((job) => hasOutputs(job, model)).flatMap(rowsOf);
  while (rows.length > 0) {
    await nextMessages();
    rows = rows.filter(({ job }) => !job.call.signal.aborted);
    const [first] = rows;
    if (first === undefined) return;
    const alike = rows.findIndex((row) => !haveOneShape(row, first));
    const size = microBatch.next(alike === -1 ? rows.length : alike);
    const batch = rows.slice(0, size);
    try {
      const begin = performance.now();
      const outputs = [...new Set(batch.flatMap(({ job }) => job.request.outputs))];
      const results = await session.run(feedsOf(resolved, batch), outputs);
      const ms = performance.now() - begin;
      microBatch.record(size, ms);
      batch.forEach((row, i) => {
        keep(row, i, size, results);
      });
      for (const { job } of batch) job.runMs += ms / size;
    } catch (error) {
      // What is too much together may go one by one; what fails alone has failed.
      microBatch.fail(size);
      if (size > 1) continue;
      first.job.call.reject(error);
      rows = rows.filter(({ job }) => job !== first.job);
      continue;
    }
    rows = rows.slice(size);
    for (const job of new Set(batch.map((row) => row.job))) finish(job, model.stamp, session.device);
  }
}

function rowsOf(job: Job): Row[] {
  return Array.from({ length: job.count }, (_none, index) => ({ job, index }));
}

function haveOneShape(a: Row, b: Row): boolean {
  const [first, second] = [a.job.request.pictures, b.job.request.pictures];
  return first.dtype === second.dtype && first.shape.every((side, axis) => axis === 0 || side === second.shape[axis]);
}

/** Takes a picture's part of a run's results; it is copied where a call has more of them. */
function keep({ job, index }: Row, position: number, size: number, results: ReadonlyMap<string, F32Tensor>): void {
  for (const output of job.request.outputs) {
    const whole = results.get(output);
    if (whole === undefined) throw new BridgeError('INTERNAL', `the session gave no ${output}`);
    const shape = whole.shape.slice(1);
    const length = elementCount(shape);
    if (whole.shape[0] !== size) throw new BridgeError('INTERNAL', `${output} has another batch than its input`);
    if (size === job.count && position === index) {
      // The run was this job's alone, and so are its results: fresh memory costs more than the copy into it.
      job.results.set(output, whole);
      continue;
    }
    const part = whole.data.subarray(position * length, (position + 1) * length);
    if (job.count === 1) {
      job.results.set(output, f32Tensor([1, ...shape], part));
      continue;
    }
    let target = job.results.get(output);
    if (target === undefined) {
      target = f32Tensor([job.count, ...shape], new Float32Array(job.count * length));
      job.results.set(output, target);
    }
    target.data.set(part, index * length);
  }
  job.done += 1;
}

function finish({ call, count, done, runMs, results }: Job, stamp: string, device: string): void {
  call.report({ stage: 'running', done, total: count, runMs });
  if (done < count) return;
  call.resolve({ stamp, device, outputs: Object.fromEntries(results) } satisfies EncodeReply);
}

/** Whether the model, as it is now, has what a call wants; the call is refused where it has not. */
function hasOutputs({ call, request }: Job, model: VisionModel): boolean {
  const output = request.outputs.find((name) => !model.outputs.includes(name));
  if (output === undefined) return true;
  call.reject(
    new ModelFormatError(
      'OUTPUT_UNAVAILABLE',
      `${model.family} in ${model.path} cannot give ${output}: ${model.outputs.join(', ')} can be had. Weights that are absent from the file are never made up.`,
      { details: { output, available: model.outputs } },
    ),
  );
  return false;
}

/** All inputs of a model's graph for these pictures, by name. */
function feedsOf({ family, model: { config } }: ResolvedModel, rows: readonly Row[]): Record<string, F32Tensor> {
  const parts = rows.map(({ job, index }) => pixelValuesOf(job.request.pictures, index, config));
  const [first] = parts;
  const shape = first?.shape.slice(1) ?? [];
  const [, height = 0, width = 0] = shape;
  const length = elementCount(shape);
  const data = parts.length === 1 ? (first?.data ?? new Float32Array(0)) : new Float32Array(parts.length * length);
  if (parts.length > 1) {
    parts.forEach((part, i) => {
      data.set(part.data, i * length);
    });
  }
  const extra = family.extraInputs.map(({ name, value }) => [name, value(config, height, width)] as const);
  return { [PIXEL_VALUES]: f32Tensor([parts.length, ...shape], data), ...Object.fromEntries(extra) };
}

/** Pixel values f32 `[1, 3, H, W]` of one picture. */
function pixelValuesOf(pictures: U8Tensor | F32Tensor, index: number, config: VisionModel['config']): F32Tensor {
  const shape = [1, ...pictures.shape.slice(1)];
  const length = elementCount(shape);
  const [begin, end] = [index * length, (index + 1) * length];
  if (pictures.dtype === 'F32') return f32Tensor(shape, pictures.data.subarray(begin, end));
  const levels: U8Tensor = { dtype: 'U8', shape, data: pictures.data.subarray(begin, end) };
  return normalize(levels, { mean: config.imageMean, std: config.imageStd });
}
