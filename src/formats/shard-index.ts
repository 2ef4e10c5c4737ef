/** The JSON of `model.safetensors.index.json`: which file holds which tensor. */
import * as z from 'zod';

export const shardIndexSchema = z.object({
  metadata: z.record(z.string(), z.unknown()).optional(),
  weight_map: z.record(z.string(), z.string()),
});
