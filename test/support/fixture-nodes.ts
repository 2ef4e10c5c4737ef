/** The nodes of the recordings' test pack. Source: the README of the recordings, "Fixture nodes". */
import { setTimeout as sleep } from 'node:timers/promises';
import sharp from 'sharp';
import type { NodeDefinition, NodeInputs } from '../../src/graph/index.js';
import { pythonRepr, PythonError } from '../../src/graph/index.js';
import type { JsonValue } from '../../src/protocol/json.js';

const fixture = (
  definition: Omit<NodeDefinition, 'api' | 'category' | 'pythonModule'> & { api?: NodeDefinition['api'] },
): NodeDefinition => ({
  api: 'v1',
  category: 'fixture',
  pythonModule: 'custom_nodes.protocol_fixture',
  ...definition,
});
const INT = { type: 'INT' } as const;
const int = (
  name: string,
  preset = 0,
  options: Record<string, number | boolean | string> = {},
): NodeDefinition['inputs'][number] => ({ name, type: 'INT', options: { default: preset, ...options } });
const linkedInt = (name: string): NodeDefinition['inputs'][number] => ({
  name,
  type: 'INT',
  options: { forceInput: true },
});
const number = (inputs: NodeInputs, name: string): number => Number(inputs[name]);

const PREVIEW_SIDE = 16;

async function preview(
  step: number,
  format: string,
): Promise<{ format: 'jpeg' | 'png'; bytes: Uint8Array } | undefined> {
  if (format !== 'jpeg' && format !== 'png') return undefined;
  const background = { r: (20 * step) % 256, g: 128, b: 64 };
  const image = sharp({ create: { width: 64, height: 32, channels: 3, background } }).resize(
    PREVIEW_SIDE,
    PREVIEW_SIDE / 2,
  );
  return { format, bytes: await (format === 'png' ? image.png() : image.jpeg({ quality: 95 })).toBuffer() };
}

function addNode(id: string, a: JsonValue): [string, JsonValue] {
  const inputs = new Map<string, JsonValue>([
    ['a', a],
    ['b', 1],
  ]);
  return [
    id,
    new Map<string, JsonValue>([
      ['class_type', 'FxAdd'],
      ['inputs', inputs],
    ]),
  ];
}

