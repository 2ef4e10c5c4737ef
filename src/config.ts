/**
 * Flags and their defaults, turned into one frozen BridgeConfig.
 *
 * The table is the only list of flags: the command line, the README's table and the checks come from it. Flags that
 * ComfyUI has keep ComfyUI's names and meaning. No environment variable is read here or needed anywhere.
 */
import * as z from 'zod';
import { InvalidRequestError } from './common/errors.js';
import { problemsOf } from './common/problems.js';
import { DEVICES } from './runtime/index.js';

const DEFAULT_PORT = 8189; // ComfyUI itself is on 8188
const DEFAULT_MAX_UPLOAD_MB = 100; // ComfyUI's --max-upload-size
const DEFAULT_IDLE_RELEASE_S = 300;
const DEFAULT_FEATURE_STORE_GB = 2;
const DEFAULT_STOP_TIMEOUT_S = 10;
const DEFAULT_MAX_QUEUE = 10_000;
const DEFAULT_MAX_HISTORY = 10_000; // ComfyUI's own limit

type FlagGroup = 'folders' | 'server' | 'engine';

export interface Flag {
  readonly group: FlagGroup;
  /** As commander and the README write it: `--port <number>`, `--listen [address]`, `--multi-user`. */
  readonly usage: string;
  readonly description: string;
  /** Shown to people; the value itself comes from the schema below. */
  readonly defaultText?: string;
}

export const FLAGS: readonly Flag[] = [
  {
    group: 'folders',
    usage: '--comfyui <folder>',
    description: 'The ComfyUI installation whose folders are read',
    defaultText: 'found by itself',
  },
  {
    group: 'folders',
    usage: '--comfyui-url <url>',
    description: 'A running ComfyUI on this machine: its own folder map and folder flags win over what the files say',
  },
  {
    group: 'folders',
    usage: '--base-directory <folder>',
    description: 'Folder of models, custom_nodes, input, output, temp and user, in place of the installation',
  },
  {
    group: 'folders',
    usage: '--extra-model-paths-config <file...>',
    description: 'Further extra_model_paths.yaml files, in order; may be repeated',
  },
  { group: 'folders', usage: '--input-directory <folder>', description: 'Input folder', defaultText: "ComfyUI's own" },
  {
    group: 'folders',
    usage: '--output-directory <folder>',
    description: 'Output folder; its checkpoints, clip, vae, loras and diffusion_models are model folders too',
    defaultText: "ComfyUI's own",
  },
  {
    group: 'folders',
    usage: '--temp-directory <folder>',
    description: 'Temp folder; one that is given is never wiped',
    defaultText: '`<data>/temp-<port>`',
  },
  {
    group: 'folders',
    usage: '--user-directory <folder>',
    description: 'Folder of settings, workflows and other files of users',
    defaultText: '`<data>/user`',
  },
  {
    group: 'folders',
    usage: '--data-directory <folder>',
    description: 'What Vision Bridge keeps for itself; may be deleted at any time while it is not running',
    defaultText: "the platform's cache folder + `/vision-bridge`",
  },
  {
    group: 'server',
    usage: '--listen [addresses]',
    description:
      'Addresses to listen on, comma-separated; without a value 0.0.0.0 and ::. Beyond loopback needs --token',
    defaultText: '127.0.0.1',
  },
  {
    group: 'server',
    usage: '--port <number>',
    description: 'TCP port; 0 takes a free one',
    defaultText: String(DEFAULT_PORT),
  },
  {
    group: 'server',
    usage: '--token <text>',
    description: 'Secret that every request must carry: "Authorization: Bearer …", or ?token= for websockets',
  },
  {
    group: 'server',
    usage: '--allowed-host <name...>',
    description: 'Host names that are accepted beside loopback names (guards against DNS rebinding)',
  },
  {
    group: 'server',
    usage: '--enable-cors-header [origin]',
    description: 'Send CORS headers for this origin and drop the origin check',
    defaultText: 'off; * without a value',
  },
  {
    group: 'server',
    usage: '--max-upload-size <megabytes>',
    description: 'Largest request body',
    defaultText: String(DEFAULT_MAX_UPLOAD_MB),
  },
  {
    group: 'server',
    usage: '--tls-keyfile <file>',
    description: 'Private key (PEM); with --tls-certfile serves HTTPS',
  },
  { group: 'server', usage: '--tls-certfile <file>', description: 'Certificate (PEM)' },
  {
    group: 'server',
    usage: '--dialect <version>',
    description: 'Version of ComfyUI whose protocol is spoken: 0.3.64, or latest',
    defaultText: '0.3.64',
  },
  {
    group: 'server',
    usage: '--front-end-root <folder>',
    description: 'A ComfyUI front end to serve',
    defaultText: 'the one of the ComfyUI that was found',
  },
  { group: 'server', usage: '--multi-user', description: 'Separate settings and files for each user' },
  {
    group: 'server',
    usage: '--enable-compress-response-body',
    description: 'Send JSON and text compressed to clients that take gzip',
  },
  {
    group: 'server',
    usage: '--max-queue <number>',
    description: 'Prompts that may wait; more are refused with BUSY',
    defaultText: String(DEFAULT_MAX_QUEUE),
  },
  {
    group: 'server',
    usage: '--max-history <number>',
    description: 'Finished prompts that are remembered; the oldest goes first',
    defaultText: String(DEFAULT_MAX_HISTORY),
  },
  {
    group: 'server',
    usage: '--persist-queue',
    description: 'Keep accepted prompts on disk: after a crash or a stop they run at the next start',
  },
  {
    group: 'server',
    usage: '--stop-timeout <seconds>',
    description: 'How long a running prompt may go on when the server is told to stop; then it is interrupted',
    defaultText: String(DEFAULT_STOP_TIMEOUT_S),
  },
  { group: 'server', usage: '--disable-metadata', description: 'Do not embed the prompt in saved images' },
  {
    group: 'server',
    usage: '--log-level <level>',
    description: 'error, warn, info or debug; logs go to stderr',
    defaultText: 'info',
  },
  {
    group: 'server',
    usage: '--idle-release <seconds>',
    description: 'End the inference process, and free its memory, after this time without work',
    defaultText: String(DEFAULT_IDLE_RELEASE_S),
  },
  {
    group: 'engine',
    usage: '--device <name>',
    description: 'Where encoders run: cpu, cuda, dml, coreml, webgpu, or auto for the first of these that works',
    defaultText: 'cpu',
  },
  {
    group: 'engine',
    usage: '--memory-budget <gigabytes>',
    description: 'What all encoders in memory may take together; the least recently used goes first',
    defaultText: "half of the machine's, which a single model may exceed",
  },
  {
    group: 'engine',
    usage: '--feature-store-size <gigabytes>',
    description: 'Bound of the features that are kept on disk; the least recently used go first',
    defaultText: String(DEFAULT_FEATURE_STORE_GB),
  },
  { group: 'engine', usage: '--no-feature-store', description: 'Keep no features' },
  {
    group: 'server',
    usage: '--hash-in-background',
    description: 'Hash all model files by and by, one at a time, while the server has nothing else to do',
    defaultText: 'only those that are asked for',
  },
];

