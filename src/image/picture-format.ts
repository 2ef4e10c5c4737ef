/**
 * Which kind of picture some bytes are, told by their beginning alone.
 *
 * Only raster formats that both ComfyUI's Pillow and a decoder of ours read are let through. Everything else is
 * refused by name before any of it is rendered: a drawing of a few hundred bytes can take minutes and gigabytes.
 */

const FORMATS = ['png', 'jpeg', 'webp', 'gif', 'tiff', 'avif', 'bmp'] as const;
export type PictureFormat = (typeof FORMATS)[number];

/** Up to `length` bytes from a position on; fewer at the end. */
export type ByteReader = (position: number, length: number) => Promise<Uint8Array>;

/** Bytes that are enough to tell. */
export const HEAD_BYTES = 512;

interface Signature {
  /** Latin-1; `?` stands for any byte. */
  readonly begins: string;
  readonly is: PictureFormat | { readonly refused: string };
}

const COMMON = 'save it as PNG or JPEG';
const signature = (begins: string, is: Signature['is']): Signature => ({ begins, is });
const refused = (begins: string, name: string): Signature => signature(begins, { refused: name });

const SIGNATURES: readonly Signature[] = [
  signature('\x89PNG\r\n\x1a\n', 'png'),
  signature('\xff\xd8\xff', 'jpeg'),
  signature('RIFF????WEBP', 'webp'),
  signature('GIF87a', 'gif'),
  signature('GIF89a', 'gif'),
  signature('II*\0', 'tiff'),
  signature('MM\0*', 'tiff'),
  signature('II+\0\x08\0\0\0', 'tiff'),
  signature('MM\0+\0\x08\0\0', 'tiff'),
  signature('????ftypavif', 'avif'),
  signature('BM', 'bmp'),
  refused('????ftypavis', 'an animated AVIF'),
  refused('????ftyphe', 'a HEIC picture'),
  refused('????ftypmif1', 'a HEIF picture'),
  refused('????ftypmsf1', 'a HEIF sequence'),
  refused('????ftyp', 'a video'),
  refused('%PDF', 'a PDF document'),
  refused('%!PS', 'a PostScript document'),
  refused('\xc5\xd0\xd3\xc6', 'an EPS document'),
  refused('\x1f\x8b', 'a gzip archive (a compressed SVG?)'),
  refused('PK\x03\x04', 'a ZIP archive'),
  refused('\0\0\x01\0', 'an icon (ICO)'),
  refused('\0\0\x02\0', 'a cursor (CUR)'),
  refused('8BPS', 'a Photoshop document'),
  refused('\0\0\0\x0cjP  ', 'a JPEG 2000 picture'),
  refused('\xff\x4f\xff\x51', 'a JPEG 2000 picture'),
  refused('\0\0\0\x0cJXL ', 'a JPEG XL picture'),
  refused('\xff\x0a', 'a JPEG XL picture'),
  refused('qoif', 'a QOI picture'),
  refused('DDS ', 'a DDS texture'),
  refused('v/1\x01', 'an OpenEXR picture'),
  refused('#?RADIANCE', 'a Radiance HDR picture'),
  refused('SIMPLE  =', 'a FITS picture'),
  refused('icns', 'an icon (ICNS)'),
  refused('\xb6\xa6\xf2\x08', 'a picture in the own format of libvips'),
  refused('\x08\xf2\xa6\xb6', 'a picture in the own format of libvips'),
  ...Array.from('1234567', (digit) =>
    Array.from(' \n\r\t#', (end) => refused(`P${digit}${end}`, 'a PNM picture')),
  ).flat(),
];

/** The format, or the name of what the bytes are instead and what to do. */
export function sniffPicture(head: Uint8Array): PictureFormat | { readonly refused: string } {
  const text = Buffer.from(head.buffer, head.byteOffset, Math.min(head.byteLength, HEAD_BYTES)).toString('latin1');
  if (text === '') return { refused: 'empty' };
  // Encoders differ in which brand they call the main one; a sequence says so in its first.
  if (/^[^]{4}ftypmif1/.test(text) && brandsOf(text).includes('avif')) return 'avif';
  const found = SIGNATURES.find(({ begins }) => beginsWith(text, begins));
  if (found !== undefined) {
    return typeof found.is === 'string' ? found.is : { refused: `${found.is.refused}, which is not read: ${COMMON}` };
  }
  // A byte order mark, comments and a document type may come before the root.
  if (/<svg[\s>]/i.test(text) || /^(?:\xef\xbb\xbf)?\s*<\?xml/.test(text) || /<!doctype\s+svg/i.test(text)) {
    return { refused: 'an SVG, which is a drawing and no picture: save it as PNG' };
  }
  if (/^(?:\xef\xbb\xbf)?\s*<(?:!doctype\s+html|html|head|body)/i.test(text)) {
    return { refused: 'a web page and no picture: was the download complete?' };
  }
  return { refused: `in no picture format that is read: ${FORMATS.join(', ')} are` };
}

/** Compatible brands of an ISO media file. */
function brandsOf(text: string): string[] {
  const length = Buffer.from(text.slice(0, 4), 'latin1').readUInt32BE();
  return text.slice(16, Math.min(length, text.length)).match(/[^]{4}/g) ?? [];
}

function beginsWith(text: string, begins: string): boolean {
  if (text.length < begins.length) return false;
  for (let i = 0; i < begins.length; i += 1) {
    if (begins[i] !== '?' && begins[i] !== text[i]) return false;
  }
  return true;
}
