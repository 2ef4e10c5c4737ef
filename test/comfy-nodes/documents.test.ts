/** What comes with the pack fits its nodes: help pages, example workflows with pictures, names. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';

const PACK = fileURLToPath(new URL('../../comfy-nodes', import.meta.url));
/** Nodes that touch ComfyUI's own objects; the bridge does not serve them. */
const LOCAL = ['VisionBridgeCLIPVisionLoader', 'VisionBridgeIPAdapterApply'];

interface Described {
  readonly class_type: string;
  readonly inputs: readonly { readonly name: string; readonly type: string }[];
  readonly outputs: readonly { readonly name: string }[];
}
const { nodes } = JSON.parse(readFileSync(join(PACK, 'nodes.json'), 'utf8')) as { nodes: Described[] };
const names = [...LOCAL, ...nodes.map(({ class_type: name }) => name)];

interface WorkflowNode {
  readonly type: string;
  readonly inputs: readonly { readonly name: string; readonly link: number | null }[];
  readonly outputs: readonly { readonly name: string }[];
  readonly widgets_values: readonly unknown[];
}

it.each(names)('%s has a help page that names its inputs and outputs', (name) => {
  const page = readFileSync(join(PACK, 'web', 'docs', `${name}.md`), 'utf8');
  const node = nodes.find(({ class_type: classType }) => classType === name);
  for (const { name: socket } of [...(node?.inputs ?? []), ...(node?.outputs ?? [])])
    expect(page).toContain(`\`${socket}\``);
});

it('every language names every node', () => {
  for (const language of readdirSync(join(PACK, 'locales'))) {
    const file = join(PACK, 'locales', language, 'nodeDefs.json');
    expect(Object.keys(JSON.parse(readFileSync(file, 'utf8')) as object).sort()).toEqual([...names].sort());
  }
});

const workflows = readdirSync(join(PACK, 'example_workflows')).filter((name) => name.endsWith('.json'));

describe.each(workflows)('the example workflow %s', (file) => {
  const workflow = JSON.parse(readFileSync(join(PACK, 'example_workflows', file), 'utf8')) as { nodes: WorkflowNode[] };

  it('has a picture', () => {
    expect(existsSync(join(PACK, 'example_workflows', file.replace('.json', '.jpg')))).toBe(true);
  });

  it('uses our nodes with the inputs, widgets and outputs that they have', () => {
    const own = workflow.nodes.filter(({ type }) => type.startsWith('VisionBridge'));
    expect(own.length).toBeGreaterThan(0);
    for (const { type, inputs, outputs, widgets_values: widgets } of own) {
      expect(names).toContain(type);
      const node = nodes.find(({ class_type: name }) => name === type);
      if (node === undefined) continue;
      expect(outputs.map(({ name }) => name)).toEqual(node.outputs.map(({ name }) => name));
      expect(inputs.length + widgets.length).toBe(node.inputs.length);
      for (const { name } of inputs) expect(node.inputs.map((input) => input.name)).toContain(name);
    }
  });
});

it('no file of the pack evaluates text, installs or downloads', () => {
  const files = readdirSync(PACK, { recursive: true, encoding: 'utf8' }).filter((name) => name.endsWith('.py'));
  expect(files.length).toBeGreaterThan(10);
  for (const name of files) {
    const text = readFileSync(join(PACK, name), 'utf8');
    expect(text).not.toMatch(/\b(?:eval|exec)\(|\bpip\b|urlopen|urlretrieve/);
  }
});
