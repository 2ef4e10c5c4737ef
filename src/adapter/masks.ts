/**
 * Masks as attention sees them: one value per query token of a block.
 *
 * Source: ComfyUI_IPAdapter_plus, attention mask (formulas restated).
 */
import { InvalidRequestError } from '../common/errors.js';
import { requireFinite } from '../image/index.js';
import { elementCount, f32Tensor, type F32Tensor } from '../tensor/tensor.js';
import { fitRows } from './combine.js';

interface MaskPlace {
  /** Size of the latent picture. */
  readonly latentHeight: number;
  readonly latentWidth: number;
  /** Query tokens of the block. */
  readonly tokens: number;
  /** Latents in the batch. */
  readonly batch: number;
}

/**
 * @param given f32 `[M, H, W]` or `[H, W]`, 0 to 1; one of another shape than the latent is stretched.
 * @returns f32 `[batch, tokens]`
 * @throws {InvalidRequestError} for values of another form, or that are no numbers
 */
export function maskTokens(given: F32Tensor, { latentHeight, latentWidth, tokens, batch }: MaskPlace): F32Tensor {
  const mask = requireMask(given);
  const rows = Math.max(1, Math.trunc(latentHeight / Math.sqrt((latentHeight * latentWidth) / tokens)));
  const maskHeight = rows + (tokens % rows === 0 ? 0 : 1);
  const maskWidth = Math.floor(tokens / maskHeight);
  const resized = resizeBilinear(mask, maskHeight, maskWidth);
  const fitted = fitRows(resized, batch);
  const have = maskHeight * maskWidth;
  if (have === tokens) return f32Tensor([batch, tokens], fitted.data);
  const out = new Float32Array(batch * tokens);
  // Zeros around what is too short, the middle of what is too long.
  const shift = have < tokens ? Math.floor((tokens - have) / 2) : -Math.floor((have - tokens) / 2);
  for (let row = 0; row < batch; row += 1) {
    for (let token = 0; token < tokens; token += 1) {
      const from = token - shift;
      if (from >= 0 && from < have) out[row * tokens + token] = fitted.data[row * have + from] ?? 0;
    }
  }
  return f32Tensor([batch, tokens], out);
}

/** f32 `[M, H, W]` */
function requireMask({ dtype, shape, data }: F32Tensor): F32Tensor {
  const sides = shape.length === 2 ? [1, ...shape] : shape;
  if (sides.length !== 3 || sides.some((side) => side < 1))
    throw new InvalidRequestError(`A mask has the shape [M, H, W] or [H, W], got [${shape.join(', ')}].`);
  // Programs in JavaScript are told here what the type says.
  if ((dtype as string) !== 'F32' || data.length !== elementCount(sides))
    throw new InvalidRequestError(`A mask is F32 and has a value for each of [${shape.join(', ')}].`);
  requireFinite(data, sides, 'The mask');
  return f32Tensor(sides, data);
}

/** PyTorch's plain bilinear: half-pixel centres, edges repeated, no antialias. */
function resizeBilinear({ shape, data }: F32Tensor, toHeight: number, toWidth: number): F32Tensor {
  const [count = 0, height = 0, width = 0] = shape;
  const out = new Float32Array(count * toHeight * toWidth);
  const rows = tapsOf(height, toHeight);
  const columns = tapsOf(width, toWidth);
  let position = 0;
  for (let image = 0; image < count; image += 1) {
    const at = (y: number, x: number): number => data[(image * height + y) * width + x] ?? 0;
    for (const { low: top, high: bottom, share: down } of rows) {
      for (const { low: left, high: right, share: across } of columns) {
        const upper = (1 - across) * at(top, left) + across * at(top, right);
        const lower = (1 - across) * at(bottom, left) + across * at(bottom, right);
        out[position] = (1 - down) * upper + down * lower;
        position += 1;
      }
    }
  }
  return f32Tensor([count, toHeight, toWidth], out);
}

function tapsOf(from: number, to: number): { low: number; high: number; share: number }[] {
  const scale = from / to;
  return Array.from({ length: to }, (_none, i) => {
    const place = Math.max(0, scale * (i + 0.5) - 0.5);
    const low = Math.min(from - 1, Math.floor(place));
    return { low, high: Math.min(from - 1, low + 1), share: place - low };
  });
}
