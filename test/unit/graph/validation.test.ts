import { describe, expect, it } from 'vitest';
import type { NodeDefinition } from '../../../src/graph/index.js';
import { node, startQueue } from '../../support/graph.js';

const table: NodeDefinition[] = [
  node({
    classType: 'Make',
    inputs: [
      { name: 'n', type: 'INT', options: { min: 0, max: 10 } },
      { name: 'f', type: 'FLOAT', optional: true, options: { min: 0, max: 1 } },
      { name: 'few', type: 'COMBO', optional: true, choices: () => ['a', 'b'] },
      { name: 'many', type: 'COMBO', optional: true, choices: () => Array.from({ length: 25 }, (_none, i) => `o${i}`) },
      { name: 'text', type: 'STRING', optional: true },
      { name: 'flag', type: 'BOOLEAN', optional: true },
    ],
    outputs: [{ type: 'INT' }],
    execute: ({ n }) => ({ outputs: [n] }),
  }),
  node({ classType: 'Picture', outputs: [{ type: 'IMAGE' }], execute: () => ({ outputs: [0] }) }),
  node({
    classType: 'Echo',
    isOutputNode: true,
    inputs: [{ name: 'value', type: 'INT' }],
    outputs: [{ type: 'INT' }],
    execute: ({ value }) => ({ ui: { value: [Number(value)] } }),
  }),
  node({
    classType: 'Strict',
    isOutputNode: true,
    inputs: [{ name: 'value', type: 'INT', options: { max: 3 } }],
    validator: {
      names: ['value'],
      check: ({ value }) => {
        if (value === 1) return false;
        if (value === 2) return 'two is not allowed';
        if (value === 3) throw new Error('validator broke');
        return true;
      },
    },
    execute: () => ({}),
  }),
];

interface Refusal {
  readonly type: string;
  readonly details: string;
  readonly messages: readonly string[];
  readonly nodes: Record<string, readonly (readonly [type: string, details: string])[]>;
}

async function refusalOf(prompt: object, extra: object = {}): Promise<Refusal> {
  await using started = startQueue(table);
  const result = await started.submit(prompt, extra);
  if (result.accepted) throw new Error('accepted');
  return {
    type: result.error.type,
    details: result.error.details,
    messages: [...result.nodeErrors.values()].flatMap(({ errors }) => errors.map(({ message }) => message)),
    nodes: Object.fromEntries(
      [...result.nodeErrors].map(([id, { errors }]) => [
        id,
        errors.map(({ type, details }) => [type, details] as const),
      ]),
    ),
  };
}

const make = (inputs: object): object => ({
  1: { class_type: 'Make', inputs },
  2: { class_type: 'Echo', inputs: { value: ['1', 0] } },
});

