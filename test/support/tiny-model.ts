/** The smallest encoder that is one: a file of some 40 KB, an encode of a few milliseconds. */
import { presetConfig, writeRandomModel } from '../../src/vision/index.js';

const preset = presetConfig('CLIP-ViT-H');
if (preset === undefined) throw new Error('no preset');

export const TINY = {
  ...preset.config,
  hiddenSize: 32,
  heads: 2,
  layers: 2,
  intermediateSize: 64,
  projectionDim: 16,
  imageSize: 32,
  patchSize: 8,
};

export async function writeTinyModel(path: string, seed = 1): Promise<void> {
  await writeRandomModel(path, TINY, { withConfig: true, seed });
}
