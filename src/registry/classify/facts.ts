/** What is told of a model file. Absent means unknown: nothing here is guessed. */
import type { DtypeShare } from '../../formats/index.js';

export type ModelKind =
  | 'checkpoint'
  | 'diffusion_model'
  | 'lora'
  | 'vae'
  | 'vae_approx'
  | 'text_encoder'
  | 'clip_vision'
  | 'controlnet'
  | 'ipadapter'
  | 'embedding'
  | 'upscaler'
  | 'style_model'
  | 'gligen'
  | 'hypernetwork'
  | 'photomaker'
  | 'audio_encoder'
  | 'face_model'
  | 'segmentation';

/** What an adapter, style model or checkpoint expects of a vision encoder, or what an encoder gives. */
export interface VisionFacts {
  /** Width of the projected image embeds. */
  readonly embedWidth?: number;
  /** Width of the hidden states. */
  readonly hiddenWidth?: number;
  /** Side of the pictures in pixels. */
  readonly imageSize?: number;
}

export interface AdapterFacts {
  readonly projector:
    'base' | 'plus' | 'full' | 'faceid' | 'faceid-plus' | 'portrait' | 'portrait-unnorm' | 'redux' | 'style';
  /** What is fed in: `embeds` and `hidden` come from a vision encoder, `face` from a face recognition model. */
  readonly inputs: readonly ('embeds' | 'hidden' | 'face')[];
  /** Width of the encoder's output that is projected; absent where only a face vector is. */
  readonly inputWidth?: number;
  readonly tokens?: number;
  /** The file holds LoRA matrices that must be loaded on the model as well. */
  readonly hasLora?: boolean;
}

export interface LoraFacts {
  readonly algorithm: 'lora' | 'locon' | 'loha' | 'lokr' | 'dora' | 'oft' | 'full' | 'ia3' | 'glora';
  readonly keyStyle: 'kohya' | 'peft' | 'diffusers';
  /** The most common rank; absent where no part is factored. */
  readonly rank?: number;
  readonly rankMin?: number;
  readonly rankMax?: number;
  /** Changed modules. */
  readonly modules: number;
  /** Modules per part of the model: unet, te, te1, te2, te3. */
  readonly components: Readonly<Record<string, number>>;
  /** Scale is alpha / rank; absent means 1. */
  readonly alpha?: number;
  readonly networkModule?: string;
}

interface EmbeddingFacts {
  readonly vectors: number;
  /** Width per text encoder; `default` where the file does not name one. */
  readonly dims: Readonly<Record<string, number>>;
}

/** What the table of tensors says. The same for equal tables, whatever the metadata. */
export interface TableFacts {
  readonly kind?: ModelKind;
  readonly baseModel?: string;
  readonly variant?: string;
  /** The text or vision encoder that a file is, or that it contains. */
  readonly encoder?: string;
  readonly architecture?: string;
  readonly scale?: number;
  readonly contains?: readonly string[];
  readonly prediction?: string;
  readonly lora?: LoraFacts;
  readonly embedding?: EmbeddingFacts;
  readonly vision?: VisionFacts;
  readonly adapter?: AdapterFacts;
  readonly tensorCount: number;
  readonly parameterCount: number;
  readonly dtypes: Readonly<Record<string, DtypeShare>>;
  readonly warnings?: readonly string[];
  /** A scalar that holds the LoRA's alpha; its offset counts from the first data byte. */
  readonly alphaTensor?: { readonly dtype: string; readonly offset: number; readonly sizeBytes: number };
}

export interface TrainingFacts {
  /** Data folders, as `repeats_concept`. */
  readonly folders?: readonly string[];
  readonly concepts?: readonly string[];
  /** Dataset tags with their counts over all folders. Not all of them are trigger words. */
  readonly tags?: readonly (readonly [tag: string, count: number])[];
  readonly baseFile?: string;
  readonly outputName?: string;
  readonly steps?: number;
  readonly epochs?: number;
  readonly images?: number;
  readonly resolution?: string;
  readonly learningRate?: string;
  readonly finished?: string;
  readonly software?: string;
}

/** What the metadata says. */
export interface MetadataFacts {
  readonly title?: string;
  readonly author?: string;
  readonly license?: string;
  readonly description?: string;
  readonly date?: string;
  readonly triggerWords?: readonly string[];
  readonly tags?: readonly string[];
  readonly training?: TrainingFacts;
  /** The base model that the metadata names, in our words. */
  readonly baseModel?: string;
  readonly prediction?: string;
  readonly networkModule?: string;
  readonly networkAlpha?: number;
  readonly algorithm?: string;
  /** First 12 digits of the tensor hash that the trainer wrote. */
  readonly autoV3Embedded?: string;
  readonly legacyHash?: string;
}

/** Both, joined. */
export type ModelFacts = Omit<TableFacts, 'alphaTensor'> &
  Omit<MetadataFacts, 'networkAlpha' | 'networkModule' | 'algorithm'>;
