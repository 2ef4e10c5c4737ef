/**
 * What a table of tensors is: the kinds in the order in which they are tried, and what each tells.
 *
 * Pure: the same table gives the same facts, whatever the file is called and wherever it lies.
 */
import type { TensorTable } from '../../formats/index.js';
import { describeControlNet, describeIpAdapter, describeStyleModel } from './adapters.js';
import { describeDiffusion, diffusionKeys } from './architectures.js';
import { describeTextEncoder, describeVisionEncoder } from './encoders.js';
import type { ModelKind, TableFacts } from './facts.js';
import { Keys } from './keys.js';
import { describeLora } from './lora.js';
import { describeEmbedding, describeUpscaler, describeVae, isPreviewVae } from './small-kinds.js';

type KindFacts = Omit<TableFacts, 'tensorCount' | 'parameterCount' | 'dtypes'>;

interface KindRule {
  readonly kind: ModelKind;
  /** What a table of this kind is; undefined when it is none. */
  readonly describe: (keys: Keys) => Omit<KindFacts, 'kind'> | undefined;
}

const when =
  (test: (keys: Keys) => boolean) =>
  (keys: Keys): Omit<KindFacts, 'kind'> | undefined =>
    test(keys) ? {} : undefined;

/** First that fits. */
const KINDS: readonly KindRule[] = [
  { kind: 'lora', describe: ({ table }) => describeLora(table) },
  {
    kind: 'ipadapter',
    describe: (keys) =>
      ['ip_adapter.', 'adapter_modules.'].some((start) => keys.hasBelow(start)) && keys.hasBelow('image_proj.')
        ? describeIpAdapter(keys)
        : undefined,
  },
  { kind: 'controlnet', describe: describeControlNet },
  { kind: 'checkpoint', describe: describeCheckpoint },
  { kind: 'style_model', describe: describeStyleModel },
  { kind: 'gligen', describe: when((keys) => keys.has('position_net.null_positive_feature')) },
  { kind: 'photomaker', describe: when((keys) => keys.hasBelow('id_encoder.')) },
  { kind: 'vae_approx', describe: when(isPreviewVae) },
  { kind: 'clip_vision', describe: describeVisionEncoder },
  { kind: 'diffusion_model', describe: describeDiffusion },
  { kind: 'text_encoder', describe: describeTextEncoder },
  { kind: 'text_encoder', describe: (keys) => describeTextEncoder(keys.below('transformer.')) },
  { kind: 'vae', describe: describeVae },
  { kind: 'upscaler', describe: describeUpscaler },
  {
    kind: 'audio_encoder',
    describe: when((keys) => keys.hasBelow('feature_extractor.conv_layers.') || keys.hasBelow('wav2vec2.')),
  },
  {
    kind: 'hypernetwork',
    describe: when((keys) => keys.has('320.0.linear.0.weight') || keys.has('768.0.linear.0.weight')),
  },
  {
    kind: 'segmentation',
    describe: when((keys) => keys.hasBelow('image_encoder.blocks.') && keys.hasBelow('mask_decoder.')),
  },
  { kind: 'embedding', describe: describeEmbedding },
];

/** Describes a table of tensors. */
export function classifyTable(table: TensorTable): TableFacts {
  const dtypes = table.histogram();
  const parameterCount = Object.values(dtypes).reduce((sum, { parameters }) => sum + parameters, 0);
  const counts = { tensorCount: table.count, parameterCount, dtypes };
  const keys = new Keys(table);
  for (const { kind, describe } of KINDS) {
    const facts = describe(keys);
    if (facts !== undefined) return { kind, ...facts, ...counts };
  }
  return counts;
}

const CHECKPOINT_PREFIXES = ['model.diffusion_model.', 'model.model.'];
/** Parts of a checkpoint, by how their names begin. */
const PARTS: readonly (readonly [part: string, starts: readonly string[]])[] = [
  ['vae', ['first_stage_model.', 'vae.', 'effnet.']],
  ['text_encoder', ['cond_stage_model.', 'conditioner.embedders.', 'text_encoders.', 'text_encoder.']],
];
/** Where a vision encoder lies in a checkpoint. */
const VISION_PARTS = [
  'embedder.model.visual.',
  'conditioner.embedders.0.open_clip.model.visual.',
  'cond_stage_model.model.visual.',
  'clip_l_vision.',
  'conditioner.main_image_encoder.model.',
];

/** A file that the checkpoint loader takes: a diffusion model with a prefix, alone or with other parts. */
function describeCheckpoint(keys: Keys): Omit<KindFacts, 'kind'> | undefined {
  const prefix = CHECKPOINT_PREFIXES.find((start) => keys.hasBelow(start));
  if (prefix === undefined) return undefined;
  const contains = ['unet'];
  for (const [part, starts] of PARTS) if (starts.some((start) => keys.hasBelow(start))) contains.push(part);
  const visionPart = VISION_PARTS.find((start) => keys.hasBelow(start));
  if (visionPart !== undefined) contains.push('clip_vision');
  const found = describeDiffusion(diffusionKeys(keys.table)) ?? {};
  return { ...found, contains, ...checkpointVision(keys, visionPart) };
}

/** What the vision encoder in a checkpoint gives, told by its blocks. */
function checkpointVision(keys: Keys, part: string | undefined): Pick<TableFacts, 'encoder' | 'vision'> {
  if (part?.endsWith('visual.') !== true) return {};
  const blocks = keys.count(`${part}transformer.resblocks.`);
  if (blocks === 32)
    return { encoder: 'clip-vit-h-14', vision: { embedWidth: 1024, hiddenWidth: 1280, imageSize: 224 } };
  return blocks === 24
    ? { encoder: 'clip-vit-l-14', vision: { embedWidth: 768, hiddenWidth: 1024, imageSize: 224 } }
    : {};
}
