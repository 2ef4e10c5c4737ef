/** What an encoder gives: ComfyUI's names for it, and pictures apart and together. */
import { f32Tensor, type F32Tensor, type U8Tensor } from '../tensor/tensor.js';
import type { OutputName } from './families/index.js';

/** ComfyUI's CLIP_VISION_OUTPUT. All tensors are f32 and owned by the caller. */
export interface VisionOutput {
  /** `[B, T, D]` */
  readonly lastHiddenState?: F32Tensor;
  /** `[B, T, D]`: the input of the last block. */
  readonly penultimateHiddenStates?: F32Tensor;
  /** `[B, P]`; SigLIP `[B, T, D]`, DINOv2 `[B, D]`. */
  readonly imageEmbeds?: F32Tensor;
  /** `[B, T-1, M]`, encoders with a LLaVA projector only. */
  readonly mmProjected?: F32Tensor;
  /** `[B, L, T, D]`, SigLIP only. */
  readonly allHiddenStates?: F32Tensor;
}

/** Field of a VisionOutput for every name that ComfyUI uses. */
export const OUTPUT_FIELDS = {
  last_hidden_state: 'lastHiddenState',
  penultimate_hidden_states: 'penultimateHiddenStates',
  image_embeds: 'imageEmbeds',
  mm_projected: 'mmProjected',
  all_hidden_states: 'allHiddenStates',
} as const satisfies Record<OutputName, keyof VisionOutput>;

/** Features under ComfyUI's names, as they are written and sent. */
export function featureTensors(output: VisionOutput): Record<string, F32Tensor> {
  return Object.fromEntries(
    Object.entries(OUTPUT_FIELDS).flatMap(([name, field]) => {
      const tensor = output[field];
      return tensor === undefined ? [] : [[name, tensor]];
    }),
  );
}

/** Features by ComfyUI's names, `[B, …]`. */
export type Outputs = Readonly<Partial<Record<OutputName, F32Tensor>>>;
/** Features of one picture, without the batch. */
export type Features = ReadonlyMap<OutputName, F32Tensor>;

/** Features of one picture of a reply, without the batch; views. */
export function rowOf(outputs: Outputs, index: number): Features {
  return new Map(
    Object.entries(outputs).map(([output, { shape, data }]) => {
      const [count = 1, ...sides] = shape;
      const length = data.length / count;
      return [output as OutputName, f32Tensor(sides, data.subarray(index * length, (index + 1) * length))];
    }),
  );
}

/** Features of pictures as one batch, in their order. */
export function joinFeatures(pictures: readonly Features[], outputs: readonly OutputName[]): VisionOutput {
  const joined = outputs.map((output) => {
    const parts = pictures.map((features) => features.get(output)).filter((part) => part !== undefined);
    const [first] = parts;
    const length = first?.data.length ?? 0;
    const data = new Float32Array(parts.length * length);
    parts.forEach((part, i) => {
      data.set(part.data, i * length);
    });
    return [output, f32Tensor([parts.length, ...(first?.shape ?? [])], data)] as const;
  });
  return toVisionOutput(Object.fromEntries(joined));
}

export function toVisionOutput(outputs: Outputs): VisionOutput {
  return Object.fromEntries(
    Object.entries(outputs).map(([name, tensor]) => [OUTPUT_FIELDS[name as OutputName], tensor]),
  );
}

/** Rows of a batch. */
export function pickRows<T extends U8Tensor | F32Tensor>(pictures: T, rows: readonly number[]): T {
  const [count = 0, ...shape] = pictures.shape;
  if (rows.length === count) return pictures;
  const length = pictures.data.length / count;
  const data = pictures.dtype === 'F32' ? new Float32Array(rows.length * length) : new Uint8Array(rows.length * length);
  rows.forEach((row, i) => {
    data.set(pictures.data.subarray(row * length, (row + 1) * length), i * length);
  });
  return { ...pictures, shape: [rows.length, ...shape], data };
}
