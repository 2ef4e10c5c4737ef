/** What the decoder does not say of a GIF. Source: the GIF 89a specification; Pillow's reading of it, measured. */
import type { ByteReader } from './picture-format.js';

export type Colour = readonly [red: number, green: number, blue: number];

/** Extensions before the first frame; a file with more is taken without. */
const MAX_BLOCKS = 4096;

/**
 * The colour that lies under transparent pixels: the palette's entry of the first frame's transparent index, which
 * Pillow shows once alpha is dropped. Undefined where no frame says one.
 */
export async function readTransparentColour(read: ByteReader): Promise<Colour | undefined> {
  const screen = await read(0, 13);
  const globalPalette = paletteBytes(screen[10]);
  let position = 13 + globalPalette;
  let index: number | undefined;
  for (let block = 0; block < MAX_BLOCKS; block += 1) {
    const head = await read(position, 10);
    if (head[0] === 0x21) {
      if (head[1] === 0xf9 && ((head[3] ?? 0) & 1) === 1) index = head[6];
      position += 2;
      // Sub-blocks: a length and so many bytes, until a length of zero.
      for (let length = -1; length !== 0 && block < MAX_BLOCKS; block += 1) {
        length = (await read(position, 1))[0] ?? 0;
        position += 1 + length;
      }
    } else if (head[0] === 0x2c) {
      if (index === undefined) return undefined;
      const local = paletteBytes(head[9]);
      const at = local > 0 ? position + 10 : 13;
      if (index * 3 >= (local > 0 ? local : globalPalette)) return undefined;
      const [red = 0, green = 0, blue = 0] = await read(at + index * 3, 3);
      return [red, green, blue];
    } else return undefined;
  }
  return undefined;
}

/** Bytes of the palette that these flags announce. */
function paletteBytes(flags = 0): number {
  return (flags & 0x80) === 0 ? 0 : 3 * 2 ** ((flags & 7) + 1);
}
