/** Batches written as PNG files, with the texts that let a front end rebuild the workflow from a picture. */
import type { NodeContext } from '../graph/index.js';
import { encodePng } from '../image/index.js';
import { writeAsciiJson, type JsonableObject } from '../protocol/json.js';
import type { F32Tensor } from '../tensor/tensor.js';
import { imageSize } from './image-shapes.js';
import { beginOutputSeries } from './output-files.js';
import type { NodeServices } from './services.js';

interface SaveTarget {
  readonly area: 'output' | 'temp';
  readonly prefix: string;
  /** ComfyUI's levels: 4 for results, 1 for previews. */
  readonly compression: 1 | 4;
}

/** Entries of the ui output, in the order of the batch. */
export async function saveImages(
  { directories, disableMetadata }: NodeServices,
  images: F32Tensor,
  { area, prefix, compression }: SaveTarget,
  context: NodeContext,
): Promise<JsonableObject[]> {
  const series = await beginOutputSeries(directories[area], prefix, imageSize(images));
  const texts = disableMetadata ? new Map<string, string>() : metadataTexts(context);
  const saved: JsonableObject[] = [];
  for (let index = 0; index < imageSize(images).batch; index += 1) {
    context.throwIfInterrupted();
    const png = await encodePng(images, index, texts, compression);
    saved.push({ ...(await series.write(png, 'png', index)), type: area });
  }
  return saved;
}

function metadataTexts({ prompt, extraPngInfo }: NodeContext): Map<string, string> {
  const texts = new Map([['prompt', writeAsciiJson(prompt)]]);
  for (const [key, value] of extraPngInfo ?? []) texts.set(key, writeAsciiJson(value));
  return texts;
}
