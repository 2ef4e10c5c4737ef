/** VisionBridgeGate: lets a value through when images are alike enough, and blocks what follows when they are not. */
import type { ExecutionBlocker, NodeDefinition } from '../graph/index.js';
import { compare, similarityInputs } from './similarity.js';
import { numberInput } from './values.js';

export function createGate(): NodeDefinition {
  return {
    classType: 'VisionBridgeGate',
    api: 'v3',
    displayName: 'Similarity Gate (Vision Bridge)',
    description:
      'Passes a value on when the images are similar enough. Nodes behind the other output do not run: save only what resembles the reference, or repair only what does not.',
    category: 'vision bridge',
    pythonModule: 'custom_nodes.vision-bridge',
    inputs: [
      { name: 'value', type: '*', options: { tooltip: 'Anything: an image, a latent, a model.' } },
      { name: 'features_a', type: 'CLIP_VISION_OUTPUT' },
      { name: 'features_b', type: 'CLIP_VISION_OUTPUT' },
      ...similarityInputs(),
      {
        name: 'threshold',
        type: 'FLOAT',
        options: { default: 0.8, min: -1, max: 1, step: 0.01, tooltip: 'Accept from this score on.' },
      },
    ],
    outputs: [
      { type: '*', name: 'accepted', tooltip: 'The value, when the score reaches the threshold.' },
      { type: '*', name: 'rejected', tooltip: 'The value, when it does not.' },
      { type: 'FLOAT', name: 'score' },
      { type: 'BOOLEAN', name: 'is_accepted' },
    ],
    execute(inputs) {
      const { score } = compare(inputs);
      const isAccepted = score >= numberInput(inputs, 'threshold');
      const { value } = inputs;
      // Without a message: that nothing passes is what a gate is for.
      const blocker: ExecutionBlocker = { kind: 'execution-blocker' };
      return { outputs: [isAccepted ? value : blocker, isAccepted ? blocker : value, score, isAccepted] };
    },
  };
}
