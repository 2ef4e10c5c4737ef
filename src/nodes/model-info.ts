/** VisionBridgeModelInfo: what one model file is, as text. */
import { ModelNotFoundError } from '../common/errors.js';
import type { NodeDefinition } from '../graph/index.js';
import { modelJson } from '../library/index.js';
import { writeJson, type Jsonable } from '../protocol/json.js';
import { baseOf, MODEL_FIELDS } from '../registry/index.js';
import type { NodeServices } from './services.js';
import { textInput } from './values.js';

export function createModelInfo({ registry }: NodeServices): NodeDefinition {
  return {
    classType: 'VisionBridgeModelInfo',
    api: 'v1',
    displayName: 'Model Info',
    description:
      'What a model file is: kind, base model, LoRA rank, trigger words, training. From its header; nothing is loaded.',
    category: 'vision bridge/models',
    pythonModule: 'custom_nodes.vision-bridge',
    inputs: [
      { name: 'folder', type: 'STRING', options: { default: 'loras' } },
      { name: 'name', type: 'STRING', options: { default: '' } },
    ],
    outputs: [
      { type: 'STRING', name: 'json' },
      { type: 'STRING', name: 'kind' },
      { type: 'STRING', name: 'base_model' },
      { type: 'STRING', name: 'trigger_words' },
    ],
    isOutputNode: true,
    changeToken: () => Number.NaN,
    async execute(inputs) {
      const [folder, name] = [textInput(inputs, 'folder'), textInput(inputs, 'name').replaceAll('\\', '/')];
      await registry.refresh();
      const entry = registry.entries().find((model) => model.folder === folder && model.name === name);
      if (entry === undefined)
        throw new ModelNotFoundError(`No ${folder} model is called "${name}".`, { details: { folder, name } });
      const details = await registry.details(entry);
      const model = { ...modelJson(entry, Object.keys(MODEL_FIELDS)), details: (details ?? null) as Jsonable };
      const { row, beside } = entry;
      const outputs = [
        writeJson(model),
        row?.kind ?? '',
        baseOf(entry) ?? '',
        (details?.facts?.triggerWords ?? beside?.claims.triggerWords ?? []).join(', '),
      ];
      return { outputs, ui: { text: [outputs[0] ?? ''] } };
    },
  };
}
