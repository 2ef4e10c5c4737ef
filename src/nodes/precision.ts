/** The numbers that an encode computes with, as nodes offer them. */
import type { NodeInputs } from '../graph/index.js';
import type { Precision } from '../vision/index.js';
import { textInput } from './values.js';

const PRECISIONS = ['comfy', 'fp32', 'int8'] as const satisfies readonly Precision[];

/** The input that offers them. */
export const PRECISION_INPUT = {
  name: 'precision',
  type: 'COMBO',
  choices: () => [...PRECISIONS],
  options: { default: 'comfy', tooltip: "comfy gives ComfyUI's numbers, fp32 uses the weights as stored." },
} as const;

/** Validation has matched the choices. */
export function precisionInput(inputs: NodeInputs, name: string): (typeof PRECISIONS)[number] {
  const text = textInput(inputs, name);
  return PRECISIONS.find((precision) => precision === text) ?? 'comfy';
}
