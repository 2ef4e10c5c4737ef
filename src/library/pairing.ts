/**
 * Which vision encoder an adapter, style model or checkpoint needs, and which of the user's files it is: by content,
 * whatever the files are called.
 */
import { formatWidth, encoderLabel, ENCODER_FILES } from './encoder-names.js';
import type { AdapterFacts, ModelEntry } from '../registry/index.js';

interface Need {
  readonly what: 'vision encoder' | 'face recognition';
  /** The encoder in the registry's words, where only one fits. */
  readonly encoder?: string;
  readonly label: string;
  readonly input: 'embeds' | 'hidden' | 'face';
  readonly width?: number;
}

interface Mismatch {
  readonly file: ModelEntry;
  readonly reason: string;
}

export interface Pairing {
  readonly adapter: ModelEntry;
  readonly need: Need;
  /** Files that fit; the first is the one to take. */
  readonly matches: readonly ModelEntry[];
  readonly mismatches: readonly Mismatch[];
  /** What to do, in words. */
  readonly advice: string;
}

/** What goes into an adapter, by the width that it projects from. */
const BY_EMBED_WIDTH: Readonly<Record<number, string>> = {
  1024: 'clip-vit-h-14',
  1280: 'clip-vit-bigg-14',
  768: 'clip-vit-l-14',
};
const BY_HIDDEN_WIDTH: Readonly<Record<number, string>> = {
  1280: 'clip-vit-h-14',
  1664: 'clip-vit-bigg-14',
  1152: 'siglip-so400m-384',
  1024: 'clip-vit-l-14',
};

/** What an adapter needs; empty for one that needs nothing, or whose need cannot be read. */
function needsOf({ row }: ModelEntry): readonly Need[] {
  const { adapter, baseModel } = row ?? {};
  if (adapter === undefined) return [];
  return adapter.inputs.map((input): Need => {
    if (input === 'face') return { what: 'face recognition', label: 'ArcFace (insightface)', input };
    return encoderNeed(adapter, input, baseModel);
  });
}

function encoderNeed(
  { inputWidth, projector }: AdapterFacts,
  input: 'embeds' | 'hidden',
  baseModel: string | undefined,
): Need {
  const table = input === 'embeds' ? BY_EMBED_WIDTH : BY_HIDDEN_WIDTH;
  // Redux reads SigLIP's states, Kolors the ones of the 336-pixel CLIP-L.
  const encoder =
    projector === 'redux' && inputWidth === undefined
      ? 'siglip-so400m-384'
      : baseModel === 'kolors'
        ? 'clip-vit-l-14-336'
        : inputWidth === undefined
          ? undefined
          : table[inputWidth];
  return {
    what: 'vision encoder',
    ...(encoder === undefined ? {} : { encoder }),
    label: encoder === undefined ? `an encoder of width ${inputWidth ?? 'unknown'}` : encoderLabel(encoder),
    input,
    ...(inputWidth === undefined ? {} : { width: inputWidth }),
  };
}

/** Pairs every adapter with the user's encoders. */
export function pairModels(entries: readonly ModelEntry[]): Pairing[] {
  const encoders = oncePerFile(entries.filter(({ row }) => row?.kind === 'clip_vision' && row.status === 'ok'));
  const faces = oncePerFile(entries.filter(({ row }) => row?.kind === 'face_model' && row.architecture === 'arcface'));
  const adapters = oncePerFile(
    entries.filter(({ row }) => (row?.kind === 'ipadapter' || row?.kind === 'style_model') && row.status === 'ok'),
  );
  return adapters.flatMap((adapter) =>
    needsOf(adapter).map((need) => pair(adapter, need, need.what === 'face recognition' ? faces : encoders)),
  );
}

function pair(adapter: ModelEntry, need: Need, files: readonly ModelEntry[]): Pairing {
  const fits = (file: ModelEntry): boolean => reasonAgainst(need, file) === undefined;
  // What ComfyUI lists comes first, then the smaller file: fp16 rather than fp32.
  const matches = files
    .filter(fits)
    .sort((a, b) => Number(b.listedByComfyUI) - Number(a.listedByComfyUI) || a.sizeBytes - b.sizeBytes);
  const mismatches = files.flatMap((file): Mismatch[] => {
    const reason = reasonAgainst(need, file);
    return reason === undefined ? [] : [{ file, reason }];
  });
  return { adapter, need, matches, mismatches, advice: adviceOf(adapter, need, matches, mismatches) };
}

/** Why a file does not fit; undefined when it does. */
function reasonAgainst(need: Need, { row }: ModelEntry): string | undefined {
  if (need.what === 'face recognition') return undefined;
  const gives = need.input === 'embeds' ? row?.vision?.embedWidth : row?.vision?.hiddenWidth;
  const wants = `it wants ${need.label}`;
  const name = row?.encoder === undefined ? 'that encoder' : encoderLabel(row.encoder);
  if (need.width !== undefined && gives !== undefined && gives !== need.width) {
    return `this adapter projects from ${formatWidth(need.input, need.width)}, ${name} gives ${gives}: ${wants}`;
  }
  if (need.encoder !== undefined && row?.encoder !== undefined && row.encoder !== need.encoder) {
    return `${name} gives the same width, but was trained otherwise: ${wants}`;
  }
  return gives === undefined
    ? `${name} gives no ${need.input === 'embeds' ? 'image embeds' : 'hidden states'}: ${wants}`
    : undefined;
}

function adviceOf(
  adapter: ModelEntry,
  need: Need,
  matches: readonly ModelEntry[],
  mismatches: readonly Mismatch[],
): string {
  const [best] = matches;
  const companion =
    adapter.row?.adapter?.hasLora === true
      ? ' The file holds LoRA matrices too: load the LoRA of the same name on the model as well.'
      : '';
  if (need.what === 'face recognition') {
    return best === undefined
      ? `Put an insightface pack (buffalo_l or antelopev2) into models/insightface/models.${companion}`
      : `Face vectors come from ${best.name}.${companion}`;
  }
  if (best === undefined) {
    const near =
      mismatches.length === 0 ? 'There is no vision encoder among your files.' : 'None of your encoders fits.';
    const file = need.encoder === undefined ? undefined : ENCODER_FILES[need.encoder];
    return `${near} Put ${need.label} into models/clip_vision${file === undefined ? '' : ` (published as ${file})`}.${companion}`;
  }
  if (best.listedByComfyUI && best.folder === 'clip_vision')
    return `Choose ${best.name} in Load CLIP Vision.${companion}`;
  return `${best.path} is the right one, but Load CLIP Vision does not list it there: move or link it into models/clip_vision.${companion}`;
}

function oncePerFile(entries: readonly ModelEntry[]): ModelEntry[] {
  const files = new Map<string, ModelEntry>();
  for (const entry of entries) {
    const known = files.get(entry.file);
    if (known === undefined || (!known.listedByComfyUI && entry.listedByComfyUI)) files.set(entry.file, entry);
  }
  return [...files.values()];
}
