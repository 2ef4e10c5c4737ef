import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { PythonError, type NodeDefinition } from '../../../src/graph/index.js';
import { node, startQueue } from '../../support/graph.js';

const DELAY_MS = 150;

/** A node that waits, and fails where its input says so. */
const slow = node({
  classType: 'Slow',
  isAsync: true,
  inputs: [{ name: 'fail', type: 'BOOLEAN' }],
  outputs: [{ type: 'INT' }],
  async execute({ fail }) {
    await sleep(fail === true ? 20 : DELAY_MS);
    if (fail === true) throw new PythonError('RuntimeError', 'failed later');
    return { outputs: [1] };
  },
});
const out: NodeDefinition = node({
  classType: 'Out',
  isOutputNode: true,
  inputs: [{ name: 'a', type: 'INT' }],
  execute: ({ a }) => ({ ui: { a: [Number(a)] } }),
});
const chain = (count: number, fail = false): object => {
  const prompt: Record<string, object> = {};
  for (let i = 0; i < count; i += 1) {
    prompt[`s${i}`] = { class_type: 'Slow', inputs: { fail: fail && i === 1 } };
    prompt[`o${i}`] = { class_type: 'Out', inputs: { a: [`s${i}`, 0] } };
  }
  return prompt;
};

describe('asynchronous nodes', () => {
  it('wait side by side: five take the time of one', async () => {
    await using test = startQueue([slow, out]);
    const begin = performance.now();
    const entry = await test.run(chain(5));
    expect(entry.status.status_str).toBe('success');
    expect(entry.outputs.size).toBe(5);
    expect(performance.now() - begin).toBeLessThan(3 * DELAY_MS);
  });

  it('announce themselves once, though they are taken up again when done', async () => {
    await using test = startQueue([slow, out]);
    await test.run(chain(2));
    expect(test.types().filter((type) => type === 'executing s0')).toHaveLength(1);
  });

  it('fail the prompt under their own id, and the others are given up', async () => {
    await using test = startQueue([slow, out]);
    const entry = await test.run(chain(3, true));
    expect(entry.status.messages.at(-1)).toMatchObject([
      'execution_error',
      { node_id: 's1', exception_type: 'RuntimeError', exception_message: 'failed later\n', current_inputs: {} },
    ]);
  });

  it('do not hold up an interrupt while nothing else is ready', async () => {
    let isAborted = false;
    const endless = node({
      ...slow,
      execute: async (_inputs, { signal }) => {
        await new Promise((resolve) => {
          signal.addEventListener('abort', resolve);
        });
        isAborted = true;
        return { outputs: [1] };
      },
    });
    await using test = startQueue([endless, out]);
    const running = test.run(chain(1));
    await sleep(30);
    test.queue.interrupt();
    const entry = await running;
    expect(entry.status.messages.at(-1)).toMatchObject(['execution_interrupted', { node_id: 's0' }]);
    expect(isAborted).toBe(true);
  });
});

describe('a literal list that looks like a link', () => {
  it('is passed to the node as the list that it is', async () => {
    const seen: unknown[] = [];
    const echo = node({
      classType: 'Echo',
      isOutputNode: true,
      inputs: [{ name: 'list', type: 'ANYTHING' }],
      execute: ({ list }) => {
        seen.push(list);
        return {};
      },
    });
    await using test = startQueue([echo]);
    const entry = await test.run({ 1: { class_type: 'Echo', inputs: { list: { __value__: ['9', 0] } } } });
    expect(entry.status.status_str).toBe('success');
    expect(seen).toEqual([['9', 0]]);
  });
});

describe('a validator that rejects', () => {
  it('is told as an error of its node', async () => {
    const refusing = node({
      classType: 'Refusing',
      isOutputNode: true,
      inputs: [{ name: 'a', type: 'INT' }],
      validator: { names: ['a'], check: () => Promise.reject(new PythonError('ValueError', 'cannot tell')) },
      execute: () => ({}),
    });
    await using test = startQueue([refusing]);
    const result = await test.submit({ 1: { class_type: 'Refusing', inputs: { a: 1 } } });
    expect(result.nodeErrors.get('1')?.errors[0]).toMatchObject({
      type: 'exception_during_validation',
      details: 'cannot tell',
      extra_info: { exception_type: 'ValueError' },
    });
  });
});
