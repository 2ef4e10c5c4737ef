/** GGUF and ONNX files: what their own keys say, joined with what their tensors show. */
import type { GgufHeader, OnnxMetadata } from '../../formats/index.js';
import type { ModelReading } from '../read-model.js';
import type { ModelKind, TableFacts } from './facts.js';
import { baseFromName, joinFacts, readMetadataFacts } from './metadata.js';
import { classifyTable } from './table.js';

/** `general.architecture` of GGUF files. Diffusion models of city96's converter, and llama.cpp's language models. */
const GGUF_ARCHITECTURES: Readonly<
  Record<string, { readonly kind: ModelKind; readonly baseModel?: string; readonly encoder?: string }>
> = {
  flux: { kind: 'diffusion_model', baseModel: 'flux' },
  sd1: { kind: 'diffusion_model', baseModel: 'sd15' },
  sdxl: { kind: 'diffusion_model', baseModel: 'sdxl' },
  sd3: { kind: 'diffusion_model', baseModel: 'sd3' },
  aura: { kind: 'diffusion_model', baseModel: 'auraflow' },
  ltxv: { kind: 'diffusion_model', baseModel: 'ltxv' },
  hyvid: { kind: 'diffusion_model', baseModel: 'hunyuan-video' },
  wan: { kind: 'diffusion_model', baseModel: 'wan21' },
  hidream: { kind: 'diffusion_model', baseModel: 'hidream' },
  cosmos: { kind: 'diffusion_model', baseModel: 'cosmos-predict2' },
  lumina2: { kind: 'diffusion_model', baseModel: 'lumina2' },
  qwen_image: { kind: 'diffusion_model', baseModel: 'qwen-image' },
  t5: { kind: 'text_encoder', encoder: 't5' },
  t5encoder: { kind: 'text_encoder', encoder: 't5' },
  llama: { kind: 'text_encoder', encoder: 'llama' },
  gemma2: { kind: 'text_encoder', encoder: 'gemma-2' },
  gemma3: { kind: 'text_encoder', encoder: 'gemma-3' },
  qwen2vl: { kind: 'text_encoder', encoder: 'qwen2.5-vl' },
  qwen3: { kind: 'text_encoder', encoder: 'qwen3' },
  clip: { kind: 'clip_vision', encoder: 'llama.cpp-projector' },
};

/** Widths that tell T5 encoders apart. */
const T5_WIDTHS: Readonly<Record<number, string>> = { 4096: 't5-xxl', 2048: 't5-xl', 768: 't5-base' };

export function describeGguf({ version, keys, table, headerBytes }: GgufHeader): ModelReading {
  const architecture = keys.get('general.architecture');
  const fileType = keys.get('general.file_type');
  const texts = new Map([...keys].filter((entry): entry is [string, string] => typeof entry[1] === 'string'));
  const told = typeof architecture === 'string' ? GGUF_ARCHITECTURES[architecture] : undefined;
  const shown = classifyTable(table);
  const { kind, baseModel, encoder } = joinArchitecture(told, shown, keys);
  const facts: TableFacts = {
    ...shown,
    ...(kind === undefined ? {} : { kind }),
    ...(baseModel === undefined ? {} : { baseModel }),
    ...(encoder === undefined ? {} : { encoder }),
  };
  texts.delete('general.architecture');
  return {
    status: 'ok',
    format: 'gguf',
    headerBytes,
    gguf: {
      version,
      ...(typeof architecture === 'string' ? { architecture } : {}),
      ...(typeof fileType === 'number' ? { fileType } : {}),
    },
    facts: joinFacts(facts, readMetadataFacts(texts)),
  };
}

/** The tensors are surer, but llama.cpp renames those of language models: there the key decides. */
function joinArchitecture(
  told: (typeof GGUF_ARCHITECTURES)[string] | undefined,
  shown: TableFacts,
  keys: GgufHeader['keys'],
): Pick<TableFacts, 'kind' | 'baseModel' | 'encoder'> {
  if (told === undefined) return {};
  if (told.kind === 'diffusion_model') {
    const baseModel =
      shown.baseModel ?? (told.baseModel === undefined ? undefined : baseFromName(told.baseModel)) ?? told.baseModel;
    return { kind: told.kind, ...(baseModel === undefined ? {} : { baseModel }) };
  }
  const width = keys.get('t5.embedding_length') ?? keys.get('t5encoder.embedding_length');
  const encoder = told.encoder === 't5' && typeof width === 'number' ? (T5_WIDTHS[width] ?? 't5') : told.encoder;
  return { kind: told.kind, ...(encoder === undefined ? {} : { encoder }) };
}

/** Side of the aligned face that ArcFace networks take, and the length of their answer. */
const FACE_SIDE = 112;
const FACE_VECTOR = 512;

export function describeOnnx({ inputs, outputs, properties, table }: OnnxMetadata): ModelReading {
  const { tensorCount, parameterCount, dtypes } = classifyTable(table);
  const weights = new Set<string>();
  for (let i = 0; i < table.count; i += 1) weights.add(table.name(i));
  // Older exporters list weights among the inputs.
  const input = inputs.find(({ name }) => !weights.has(name))?.shape ?? [];
  const isRecognition = input[2] === FACE_SIDE && input[3] === FACE_SIDE && outputs[0]?.shape.at(-1) === FACE_VECTOR;
  // SCRFD: scores, boxes and points at three strides.
  const isDetection = outputs.length === 9 && input.length === 4 && input[1] === 3;
  const face = isRecognition
    ? { kind: 'face_model' as const, architecture: 'arcface' }
    : isDetection
      ? { kind: 'face_model' as const, architecture: 'scrfd' }
      : {};
  return {
    status: 'ok',
    format: 'onnx',
    facts: joinFacts({ tensorCount, parameterCount, dtypes, ...face }, readMetadataFacts(properties)),
  };
}
