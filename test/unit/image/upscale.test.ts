import { expect, it } from 'vitest';
import { upscale, UPSCALE_METHODS } from '../../../src/image/index.js';
import { f32Tensor } from '../../../src/tensor/tensor.js';

const picture = (height: number, width: number): ReturnType<typeof f32Tensor> =>
  f32Tensor([1, height, width, 3], new Float32Array(height * width * 3));

it.each(UPSCALE_METHODS)('refuses with %s to make a picture without pixels', async (method) => {
  const toNothing = upscale(picture(1, 1), { width: 0, height: 0, method, crop: 'disabled' });
  await expect(toNothing).rejects.toMatchObject({ code: 'IMAGE_INVALID' });
  const ofNothing = upscale(picture(1, 64), { width: 1, height: 64, method, crop: 'center' });
  await expect(ofNothing).rejects.toMatchObject({ code: 'IMAGE_INVALID' });
});
