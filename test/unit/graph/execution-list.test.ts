import { describe, expect, it } from 'vitest';
import { ExecutionList } from '../../../src/graph/execution-list.js';
import { Heap } from '../../../src/graph/heap.js';
import { RunningPrompt } from '../../../src/graph/running-prompt.js';
import { parseJson, type JsonObject } from '../../../src/protocol/json.js';
import { node } from '../../support/graph.js';

const table = new Map(
  [
    node({ classType: 'Step', execute: () => ({}) }),
    node({ classType: 'Async', isAsync: true, execute: () => ({}) }),
    node({ classType: 'Out', isOutputNode: true, execute: () => ({}) }),
  ].map((definition) => [definition.classType, definition]),
);

type Links = Readonly<Record<string, readonly [classType: string, ...sources: string[]]>>;

function listOf(links: Links): ExecutionList {
  const prompt = Object.fromEntries(
    Object.entries(links).map(([id, [classType, ...sources]]) => [
      id,
      { class_type: classType, inputs: Object.fromEntries(sources.map((source, i) => [`i${i}`, [source, 0]])) },
    ]),
  );
  const running = new RunningPrompt(table, parseJson(JSON.stringify(prompt)) as JsonObject);
  return new ExecutionList(running, () => false);
}

function drain(list: ExecutionList): string[] {
  const order: string[] = [];
  for (let id = list.next(); id !== undefined; id = list.next()) {
    order.push(id);
    list.complete(id);
  }
  return order;
}

describe('the order of nodes', () => {
  it('prefers what feeds an output to what was added earlier', () => {
    const list = listOf({ out: ['Out', 'far', 'near'], far: ['Step', 'deep'], deep: ['Step'], near: ['Step'] });
    list.add('out');
    expect(drain(list)).toEqual(['near', 'deep', 'far', 'out']);
  });

  it('starts asynchronous nodes before all others that are ready', () => {
    const list = listOf({ out: ['Out', 'a', 'b'], a: ['Step'], b: ['Step', 'slow'], slow: ['Async'] });
    list.add('out');
    expect(list.next()).toBe('slow');
  });

  it('gives a node again when what it asked for later is done', () => {
    const list = listOf({ out: ['Out'], late: ['Step'] });
    list.add('out');
    expect(list.next()).toBe('out');
    expect(list.addDependency('out', 'late')).toBe(true);
    list.unstage();
    expect(drain(list)).toEqual(['late', 'out']);
  });

  it('holds a node back while its call is under way', () => {
    const list = listOf({ slow: ['Async'], out: ['Out', 'slow'] });
    list.add('out');
    expect(list.next()).toBe('slow');
    const unblock = list.block('slow');
    list.unstage();
    expect(list.next()).toBeUndefined();
    unblock();
    expect(drain(list)).toEqual(['slow', 'out']);
  });

  it('orders 20,000 nodes that are all ready at once in less than two seconds', () => {
    const ids = Array.from({ length: 20_000 }, (_none, i) => `n${i}`);
    const list = listOf({
      ...Object.fromEntries(ids.map((id) => [id, ['Step'] as const])),
      join: ['Step', ...ids],
      out: ['Out', 'join'],
    });
    const begin = performance.now();
    list.add('out');
    expect(drain(list)).toHaveLength(20_002);
    expect(performance.now() - begin).toBeLessThan(2000);
  });
});

describe('the heap', () => {
  it("lies as Python's heapq does, also after an item was taken out", () => {
    const heap = new Heap<number>((a, b) => a - b);
    for (const value of [5, 3, 8, 1, 9, 2, 7, -4]) heap.push(value);
    expect(heap.items).toEqual([-4, 1, 2, 3, 9, 8, 7, 5]);
    expect(heap.remove((value) => value === 1)).toBe(1);
    expect(heap.items).toEqual([-4, 2, 3, 9, 8, 7, 5]);
    expect([heap.pop(), heap.pop()]).toEqual([-4, 2]);
    expect(heap.items).toEqual([3, 5, 7, 9, 8]);
  });
});
