/** VisionBridgeLoadFeatures: features from a safetensors file of the input or output folder. */
import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { readSafetensorsHeader, readTensor } from '../formats/index.js';
import { InvalidRequestError, ModelFormatError } from '../common/errors.js';
import type { NodeDefinition } from '../graph/index.js';
import { OUTPUT_FIELDS, type OutputName } from '../vision/index.js';
import { inputFilePath } from './input-files.js';
import type { NodeServices } from './services.js';
import { textInput } from './values.js';
import { fileIdentity } from './wire-codec.js';
import { checkFeature } from './wire-values.js';

const ENDING = '.safetensors';
/** Files that the list of choices may hold. */
const MAX_LISTED = 10_000;
/** Of all tensors of a file together. */
const MAX_BYTES = 2 ** 31;

export function createLoadFeatures(services: NodeServices): NodeDefinition {
  const path = (name: string): string => inputFilePath(services, name);
  return {
    classType: 'VisionBridgeLoadFeatures',
    api: 'v3',
    displayName: 'Load Features (Vision Bridge)',
    description: 'Reads features that Save Features wrote: nothing is encoded again.',
    category: 'vision bridge',
    pythonModule: 'custom_nodes.vision-bridge',
    inputs: [
      {
        name: 'file',
        type: 'COMBO',
        choices: () => listFeatureFiles(services),
        choicesFrom: { kind: 'feature-files' },
        options: {
          tooltip: 'A .safetensors file of the input folder, or of the output folder with " [output]" behind.',
        },
      },
    ],
    outputs: [{ type: 'CLIP_VISION_OUTPUT', name: 'features' }],
    // A name that leads nowhere is told when the node runs, with what was looked for.
    validator: { names: ['file'], check: () => true },
    changeToken: (inputs) => fileIdentity(path(textInput(inputs, 'file'))),
    async execute(inputs, { signal }) {
      const name = textInput(inputs, 'file');
      const header = await readSafetensorsHeader(path(name), { signal });
      if (header.sizeBytes > MAX_BYTES)
        throw new InvalidRequestError(`${name} has ${header.sizeBytes} bytes; features are at most ${MAX_BYTES}.`);
      const features: Record<string, unknown> = {};
      for (const [tensorName, field] of Object.entries(OUTPUT_FIELDS)) {
        if (!header.tensors.has(tensorName)) continue;
        features[field] = checkFeature(tensorName, await readTensor(header, tensorName));
      }
      if (Object.keys(features).length === 0) {
        const known = (Object.keys(OUTPUT_FIELDS) as OutputName[]).join(', ');
        throw new ModelFormatError('TENSOR_MISSING', `${name} holds no features: none of ${known} is in it.`);
      }
      return { outputs: [features] };
    },
  };
}

async function listFeatureFiles({ directories }: NodeServices): Promise<string[]> {
  const names: string[] = [];
  for (const [area, suffix] of [
    ['input', ''],
    ['output', ' [output]'],
  ] as const) {
    const folder = directories[area];
    let entries: string[];
    try {
      entries = await readdir(folder);
    } catch {
      continue; // no such folder yet: no features
    }
    for (const entry of entries.filter((candidate) => candidate.toLowerCase().endsWith(ENDING)).sort()) {
      if (names.length >= MAX_LISTED) return names;
      if ((await stat(join(folder, entry)).catch(() => undefined))?.isFile() === true) names.push(entry + suffix);
    }
  }
  return names;
}
