import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import type { NodeDefinition } from '../../../src/graph/index.js';
import { node, startQueue } from '../../support/graph.js';

const INT = { type: 'INT' } as const;

function nodes(): { table: NodeDefinition[]; calls: string[] } {
  const calls: string[] = [];
  const table: NodeDefinition[] = [
    node({
      classType: 'Add',
      inputs: [
        { name: 'a', type: 'INT', options: { min: -1000, max: 1000 } },
        { name: 'b', type: 'INT', options: { min: -1000, max: 1000 } },
      ],
      outputs: [INT],
      execute: ({ a, b }) => {
        calls.push(`${String(a)}+${String(b)}`);
        return { outputs: [Number(a) + Number(b)] };
      },
    }),
    node({
      classType: 'Show',
      isOutputNode: true,
      inputs: [{ name: 'value', type: '*' }],
      execute: ({ value }) => ({ ui: { value: [Number(value)] } }),
    }),
    node({
      classType: 'List',
      inputs: [{ name: 'count', type: 'INT' }],
      outputs: [{ type: 'INT', isList: true }],
      execute: ({ count }) => ({ outputs: [Array.from({ length: Number(count) }, (_none, i) => i)] }),
    }),
    node({
      classType: 'Sum',
      takesLists: true,
      inputs: [{ name: 'values', type: 'INT' }],
      outputs: [INT],
      execute: ({ values }) => ({ outputs: [(values as number[]).reduce((sum, value) => sum + value, 0)] }),
    }),
    node({
      classType: 'Switch',
      inputs: [
        { name: 'first', type: 'BOOLEAN' },
        { name: 'a', type: 'INT', options: { lazy: true } },
        { name: 'b', type: 'INT', options: { lazy: true } },
      ],
      outputs: [INT],
      neededLazyInputs: ({ first }) => [first === true ? 'a' : 'b'],
      execute: ({ first, a, b }) => ({ outputs: [first === true ? a : b] }),
    }),
    node({
      classType: 'Chain',
      inputs: [{ name: 'value', type: 'INT' }],
      outputs: [INT],
      execute: ({ value }, { expansionPrefix }) => {
        const add = (id: string, a: unknown): [string, Map<string, never>] => [
          id,
          new Map<string, unknown>([
            ['class_type', 'Add'],
            [
              'inputs',
              new Map([
                ['a', a],
                ['b', 1],
              ]),
            ],
          ]) as Map<string, never>,
        ];
        return {
          expand: new Map([add(`${expansionPrefix}1`, value), add(`${expansionPrefix}2`, [`${expansionPrefix}1`, 0])]),
          outputs: [[`${expansionPrefix}2`, 0]],
        };
      },
    }),
    node({
      classType: 'Block',
      inputs: [{ name: 'message', type: 'STRING' }],
      outputs: [INT],
      execute: ({ message }) => ({
        outputs: [message === '' ? { kind: 'execution-blocker' } : { kind: 'execution-blocker', message }],
      }),
    }),
    node({
      classType: 'Raise',
      outputs: [INT],
      execute: () => {
        throw Object.assign(new Error('boom'), { pythonType: 'ValueError' });
      },
    }),
    node({
      classType: 'Changed',
      outputs: [INT],
      changeToken: () => NaN,
      execute: () => ({ outputs: [calls.push('changed')] }),
    }),
    node({
      classType: 'Slow',
      inputs: [{ name: 'steps', type: 'INT' }],
      outputs: [INT],
      async execute({ steps }, { reportProgress }) {
        for (let i = 0; i < Number(steps); i += 1) {
          await sleep(5);
          reportProgress(i + 1, Number(steps), { format: 'png', bytes: Uint8Array.of(i) });
        }
        return { outputs: [steps] };
      },
    }),
  ];
  return { table, calls };
}

const show = (link: unknown): object => ({ class_type: 'Show', inputs: { value: link } });

