/** JSON as bytes: what the fast readers of headers share. */

export const QUOTE = 0x22;
export const BACKSLASH = 0x5c;
export const COMMA = 0x2c;
export const COLON = 0x3a;
export const OPEN_OBJECT = 0x7b;
export const CLOSE_OBJECT = 0x7d;
export const OPEN_LIST = 0x5b;
export const CLOSE_LIST = 0x5d;
export const BLANK = 0x20;
export const ZERO = 0x30;
export const NINE = 0x39;
export const DELETE = 0x7f;

/** Position of the first byte that is no white space. */
export function skipBlanks(bytes: Buffer, start: number): number {
  let at = start;
  for (;;) {
    const byte = bytes[at];
    if (byte !== BLANK && byte !== 0x0a && byte !== 0x0d && byte !== 0x09) return at;
    at += 1;
  }
}

/** Position after an object whose values are all texts, which is not checked further; undefined for anything else. */
export function endOfTexts(json: Buffer, start: number): number | undefined {
  if (json[start] !== OPEN_OBJECT) return undefined;
  const { length } = json;
  for (let at = start + 1; at < length; at += 1) {
    const byte = json[at];
    if (byte === QUOTE) {
      for (at += 1; at < length; at += 1) {
        const inside = json[at];
        if (inside === QUOTE) break;
        if (inside === BACKSLASH) at += 1;
      }
    } else if (byte === CLOSE_OBJECT) return at + 1;
    else if (byte === OPEN_OBJECT || byte === OPEN_LIST) return undefined;
  }
  return undefined;
}
