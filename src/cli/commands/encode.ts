/** `vision-bridge encode`: features of image files, without a server. */
import { writeFile } from 'node:fs/promises';
import { existsSync } from 'node:fs';
import { Command, Option } from 'commander';
import { dataDirectoryOf, openSoundFolders, visionOptionsOf } from '../../bridge.js';
import { BridgeError, messageOf } from '../../common/errors.js';
import { serializeSafetensors } from '../../formats/index.js';
import { preprocess, readImageInput, type Crop } from '../../image/index.js';
import type { F32Tensor } from '../../tensor/tensor.js';
import {
  featureTensors,
  joinBatch,
  joinEncoded,
  type VisionEngine,
  type EncodedPictures,
  type Precision,
  type VisionModel,
} from '../../vision/index.js';
import { createVisionServices } from '../../vision-services.js';
import { createLogger } from '../logger.js';
import { createProgress } from '../progress.js';
import { addFlags, configOf } from '../options.js';
import { printJson, printLine, requireTarget } from '../output.js';
import { printTable } from '../table.js';

interface EncodeFlags {
  readonly model?: string;
  readonly crop: Crop;
  readonly precision: Precision;
  readonly tiles?: number;
  readonly tilesRatio?: number;
  readonly out?: string;
  readonly pixelValues?: boolean;
  readonly json?: boolean;
}

const SHOWN_VALUES = 4;

export function encodeCommand(): Command {
  const command = new Command('encode')
    .description('encode images with a CLIP vision encoder')
    .argument('<image...>', 'image files; the batch is in their order')
    .option('--model <name>', 'a model of the clip_vision folder, or a path')
    .addOption(
      new Option('--crop <how>', 'center keeps the aspect ratio, none stretches')
        .choices(['center', 'none'])
        .default('center'),
    )
    .addOption(
      new Option(
        '--precision <kind>',
        "comfy: ComfyUI's numbers; fp32: the weights as stored; int8: four times as fast, in a quarter of the memory",
      )
        .choices(['comfy', 'fp32', 'int8'])
        .default('comfy'),
    )
    .option(
      '--tiles <number>',
      'cut each image into n × n pieces and merge their features, as IPAdapter_plus does',
      Number,
    )
    .option(
      '--tiles-ratio <number>',
      'share of the whole image in the result, 0 to 1; without it the pieces alone',
      Number,
    )
    .option('--out <file>', 'write the tensors into a .safetensors file')
    .option('--pixel-values', 'add the preprocessed pixels that the encoder sees')
    .option('--json', 'one JSON document');
  addFlags(command, ['folders', 'engine']);
  return command.action(async (images: string[], flags: EncodeFlags) => {
    // Not a required option: a misspelt flag would be told as this one's absence.
    const { model: name } = flags;
    if (name === undefined) return command.error("error: required option '--model <name>' not specified");
    requireTarget('--out', flags.out);
    const logger = createLogger('warn');
    const config = configOf(command);
    await using services = createVisionServices({
      ...visionOptionsOf(config),
      dataDirectory: dataDirectoryOf(config),
      logger,
    });
    const { engine } = services;
    const path = existsSync(name)
      ? name
      : await (await openSoundFolders(config, logger)).paths.resolve('clip_vision', name);
    const model = await engine.open(path);
    const { outputs, pixels, failures } = await encodeAll(engine, model, images, flags);
    for (const { image, error } of failures) process.stderr.write(`error: ${image}: ${messageOf(error)}\n`);
    if (outputs.length > 0) await report(model, outputs, images.length, pixels, flags);
    const [failure] = failures;
    if (failure !== undefined) {
      throw new BridgeError('IMAGE_INVALID', `${failures.length} of ${images.length} images could not be encoded.`, {
        details: { images: failures.map(({ image }) => image) },
        cause: failure.error,
      });
    }
  });
}

interface Encoded {
  readonly outputs: EncodedPictures[];
  readonly pixels: F32Tensor[];
  readonly failures: { readonly image: string; readonly error: unknown }[];
}

/** One broken image fails alone. */
async function encodeAll(
  engine: VisionEngine,
  model: VisionModel,
  images: readonly string[],
  { crop, precision, tiles, tilesRatio, pixelValues }: EncodeFlags,
): Promise<Encoded> {
  const encoded: Encoded = { outputs: [], pixels: [], failures: [] };
  const progress = createProgress(model);
  for (const image of images) {
    try {
      const options = { crop, precision, tiles, tilesRatio, onProgress: progress.show };
      encoded.outputs.push(await engine.encodeImage(model, { kind: 'file', path: image }, options));
      const { imageSize: size, imageMean: mean, imageStd: std } = model.config;
      if (pixelValues === true) {
        encoded.pixels.push(preprocess(await readImageInput({ kind: 'file', path: image }), { size, crop, mean, std }));
      }
    } catch (error) {
      if (!(error instanceof BridgeError) || !error.code.startsWith('IMAGE')) throw error;
      encoded.failures.push({ image, error });
    }
  }
  progress.end();
  return encoded;
}

async function report(
  model: VisionModel,
  outputs: readonly EncodedPictures[],
  total: number,
  pixels: readonly F32Tensor[],
  flags: EncodeFlags,
): Promise<void> {
  const tensors = {
    ...featureTensors(joinEncoded(outputs, total, flags.tilesRatio)),
    ...(pixels.length > 0 ? { pixel_values: joinBatch(pixels) } : {}),
  };
  if (flags.out !== undefined) {
    await writeFile(
      flags.out,
      serializeSafetensors(tensors, { family: model.family, precision: flags.precision, crop: flags.crop }),
    );
  }
  const rows = Object.entries(tensors).map(([name, { shape, data }]) => ({
    name,
    shape,
    first: Array.from(data.subarray(0, SHOWN_VALUES)),
  }));
  if (flags.json === true) {
    printJson({
      model: { path: model.path, family: model.family, configuredBy: model.configuredBy },
      tensors: rows,
      out: flags.out ?? null,
    });
    return;
  }
  printTable(
    ['tensor', 'shape', 'first values'],
    rows.map(({ name, shape, first }) => [
      name,
      `[${shape.join(', ')}]`,
      first.map((value) => value.toFixed(5)).join('  '),
    ]),
  );
  if (flags.out !== undefined) printLine(`written to ${flags.out}`);
}