describe('a run', () => {
  it('calls each node once, keeps results for the next prompt, and runs only what changed', async () => {
    const { table, calls } = nodes();
    await using started = startQueue(table);
    const prompt = (b: number): object => ({
      1: { class_type: 'Add', inputs: { a: 1, b: 2 } },
      2: { class_type: 'Add', inputs: { a: ['1', 0], b } },
      3: show(['2', 0]),
    });
    expect((await started.run(prompt(3))).outputs.get('3')).toEqual({ value: [6] });
    await started.run(prompt(3));
    expect((await started.run(prompt(4))).outputs.get('3')).toEqual({ value: [7] });
    expect(calls).toEqual(['1+2', '3+3', '3+4']);
    // Node ids do not matter to the cache.
    await started.run({ 10: { class_type: 'Add', inputs: { b: 2, a: 1 } }, 30: show(['10', 0]) });
    expect(calls).toHaveLength(3);
  });

  it('sends events in order, the end mark last', async () => {
    await using started = startQueue(nodes().table);
    await started.run({ 1: { class_type: 'Add', inputs: { a: 1, b: 2 } }, 2: show(['1', 0]) });
    expect(started.types().filter((type) => type !== 'progress_state')).toEqual([
      'status',
      'status',
      'execution_start',
      'execution_cached',
      'executing 1',
      'executing 2',
      'executed 2',
      'execution_success',
      'status',
      'executing null',
    ]);
  });

  it('maps over lists and gives a list-taking node the whole', async () => {
    const { table, calls } = nodes();
    await using started = startQueue(table);
    const entry = await started.run({
      1: { class_type: 'List', inputs: { count: 3 } },
      2: { class_type: 'Add', inputs: { a: ['1', 0], b: 10 } },
      3: { class_type: 'Sum', inputs: { values: ['2', 0] } },
      4: show(['3', 0]),
    });
    expect(calls).toEqual(['0+10', '1+10', '2+10']);
    expect(entry.outputs.get('4')).toEqual({ value: [33] });
  });

  it('runs only the branch that a lazy node needs', async () => {
    const { table, calls } = nodes();
    await using started = startQueue(table);
    const entry = await started.run({
      1: { class_type: 'Add', inputs: { a: 1, b: 1 } },
      2: { class_type: 'Add', inputs: { a: 2, b: 2 } },
      3: { class_type: 'Switch', inputs: { first: false, a: ['1', 0], b: ['2', 0] } },
      4: show(['3', 0]),
    });
    expect(calls).toEqual(['2+2']);
    expect(entry.outputs.get('4')).toEqual({ value: [4] });
    expect(started.types().filter((type) => type === 'executing 3')).toHaveLength(2);
  });

  it('expands a node into a subgraph, and finds the whole in the cache afterwards', async () => {
    const { table, calls } = nodes();
    await using started = startQueue(table);
    const prompt = { 7: { class_type: 'Chain', inputs: { value: 5 } }, 8: show(['7', 0]) };
    expect((await started.run(prompt)).outputs.get('8')).toEqual({ value: [7] });
    expect(started.types()).toContain('executing 7.0.0.1');
    await started.run(prompt);
    expect(calls).toEqual(['5+1', '6+1']);
  });

  it('passes a blocker on, tells its message, and succeeds', async () => {
    const { table } = nodes();
    await using started = startQueue(table);
    const entry = await started.run({
      1: { class_type: 'Block', inputs: { message: 'not today' } },
      2: { class_type: 'Add', inputs: { a: ['1', 0], b: 1 } },
      3: show(['2', 0]),
    });
    expect(entry.status.status_str).toBe('success');
    expect(entry.outputs.size).toBe(0);
    const blocked = started.events.filter((event) => event.kind === 'json' && event.type === 'execution_error');
    expect(blocked).toHaveLength(1);
    expect(blocked[0]).toMatchObject({
      data: { exception_type: 'ExecutionBlocked', exception_message: 'Execution Blocked: not today', node_id: '2' },
    });
  });

  it('ends with the first failure, keeps what was done, and takes it up when the prompt is mended', async () => {
    const { table, calls } = nodes();
    await using started = startQueue(table);
    const entry = await started.run({
      1: { class_type: 'Add', inputs: { a: 1, b: 1 } },
      2: { class_type: 'Raise', inputs: {} },
      3: show(['1', 0]),
      4: { class_type: 'Add', inputs: { a: ['1', 0], b: ['2', 0] } },
      5: show(['4', 0]),
    });
    expect(entry.status).toMatchObject({ status_str: 'error', completed: false });
    expect(entry.status.messages.at(-1)).toMatchObject([
      'execution_error',
      { node_id: '2', node_type: 'Raise', exception_type: 'ValueError', exception_message: 'boom\n' },
    ]);
    await started.run({ 1: { class_type: 'Add', inputs: { a: 1, b: 1 } }, 3: show(['1', 0]) });
    expect(calls).toEqual(['1+1']);
  });

  it('runs a node whose change cannot be told every time, and drops all results on request', async () => {
    const { table, calls } = nodes();
    await using started = startQueue(table);
    const changed = { 1: { class_type: 'Changed', inputs: {} }, 2: show(['1', 0]) };
    await started.run(changed);
    await started.run(changed);
    expect(calls).toEqual(['changed', 'changed']);
    const sum = { 1: { class_type: 'Add', inputs: { a: 1, b: 1 } }, 2: show(['1', 0]) };
    await started.run(sum);
    started.queue.freeMemory();
    await started.run(sum);
    expect(calls.slice(2)).toEqual(['1+1', '1+1']);
  });

  it('stops at the next progress report when it is interrupted, and the next prompt runs', async () => {
    await using started = startQueue(nodes().table);
    const slow = { 1: { class_type: 'Slow', inputs: { steps: 1000 } }, 2: show(['1', 0]) };
    const running = started.run(slow);
    while (!started.types().includes('progress')) await sleep(5);
    expect(started.queue.interrupt('another')).toBe(false);
    expect(started.queue.interrupt()).toBe(true);
    const entry = await running;
    expect(entry.status.status_str).toBe('error');
    expect(entry.status.messages.at(-1)).toMatchObject(['execution_interrupted', { node_id: '1' }]);
    expect(
      (await started.run({ 1: { class_type: 'Add', inputs: { a: 1, b: 1 } }, 2: show(['1', 0]) })).status.completed,
    ).toBe(true);
    expect(started.queue.interrupt()).toBe(false);
  });

  it('sends previews on both sides of progress, for clients of both kinds', async () => {
    await using started = startQueue(nodes().table);
    await started.run({ 1: { class_type: 'Slow', inputs: { steps: 1 } }, 2: show(['1', 0]) });
    const kinds = started.events.flatMap((event) =>
      event.kind === 'preview'
        ? [event.moment]
        : event.kind === 'json' && event.type === 'progress'
          ? ['progress']
          : [],
    );
    expect(kinds).toEqual(['before-progress', 'progress', 'after-progress']);
  });

  it('tells a prompt without a client only what everybody is told', async () => {
    await using started = startQueue(nodes().table);
    await started.run({ 1: { class_type: 'Raise', inputs: {} }, 2: show(['1', 0]) }, { client_id: undefined });
    expect(new Set(started.types())).toEqual(new Set(['status', 'progress_state']));
  });

  it('takes a chain of 5,000 nodes', async () => {
    const { table } = nodes();
    await using started = startQueue(table);
    const chain: Record<string, object> = { n0: { class_type: 'Add', inputs: { a: 0, b: 0 } } };
    for (let i = 1; i < 5000; i += 1) chain[`n${i}`] = { class_type: 'Add', inputs: { a: [`n${i - 1}`, 0], b: 0 } };
    const entry = await started.run({ ...chain, out: show(['n4999', 0]) });
    expect(entry.status.completed).toBe(true);
  });
});
