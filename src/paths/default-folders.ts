/**
 * ComfyUI's own folder types: folders in order, extensions, and the old names that code may still use.
 *
 * Source: ComfyUI 0.3.64, folder_paths.py, measured; test/golden/paths/defaults.json is the proof.
 */

const STANDARD = ['.ckpt', '.pt', '.pt2', '.bin', '.pth', '.safetensors', '.pkl', '.sft'] as const;

export interface DefaultFolder {
  readonly name: string;
  /** Relative to the base folder, `/` between components. */
  readonly folders: readonly string[];
  /** Lower-case endings; empty accepts every file, `''` only files without one. */
  readonly extensions: readonly string[];
}

const models = (name: string, folders = [name], extensions: readonly string[] = STANDARD): DefaultFolder => ({
  name,
  folders: folders.map((folder) => `models/${folder}`),
  extensions,
});

/** In the order of definition, which `/models` shows. */
export const DEFAULT_FOLDERS: readonly DefaultFolder[] = [
  models('checkpoints'),
  models('configs', ['configs'], ['.yaml']),
  models('loras'),
  models('vae'),
  models('text_encoders', ['text_encoders', 'clip']),
  models('diffusion_models', ['unet', 'diffusion_models']),
  models('clip_vision'),
  models('style_models'),
  models('embeddings'),
  // No ending equals "folder": the list is always empty.
  models('diffusers', ['diffusers'], ['folder']),
  models('vae_approx'),
  models('controlnet', ['controlnet', 't2i_adapter']),
  models('gligen'),
  models('upscale_models'),
  { name: 'custom_nodes', folders: ['custom_nodes'], extensions: [] },
  models('hypernetworks'),
  models('photomaker'),
  models('classifiers', ['classifiers'], ['']),
  models('model_patches'),
  models('audio_encoders'),
];

/** Names that ComfyUI maps wherever code uses a type name; HTTP routes do not. */
const LEGACY_NAMES: Readonly<Record<string, string>> = { unet: 'diffusion_models', clip: 'text_encoders' };

export function currentFolderName(name: string): string {
  return (Object.hasOwn(LEGACY_NAMES, name) ? LEGACY_NAMES[name] : undefined) ?? name;
}

/** Folders below the output folder that are model folders too, appended last. */
export const OUTPUT_FOLDERS: readonly (readonly [name: string, folder: string])[] = [
  ['checkpoints', 'checkpoints'],
  ['text_encoders', 'clip'],
  ['vae', 'vae'],
  ['diffusion_models', 'diffusion_models'],
  ['loras', 'loras'],
];
