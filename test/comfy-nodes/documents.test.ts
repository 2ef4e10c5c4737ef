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
  readonly inputs: readonly {
    readonly name: string;
    readonly type: string;
    readonly options: { readonly tooltip?: string };
  }[];
  readonly outputs: readonly { readonly name: string; readonly tooltip: string | null }[];
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
  // Of the nodes that the bridge does not serve, the English texts know the sockets.
  const texts = (textsOf('en', 'nodeDefs.json') as Readonly<Record<string, Texts>>)[name];
  const inputs = node?.inputs.map((input) => input.name) ?? Object.keys(texts?.inputs ?? {});
  const outputs = node?.outputs ?? Object.values(texts?.outputs ?? {});
  expect(inputs.length).toBeGreaterThan(0);
  for (const socket of [...inputs, ...outputs.map((output) => output.name)]) expect(page).toContain(`\`${socket}\``);
});

interface Socket {
  readonly name: string;
  readonly tooltip?: string;
}
interface Texts {
  readonly display_name: string;
  readonly description: string;
  readonly inputs?: Readonly<Record<string, Socket>>;
  readonly outputs?: Readonly<Record<string, Socket>>;
}
const languages = readdirSync(join(PACK, 'locales'));
const textsOf = (language: string, file: string): unknown =>
  JSON.parse(readFileSync(join(PACK, 'locales', language, file), 'utf8'));

describe.each(languages)('the language %s', (language) => {
  const texts = textsOf(language, 'nodeDefs.json') as Readonly<Record<string, Texts>>;

  it('names every node', () => {
    expect(Object.keys(texts).sort()).toEqual([...names].sort());
    for (const { display_name: name, description } of Object.values(texts)) {
      expect(name).not.toBe('');
      expect(description).not.toBe('');
    }
  });

  it('names every input and output of every node, with a tooltip where it has one', () => {
    for (const { class_type: type, inputs, outputs } of nodes) {
      const own = texts[type];
      expect(Object.keys(own?.inputs ?? {}), type).toEqual(inputs.map(({ name }) => name));
      expect(Object.keys(own?.outputs ?? {}), type).toEqual(outputs.map((_output, slot) => String(slot)));
      for (const { name, options } of inputs) {
        expect(own?.inputs?.[name]?.name, `${type}.${name}`).toMatch(/./);
        expect(own?.inputs?.[name]?.tooltip !== undefined, `${type}.${name}`).toBe(typeof options.tooltip === 'string');
      }
      for (const [slot, { tooltip }] of outputs.entries())
        expect(own?.outputs?.[String(slot)]?.tooltip !== undefined, `${type}.${slot}`).toBe(
          typeof tooltip === 'string',
        );
    }
  });

  it('is of its own, not a copy of the English texts', () => {
    if (language === 'en') return;
    const english = textsOf('en', 'nodeDefs.json') as Readonly<Record<string, Texts>>;
    for (const type of names) {
      expect(texts[type]?.description).not.toBe(english[type]?.description);
      for (const [name, { tooltip }] of Object.entries(texts[type]?.inputs ?? {}))
        if (tooltip !== undefined) expect(tooltip).not.toBe(english[type]?.inputs?.[name]?.tooltip);
    }
  });

  it.each(['settings.json', 'commands.json'])('has every entry of %s that the extension registers', (file) => {
    const script = readFileSync(join(PACK, 'web', 'vision_bridge.js'), 'utf8');
    const ids = [...script.matchAll(/id: '(VisionBridge\.\w+)'/g)].map(([, id = '']) => id.replace('.', '_'));
    const [settings, commands] = ['settings.json', 'commands.json'].map((name) =>
      Object.keys(textsOf(language, name) as object),
    );
    expect([...(settings ?? []), ...(commands ?? [])].sort()).toEqual(ids.sort());
    expect(JSON.stringify(textsOf(language, file))).not.toContain('""');
  });
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

/** Source: the registry's specification of pyproject.toml. */
describe('pyproject.toml', () => {
  const text = readFileSync(join(PACK, 'pyproject.toml'), 'utf8');
  const valueOf = (key: string): string => new RegExp(`^${key} = "([^"]*)"$`, 'm').exec(text)?.[1] ?? '';

  it('has a name, version and license in the forms that the registry takes', () => {
    expect(valueOf('name')).toMatch(/^[a-z][a-z0-9]*(?:[-_.][a-z0-9]+)*$/i);
    expect(valueOf('name').length).toBeLessThan(100);
    expect(valueOf('name').toLowerCase()).not.toContain('comfyui');
    expect(valueOf('version')).toMatch(/^\d+\.\d+\.\d+$/);
    expect(text).toContain('license = { file = "LICENSE" }');
    expect(existsSync(join(PACK, 'LICENSE'))).toBe(true);
    expect(valueOf('description')).not.toBe('');
    expect(text).toMatch(/^dependencies = \[\]$/m);
  });

  it('names the ComfyUI that the pack was checked with, and what the publisher must fill in', () => {
    expect(valueOf('requires-comfyui')).toBe('>=0.3.64');
    expect(valueOf('DisplayName')).toBe('Vision Bridge');
    expect(text).toMatch(/^# The publisher fills in: PublisherId .* Repository/m);
  });
});
