/** Bytes as the recordings describe them: pictures by their pixels, frames by their parts. */
import { createHash } from 'node:crypto';
import { inflateSync } from 'node:zlib';
import sharp from 'sharp';
import { parseJson, toPlain } from '../../../src/protocol/json.js';

interface ImageDescription {
  readonly format: string;
  readonly width: number;
  readonly height: number;
  readonly pixels_sha256?: string;
  readonly text?: Readonly<Record<string, unknown>>;
}

/** JSON with whole numbers kept, or the text itself. */
export function parseBody(text: string): unknown {
  try {
    return toPlain(parseJson(text));
  } catch {
    return text;
  }
}

/** Format, size, and for PNG the pixels and texts; undefined for bytes that are no picture. */
export async function describeImage(bytes: Uint8Array): Promise<ImageDescription | undefined> {
  try {
    const image = sharp(bytes);
    const { format, width, height } = await image.metadata();
    if (format !== 'png') return { format: format.toUpperCase(), width, height };
    const { data } = await image.raw({ depth: 'uchar' }).toBuffer({ resolveWithObject: true });
    const texts = Object.fromEntries(pngTexts(bytes));
    const pixels = createHash('sha256').update(data).digest('hex');
    return {
      format: 'PNG',
      width,
      height,
      pixels_sha256: pixels,
      ...(Object.keys(texts).length === 0 ? {} : { text: texts }),
    };
  } catch {
    return undefined;
  }
}

/** What of a recorded picture can be compared: encoders differ, pixels of PNG do not. */
export function comparableImage(recorded: Readonly<Record<string, unknown>>): Readonly<Record<string, unknown>> {
  const { text, ...others } = recorded;
  // The mode is Pillow's word for what the pixels show.
  const rest = Object.fromEntries(Object.entries(others).filter(([key]) => key !== 'mode'));
  if (typeof text !== 'object' || text === null) return rest;
  const texts = Object.entries(text as Record<string, string>).map(([key, value]) => [key, parseBody(value)] as const);
  return { ...rest, text: Object.fromEntries(texts) };
}

/** A binary websocket frame. */
export async function describeFrame(data: Buffer): Promise<Readonly<Record<string, unknown>>> {
  const kind = data.readUInt32BE(0);
  const second = data.readUInt32BE(4);
  if (kind === 1) return { event_type: 1, image_type: second, image: await describeImage(data.subarray(8)) };
  const head = data.subarray(8, 8 + second).toString();
  const rest = data.subarray(8 + second);
  if (kind === 3) return { event_type: 3, node_id: head, text: rest.toString() };
  return { event_type: kind, metadata: parseBody(head), image: await describeImage(rest) };
}

export function comparableFrame(recorded: Readonly<Record<string, unknown>>): Readonly<Record<string, unknown>> {
  const keys = ['event_type', 'image_type', 'node_id', 'text', 'metadata'].filter((key) =>
    Object.hasOwn(recorded, key),
  );
  const image = recorded['image'];
  return {
    ...Object.fromEntries(keys.map((key) => [key, recorded[key]])),
    ...(typeof image === 'object' && image !== null
      ? { image: comparableImage(image as Record<string, unknown>) }
      : {}),
  };
}

function* pngTexts(bytes: Uint8Array): Generator<[string, unknown]> {
  const buffer = Buffer.from(bytes);
  for (let at = 8; at < buffer.length;) {
    const length = buffer.readUInt32BE(at);
    const type = buffer.toString('latin1', at + 4, at + 8);
    const body = buffer.subarray(at + 8, at + 8 + length);
    at += length + 12;
    if (!['tEXt', 'zTXt', 'iTXt'].includes(type)) continue;
    const end = body.indexOf(0);
    const key = body.toString('latin1', 0, end);
    const value = body.subarray(end + 1);
    if (type === 'tEXt') yield [key, parseBody(value.toString('latin1'))];
    else if (type === 'zTXt') yield [key, parseBody(inflateSync(value.subarray(1)).toString('latin1'))];
    else yield [key, parseBody(value.subarray(value.indexOf(0, value.indexOf(0, 2) + 1) + 1).toString('utf8'))];
  }
}
