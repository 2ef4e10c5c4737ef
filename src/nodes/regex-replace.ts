/** RegexReplace: Python's `re.sub` on a text. Source: ComfyUI, comfy_extras/nodes_string.py. */
import { runInNewContext } from 'node:vm';
import { PythonError, type NodeDefinition, type NodeInputs } from '../graph/index.js';
import { expandTemplate, translatePattern } from './python-regex.js';
import { flagInput, numberInput, textInput } from './values.js';

/** A pattern that backtracks without end is stopped: it would hold the server's thread. */
const TIME_LIMIT_MS = 250;

export function createRegexReplace(): NodeDefinition {
  const text = (name: string): NodeDefinition['inputs'][number] => ({
    name,
    type: 'STRING',
    options: { multiline: true },
  });
  const flag = (name: string, preset: boolean, tooltip?: string): NodeDefinition['inputs'][number] => ({
    name,
    type: 'BOOLEAN',
    optional: true,
    options: { ...(tooltip === undefined ? {} : { tooltip }), default: preset },
  });
  return {
    classType: 'RegexReplace',
    api: 'v3',
    displayName: 'Regex Replace',
    description: 'Replaces what a regular expression finds in a text.',
    category: 'utils/string',
    pythonModule: 'comfy_extras.nodes_string',
    inputs: [
      text('string'),
      text('regex_pattern'),
      text('replace'),
      flag('case_insensitive', true),
      flag('multiline', false),
      flag('dotall', false, 'Whether the dot matches line breaks too.'),
      {
        name: 'count',
        type: 'INT',
        optional: true,
        options: { tooltip: 'How many to replace; 0 replaces all.', default: 0, min: 0, max: 100 },
      },
    ],
    outputs: [{ type: 'STRING' }],
    execute: (inputs) => ({ outputs: [substitute(inputs)] }),
  };
}

function substitute(inputs: NodeInputs): string {
  const pattern = translatePattern(textInput(inputs, 'regex_pattern'), {
    ignoreCase: flagInput(inputs, 'case_insensitive', true),
    multiline: flagInput(inputs, 'multiline', false),
    dotAll: flagInput(inputs, 'dotall', false),
  });
  const source = textInput(inputs, 'string');
  const template = textInput(inputs, 'replace');
  const count = inputs['count'] === undefined ? 0 : numberInput(inputs, 'count');
  let out = '';
  let end = 0;
  for (const match of findAll(pattern, source).slice(0, count === 0 ? undefined : count)) {
    out += source.slice(end, match.index) + expandTemplate(template, match);
    end = match.index + match[0].length;
  }
  return out + source.slice(end);
}

/** All matches; only inside a context of its own can a search be stopped. */
function findAll(pattern: RegExp, source: string): RegExpExecArray[] {
  try {
    return runInNewContext(
      '[...source.matchAll(pattern)]',
      { source, pattern },
      { timeout: TIME_LIMIT_MS },
    ) as RegExpExecArray[];
  } catch (error) {
    // The error belongs to the other context: it is no instance of our Error.
    if (
      typeof error === 'object' &&
      error !== null &&
      'code' in error &&
      error.code === 'ERR_SCRIPT_EXECUTION_TIMEOUT'
    ) {
      throw new PythonError('TimeoutError', `The pattern takes longer than ${TIME_LIMIT_MS} ms on this text.`);
    }
    throw error;
  }
}
