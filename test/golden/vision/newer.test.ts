/**
 * Families that ComfyUI got after 0.3.64: SigLIP2 NaFlex and DINOv3.
 *
 * Recorded by running the newest public source of ComfyUI's `siglip2_preprocess`, `CLIPVisionModelProjection` and
 * `DINOv3ViTModel` on CPU (torch 2.13); `transformers` 5.18 agreed on every tensor to 2.7e-6. Format, beside the golden
 * README's: `expected-newer/NAME.json` lists groups (`name`, `crop`); a group has `image` (u8 `[B, H, W, 3]`), the
 * outputs with exact weights, `comfy_default.*` with fp16 weights, and sometimes `pixel_values`.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import * as z from 'zod';
import { parseSafetensors } from '../../../src/formats/index.js';
import { OUTPUT_FIELDS, type OutputName, type VisionOutput } from '../../../src/vision/index.js';
import { maxAbsDiff } from '../../support/compare.js';
import { startEngine } from '../../support/inference.js';
import { goldenVisionFolder } from './golden-folder.js';

const TOLERANCE = 5e-5;
/** Pictures may differ from the recorded ones by rounding ties of one level. */
const PICTURE_TOLERANCE = 5e-3;

const folder = join(goldenVisionFolder, 'expected-newer');
const caseSchema = z.object({
  model: z.string(),
  groups: z.array(z.object({ name: z.string(), crop: z.enum(['center', 'none']) })).min(1),
});
const files = existsSync(folder) ? readdirSync(folder).filter((name) => name.endsWith('.json')) : [];
const started = startEngine();
const { engine } = started;
afterAll(() => started[Symbol.asyncDispose]());

const OUTPUTS = Object.entries(OUTPUT_FIELDS) as [OutputName, keyof VisionOutput][];

describe.runIf(files.length > 0)('families of a newer ComfyUI', () => {
  for (const file of files) {
    const { model: name, groups } = caseSchema.parse(JSON.parse(readFileSync(join(folder, file), 'utf8')));
    const { tensors } = parseSafetensors(readFileSync(join(folder, `${basename(file, '.json')}.safetensors`)), file);
    const open = (): ReturnType<typeof engine.open> =>
      engine.open(join(goldenVisionFolder, 'models', `${name}.safetensors`));

    const compare = (output: VisionOutput, prefix: string, tolerance: number): number => {
      let compared = 0;
      for (const [key, field] of OUTPUTS) {
        const expected = tensors.get(`${prefix}.${key}`);
        if (expected?.dtype !== 'F32') continue;
        compared += 1;
        expect(maxAbsDiff(output[field], expected), `${prefix}.${key}`).toBeLessThan(tolerance);
      }
      return compared;
    };

    describe(name, () => {
      for (const { name: group, crop } of groups) {
        it(`equals ComfyUI on the picture of ${group}, with crop ${crop}, in both precisions`, async () => {
          const image = tensors.get(`${group}.image`);
          if (image?.dtype !== 'U8') throw new Error(`${group} has no image`);
          const model = await open();
          const exact = await engine.encode(model, image, { crop, precision: 'fp32' });
          expect(compare(exact, group, PICTURE_TOLERANCE)).toBeGreaterThan(1);
          const rounded = await engine.encode(model, image, { crop });
          expect(compare(rounded, `${group}.comfy_default`, PICTURE_TOLERANCE)).toBeGreaterThan(1);
        });
      }

      it('equals ComfyUI on pixel values', async () => {
        const model = await open();
        let compared = 0;
        for (const { name: group } of groups) {
          const pixelValues = tensors.get(`${group}.pixel_values`);
          if (pixelValues?.dtype !== 'F32') continue;
          compared += compare(await engine.encode(model, { pixelValues }, { precision: 'fp32' }), group, TOLERANCE);
        }
        expect(compared).toBeGreaterThan(1);
      });
    });
  }
});
