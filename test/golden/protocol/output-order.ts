/** Prompts with their output nodes in the order in which a recording ran them. */
import type { Step } from './scenario.js';

type Nodes = Readonly<Record<string, { class_type?: unknown } | null>>;

/** @param isReversed What to do with prompts whose order no queue item and no history entry of the recording shows. */
export function orderOutputs(steps: readonly Step[], outputClasses: ReadonlySet<string>, isReversed: boolean): Step[] {
  const orders = new Map<string, readonly string[]>();
  for (const step of steps) if ('response' in step) findOrders(step.response.body, orders);
  return steps.map((step): Step => {
    if (!('request' in step) || step.request.method !== 'POST' || !step.request.path.endsWith('/prompt')) return step;
    const body = step.request.body as { prompt?: Nodes | null } | null | undefined;
    const prompt = body?.prompt;
    if (typeof prompt !== 'object' || prompt === null) return step;
    const outputs = Object.keys(prompt).filter((id) => outputClasses.has(String(prompt[id]?.class_type)));
    const promptId = (step.response.body as { prompt_id?: string } | null)?.prompt_id ?? '';
    const shown = orders.get(promptId);
    const order = shown?.filter((id) => outputs.includes(id)) ?? (isReversed ? [...outputs].reverse() : outputs);
    if (order.length !== outputs.length || order.join() === outputs.join()) return step;
    // A list of entries: a plain object would put keys such as "10" in an order of its own.
    const left = [...order];
    const entries = Object.keys(prompt).map((id) => (outputs.includes(id) ? (left.shift() ?? id) : id));
    const reordered = new Map(entries.map((id) => [id, prompt[id]]));
    return { ...step, request: { ...step.request, body: { ...body, prompt: reordered } } };
  });
}

/** Queue items anywhere in a body: `[number, prompt id, prompt, extra data, outputs]`. */
function findOrders(value: unknown, orders: Map<string, readonly string[]>): void {
  if (typeof value !== 'object' || value === null) return;
  if (Array.isArray(value) && value.length === 5 && typeof value[1] === 'string' && Array.isArray(value[4]))
    orders.set(value[1], value[4] as string[]);
  for (const entry of Object.values(value)) findOrders(entry, orders);
}