const text = z.string().min(1);
const wholeNumber = (low: number, high: number): z.ZodType<number> => z.coerce.number().int().min(low).max(high);

const configSchema = z.object({
  comfyui: text.optional(),
  comfyuiUrl: z.url({ protocol: /^https?$/, error: 'an address such as http://127.0.0.1:8188' }).optional(),
  baseDirectory: text.optional(),
  extraModelPathsConfig: z.array(text).default([]),
  inputDirectory: text.optional(),
  outputDirectory: text.optional(),
  tempDirectory: text.optional(),
  userDirectory: text.optional(),
  dataDirectory: text.optional(),
  listen: z.union([z.literal(true).transform(() => '0.0.0.0,::'), text]).default('127.0.0.1'),
  port: wholeNumber(0, 65_535).default(DEFAULT_PORT),
  token: text.min(8, 'a token needs at least 8 characters').optional(),
  allowedHost: z.array(text).default([]),
  enableCorsHeader: z.union([z.literal(true).transform(() => '*'), text]).optional(),
  maxUploadSize: z.coerce.number().positive().max(1_000_000).default(DEFAULT_MAX_UPLOAD_MB),
  tlsKeyfile: text.optional(),
  tlsCertfile: text.optional(),
  dialect: z.enum(['0.3.64', 'latest']).default('0.3.64'),
  frontEndRoot: text.optional(),
  multiUser: z.boolean().default(false),
  enableCompressResponseBody: z.boolean().default(false),
  maxQueue: wholeNumber(1, 1_000_000).default(DEFAULT_MAX_QUEUE),
  maxHistory: wholeNumber(1, 1_000_000).default(DEFAULT_MAX_HISTORY),
  persistQueue: z.boolean().default(false),
  stopTimeout: z.coerce.number().min(0).max(86_400).default(DEFAULT_STOP_TIMEOUT_S),
  disableMetadata: z.boolean().default(false),
  logLevel: z.enum(['error', 'warn', 'info', 'debug']).default('info'),
  device: z.enum(DEVICES).default('cpu'),
  memoryBudget: z.coerce.number().positive().max(100_000).optional(),
  featureStoreSize: z.coerce.number().positive().max(50).default(DEFAULT_FEATURE_STORE_GB),
  featureStore: z.boolean().default(true),
  hashInBackground: z.boolean().default(false),
  idleRelease: z.coerce.number().min(1).max(1_000_000).default(DEFAULT_IDLE_RELEASE_S),
});

export type BridgeConfig = Readonly<z.output<typeof configSchema>>;

/**
 * Checks flag values, given under their camel-cased names as commander reports them.
 *
 * @throws {InvalidRequestError} naming every flag that is wrong, and what would be right.
 */
export function parseConfig(values: Readonly<Record<string, unknown>>): BridgeConfig {
  const parsed = configSchema.safeParse(values);
  if (!parsed.success) {
    const problems = problemsOf(parsed.error, ([name]) => flagName(name));
    throw new InvalidRequestError(problems.join('; '), { details: { problems } });
  }
  if ((parsed.data.tlsKeyfile === undefined) !== (parsed.data.tlsCertfile === undefined)) {
    throw new InvalidRequestError('--tls-keyfile and --tls-certfile belong together: give both, or neither.');
  }
  if (parsed.data.persistQueue && parsed.data.port === 0) {
    throw new InvalidRequestError('--persist-queue needs a --port of its own: by it the next start finds the queue.');
  }
  return Object.freeze(parsed.data);
}

/** Largest request body, in bytes. */
export function maxUploadBytes({ maxUploadSize }: BridgeConfig): number {
  return Math.floor(maxUploadSize * 1024 * 1024);
}

function flagName(key: PropertyKey | undefined): string {
  return `--${String(key).replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
}
