/** What whoever runs the server reads of prompts. */
import { expect, it } from 'vitest';
import { silentLogger, type Logger } from '../../../src/common/logger.js';
import { node, startQueue } from '../../support/graph.js';

it('says which prompts ended well, which failed and why, and which were refused', async () => {
  const lines: [level: string, message: unknown, fields: unknown][] = [];
  const logger: Logger = {
    ...silentLogger,
    info: (fields: unknown, message?: unknown) => lines.push(['info', message, fields]),
    warn: (fields: unknown, message?: unknown) => lines.push(['warn', message, fields]),
  };
  const table = ['Good', 'Bad'].map((classType) =>
    node({
      classType,
      isOutputNode: true,
      execute() {
        if (classType === 'Bad') throw new Error('the disk is full');
        return { outputs: [] };
      },
    }),
  );
  await using started = startQueue(table, { logger });
  await started.run({ 1: { class_type: 'Good', inputs: {} } });
  await started.run({ 7: { class_type: 'Bad', inputs: {} } });
  await started.submit({ 1: { class_type: 'Ugly', inputs: {} } });
  expect(lines.map(([level, message]) => `${level}: ${String(message)}`)).toEqual([
    'info: got prompt',
    'info: prompt executed',
    'info: got prompt',
    'warn: prompt failed',
    'warn: prompt refused',
  ]);
  expect(lines[3]?.[2]).toMatchObject({ node: '7', nodeType: 'Bad', message: 'the disk is full' });
  expect(lines[4]?.[2]).toMatchObject({ type: 'invalid_prompt' });
});
