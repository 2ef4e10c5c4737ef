/**
 * A resampler whose linear layers are whole numbers of 8 bits: made when it is loaded, and measured before it is used.
 *
 * Most of a projection's time goes into the layers behind layer norms; those are rounded, with the encoder's own scheme.
 * The first layer stays exact: it reads hidden states, whose few large channels would take all the levels. What comes out
 * is compared with exact arithmetic, token by token; a scheme that misses the bar gives way to the next finer one, and
 * where none reaches it the projection stays exact, which is slower and never wrong.
 */
import { ModelFormatError } from '../common/errors.js';
import { readTensor, type ModelHeader } from '../formats/index.js';
import { GraphBuilder, type LinearWeights } from '../onnx/index.js';
import { Session } from '../runtime/index.js';
import { f32Tensor, type F32Tensor } from '../tensor/tensor.js';
import { toF32 } from '../tensor/to-f32.js';
import { quantizeMatrix } from '../vision/index.js';
import type { ProjectionInput } from './families/index.js';
import { buildProjectionGraph, SCALE, TOKENS } from './graph.js';
import type { ResolvedAdapter } from './model.js';
import type { MatrixSource } from './weight-values.js';

const SCHEMES = ['int8', 'int8x2'] as const;
type ProjectionScheme = (typeof SCHEMES)[number] | 'exact';

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
}

/** Opens the projection in 8 bits, or exactly where that is not good enough or there is nothing to gain. */
export async function openInt8Projection(
  header: ModelHeader,
  adapter: ResolvedAdapter,
  checkpoint: () => Promise<void>,
): Promise<MeasuredProjection> {
  const weightsFolder = adapter.folder;
  const exact = await Session.create(buildProjectionGraph(adapter), { weightsFolder });
  const names = [...adapter.keys.projection.keys()].filter((name) => ROUNDED.test(name));
  const bytes = names.reduce((sum, name) => sum + sizeOf(adapter, name), 0);
  if (names.length === 0 || bytes > MAX_INT8_BYTES) return { session: exact, scheme: 'exact', cosine: 1 };
  let isKept = false;
  try {
    const probes = probeFeeds(adapter);
    const wanted = await runAll(exact, probes);
    for (const scheme of SCHEMES) {
      await checkpoint();
      const matrices = await readMatrices(header, adapter, names, scheme);
      const session = await Session.create(buildProjectionGraph(adapter, { rounded: matrices }), {
        weightsFolder,
        isInt8: true,
      });
      const cosine = smallestCosine(await runAll(session, probes), wanted);
      if (cosine >= REQUIRED_COSINE) return { session, scheme, cosine };
      await session[Symbol.asyncDispose]();
    }
    isKept = true;
    return { session: exact, scheme: 'exact', cosine: 1 };
  } finally {
    if (!isKept) await exact[Symbol.asyncDispose]();
  }
}

function sizeOf({ keys }: ResolvedAdapter, name: string): number {
  const [rows = 0, columns = 0] = keys.projection.get(name)?.shape ?? [];
  return rows * columns;
}

/** Rounded matrices by the name that the graph asks for: those of keys and values come in halves. */
async function readMatrices(
  header: ModelHeader,
  { keys }: ResolvedAdapter,
  names: readonly string[],
  scheme: (typeof SCHEMES)[number],
): Promise<MatrixSource> {
  const made = new Map<string, ReturnType<typeof quantizeMatrix> & { rows: number; columns: number }>();
  for (const name of names) {
    const info = keys.projection.get(name);
    const stored = info === undefined ? undefined : toF32(await readTensor(header, info.name));
    if (stored === undefined) throw new ModelFormatError('TENSOR_MISSING', `The projection lacks ${name}.`);
    const [rows = 0, columns = 0] = stored.shape;
    const parts = name.endsWith('to_kv.weight') ? [`${name} first`, `${name} second`] : [name];
    const height = rows / parts.length;
    parts.forEach((part, i) => {
      const data = stored.data.subarray(i * height * columns, (i + 1) * height * columns);
      const matrix = { data, rows: height, columns };
      made.set(part, { ...quantizeMatrix(matrix, { hasLow: scheme === 'int8x2' }), rows: height, columns });
    });
  }
  return (g: GraphBuilder, name: string): LinearWeights | undefined => {
    const matrix = made.get(name);
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
