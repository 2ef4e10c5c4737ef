/** `vision-bridge ipadapter project`: reference pictures, or embeds, to image prompt tokens, without a server. */
import { writeFile } from 'node:fs/promises';
import { resolve } from 'node:path';
import { Command, Option } from 'commander';
import {
  COMBINE_MODES,
  readEmbeds,
  serializeEmbeds,
  tokenTensors,
  type AdapterPair,
  type CombineMode,
  type IPAdapterEmbeds,
  type Reference,
} from '../../../adapter/index.js';
import { InvalidRequestError } from '../../../common/errors.js';
import type { FaceChoice } from '../../../faces/index.js';
import { serializeSafetensors } from '../../../formats/index.js';
import { decodeImage } from '../../../image/index.js';
import type { Precision } from '../../../vision/index.js';
import { createLogger } from '../../logger.js';
import { addFlags } from '../../options.js';
import { printJson, printLine, requireTarget } from '../../output.js';
import { printTable } from '../../table.js';
import { parseLayers, parseNumbers } from './numbers.js';
import { openAdapterRooms, openPair, type AdapterServices, type PairFlags } from './rooms.js';

interface ProjectFlags extends PairFlags {
  readonly embeds?: string;
  readonly weights?: string;
  readonly combine: CombineMode;
  readonly negative?: string;
  readonly tiles?: string;
  readonly tilesRatio?: string;
  readonly face: string;
  readonly precision: Precision;
  readonly layers?: string;
  readonly faceidV2Scale?: string;
  readonly saveEmbeds?: string;
  readonly out?: string;
  readonly json?: boolean;
}

const SHOWN_VALUES = 4;
/** Flags that say how pictures become embeds. */
const OF_PICTURES = ['weights', 'negative', 'tiles', 'tilesRatio'] as const;

export function projectCommand(): Command {
  const command = new Command('project')
    .description('project reference pictures to image prompt tokens')
    .argument('[image...]', 'reference pictures, in order; none with --embeds')
    .requiredOption('--adapter <name>', 'an IP-Adapter of the ipadapter folder, or a path')
    .option('--clip-vision <name>', 'the encoder; default: the first that fits by content')
    .option('--face-pack <name>', 'FaceID only: a pack of models/insightface/models; default: the first complete one')
    .option('--embeds <file>', 'embeds in place of pictures')
    .option('--weights <list>', 'a weight per picture, such as 1,0.5; the last counts for all that are left')
    .addOption(
      new Option('--combine <mode>', 'how several pictures become one').choices(COMBINE_MODES).default('concat'),
    )
    .option('--negative <image>', 'what stands against the references')
    .option('--tiles <number>', 'cut pictures into this many tiles a side (default: 1)')
    .option('--tiles-ratio <number>', 'with --tiles: share of the whole picture beside its tiles (default: 1)')
    .option('--face <which>', 'first, largest, or a number', 'first')
    .addOption(
      new Option('--precision <kind>', 'of the encoder and of the projection')
        .choices(['comfy', 'fp32', 'int8'])
        .default('comfy'),
    )
    .option('--layers <list>', 'add keys and values of these layers: 1,3,… or all')
    .option('--faceid-v2-scale <number>', 'FaceID-plus v2: share of the picture')
    .option('--save-embeds <file>', 'write the embeds into a .safetensors file')
    .option('--out <file>', 'write the tokens into a .safetensors file')
    .option('--json', 'one JSON document');
  addFlags(command, ['folders', 'engine']);
  return command.action(async (images: string[], flags: ProjectFlags) => {
    requireTarget('--out', flags.out);
    requireTarget('--save-embeds', flags.saveEmbeds);
    if ((images.length === 0) === (flags.embeds === undefined))
      throw new InvalidRequestError('Give pictures, or --embeds FILE: one of the two.');
    const idle = flags.embeds === undefined ? [] : OF_PICTURES.filter((name) => flags[name] !== undefined);
    if (idle.length > 0)
      throw new InvalidRequestError(
        `${idle.map((name) => `--${name.replace(/[A-Z]/, (letter) => `-${letter.toLowerCase()}`)}`).join(' and ')} would change nothing: embeds are made already.`,
      );
    const settings = {
      precision: flags.precision,
      ...(flags.layers === undefined ? {} : { layers: parseLayers(flags.layers, '--layers') }),
      ...(flags.faceidV2Scale === undefined
        ? {}
        : { faceIdV2Scale: numberOf(flags.faceidV2Scale, '--faceid-v2-scale') }),
    };
    await using rooms = await openAdapterRooms(command, createLogger('warn'));
    const pair = await openPair(rooms, flags);
    const { references } = rooms.ipadapter;
    const given =
      flags.embeds === undefined
        ? await encode(references, pair, images, flags)
        : await readEmbeds(resolve(flags.embeds));
    const embeds = await references.complete(pair, given, { precision: flags.precision });
    if (flags.saveEmbeds !== undefined) await writeFile(flags.saveEmbeds, serializeEmbeds(embeds));
    const projected = await references.project(pair, embeds, settings);
    await report(pair, tokenTensors(projected), flags);
  });
}

