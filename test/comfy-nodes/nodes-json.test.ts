/** The pack's nodes are the server's. */
import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { describeNodes } from '../../src/nodes/index.js';
import { startTestBridge } from '../support/bridge.js';

it('comfy-nodes/nodes.json is what `vision-bridge nodes --json` prints (npm run export:nodes makes it anew)', async () => {
  await using started = await startTestBridge();
  const described: unknown = JSON.parse(JSON.stringify(await describeNodes(started.bridge.nodes)));
  expect(JSON.parse(readFileSync(new URL('../../comfy-nodes/nodes.json', import.meta.url), 'utf8'))).toEqual(described);
});
