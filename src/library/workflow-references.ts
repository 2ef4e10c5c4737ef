/**
 * Model references of a workflow: in the form of the user interface, in the API form, with subgraphs, and as pictures
 * carry them. What is not known by its input's name is told by its ending.
 */
import { InvalidRequestError } from '../common/errors.js';
import { isJsonObject, type JsonObject, type JsonValue } from '../protocol/json.js';

export interface ModelReference {
  readonly nodeId: string;
  readonly nodeType: string;
  /** Where the name stands, as keys and indices from the top. */
  readonly place: readonly (string | number)[];
  /** As the workflow writes it. */
  readonly name: string;
  /** Folder name that the node looks in; undefined where the node is unknown. */
  readonly folder: string | undefined;
}

const ENDINGS = /\.(?:safetensors|sft|ckpt|pt2?|pth|bin|pkl|gguf|onnx)$/i;
const EMBEDDING = /embedding:([^\s,;:()[\]{}|]+)/g;
const MAX_REFERENCES = 10_000;

/** Folder names by the name of the input. */
const INPUT_FOLDERS: Readonly<Record<string, string>> = {
  ckpt_name: 'checkpoints',
  lora_name: 'loras',
  vae_name: 'vae',
  unet_name: 'diffusion_models',
  clip_name: 'text_encoders',
  clip_name1: 'text_encoders',
  clip_name2: 'text_encoders',
  clip_name3: 'text_encoders',
  clip_name4: 'text_encoders',
  text_encoder: 'text_encoders',
  control_net_name: 'controlnet',
  style_model_name: 'style_models',
  gligen_name: 'gligen',
  hypernetwork_name: 'hypernetworks',
  photomaker_model_name: 'photomaker',
  audio_encoder_name: 'audio_encoders',
  ipadapter_file: 'ipadapter',
};

/** Folder names by the class of the node, where the input's name does not tell, or for the form without input names. */
const NODE_FOLDERS: readonly (readonly [type: RegExp, folder: string])[] = [
  [/clip.?vision.*load/i, 'clip_vision'],
  [/checkpoint.*load|load.*checkpoint/i, 'checkpoints'],
  [/lora/i, 'loras'],
  [/vae.*load/i, 'vae'],
  [/unet.*load|diffusion.*model.*load/i, 'diffusion_models'],
  [/clip.*load|text.?encoder.*load/i, 'text_encoders'],
  [/control.?net.*load/i, 'controlnet'],
  [/style.?model.*load/i, 'style_models'],
  [/upscale.*model.*load/i, 'upscale_models'],
  [/ip.?adapter.*load/i, 'ipadapter'],
  [/gligen.*load/i, 'gligen'],
  [/hypernetwork.*load/i, 'hypernetworks'],
  [/photomaker.*load/i, 'photomaker'],
];

function folderOf(nodeType: string, input: string | undefined): string | undefined {
  const byNode = NODE_FOLDERS.find(([pattern]) => pattern.test(nodeType))?.[1];
  if (byNode === 'clip_vision') return byNode;
  return (input === undefined ? undefined : INPUT_FOLDERS[input.toLowerCase()]) ?? byNode;
}

/**
 * All references of a workflow, each with its place.
 *
 * @throws {InvalidRequestError} when it is neither form.
 */
