/** A prompt queue with nodes of a test's own, and the events it sends. */
import { silentLogger, type Logger } from '../../src/common/logger.js';
import { PromptQueue, type GraphEvent, type NodeDefinition, type Submission } from '../../src/graph/index.js';
import { parseJson, writeJson } from '../../src/protocol/json.js';
import type { HistoryEntry } from '../../src/protocol/prompt.js';

export const node = (
  definition: Partial<NodeDefinition> & Pick<NodeDefinition, 'classType' | 'execute'>,
): NodeDefinition => ({
  api: 'v1',
  category: 'test',
  pythonModule: 'test',
  inputs: [],
  outputs: [],
  ...definition,
});

export interface TestQueue extends AsyncDisposable {
  readonly queue: PromptQueue;
  readonly events: GraphEvent[];
  /** Types of the JSON events so far; `executing 3` and `executed 3` with their node. */
  readonly types: () => string[];
  /** Submits a prompt and waits for its history entry. */
  readonly run: (prompt: object, extra?: object) => Promise<HistoryEntry>;
  readonly submit: (prompt: object, extra?: object) => Promise<Submission>;
}

export function startQueue(
  nodes: readonly NodeDefinition[],
  options: { maxPending?: number; maxHistory?: number; logger?: Logger } = {},
): TestQueue {
  const queue = new PromptQueue({
    table: new Map(nodes.map((definition) => [definition.classType, definition])),
    logger: silentLogger,
    ...options,
  });
  const events: GraphEvent[] = [];
  queue.subscribe((event) => events.push(event));
  const submit: TestQueue['submit'] = (prompt, extra = {}) =>
    queue.submit(parseJson(JSON.stringify({ prompt, client_id: 'c', ...extra })));
  return {
    queue,
    events,
    types: () =>
      events.flatMap((event) => {
        if (event.kind !== 'json') return [];
        const named = event.type === 'executing' || event.type === 'executed';
        return [named ? `${event.type} ${writeJson(event.data['node']).replaceAll('"', '')}` : event.type];
      }),
    submit,
    async run(prompt, extra = {}) {
      const result = await submit(prompt, extra);
      if (!result.accepted) throw new Error(JSON.stringify(result.error));
      for (;;) {
        const entry = queue.historyEntry(result.promptId);
        if (entry !== undefined && queue.remaining === 0) return entry;
        await new Promise((resolve) => setImmediate(resolve));
      }
    },
    [Symbol.asyncDispose]: () => queue[Symbol.asyncDispose](),
  };
}