describe('validation', () => {
  it.each([
    [{ n: 11 }, 'value_bigger_than_max', 'n', 'Value 11 bigger than max of 10'],
    [{ n: -1 }, 'value_smaller_than_min', 'n', 'Value -1 smaller than min of 0'],
    [{ n: 1, f: 2 }, 'value_bigger_than_max', 'f', 'Value 2.0 bigger than max of 1.0'],
    [
      { n: 'abc' },
      'invalid_input_type',
      "n, abc, invalid literal for int() with base 10: 'abc'",
      'Failed to convert an input value to a INT value',
    ],
    [
      { n: null },
      'invalid_input_type',
      "n, None, int() argument must be a string, a bytes-like object or a real number, not 'NoneType'",
      'Failed to convert an input value to a INT value',
    ],
    [
      { n: 1, f: 'big' },
      'invalid_input_type',
      "f, big, could not convert string to float: 'big'",
      'Failed to convert an input value to a FLOAT value',
    ],
    [{ n: 1, few: 'c' }, 'value_not_in_list', "few: 'c' not in ['a', 'b']", 'Value not in list'],
    [{ n: 1, many: 'x' }, 'value_not_in_list', "many: 'x' not in (list of length 25)", 'Value not in list'],
    [{}, 'required_input_missing', 'n', 'Required input is missing'],
    [{ n: ['1'] }, 'bad_linked_input', 'n', 'Bad linked input, must be a length-2 list of [node_id, slot_index]'],
  ])('refuses %j as ComfyUI does', async (inputs, type, details, message) => {
    const refusal = await refusalOf(make(inputs));
    expect(refusal).toMatchObject({ type: 'prompt_outputs_failed_validation', details: '' });
    expect(refusal.nodes).toEqual({ '1': [[type, details]] });
    expect(refusal.messages).toEqual([message]);
  });

  it('names both types of a link that does not match', async () => {
    const refusal = await refusalOf({
      1: { class_type: 'Picture', inputs: {} },
      2: { class_type: 'Echo', inputs: { value: ['1', 0] } },
    });
    expect(refusal.nodes['2']?.[0]).toEqual([
      'return_type_mismatch',
      'value, received_type(IMAGE) mismatch input_type(INT)',
    ]);
    expect(refusal.details).toBe(
      'Return type mismatch between linked nodes: value, received_type(IMAGE) mismatch input_type(INT)',
    );
  });

  it('files a link to nowhere under the node that has it', async () => {
    expect((await refusalOf({ 2: { class_type: 'Echo', inputs: { value: ['9', 0] } } })).nodes).toMatchObject({
      '2': [['exception_during_validation', "'9'"]],
    });
    expect((await refusalOf(make({ n: ['9', 0] }))).nodes).toMatchObject({
      '1': [['exception_during_inner_validation', "'9'"]],
    });
    expect((await refusalOf(make({ n: ['2', 7] }))).nodes).toMatchObject({
      '1': [['exception_during_inner_validation', 'tuple index out of range']],
    });
  });

  it('reports a cycle on every node of it', async () => {
    const refusal = await refusalOf({
      1: { class_type: 'Make', inputs: { n: ['2', 0] } },
      2: { class_type: 'Echo', inputs: { value: ['1', 0] } },
    });
    expect(refusal.nodes).toMatchObject({
      '1': [['dependency_cycle', '2 (Echo) -> 1 (Make) -> 2 (Echo)']],
      '2': [['dependency_cycle', '2 (Echo) -> 1 (Make) -> 2 (Echo)']],
    });
  });

  it("takes a class's own validator at its word, for the inputs it names", async () => {
    const strict = (value: number): object => ({ 1: { class_type: 'Strict', inputs: { value } } });
    expect((await refusalOf(strict(1))).nodes).toMatchObject({ '1': [['custom_validation_failed', 'value']] });
    expect((await refusalOf(strict(2))).nodes).toMatchObject({
      '1': [['custom_validation_failed', 'value - two is not allowed']],
    });
    expect((await refusalOf(strict(3))).nodes).toMatchObject({
      '1': [['exception_during_validation', 'validator broke']],
    });
    await using started = startQueue(table);
    expect((await started.submit(strict(99))).accepted).toBe(true); // max is the validator's business now
  });

  it.each([
    [{ 1: { inputs: {} } }, 'invalid_prompt', "Node ID '#1'"],
    [{ 1: { class_type: 'Nope', inputs: {} } }, 'invalid_prompt', "Node ID '#1'"],
    [{ 1: { class_type: 'Picture', inputs: {} } }, 'prompt_no_outputs', ''],
  ])('refuses %j as a whole', async (prompt, type, details) => {
    expect(await refusalOf(prompt)).toMatchObject({ type, details, nodes: {} });
  });

  it('runs the good outputs and reports the bad ones', async () => {
    await using started = startQueue(table);
    const prompt = { ...make({ n: 4 }), 3: { class_type: 'Echo', inputs: {} } };
    const result = await started.submit(prompt);
    expect(result).toMatchObject({ accepted: true });
    expect([...result.nodeErrors.keys()]).toEqual(['3']);
    expect(started.queue.pending[0]?.outputs ?? started.queue.running?.outputs).toEqual(['2']);
  });

  it('converts literals as Python does, and shows them converted', async () => {
    await using started = startQueue(table);
    const entry = await started.run(make({ n: ' 7 ', f: '0.5', text: null, flag: 'false', few: { __value__: 'a' } }));
    const shown = entry.item.prompt.get('1');
    expect(shown).toEqual(
      new Map<string, unknown>([
        ['class_type', 'Make'],
        [
          'inputs',
          new Map<string, unknown>([
            ['n', 7],
            ['f', 0.5],
            ['text', 'None'],
            ['flag', true],
            ['few', 'a'],
          ]),
        ],
      ]),
    );
  });
});

describe('the queue', () => {
  it('numbers prompts, also refused ones, and runs front prompts first', async () => {
    await using started = startQueue(table);
    const number = async (extra: object): Promise<number> => {
      const result = await started.submit(make({ n: 1 }), extra);
      return result.accepted ? result.number : NaN;
    };
    expect(await number({})).toBe(0);
    await started.submit({ 1: { class_type: 'Nope', inputs: {} } });
    expect(await number({})).toBe(2);
    expect(await number({ front: true })).toBe(-3);
    expect(await number({ number: '7' })).toBe(7);
    const waiting = [
      ...(started.queue.running === undefined ? [] : [started.queue.running]),
      ...started.queue.pending,
    ].map((item) => item.number);
    expect(waiting[0]).toBe(-3);
    expect(waiting.toSorted((a, b) => a - b)).toEqual([-3, 0, 2, 7]);
    while (started.queue.remaining > 0) await new Promise((resolve) => setImmediate(resolve));
    expect([...started.queue.history().values()].map(({ item }) => item.number)).toEqual([-3, 0, 2, 7]);
  });

  it('never shows secrets', async () => {
    await using started = startQueue(table);
    const entry = await started.run(make({ n: 1 }), { extra_data: { api_key_comfy_org: 'secret', kept: 1 } });
    expect([...entry.item.extraData.keys()].toSorted()).toEqual(['client_id', 'kept']);
  });

  it('refuses what exceeds its bound, and keeps the history within its own', async () => {
    await using started = startQueue(table, { maxPending: 0 });
    await expect(started.submit(make({ n: 1 }))).rejects.toMatchObject({ code: 'BUSY' });
    await using small = startQueue(table, { maxHistory: 2 });
    for (let n = 0; n < 4; n += 1) await small.run(make({ n }), { prompt_id: `p${n}` });
    expect([...small.queue.history().keys()]).toEqual(['p2', 'p3']);
    expect([...small.queue.history({ maxItems: 1 }).keys()]).toEqual(['p3']);
    expect([...small.queue.history({ offset: 0, maxItems: 1 }).keys()]).toEqual(['p2']);
    expect(small.queue.history({ maxItems: 0 }).size).toBe(0);
  });
});
