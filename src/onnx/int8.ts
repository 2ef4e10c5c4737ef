/**
 * Linear layers in whole numbers of 8 bits.
 *
 * Every row of the input has a scale of its own, found while running, so that a result never depends on what else is in
 * the batch; every output channel of the weights has one, found when they were quantised. The product itself is exact.
 * Where the input is an activation that is nearly never negative, it is shifted to use all 256 levels; the shift's share
 * of the product is a constant, which the bias carries. Channels with outliers are multiplied in fp32 beside it.
 *
 * The two-term scheme keeps what rounding left over as a second number of 8 bits, of weights and inputs both; of the four
 * products the smallest is left out.
 */
import { u8Tensor } from '../tensor/tensor.js';
import type { GraphBuilder, Value } from './graph-builder.js';
import type { Int8Weights } from './layers.js';

/** Steps on either side of zero. */
const STEPS = 127;
const UNSIGNED_STEPS = 255;
/** A rounding error is at most half a step; so many finer steps make up a whole one. */
export const LOW_STEPS = 254;
/** Keeps a row of nothing but zeros from being divided by zero. */
const SMALLEST_ROW = 1e-20;

interface QuantizedRows {
  /** U8, with the zero point. */
  readonly levels: Value;
  readonly zeroPoint: Value;
  readonly step: Value;
  /** f32 `[rows, 1]`: the largest value of every row. */
  readonly rowScale: Value;
  /** What rounding left over, as U8 around 128, in steps `LOW_STEPS` times finer. */
  readonly low?: { readonly levels: Value; readonly step: Value };
}

export function linearInt8(
  g: GraphBuilder,
  x: Value,
  weight: Value,
  bias: Value | undefined,
  { scale, low, inputFloor, outliers }: Int8Weights,
): Value {
  const rows = g.once(`int8 rows of ${x} ${inputFloor ?? ''} ${low === undefined ? '' : 'low'}`, () =>
    low === undefined && inputFloor !== undefined
      ? quantizeShifted(g, x, inputFloor)
      : quantizeRows(g, x, low !== undefined),
  );
  let product = multiply(g, rows.levels, weight, rows.step, scale, rows.zeroPoint);
  if (low !== undefined && rows.low !== undefined) {
    const fineScale = g.op('Div', [scale, g.scalar(LOW_STEPS)]);
    const byWeights = multiply(g, rows.levels, low, rows.step, fineScale, rows.zeroPoint);
    const byInputs = multiply(g, rows.low.levels, weight, rows.low.step, scale, centre(g));
    product = g.op('Add', [product, g.op('Add', [byWeights, byInputs])]);
  }
  const scaled = g.op('Mul', [product, rows.rowScale]);
  const whole = bias === undefined ? scaled : g.op('Add', [scaled, bias]);
  if (outliers === undefined) return whole;
  const channels = g.once(`outliers of ${x}`, () => g.op('Gather', [x, outliers.index], { axis: 1 }));
  return g.op('Gemm', [channels, outliers.weight, whole]);
}

function multiply(g: GraphBuilder, a: Value, b: Value, aScale: Value, bScale: Value, aZeroPoint: Value): Value {
  return g.op('MatMulIntegerToFloat', [a, b, aScale, bScale, aZeroPoint], {}, 'com.microsoft');
}

const centre = (g: GraphBuilder): Value => g.shared('int8_centre', u8Tensor([], Uint8Array.of(128)));

/** Levels around 128, the row's largest magnitude being 127 steps away. */
function quantizeRows(g: GraphBuilder, x: Value, withLow: boolean): QuantizedRows {
  const largest = g.op('ReduceMax', [g.op('Abs', [x]), g.ints([-1])], { keepdims: 1 });
  const rowScale = g.op('Max', [largest, g.scalar(SMALLEST_ROW)]);
  const relative = g.op('Div', [x, rowScale]);
  const step = g.scalar(1 / STEPS);
  const zeroPoint = centre(g);
  const levels = g.op('QuantizeLinear', [relative, step, zeroPoint]);
  if (!withLow) return { levels, zeroPoint, step, rowScale };
  const rest = g.op('Sub', [relative, g.op('DequantizeLinear', [levels, step, zeroPoint])]);
  const lowStep = g.scalar(1 / STEPS / LOW_STEPS);
  const low = { levels: g.op('QuantizeLinear', [rest, lowStep, zeroPoint]), step: lowStep };
  return { levels, zeroPoint, step, rowScale, low };
}

/** Levels from zero on: 0 is `floor`, 255 the row's largest value. */
function quantizeShifted(g: GraphBuilder, x: Value, floor: number): QuantizedRows {
  const shifted = g.op('Sub', [x, g.scalar(floor)]);
  const largest = g.op('ReduceMax', [shifted, g.ints([-1])], { keepdims: 1 });
  const rowScale = g.op('Max', [largest, g.scalar(SMALLEST_ROW)]);
  const step = g.scalar(1 / UNSIGNED_STEPS);
  const zeroPoint = g.shared('int8_zero', u8Tensor([], Uint8Array.of(0)));
  const levels = g.op('QuantizeLinear', [g.op('Div', [shifted, rowScale]), step, zeroPoint]);
  return { levels, zeroPoint, step, rowScale };
}
