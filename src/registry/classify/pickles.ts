/** PyTorch files: their tensors, and what Python would import if somebody loaded them. Nothing is executed. */
import { TensorTable, type PickleInspection } from '../../formats/index.js';
import type { ModelReading, PickleFacts } from '../read-model.js';
import { joinFacts, readMetadataFacts } from './metadata.js';
import { classifyTable } from './table.js';

export function describePickle({ container, imports, tensors, metadata, problem }: PickleInspection): ModelReading {
  const verdict = verdictOf(imports, problem !== undefined);
  const entries = tensors.map((tensor) => ({ ...tensor, offset: 0 }));
  const dangerous = imports.flatMap(({ name, verdict: judged }) => (judged === 'dangerous' ? name : []));
  const isReadable = problem === undefined || tensors.length > 0;
  return {
    status: problem === undefined ? 'ok' : /truncated|ends/.test(problem) ? 'incomplete' : 'invalid',
    format: container === 'zip' ? 'pickle-zip' : 'pickle-legacy',
    ...(problem === undefined ? {} : { problem }),
    pickle: {
      globals: imports.map(({ name }) => name),
      verdict,
      ...(dangerous.length === 0 ? {} : { dangerous }),
    },
    ...(isReadable
      ? { facts: joinFacts(classifyTable(TensorTable.fromEntries(entries)), readMetadataFacts(metadata)) }
      : {}),
  };
}

function verdictOf(imports: PickleInspection['imports'], isBroken: boolean): PickleFacts['verdict'] {
  if (imports.some(({ verdict }) => verdict === 'dangerous')) return 'dangerous';
  return isBroken || imports.some(({ verdict }) => verdict === 'unknown') ? 'unknown' : 'safe';
}
