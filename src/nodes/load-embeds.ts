/** VisionBridgeLoadEmbeds: embeds from a file of the input or output folder, ours or an `.ipadpt` of IPAdapter_plus. */
import { readdir, stat } from 'node:fs/promises';
import { extname, join, relative, sep } from 'node:path';
import { readEmbeds } from '../adapter/index.js';
import type { NodeDefinition } from '../graph/index.js';
import { inputFilePath } from './input-files.js';
import { CATEGORY, EMBEDS, MODULE } from './ipadapter-values.js';
import type { NodeServices } from './services.js';
import { textInput } from './values.js';

const ENDINGS = new Set(['.safetensors', '.ipadpt']);
/** Files that the list of choices may hold. */
const MAX_LISTED = 10_000;

export function createLoadEmbeds(services: NodeServices): NodeDefinition {
  const path = (name: string): string => inputFilePath(services, name);
  return {
    classType: 'VisionBridgeLoadEmbeds',
    api: 'v1',
    displayName: 'Load Embeds (Vision Bridge)',
    description:
      'Reads embeds that Save Embeds wrote, or .ipadpt files of IPAdapter_plus, without running their pickle.',
    category: CATEGORY,
    pythonModule: MODULE,
    inputs: [
      {
        name: 'embeds',
        type: 'COMBO',
        choices: () => listEmbeds(services),
        choicesFrom: { kind: 'embeds-files' },
        options: {
          tooltip:
            'A .safetensors or .ipadpt file of the input folder, or of the output folder with " [output]" behind.',
        },
      },
    ],
    outputs: [{ type: EMBEDS, name: 'embeds' }],
    validator: {
      names: ['embeds'],
      check: async (inputs) => {
        const name = textInput(inputs, 'embeds');
        return (await isFile(path(name))) || `Invalid embeds file: ${name}`;
      },
    },
    changeToken: async (inputs) => {
      const { size, mtimeMs } = await stat(path(textInput(inputs, 'embeds')));
      return `${size}-${mtimeMs}`;
    },
    execute: async (inputs) => ({ outputs: [await readEmbeds(path(textInput(inputs, 'embeds')))] }),
  };
}

async function isFile(path: string): Promise<boolean> {
  try {
    return (await stat(path)).isFile();
  } catch {
    return false;
  }
}

async function listEmbeds({ directories }: NodeServices): Promise<string[]> {
  const names: string[] = [];
  for (const [area, suffix] of [
    ['input', ''],
    ['output', ' [output]'],
  ] as const) {
    const folder = directories[area];
    try {
      const entries = await readdir(folder, { recursive: true, withFileTypes: true });
      const files = entries.filter((entry) => entry.isFile() && ENDINGS.has(extname(entry.name).toLowerCase()));
      const found = files.map((entry) => relative(folder, join(entry.parentPath, entry.name)).split(sep).join('/'));
      names.push(...found.sort().map((name) => name + suffix));
    } catch {
      continue; // no such folder yet: no embeds
    }
  }
  return names.slice(0, MAX_LISTED);
}
