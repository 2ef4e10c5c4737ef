/**
 * The vision engine: opens encoders by header and encodes images with them.
 *
 * Nothing heavy happens here. Opening reads a header; encoding is one call to the inference process.
 */
import { InvalidRequestError, ModelFormatError } from '../common/errors.js';
import { readSafetensorsHeader } from '../formats/index.js';
import { requireFinite, type Crop } from '../image/index.js';
import type { InferenceProcess, Progress } from '../runtime/index.js';
import type { F32Tensor, U8Tensor } from '../tensor/tensor.js';
import type { VisionConfig } from './config.js';
import type { OutputName } from './families/index.js';
import type { Precision } from './weight-values.js';
import { embeddingDim, resolveVisionModel, type VisionModel } from './model.js';
import { encodeInTiles, formsSquare, readTiling } from './tiles.js';
import { ENCODE_OPERATION, type EncodeReply, type EncodeRequest } from './operation.js';

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

/** u8 or f32 images `[B, H, W, C]` with RGB in 0..255 or 0..1, or pixel values f32 `[B, 3, S, S]` as the encoder takes them. */
export type VisionInput = F32Tensor | U8Tensor | { readonly pixelValues: F32Tensor };

interface EncodeOptions {
  /** `center` (default) keeps the aspect ratio and crops, `none` stretches. */
  readonly crop?: Crop;
  /** Default `comfy`: the numbers of a default ComfyUI. */
  readonly precision?: Precision;
  /** Pieces per side that a picture is cut into, 1 to 16; see tiles.ts. */
  readonly tiles?: number | undefined;
  /** Share of the whole picture's own features, 0 to 1; absent: those of the pieces alone. */
  readonly tilesRatio?: number | undefined;
  /** Default: all that the model has, but `all_hidden_states` and, with tiles, image embeds that cannot be merged. */
  readonly outputs?: readonly OutputName[];
  /** Checked before each image; a started run finishes first (onnxruntime cannot stop one). */
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((progress: Progress) => void) | undefined;
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

export class VisionEngine {
  readonly #inference: InferenceProcess;

  constructor(inference: InferenceProcess) {
    this.#inference = inference;
  }

  /**
   * Reads the header of a file and says which encoder it is; loads nothing.
   *
   * @throws {ModelFormatError} `VISION_FAMILY_UNKNOWN`, `TENSOR_MISSING`, `TENSOR_INVALID`, `SAFETENSORS_INVALID`.
   */
  async open(path: string, options: { signal?: AbortSignal } = {}): Promise<VisionModel> {
    return resolveVisionModel(await readSafetensorsHeader(path, options)).model;
  }

  /**
   * Encodes images.
   *
   * @throws {InvalidRequestError} for input of another shape; {ModelFormatError} `OUTPUT_UNAVAILABLE`; what the runtime
   *   throws.
   */
  async encode(model: VisionModel, input: VisionInput, options: EncodeOptions = {}): Promise<VisionOutput> {
    const tiling = readTiling(options.tiles, options.tilesRatio);
    const canMerge = tiling === undefined || model.prefixTokens === 0 || formsSquare(embeddingDim(model));
    const outputs =
      options.outputs ??
      model.outputs.filter((output) => output !== 'all_hidden_states' && (output !== 'image_embeds' || canMerge));
    const missing = outputs.find((output) => !model.outputs.includes(output));
    if (missing !== undefined) {
      throw new ModelFormatError(
        'OUTPUT_UNAVAILABLE',
        `${model.family} cannot give ${missing}; it has ${model.outputs.join(', ')}.`,
      );
    }
    if (tiling !== undefined) {
      if ('pixelValues' in input) throw new InvalidRequestError('Tiles are cut from pictures, not from pixel values.');
      checkInput(input, model, 'none');
      const plain = { ...options, outputs, tiles: undefined, tilesRatio: undefined };
      return encodeInTiles((images) => this.encode(model, images, plain), model, input, tiling);
    }
    const request: EncodeRequest = {
      path: model.path,
      precision: options.precision ?? 'comfy',
      outputs,
      input: checkInput(input, model, options.crop ?? 'center'),
    };
    const { signal, onProgress } = options;
    const reply = (await this.#inference.call(ENCODE_OPERATION, request, { signal, onProgress })) as EncodeReply;
    return Object.fromEntries(
      Object.entries(reply).map(([name, tensor]) => [OUTPUT_FIELDS[name as OutputName], tensor]),
    );
  }
}

function checkInput(input: VisionInput, model: VisionModel, crop: Crop): EncodeRequest['input'] {
  if (!('pixelValues' in input)) {
    const [batch = 0, height = 0, width = 0, channels = 0] = input.shape;
    if (input.shape.length !== 4 || batch < 1 || height < 1 || width < 1 || channels < 3) {
      throw new InvalidRequestError(
        `Images have the shape [B, H, W, C] with three channels or more, got [${input.shape.join(', ')}].`,
      );
    }
    if (input.dtype === 'F32') requireFinite(input.data, input.shape, 'The image');
    return { kind: 'images', images: input, crop };
  }
  const { pixelValues } = input;
  const [batch = 0, channels = 0, height = 0, width = 0] = pixelValues.shape;
  if (pixelValues.shape.length !== 4 || batch < 1 || channels !== 3 || !fits(model.config, height, width)) {
    const { imageSize, patchSize, maxPatches } = model.config;
    const sides =
      imageSize === -1
        ? `[B, 3, H, W] with sides that are multiples of ${patchSize} and at most ${maxPatches ?? 0} patches`
        : `[B, 3, ${imageSize}, ${imageSize}]`;
    throw new InvalidRequestError(
      `${model.family} takes pixel values ${sides}, got [${pixelValues.shape.join(', ')}].`,
    );
  }
  requireFinite(pixelValues.data, pixelValues.shape, 'pixel_values');
  return { kind: 'pixel_values', pixelValues };
}

function fits({ imageSize, patchSize, maxPatches = 0 }: VisionConfig, height: number, width: number): boolean {
  if (imageSize !== -1) return height === imageSize && width === imageSize;
  const patches = (height / patchSize) * (width / patchSize);
  return height % patchSize === 0 && width % patchSize === 0 && patches >= 1 && patches <= maxPatches;
}
