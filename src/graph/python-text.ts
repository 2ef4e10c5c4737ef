/** Values as Python writes them, for error texts that clients match on. */
import { asFloat, isJsonObject, isWholeFloat, writeJson, type JsonValue } from '../protocol/json.js';

/** `repr`: texts in quotes, `True`, `None`, lists in brackets. */
export function pythonRepr(value: JsonValue): string {
  if (value === null) return 'None';
  if (typeof value === 'boolean') return value ? 'True' : 'False';
  if (typeof value === 'string') return quote(value);
  if (typeof value === 'number') return Number.isInteger(value) ? String(value) : pythonFloat(value);
  if (typeof value === 'bigint') return String(value);
  if (isWholeFloat(value)) return pythonFloat(value.wholeFloat);
  if (isJsonObject(value))
    return `{${[...value].map(([key, entry]) => `${quote(key)}: ${pythonRepr(entry)}`).join(', ')}}`;
  return `[${value.map(pythonRepr).join(', ')}]`;
}

/** `str`: as repr, but a text is itself. */
export function pythonStr(value: JsonValue): string {
  return typeof value === 'string' ? value : pythonRepr(value);
}

/** A float, always with a point or an exponent. */
export function pythonFloat(value: number): string {
  if (!Number.isFinite(value)) return Number.isNaN(value) ? 'nan' : value > 0 ? 'inf' : '-inf';
  const float = asFloat(value);
  if (isWholeFloat(float)) return withLongExponent(writeJson(float));
  const magnitude = Math.abs(value);
  const text = magnitude >= 1e16 || (magnitude < 1e-4 && magnitude > 0) ? value.toExponential() : String(value);
  return withLongExponent(text);
}

/** Two digits at least, as Python writes exponents. */
function withLongExponent(text: string): string {
  return text.replace(/e([+-])(\d)$/, 'e$10$2');
}

export function pythonTypeName(value: JsonValue): string {
  if (value === null) return 'NoneType';
  if (typeof value === 'boolean') return 'bool';
  if (typeof value === 'string') return 'str';
  if (typeof value === 'bigint') return 'int';
  if (isWholeFloat(value)) return 'float';
  if (typeof value === 'number') return Number.isInteger(value) ? 'int' : 'float';
  return isJsonObject(value) ? 'dict' : 'list';
}

function quote(text: string): string {
  const mark = text.includes("'") && !text.includes('"') ? '"' : "'";
  const escaped = text
    .replaceAll('\\', '\\\\')
    .replaceAll('\n', '\\n')
    .replaceAll('\r', '\\r')
    .replaceAll('\t', '\\t')
    .replaceAll(mark, `\\${mark}`)
    .replaceAll(/(?! )[\p{C}\p{Z}]/gu, escapeUnprintable);
  return mark + escaped + mark;
}

/** What Python does not count as printable: control and format characters, blanks other than the common one. */
function escapeUnprintable(character: string): string {
  const code = character.codePointAt(0) ?? 0;
  const digits = code.toString(16);
  if (code < 0x100) return `\\x${digits.padStart(2, '0')}`;
  return code < 0x10000 ? `\\u${digits.padStart(4, '0')}` : `\\U${digits.padStart(8, '0')}`;
}
