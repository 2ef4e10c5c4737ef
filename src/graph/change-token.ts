/**
 * Change tokens: what a node says about things outside of the prompt that its result depends on.
 *
 * Source: ComfyUI, execution.py, `IsChangedCache`: only literal inputs are known to it; NaN and a failure never equal.
 */
import { withoutFloatMark, type JsonObject, type JsonValue } from '../protocol/json.js';
import { asLink, literalOf } from '../protocol/prompt.js';
import type { ChangeTokens } from './result-cache.js';
import type { RunningPrompt } from './running-prompt.js';

interface Changes {
  readonly tokens: ChangeTokens;
  /** What ComfyUI writes into a node as `is_changed`, and so into the texts of saved images. */
  readonly shown: ReadonlyMap<string, JsonValue>;
}

let neverEqual = 0;

/** Asks the nodes of a prompt, or of a part of it. */
export async function askForChanges(prompt: RunningPrompt, ids: readonly string[]): Promise<Changes> {
  const tokens = new Map<string, string>();
  const shown = new Map<string, JsonValue>();
  for (const id of ids) {
    const { definition, inputs } = prompt.get(id);
    if (definition.changeToken === undefined) continue;
    const literals = Object.fromEntries(
      definition.inputs.flatMap(({ name }) => {
        const value = inputs.get(name);
        return value === undefined
          ? []
          : [[name, asLink(value) === undefined ? withoutFloatMark(literalOf(value)) : null]];
      }),
    );
    neverEqual += 1;
    tokens.set(id, `never equal ${neverEqual}`);
    try {
      const token = await definition.changeToken(literals);
      const isComparable = !(typeof token === 'number' && Number.isNaN(token));
      if (isComparable) tokens.set(id, JSON.stringify(token));
      shown.set(id, [typeof token === 'string' || (typeof token === 'number' && isComparable) ? token : null]);
    } catch {
      shown.set(id, null); // a node whose change cannot be told has changed
    }
  }
  return { tokens, shown };
}

/** A prompt with its change tokens, as nodes with the hidden input PROMPT get it. */
export function withChanges(prompt: JsonObject, shown: ReadonlyMap<string, JsonValue>): JsonObject {
  if (shown.size === 0) return prompt;
  const whole = new Map(prompt);
  for (const [id, value] of shown) {
    const node = whole.get(id);
    if (node instanceof Map) whole.set(id, new Map(node as JsonObject).set('is_changed', value));
  }
  return whole;
}
