/** The two 8-bit floats that weights are stored in; both fit a half float exactly. */

/** `F8_E4M3` (float8_e4m3fn): no infinities; only all ones is NaN. `F8_E5M2` has both, as IEEE's formats do. */
export type Float8 = 'F8_E4M3' | 'F8_E5M2';

const tables = new Map<Float8, Float32Array>();

/** Widens 8-bit floats, given as bits, exactly. */
export function f8ToF32Array(dtype: Float8, bits: Uint8Array): Float32Array {
  let table = tables.get(dtype);
  if (table === undefined) {
    table = Float32Array.from({ length: 256 }, (_none, byte) => valueOf(dtype, byte));
    tables.set(dtype, table);
  }
  const out = new Float32Array(bits.length);
  for (let i = 0; i < bits.length; i += 1) out[i] = table[bits[i] ?? 0] ?? 0;
  return out;
}

function valueOf(dtype: Float8, byte: number): number {
  const [fractionBits, bias] = dtype === 'F8_E4M3' ? [3, 7] : [2, 15];
  const sign = byte & 0x80 ? -1 : 1;
  const exponent = (byte & 0x7f) >> fractionBits;
  const fraction = byte & ((1 << fractionBits) - 1);
  if (dtype === 'F8_E4M3' && (byte & 0x7f) === 0x7f) return NaN;
  if (dtype === 'F8_E5M2' && exponent === 31) return fraction === 0 ? sign * Infinity : NaN;
  const steps = fraction / (1 << fractionBits);
  return sign * (exponent === 0 ? steps * 2 ** (1 - bias) : (1 + steps) * 2 ** (exponent - bias));
}
