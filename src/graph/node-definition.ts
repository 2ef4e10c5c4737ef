/**
 * What a node is to the executor: data and functions, no knowledge of models or pictures.
 *
 * `nodes/` defines nodes in this form, `graph/` validates and runs them, object_info is rendered from it. Values that
 * travel along links: IMAGE is an f32 tensor `[B, H, W, C]` in 0..1, MASK f32 `[B, H, W]`, INT a number or, beyond
 * 2^53, a bigint; other types are opaque here.
 */
import type { Jsonable, JsonableObject, JsonObject } from '../protocol/json.js';

/** Models of a folder, or files of the input and output folders; `before` comes first and is no file. */
type ChoiceSource =
  | { readonly kind: 'models'; readonly folder: string; readonly before?: readonly string[] }
  | { readonly kind: 'feature-files' | 'embeds-files' | 'ipadapters' }
  | { readonly kind: 'face-packs'; readonly before?: readonly string[] };

export interface InputDefinition {
  readonly name: string;
  /** Type string; `COMBO` for a list of choices; a comma-separated union; `*` for any. */
  readonly type: string;
  readonly optional?: boolean;
  /** Choices of a COMBO, asked afresh for each object_info and each validation. */
  readonly choices?: () => readonly string[] | Promise<readonly string[]>;
  /** Where the choices are files: what a host that lists them itself shall list. */
  readonly choicesFrom?: ChoiceSource;
  /** Option object as object_info shows it (`default`, `min`, `max`, `tooltip`, `lazy`, `forceInput` …). */
  readonly options?: JsonableObject;
}

type HiddenKind = 'PROMPT' | 'EXTRA_PNGINFO' | 'UNIQUE_ID' | 'DYNPROMPT';

interface OutputDefinition {
  readonly type: string;
  readonly name?: string;
  readonly isList?: boolean;
  readonly tooltip?: string;
}

/** Literal and linked inputs by name, already validated and converted; absent optional inputs are missing. */
export type NodeInputs = Readonly<Record<string, unknown>>;

export interface PreviewImage {
  readonly format: 'jpeg' | 'png';
  /** Encoded image, already scaled to at most the size that the node wants shown. */
  readonly bytes: Uint8Array;
}

export interface NodeContext {
  readonly promptId: string;
  readonly nodeId: string;
  /** The prompt as ComfyUI hands it to nodes with the hidden input PROMPT: with the change tokens of its nodes. */
  readonly prompt: JsonObject;
  readonly extraPngInfo: JsonObject | undefined;
  /** Prefix that makes ids of an expanded subgraph unique: `<node id>.<call index>.0.`. */
  readonly expansionPrefix: string;
  /** Kept per node id and class over consecutive prompts, as ComfyUI keeps node instances. */
  readonly state: Map<string, unknown>;
  /** Fires on interrupt; a node that waits passes it on. */
  readonly signal: AbortSignal;
  /** Progress and an optional preview; throws when the prompt was interrupted, as ComfyUI's does. */
  readonly reportProgress: (value: number, max: number, preview?: PreviewImage) => void;
  /** Before each part of long work; throws when the prompt was interrupted. */
  readonly throwIfInterrupted: () => void;
  /** Text for the node in the front end (binary frame of type 3). */
  readonly sendText: (text: string) => void;
}

/** Emitted instead of a value: nodes downstream are not called. With a message, the client is told. */
export interface ExecutionBlocker {
  readonly kind: 'execution-blocker';
  readonly message?: string;
}

export interface NodeResult {
  /** One value per output; a list for outputs with `isList`; a blocker in place of any value. */
  readonly outputs?: readonly unknown[];
  /** What `executed` and the history show: every value a list. */
  readonly ui?: Readonly<Record<string, readonly Jsonable[]>>;
  /** A subgraph to run in this node's place, built with `context.graph`; links in `outputs` are `[id, slot]`. */
  readonly expand?: JsonObject;
}

interface NodeValidator {
  /** Inputs that the validator takes over: their min, max and choices are not checked by the executor. */
  readonly names: readonly string[];
  /** The validator checks the types of links itself. */
  readonly takesInputTypes?: boolean;
  /** `true`, or what is wrong: `false` without words. Linked inputs are null. */
  check(inputs: NodeInputs): boolean | string | Promise<boolean | string>;
}

export interface NodeDefinition {
  readonly classType: string;
  /** Which of ComfyUI's two forms object_info takes for this node. */
  readonly api: 'v1' | 'v3';
  readonly displayName?: string;
  readonly description?: string;
  readonly category: string;
  /** `python_module` of object_info: where ComfyUI has the node, or `custom_nodes.vision-bridge`. */
  readonly pythonModule: string;
  readonly inputs: readonly InputDefinition[];
  /** Hidden inputs, by the name under which the node's `execute` and object_info know them. */
  readonly hidden?: Readonly<Record<string, HiddenKind>>;
  readonly outputs: readonly OutputDefinition[];
  readonly isOutputNode?: boolean;
  /** Runs beside other nodes: while it waits, nodes that do not need it go on. */
  readonly isAsync?: boolean;
  /** Called once with every input as a list, instead of once per element. */
  readonly takesLists?: boolean;
  /** Declared not idempotent: the node id is part of the cache key. */
  readonly notIdempotent?: boolean;
  readonly isDeprecated?: boolean;
  readonly isExperimental?: boolean;
  readonly validator?: NodeValidator;
  /** ComfyUI's IS_CHANGED / fingerprint_inputs. NaN or a rejection means: never cached. Linked inputs are null. */
  changeToken?(inputs: NodeInputs): unknown;
  /** For lazy inputs: the names still needed, given what is known (null for the rest). */
  neededLazyInputs?(inputs: NodeInputs): readonly string[] | Promise<readonly string[]>;
  execute(inputs: NodeInputs, context: NodeContext): NodeResult | Promise<NodeResult>;
}
