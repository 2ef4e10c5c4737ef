/** Floating-point tensors of any width as f32. */
import { bf16ToF32Array, f16ToF32Array } from './float16.js';
import { f32Tensor, type F32Tensor, type Tensor } from './tensor.js';

/** Undefined for a tensor that is not stored as a floating-point number of 16 bits or more. Copies nothing that is f32. */
export function toF32(tensor: Tensor): F32Tensor | undefined {
  if (tensor.dtype === 'F32') return tensor;
  if (tensor.dtype === 'F64') return f32Tensor(tensor.shape, Float32Array.from(tensor.data));
  if (tensor.dtype === 'F16') return f32Tensor(tensor.shape, f16ToF32Array(tensor.data));
  return tensor.dtype === 'BF16' ? f32Tensor(tensor.shape, bf16ToF32Array(tensor.data)) : undefined;
}