export function findReferences(workflow: JsonValue): ModelReference[] {
  if (!isJsonObject(workflow)) throw new InvalidRequestError('The workflow is not a JSON object.');
  const found: ModelReference[] = [];
  if (Array.isArray(workflow.get('nodes'))) {
    readNodes(workflow, [], found);
    const definitions = workflow.get('definitions');
    const subgraphs = isJsonObject(definitions) ? definitions.get('subgraphs') : undefined;
    for (const [i, subgraph] of (Array.isArray(subgraphs) ? subgraphs : []).entries()) {
      if (isJsonObject(subgraph as JsonValue))
        readNodes(subgraph as JsonObject, ['definitions', 'subgraphs', i], found);
    }
    return found;
  }
  // A request to /prompt wraps the graph.
  const wrapped = workflow.get('prompt');
  const [graph, place] = isJsonObject(wrapped) && isApiForm(wrapped) ? [wrapped, ['prompt']] : [workflow, []];
  if (!isApiForm(graph))
    throw new InvalidRequestError('This is no workflow: neither "nodes" nor entries with a "class_type" are in it.');
  for (const [id, node] of graph) {
    if (!isJsonObject(node)) continue;
    const [type, inputs] = [node.get('class_type'), node.get('inputs')];
    if (typeof type !== 'string' || !isJsonObject(inputs)) continue;
    for (const [input, value] of inputs) {
      readValue(
        value,
        { nodeId: id, nodeType: type, folder: folderOf(type, input) },
        [...place, id, 'inputs', input],
        found,
      );
    }
  }
  return found;
}

/** Whether it has either form. */
export function isWorkflow(value: JsonValue): boolean {
  if (!isJsonObject(value)) return false;
  const wrapped = value.get('prompt');
  return Array.isArray(value.get('nodes')) || isApiForm(value) || (isJsonObject(wrapped) && isApiForm(wrapped));
}

function isApiForm(graph: JsonObject): boolean {
  for (const node of graph.values()) if (isJsonObject(node) && typeof node.get('class_type') === 'string') return true;
  return false;
}

function readNodes(graph: JsonObject, place: readonly (string | number)[], found: ModelReference[]): void {
  const nodes = graph.get('nodes');
  for (const [i, node] of (Array.isArray(nodes) ? (nodes as readonly JsonValue[]) : []).entries()) {
    if (!isJsonObject(node)) continue;
    const [type, id, values] = [node.get('type'), node.get('id'), node.get('widgets_values')];
    if (typeof type !== 'string') continue;
    const about = { nodeId: typeof id === 'string' || typeof id === 'number' ? String(id) : String(i), nodeType: type };
    const at = [...place, 'nodes', i, 'widgets_values'];
    const entries: [string | number, JsonValue][] = Array.isArray(values)
      ? [...(values as readonly JsonValue[]).entries()]
      : isJsonObject(values)
        ? [...values]
        : [];
    for (const [key, value] of entries) {
      const folder = folderOf(type, typeof key === 'string' ? key : undefined);
      readValue(value, { ...about, folder }, [...at, key], found);
    }
  }
}

type About = Pick<ModelReference, 'nodeId' | 'nodeType' | 'folder'>;

/** A name of a model, a prompt that names embeddings, or an object of a node that keeps several (power loaders). */
function readValue(value: JsonValue, about: About, place: readonly (string | number)[], found: ModelReference[]): void {
  if (found.length >= MAX_REFERENCES) return;
  if (typeof value === 'string') {
    if (ENDINGS.test(value.trim())) found.push({ ...about, place, name: value });
    else
      for (const match of value.matchAll(EMBEDDING))
        found.push({ ...about, place, name: match[1] ?? '', folder: 'embeddings' });
    return;
  }
  if (isJsonObject(value) && place.length < 12) {
    for (const [key, entry] of value)
      readValue(entry, { ...about, folder: folderOf(about.nodeType, key) ?? about.folder }, [...place, key], found);
  }
}

/** A copy with other texts at some places. */
export function replaceTexts(
  value: JsonValue,
  replacements: ReadonlyMap<string, (text: string) => string>,
  place: readonly (string | number)[] = [],
): JsonValue {
  if (typeof value === 'string') return replacements.get(placeKey(place))?.(value) ?? value;
  if (isJsonObject(value)) {
    return new Map([...value].map(([key, entry]) => [key, replaceTexts(entry, replacements, [...place, key])]));
  }
  if (Array.isArray(value)) {
    return (value as readonly JsonValue[]).map((entry, i) => replaceTexts(entry, replacements, [...place, i]));
  }
  return value;
}

export function placeKey(place: readonly (string | number)[]): string {
  return JSON.stringify(place);
}