export const fixtureNodes: readonly NodeDefinition[] = [
  fixture({
    classType: 'FxSteps',
    displayName: 'Fixture Steps',
    inputs: [
      int('steps', 5, { min: 1, max: 1000 }),
      int('delay_ms', 50, { min: 0, max: 10_000 }),
      { name: 'preview', type: 'COMBO', choices: () => ['none', 'jpeg', 'png'] },
    ],
    outputs: [INT],
    async execute(inputs, { reportProgress }) {
      const steps = number(inputs, 'steps');
      for (let i = 0; i < steps; i += 1) {
        await sleep(number(inputs, 'delay_ms'));
        reportProgress(i + 1, steps, await preview(i, String(inputs['preview'])));
      }
      return { outputs: [steps] };
    },
  }),
  fixture({
    classType: 'FxText',
    inputs: [{ name: 'text', type: 'STRING', options: { default: '' } }],
    hidden: { uid: 'UNIQUE_ID' },
    outputs: [{ type: 'STRING' }],
    execute: ({ text }, { sendText }) => {
      sendText(String(text));
      return { outputs: [text] };
    },
  }),
  fixture({
    classType: 'FxRaise',
    inputs: [int('value'), { name: 'message', type: 'STRING', options: { default: 'boom' } }],
    outputs: [INT],
    execute: ({ message }) => {
      throw new PythonError('ValueError', String(message));
    },
  }),
  fixture({
    classType: 'FxEcho',
    isOutputNode: true,
    inputs: [int('value', 0, { forceInput: true })],
    outputs: [INT],
    execute: ({ value }) => ({ ui: { value: [Number(value)] }, outputs: [value] }),
  }),
  fixture({ classType: 'FxSilent', isOutputNode: true, inputs: [int('value')], outputs: [], execute: () => ({}) }),
  fixture({
    classType: 'FxAdd',
    inputs: [int('a', 0, { min: -1000, max: 1000 }), int('b', 0, { min: -1000, max: 1000 })],
    outputs: [INT],
    execute: (inputs) => ({ outputs: [number(inputs, 'a') + number(inputs, 'b')] }),
  }),
  fixture({
    classType: 'FxChanged',
    inputs: [{ name: 'mode', type: 'COMBO', choices: () => ['never', 'always', 'raise'] }, int('value')],
    outputs: [INT],
    changeToken: ({ mode }) => {
      if (mode === 'raise') throw new PythonError('RuntimeError', 'no fingerprint');
      return mode === 'always' ? NaN : 'same';
    },
    execute: ({ value }) => ({ outputs: [value] }),
  }),
  fixture({
    classType: 'FxList',
    inputs: [int('count', 3, { min: 0, max: 10 })],
    outputs: [
      { type: 'INT', name: 'items', isList: true },
      { type: 'INT', name: 'count' },
    ],
    execute: ({ count }) => ({ outputs: [Array.from({ length: Number(count) }, (_none, i) => i), count] }),
  }),
  fixture({
    classType: 'FxSum',
    takesLists: true,
    inputs: [linkedInt('values'), int('scale', 1)],
    outputs: [INT],
    execute: ({ values, scale }) => ({
      outputs: [(values as number[]).reduce((sum, value) => sum + value, 0) * ((scale as number[])[0] ?? 1)],
    }),
  }),
  fixture({
    classType: 'FxLazy',
    inputs: [
      { name: 'choose_a', type: 'BOOLEAN', options: { default: true } },
      { name: 'a', type: 'INT', options: { lazy: true, forceInput: true } },
      { name: 'b', type: 'INT', options: { lazy: true, forceInput: true } },
    ],
    outputs: [INT],
    neededLazyInputs: ({ choose_a: chooseA }) => [chooseA === true ? 'a' : 'b'],
    execute: ({ choose_a: chooseA, a, b }) => ({ outputs: [chooseA === true ? a : b] }),
  }),
  fixture({
    classType: 'FxExpand',
    inputs: [int('value'), int('times', 2, { min: 1, max: 5 })],
    outputs: [INT],
    execute: ({ value, times }, { expansionPrefix }) => {
      const id = (i: number): string => `${expansionPrefix}${i}`;
      const nodes = Array.from({ length: Number(times) }, (_none, i) =>
        addNode(id(i + 1), i === 0 ? Number(value) : [id(i), 0]),
      );
      return { expand: new Map(nodes), outputs: [[id(Number(times)), 0]] };
    },
  }),
  fixture({
    classType: 'FxBlock',
    inputs: [
      int('value'),
      { name: 'block', type: 'BOOLEAN', options: { default: true } },
      { name: 'message', type: 'STRING', options: { default: '' } },
    ],
    outputs: [INT],
    execute: ({ value, block, message }) => ({
      outputs: [block === true ? { kind: 'execution-blocker', ...(message === '' ? {} : { message }) } : value],
    }),
  }),
  fixture({
    classType: 'FxValidate',
    inputs: [int('value', 0, { min: 0, max: 10 }), int('other', 0, { min: 0, max: 10 })],
    outputs: [INT],
    validator: {
      names: ['value'],
      check: ({ value }) => {
        if (value === 3) throw new PythonError('RuntimeError', 'validator broke');
        return value === 1 ? false : value === 2 ? 'two is not allowed' : true;
      },
    },
    execute: (inputs) => ({ outputs: [number(inputs, 'value') + number(inputs, 'other')] }),
  }),
  fixture({
    classType: 'FxCombo',
    inputs: [
      { name: 'few', type: 'COMBO', choices: () => ['a', 'b', 'c'] },
      { name: 'many', type: 'COMBO', choices: () => Array.from({ length: 25 }, (_none, i) => `o${i}`) },
      { name: 'extra', type: 'FLOAT', optional: true, options: { default: 0.5, min: 0, max: 1 } },
    ],
    outputs: [{ type: 'STRING' }],
    execute: ({ few, many, extra = 0.5 }) => ({ outputs: [`${String(few)}/${String(many)}/${String(extra)}`] }),
  }),
  fixture({
    classType: 'FxAsync',
    isAsync: true,
    inputs: [int('value'), int('delay_ms', 50), { name: 'fail', type: 'BOOLEAN', options: { default: false } }],
    outputs: [INT],
    async execute({ value, delay_ms: delay, fail }) {
      await sleep(Number(delay));
      if (fail === true) throw new PythonError('RuntimeError', 'async failure');
      return { outputs: [value] };
    },
  }),
  fixture({
    classType: 'FxUnique',
    description: 'desc',
    isDeprecated: true,
    isExperimental: true,
    inputs: [int('value')],
    hidden: { uid: 'UNIQUE_ID' },
    outputs: [{ type: 'STRING', name: 'label', tooltip: 'tip' }],
    execute: ({ value }, { nodeId }) => ({ outputs: [`${nodeId}:${String(value)}`] }),
  }),
  fixture({
    classType: 'FxV3',
    api: 'v3',
    displayName: 'Fixture V3',
    description: 'desc',
    isDeprecated: true,
    isExperimental: true,
    isOutputNode: true,
    inputs: [
      { name: 'mode', type: 'COMBO', choices: () => ['x', 'y'], options: { tooltip: 'tip', default: 'y' } },
      int('n', 3, { min: 0, max: 9, step: 1, control_after_generate: true, display: 'slider' }),
      {
        name: 's',
        type: 'STRING',
        options: { default: 'hi', multiline: true, placeholder: 'type', dynamicPrompts: true },
      },
      { name: 'flag', type: 'BOOLEAN', options: { default: true, label_on: 'on', label_off: 'off' } },
      { name: 'f', type: 'FLOAT', optional: true, options: { default: 0.5, min: 0, max: 1, step: 0.1, round: 0.01 } },
      { name: 'image', type: 'IMAGE', optional: true },
      { name: 'any2', type: 'INT,FLOAT', optional: true },
    ],
    hidden: { unique_id: 'UNIQUE_ID', prompt: 'PROMPT', extra_pnginfo: 'EXTRA_PNGINFO' },
    outputs: [
      { type: 'INT', name: 'N', tooltip: 'tip' },
      { type: 'STRING', isList: true },
    ],
    validator: { names: ['n'], check: ({ n }) => (n === 7 ? 'seven is not allowed' : true) },
    changeToken: () => 'fp',
    execute: ({ mode, n, s, flag, f = null }, { nodeId }) => {
      const text = [mode, n, s, flag, f].map((value) => pythonStr(value)).join(':');
      return { ui: { text: [`${text}:${nodeId}`] }, outputs: [n, [s]] };
    },
  }),
];

/** A simple value as Python's `str` writes it. */
function pythonStr(value: unknown): string {
  return typeof value === 'string' ? value : pythonRepr(value as JsonValue);
}
