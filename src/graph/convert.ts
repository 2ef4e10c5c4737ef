/** Literal inputs to the type of their input, as Python's int, float, str and bool convert them. */
import { asFloat, isJsonObject, withoutFloatMark, type JsonValue } from '../protocol/json.js';
import { pythonStr, pythonTypeName, pythonRepr } from './python-text.js';

export type Conversion = { readonly value: JsonValue } | { readonly reason: string };

/** Types that are not converted come back as they are. Floats are marked as such. */
export function convertLiteral(type: string, value: JsonValue): Conversion {
  switch (type) {
    case 'INT':
      return toInt(withoutFloatMark(value));
    case 'FLOAT':
      return asFloats(toFloat(withoutFloatMark(value)));
    case 'STRING':
      return { value: pythonStr(value) };
    case 'BOOLEAN':
      return { value: isTrue(withoutFloatMark(value)) };
    default:
      return { value };
  }
}

function toInt(value: JsonValue): Conversion {
  if (typeof value === 'bigint') return { value };
  if (typeof value === 'boolean') return { value: value ? 1 : 0 };
  if (typeof value === 'number') return { value: exactInteger(BigInt(Math.trunc(value))) };
  if (typeof value === 'string') {
    const digits = value.trim();
    if (!/^[-+]?\d+(?:_\d+)*$/.test(digits))
      return { reason: `invalid literal for int() with base 10: ${pythonRepr(value)}` };
    return { value: exactInteger(BigInt(digits.replaceAll('_', '').replace(/^\+/, ''))) };
  }
  return {
    reason: `int() argument must be a string, a bytes-like object or a real number, not '${pythonTypeName(value)}'`,
  };
}

function exactInteger(big: bigint): number | bigint {
  const small = Number(big);
  return Number.isSafeInteger(small) ? small : big;
}

function asFloats(conversion: Conversion): Conversion {
  return 'value' in conversion && typeof conversion.value === 'number'
    ? { value: asFloat(conversion.value) }
    : conversion;
}

function toFloat(value: JsonValue): Conversion {
  if (typeof value === 'bigint') return { value: Number(value) };
  if (typeof value === 'boolean') return { value: value ? 1 : 0 };
  if (typeof value === 'number') return { value };
  if (typeof value === 'string') {
    const text = value.trim();
    if (/^[-+]?(\d+(?:_\d+)*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?$/.test(text))
      return { value: Number(text.replaceAll('_', '')) };
    return { reason: `could not convert string to float: ${pythonRepr(value)}` };
  }
  return { reason: `float() argument must be a string or a real number, not '${pythonTypeName(value)}'` };
}

/** Python's truth: the text "false" is true. */
function isTrue(value: JsonValue): boolean {
  if (Array.isArray(value)) return value.length > 0;
  if (isJsonObject(value)) return value.size > 0;
  return Boolean(value);
}
