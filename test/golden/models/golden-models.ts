/** The cases of a golden folder, and the files that they are about. */
import { mkdir, open, readFile } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { gunzipSync } from 'node:zlib';
import * as z from 'zod';

const goldenModelsFolder = resolve(process.env['GOLDEN_MODELS_DIR'] ?? import.meta.dirname);

const shareSchema = z.object({ tensors: z.number(), parameters: z.number(), bytes: z.number() });
const caseSchema = z.object({
  file: z.string(),
  bytes: z.number(),
  recipe: z.string().optional(),
  format: z.string().optional(),
  kind: z.string().nullable().optional(),
  baseModel: z.string().nullable().optional(),
  variant: z.string().nullable().optional(),
  prediction: z.string().nullable().optional(),
  encoder: z.string().nullable().optional(),
  architecture: z.string().nullable().optional(),
  scale: z.number().nullable().optional(),
  contains: z.array(z.string()).optional(),
  headerBytes: z.number().optional(),
  tensorCount: z.number().optional(),
  parameterCount: z.number().optional(),
  dtypes: z.record(z.string(), shareSchema).optional(),
  metadata: z.record(z.string(), z.string()).nullable().optional(),
  lora: z
    .looseObject({
      algorithm: z.string(),
      keyStyle: z.string(),
      rank: z.number().nullable().optional(),
      rankMin: z.number().nullable().optional(),
      rankMax: z.number().nullable().optional(),
      alpha: z.number().nullable().optional(),
      networkModule: z.string().nullable().optional(),
      components: z.record(z.string(), z.number()),
      modules: z.number(),
    })
    .optional(),
  training: z
    .object({
      folders: z.array(z.string()).optional(),
      concepts: z.array(z.string()).optional(),
      tags: z.array(z.tuple([z.string(), z.number()])).optional(),
    })
    .optional(),
  triggerWords: z.array(z.string()).optional(),
  embedding: z.object({ vectors: z.number(), dims: z.record(z.string(), z.number()) }).optional(),
  gguf: z
    .looseObject({
      version: z.number(),
      architecture: z.string(),
      fileType: z.number(),
      kv: z.record(z.string(), z.unknown()),
      tensors: z.array(z.object({ name: z.string(), shape: z.array(z.number()), type: z.string() })),
    })
    .optional(),
  hashes: z.record(z.string(), z.union([z.string(), z.boolean(), z.null()])).optional(),
  pickleGlobals: z.array(z.string()).optional(),
  malicious: z.boolean().optional(),
  bad: z.string().optional(),
});

export type ModelCase = z.output<typeof caseSchema>;

export async function readModelCases(): Promise<ModelCase[]> {
  const text = await readFile(join(goldenModelsFolder, 'index.json'), 'utf8');
  return z.array(caseSchema).parse(JSON.parse(text));
}

/** Where the file of a case lies: as it is stored, or made from its recipe below `folder`, without its data. */
export async function modelCasePath({ file, recipe, bytes }: ModelCase, folder: string): Promise<string> {
  if (recipe === undefined) return join(goldenModelsFolder, file);
  const path = join(folder, file);
  await mkdir(dirname(path), { recursive: true });
  const header = gunzipSync(await readFile(join(goldenModelsFolder, recipe)));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(header.length));
  const handle = await open(path, 'w');
  try {
    await handle.write(length);
    await handle.write(header);
    await handle.truncate(bytes);
  } finally {
    await handle.close();
  }
  return path;
}
