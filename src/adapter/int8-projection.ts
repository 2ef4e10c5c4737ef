/**
 * A resampler whose linear layers are whole numbers of 8 bits: made when it is first loaded, measured before it is used, and
 * kept on disk by the hash of its weights.
 *
 * Most of a projection's time goes into the layers behind layer norms; those are rounded, with the encoder's own scheme.
 * The first layer stays exact: it reads hidden states, whose few large channels would take all the levels. What comes out
 * is compared with exact arithmetic, token by token; a scheme that misses the bar gives way to the next finer one, and
 * where none reaches it the projection stays exact, which is slower and never wrong.
 */
import { messageOf, ModelFormatError } from '../common/errors.js';
import { readTensor, type ModelHeader } from '../formats/index.js';
import { GraphBuilder, type LinearWeights } from '../onnx/index.js';
import { Session } from '../runtime/index.js';
import { f32Tensor, type F32Tensor } from '../tensor/tensor.js';
import { toF32 } from '../tensor/to-f32.js';
import { quantizeMatrix } from '../vision/index.js';
import type { ProjectionInput } from './families/index.js';
import { buildProjectionGraph, SCALE, TOKENS } from './graph.js';
import {
  readKeptProjection,
  writeKeptProjection,
  type KeptPlace,
  type MatrixShape,
  type ProjectionScheme,
  type RoundedMatrices,
  type RoundedMatrix,
} from './kept-projection.js';
import type { ResolvedAdapter } from './model.js';
import type { MatrixSource } from './weight-values.js';

const SCHEMES = ['int8', 'int8x2'] as const;

/** The bar of the encoders: the cosine of every token to exact arithmetic. */
const REQUIRED_COSINE = 0.999;
/** Bytes of rounded weights that a graph may carry in itself. */
const MAX_INT8_BYTES = 512 * 2 ** 20;
/** Layers of the resampler that read what a norm or an activation gives. */
const ROUNDED = /(^|\.)layers\.\d+\.(0\.to_(q|kv|out)|1\.[13])\.weight$/;
/** Hidden states that it is measured with: pictures of CLIP-ViT-H have so many. */
const PROBE_LENGTH = 257;
/** One channel in so many is large, as in trained encoders. */
const LARGE_CHANNEL_EVERY = 160;
const LARGE_CHANNEL = 15;

interface MeasuredProjection {
  readonly session: Session;
  readonly scheme: ProjectionScheme;
  /** Smallest over the probes' tokens; 1 where it is exact. */
  readonly cosine: number;
  /** Why it will be made again, where it could not be kept. */
  readonly keepingError?: string;
}

/**
 * Opens the projection in 8 bits, or exactly where that is not good enough or there is nothing to gain.
 *
 * @param place Where its rounded form is kept; without one, it is made and measured every time.
 */
export async function openInt8Projection(
  header: ModelHeader,
  adapter: ResolvedAdapter,
  checkpoint: () => Promise<void>,
  place?: KeptPlace,
): Promise<MeasuredProjection> {
  const names = [...adapter.keys.projection.keys()].filter((name) => ROUNDED.test(name));
  const bytes = names.reduce((sum, name) => sum + sizeOf(adapter, name), 0);
  if (names.length === 0 || bytes > MAX_INT8_BYTES)
    return { session: await openExact(adapter), scheme: 'exact', cosine: 1 };
  const kept = place === undefined ? undefined : await readKeptProjection(place, partsOf(adapter, names));
  if (kept !== undefined) {
    const { scheme, cosine, matrices } = kept;
    const session = await (scheme === 'exact' ? openExact(adapter) : openRounded(adapter, matrices));
    return { session, scheme, cosine };
  }
  const { matrices, ...measured } = await measure(header, adapter, names, checkpoint);
  if (place === undefined) return measured;
  try {
    await writeKeptProjection(place, { scheme: measured.scheme, cosine: measured.cosine, matrices });
    return measured;
  } catch (error) {
    // It was made all the same; only the next start has to make it again.
    return { ...measured, keepingError: messageOf(error) };
  }
}

async function measure(
  header: ModelHeader,
  adapter: ResolvedAdapter,
  names: readonly string[],
  checkpoint: () => Promise<void>,
): Promise<Omit<MeasuredProjection, 'keepingError'> & { readonly matrices: RoundedMatrices }> {
  const exact = await openExact(adapter);
  let isKept = false;
  try {
    const probes = probeFeeds(adapter);
    const wanted = await runAll(exact, probes);
    for (const scheme of SCHEMES) {
      await checkpoint();
      const matrices = await roundMatrices(header, adapter, names, scheme);
      const session = await openRounded(adapter, matrices);
      const cosine = smallestCosine(await runAll(session, probes), wanted);
      if (cosine >= REQUIRED_COSINE) return { session, scheme, cosine, matrices };
      await session[Symbol.asyncDispose]();
    }
    isKept = true;
    return { session: exact, scheme: 'exact', cosine: 1, matrices: new Map() };
  } finally {
    if (!isKept) await exact[Symbol.asyncDispose]();
  }
}

async function openExact(adapter: ResolvedAdapter): Promise<Session> {
  return Session.create(buildProjectionGraph(adapter), { weightsFolder: adapter.folder });
}