async function encode(
  references: AdapterServices['references'],
  pair: AdapterPair,
  images: readonly string[],
  flags: ProjectFlags,
): Promise<IPAdapterEmbeds> {
  const weights = flags.weights === undefined ? [] : parseNumbers(flags.weights, '--weights');
  if (weights.length > images.length)
    throw new InvalidRequestError(
      `--weights: ${weights.length} are given for ${images.length} ${images.length === 1 ? 'picture' : 'pictures'}.`,
    );
  const list: Reference[] = [];
  for (const [i, image] of images.entries())
    list.push({ images: (await decodeImage(image)).rgb, weight: weights[i] ?? weights.at(-1) });
  const negative =
    flags.negative === undefined
      ? {}
      : { negative: { kind: 'images', images: (await decodeImage(flags.negative)).rgb } as const };
  return references.encode(pair, list, {
    precision: flags.precision,
    combine: flags.combine,
    face: faceOf(flags.face),
    ...(flags.tiles === undefined ? {} : { tiles: numberOf(flags.tiles, '--tiles') }),
    ...(flags.tilesRatio === undefined ? {} : { ratio: numberOf(flags.tilesRatio, '--tiles-ratio') }),
    ...negative,
  });
}

function faceOf(text: string): FaceChoice {
  return text === 'first' || text === 'largest' ? text : numberOf(text, '--face');
}

function numberOf(text: string, flag: string): number {
  return parseNumbers(text, flag)[0] ?? 0;
}

async function report(
  { adapter, encoder }: AdapterPair,
  tensors: ReturnType<typeof tokenTensors>,
  { out, saveEmbeds, json }: ProjectFlags,
): Promise<void> {
  if (out !== undefined)
    await writeFile(out, serializeSafetensors(tensors, { variant: adapter.variant, label: adapter.label }));
  const rows = Object.entries(tensors).map(([name, { shape, data }]) => ({
    name,
    shape,
    first: Array.from(data.subarray(0, SHOWN_VALUES)),
  }));
  if (json === true) {
    printJson({
      adapter: { path: adapter.path, variant: adapter.variant, label: adapter.label },
      encoder: encoder === undefined ? null : { path: encoder.path, family: encoder.family },
      tensors: rows,
      out: out ?? null,
      embeds: saveEmbeds ?? null,
    });
    return;
  }
  printLine(`${adapter.label}${encoder === undefined ? '' : `, with ${encoder.family}`}`);
  printTable(
    ['tensor', 'shape', 'first values'],
    rows.map(({ name, shape, first }) => [
      name,
      `[${shape.join(', ')}]`,
      first.map((value) => value.toFixed(5)).join('  '),
    ]),
  );
  for (const file of [out, saveEmbeds]) if (file !== undefined) printLine(`written to ${file}`);
}
