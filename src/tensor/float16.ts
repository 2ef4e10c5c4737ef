/** IEEE half precision and bfloat16, bit by bit; Node 20 has no Float16Array. */

const f32 = new Float32Array(1);
const u32 = new Uint32Array(f32.buffer);

/** Exact value of the half float with these 16 bits. */
export function f16BitsToF32(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 0x1f;
  const fraction = bits & 0x3ff;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction === 0 ? sign * Infinity : NaN;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

/** Bits of the half float nearest to an f32 value, ties to even; overflow gives infinity. */
export function f32ToF16Bits(value: number): number {
  f32[0] = value;
  const bits = u32[0] ?? 0;
  const sign = (bits >>> 16) & 0x8000;
  const magnitude = bits & 0x7fffffff;
  if (magnitude >= 0x7f800000) return sign | (magnitude > 0x7f800000 ? 0x7e00 : 0x7c00);
  if (magnitude >= 0x477ff000) return sign | 0x7c00; // 65520 and up round to infinity
  if (magnitude < 0x38800000) {
    // Below 2^-14 halves are multiples of 2^-24.
    const scaled = Math.abs(f32[0]) * 2 ** 24;
    const floor = Math.floor(scaled);
    const rest = scaled - floor;
    return sign | (rest > 0.5 || (rest === 0.5 && floor % 2 === 1) ? floor + 1 : floor);
  }
  const rebased = magnitude - 0x38000000;
  return sign | ((rebased + 0xfff + ((rebased >> 13) & 1)) >> 13);
}

const tableOfF16 = new Float32Array(65536);
let tableReady = false;

/** Widens half floats, given as bits, exactly. */
export function f16ToF32Array(bits: Uint16Array): Float32Array {
  if (!tableReady) {
    for (let i = 0; i < 65536; i += 1) tableOfF16[i] = f16BitsToF32(i);
    tableReady = true;
  }
  const out = new Float32Array(bits.length);
  for (let i = 0; i < bits.length; i += 1) out[i] = tableOfF16[bits[i] ?? 0] ?? 0;
  return out;
}

/** Widens bfloat16, given as bits, exactly. */
export function bf16ToF32Array(bits: Uint16Array): Float32Array {
  const out = new Uint32Array(bits.length);
  for (let i = 0; i < bits.length; i += 1) out[i] = (bits[i] ?? 0) << 16;
  return new Float32Array(out.buffer);
}