async function openRounded(adapter: ResolvedAdapter, matrices: RoundedMatrices): Promise<Session> {
  const graph = buildProjectionGraph(adapter, { rounded: sourceOf(matrices) });
  return Session.create(graph, { weightsFolder: adapter.folder, isInt8: true });
}

function sizeOf({ keys }: ResolvedAdapter, name: string): number {
  const [rows = 0, columns = 0] = keys.projection.get(name)?.shape ?? [];
  return rows * columns;
}

/** Shapes of the rounded matrices by the names that the graph asks for: those of keys and values come in halves. */
function partsOf({ keys }: ResolvedAdapter, names: readonly string[]): ReadonlyMap<string, MatrixShape> {
  return new Map(
    names.flatMap((name) => {
      const [rows = 0, columns = 0] = keys.projection.get(name)?.shape ?? [];
      const parts = name.endsWith('to_kv.weight') ? [`${name} first`, `${name} second`] : [name];
      return parts.map((part) => [part, { rows: rows / parts.length, columns }] as const);
    }),
  );
}

async function roundMatrices(
  header: ModelHeader,
  adapter: ResolvedAdapter,
  names: readonly string[],
  scheme: (typeof SCHEMES)[number],
): Promise<RoundedMatrices> {
  const made = new Map<string, RoundedMatrix>();
  for (const name of names) {
    const info = adapter.keys.projection.get(name);
    const stored = info === undefined ? undefined : toF32(await readTensor(header, info.name));
    if (stored === undefined) throw new ModelFormatError('TENSOR_MISSING', `The projection lacks ${name}.`);
    let begin = 0;
    for (const [part, { rows, columns }] of partsOf(adapter, [name])) {
      const data = stored.data.subarray(begin, begin + rows * columns);
      begin += rows * columns;
      const { levels, scale, low } = quantizeMatrix({ data, rows, columns }, { hasLow: scheme === 'int8x2' });
      made.set(part, { levels, scale, low, rows, columns });
    }
  }
  return made;
}

function sourceOf(matrices: RoundedMatrices): MatrixSource {
  return (g: GraphBuilder, name: string): LinearWeights | undefined => {
    const matrix = matrices.get(name);
    if (matrix === undefined) return undefined;
    const { levels, scale, low, rows, columns } = matrix;
    const shape = [columns, rows];
    return {
      weight: g.shared(`int8 ${name}`, { dtype: 'I8', shape, data: levels }),
      int8: {
        scale: g.shared(`int8 scale ${name}`, f32Tensor([rows], scale)),
        ...(low === undefined ? {} : { low: g.shared(`int8 low ${name}`, { dtype: 'I8', shape, data: low }) }),
      },
    };
  };
}

type Feed = Readonly<Record<string, F32Tensor>>;

/** Made, not stored, and the same everywhere: with and without the large channels that trained encoders have. */
function probeFeeds({ family, sizes, model }: ResolvedAdapter): Feed[] {
  const gaussian = gaussianNumbers();
  const { imageWidth = 0, faceWidth = 0 } = sizes;
  return [1, LARGE_CHANNEL].map((large): Feed => {
    const states = new Float32Array(PROBE_LENGTH * imageWidth);
    for (let i = 0; i < states.length; i += 1)
      states[i] = gaussian() * ((i % imageWidth) % LARGE_CHANNEL_EVERY === 0 ? large : 1);
    const face = Float32Array.from({ length: faceWidth }, () => gaussian() / Math.sqrt(faceWidth));
    const all: Record<ProjectionInput, F32Tensor> = {
      image_embeds: f32Tensor([1, imageWidth], states.slice(0, imageWidth)),
      hidden_states: f32Tensor([1, PROBE_LENGTH, imageWidth], states),
      face: f32Tensor([1, 1, faceWidth], face),
    };
    const scale = model.variant === 'faceid_plus_v2' ? { [SCALE]: f32Tensor([1], Float32Array.of(1)) } : {};
    return { ...Object.fromEntries(family.inputs.map((name) => [name, all[name]])), ...scale };
  });
}

function gaussianNumbers(): () => number {
  let state = 0x9e3779b9;
  const uniform = (): number => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return ((state >>> 0) + 0.5) / 4_294_967_296;
  };
  return () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
}

async function runAll(session: Session, feeds: readonly Feed[]): Promise<F32Tensor[]> {
  const results: F32Tensor[] = [];
  for (const feed of feeds) {
    const tokens = (await session.run(feed, [TOKENS])).get(TOKENS);
    if (tokens !== undefined) results.push(tokens);
  }
  return results;
}

/** Over tokens. A result that is no number at all counts as opposite. */
function smallestCosine(given: readonly F32Tensor[], wanted: readonly F32Tensor[]): number {
  let smallest = 1;
  wanted.forEach(({ shape, data: exact }, i) => {
    const width = shape.at(-1) ?? 1;
    const rounded = given[i]?.data ?? new Float32Array(exact.length);
    for (let begin = 0; begin < exact.length; begin += width) {
      let [product, lengthA, lengthB] = [0, 0, 0];
      for (let j = begin; j < begin + width; j += 1) {
        const [a, b] = [rounded[j] ?? 0, exact[j] ?? 0];
        product += a * b;
        lengthA += a * a;
        lengthB += b * b;
      }
      const cosine = product / Math.sqrt(lengthA * lengthB);
      smallest = Math.min(smallest, Number.isNaN(cosine) ? -1 : cosine);
    }
  });
  return smallest;
}
