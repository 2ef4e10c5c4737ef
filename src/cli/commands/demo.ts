/** `vision-bridge demo`: the main job, start to end, on a machine with no models. */
import { Command } from 'commander';
import * as z from 'zod';
import { createBridge } from '../../bridge.js';
import { parseConfig } from '../../config.js';
import { parseSafetensors } from '../../formats/index.js';
import { startServer } from '../../server/index.js';
import { ComfyClient, type ComfyEvent } from '../demo/client.js';
import { createDemoTree } from '../demo/tree.js';
import { encodeWorkflow } from '../demo/workflow.js';
import { createLogger } from '../logger.js';
import { formatBytes, printLine } from '../output.js';
import { printTable } from '../table.js';

const historySchema = z.record(
  z.string(),
  z.object({
    outputs: z.record(
      z.string(),
      z.object({
        features: z.array(z.object({ filename: z.string(), subfolder: z.string(), type: z.string() })).optional(),
      }),
    ),
  }),
);

export function demoCommand(): Command {
  return new Command('demo')
    .description('encode a picture over the protocol of ComfyUI, with small models made for it')
    .action(runDemo);
}

async function runDemo(): Promise<void> {
  const started = performance.now();
  await using tree = await createDemoTree();
  printLine(`A throw-away ComfyUI tree in ${tree.root}, with ${tree.models.join(' and ')}`);
  const config = parseConfig({ comfyui: tree.root, dataDirectory: tree.dataDirectory, port: 0 });
  await using bridge = await createBridge(config, createLogger('warn'));
  await using server = await startServer(bridge);
  printLine(`Vision Bridge listens on ${server.url}\n`);

  await using client = await ComfyClient.connect(server.url);
  const image = await client.uploadImage('demo.png', tree.picture);
  printLine(`POST /upload/image     ${image}`);
  for (const model of tree.models) {
    printLine(
      `POST /prompt           LoadImage → CLIPVisionLoader (${model}) → CLIPVisionEncode → Save Features, Preview Image`,
    );
    const promptId = await client.run(encodeWorkflow(image, model), printEvent);
    await printFeatures(client, promptId);
  }

  printLine('Model statistics, from headers alone');
  await bridge.registry.scan();
  const rows = bridge.registry
    .entries()
    .map(({ name, row, sizeBytes }) => [name, row?.kind, row?.encoder, row?.dtype, formatBytes(sizeBytes)]);
  printTable(
    ['name', 'kind', 'encoder', 'dtype', 'size'],
    rows.map((row) => row.map((cell) => cell ?? 'unknown')),
  );
  printLine(`\nDone in ${((performance.now() - started) / 1000).toFixed(1)} s; everything is cleaned up.`);
}

function printEvent({ type, data }: ComfyEvent): void {
  const shown =
    type === 'executing'
      ? `node ${String(data['node'])}`
      : type === 'executed'
        ? `node ${String(data['node'])}: ${JSON.stringify(data['output'])}`
        : '';
  if (type !== 'progress_state') printLine(`  websocket            ${`${type} ${shown}`.trim()}`);
}

async function printFeatures(client: ComfyClient, promptId: string): Promise<void> {
  const entry = historySchema.parse(await client.history(promptId))[promptId];
  for (const file of Object.values(entry?.outputs ?? {}).flatMap(({ features }) => features ?? [])) {
    const { tensors } = parseSafetensors(await client.view(file), file.filename);
    printLine(`GET /view              ${file.filename}`);
    for (const [name, tensor] of tensors) {
      if (tensor.dtype !== 'F32') continue;
      const { shape, data } = tensor;
      const first = Array.from(data.subarray(0, 4), (value) => value.toFixed(4)).join('  ');
      printLine(`  ${name.padEnd(26)} [${shape.join(', ')}]`.padEnd(48) + first);
    }
    printLine();
  }
}
