/**
 * The pack in a real ComfyUI on the CPU, beside a real server. Runs where COMFYUI_CHECKOUT names a checkout and
 * VISION_BRIDGE_TEST_PYTHON a Python that can start it; nothing of ComfyUI is in this repository.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { cp, mkdir, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { createServer, type AddressInfo } from 'node:net';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startTestBridge, type TestBridge } from '../support/bridge.js';

const PACK = fileURLToPath(new URL('../../comfy-nodes', import.meta.url));
const checkout = process.env['COMFYUI_CHECKOUT'];
const python = process.env['VISION_BRIDGE_TEST_PYTHON'] ?? 'python3';
const START_WAIT_MS = 180_000;
const RUN_WAIT_MS = 60_000;

interface Link {
  readonly 0: number;
  readonly 1: number;
  readonly 2: number;
}
interface Workflow {
  readonly links: readonly Link[];
  readonly nodes: readonly {
    readonly id: number;
    readonly type: string;
    readonly inputs: readonly { readonly name: string; readonly link: number | null }[];
    readonly widgets_values: readonly unknown[];
  }[];
}
type Sockets = Readonly<Record<string, readonly unknown[]>>;
type ObjectInfo = Readonly<
  Record<string, { readonly input: { readonly required?: Sockets; readonly optional?: Sockets } }>
>;
type Prompt = Record<string, { class_type: string; inputs: Record<string, unknown> }>;

/** What the front end sends for a workflow. */
function toPrompt({ nodes, links }: Workflow, info: ObjectInfo): Prompt {
  const prompt: Prompt = {};
  for (const { id, type, inputs: sockets, widgets_values: values } of nodes) {
    const inputs: Record<string, unknown> = {};
    for (const { name, link: linkId } of sockets) {
      const link = links.find((candidate) => candidate[0] === linkId);
      if (link !== undefined) inputs[name] = [String(link[1]), link[2]];
    }
    const left = [...values];
    const { required = {}, optional = {} } = info[type]?.input ?? {};
    for (const [name, [kind]] of Object.entries({ ...required, ...optional })) {
      const isWidget = Array.isArray(kind) || ['COMBO', 'INT', 'FLOAT', 'STRING', 'BOOLEAN'].includes(String(kind));
      if (isWidget && !(name in inputs) && left.length > 0) inputs[name] = left.shift();
    }
    prompt[id] = { class_type: type, inputs };
  }
  return prompt;
}

interface Status {
  readonly status_str: string;
  readonly messages: readonly [string, Record<string, unknown>][];
}

class ComfyUI implements AsyncDisposable {
  log = '';
  readonly #child;
  readonly #url;

  private constructor(child: ReturnType<typeof spawn>, url: string) {
    this.#child = child;
    this.#url = url;
    for (const stream of [child.stdout, child.stderr])
      stream?.on('data', (data: Buffer) => (this.log += data.toString()));
  }

  static async start(root: string): Promise<ComfyUI> {
    const probe = createServer().listen(0, '127.0.0.1');
    await once(probe, 'listening');
    const { port } = probe.address() as AddressInfo;
    await new Promise((resolve) => probe.close(resolve));
    const flags = ['--cpu', '--disable-api-nodes', '--front-end-root', join(root, 'web'), '--base-directory', root];
    const child = spawn(python, ['main.py', '--port', String(port), ...flags], {
      cwd: checkout,
      env: { ...process.env, PYTHONDONTWRITEBYTECODE: '1' },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    const comfyUI = new ComfyUI(child, `http://127.0.0.1:${port}`);
    const end = Date.now() + START_WAIT_MS;
    while ((await comfyUI.get('/system_stats').catch(() => undefined)) === undefined) {
      if (Date.now() > end || child.exitCode !== null) throw new Error(`ComfyUI did not start:\n${comfyUI.log}`);
      await new Promise((resolve) => setTimeout(resolve, 200));
    }
    return comfyUI;
  }

  async get<T>(path: string): Promise<T> {
    return (await (await fetch(this.#url + path)).json()) as T;
  }

  async post(path: string, body: object): Promise<Response> {
    return fetch(this.#url + path, {
      method: 'POST',
      body: JSON.stringify(body),
      headers: { 'content-type': 'application/json' },
    });
  }

  async queue(prompt: Prompt): Promise<string> {
    const response = await this.post('/prompt', { prompt });
    const answer = (await response.json()) as { prompt_id: string };
    expect(response.status, JSON.stringify(answer)).toBe(200);
    return answer.prompt_id;
  }

  /** How a prompt ended. */
  async wait(id: string): Promise<Status> {
    const end = Date.now() + RUN_WAIT_MS;
    for (;;) {
      const history = await this.get<Record<string, { status: Status }>>(`/history/${id}`);
      const entry = history[id];
      if (entry !== undefined) return entry.status;
      if (Date.now() > end) throw new Error(`the prompt does not end:\n${this.log.slice(-3000)}`);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }

  async run(prompt: Prompt): Promise<Status> {
    return this.wait(await this.queue(prompt));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#child.exitCode !== null) return;
    const exited = once(this.#child, 'exit');
    this.#child.kill('SIGKILL');
    await exited;
  }
}

if (checkout === undefined) console.log('The pack is not tried in a real ComfyUI: COMFYUI_CHECKOUT names no checkout.');

describe.skipIf(checkout === undefined)('in a real ComfyUI', () => {
  let bridge: TestBridge;
  let root = '';
  let workflows: string[] = [];

  beforeAll(async () => {
    // Equal pictures are then run again and again, so that there is something to interrupt.
    bridge = await startTestBridge({ featureStore: false });
    ({ root } = bridge.tree);
    const models = join(root, 'models', 'clip_vision');
    const encoder = await readFile(join(models, 'CLIP-ViT-H-demo.safetensors'));
    await writeFile(join(models, 'clip_vision_h.safetensors'), encoder);
    await writeFile(join(models, 'cut.safetensors'), encoder.subarray(0, encoder.length - 100));
    await writeFile(join(root, 'input', 'example.png'), bridge.tree.picture);
    await mkdir(join(root, 'custom_nodes'), { recursive: true });
    await mkdir(join(root, 'web'), { recursive: true });
    await writeFile(join(root, 'web', 'index.html'), '');
    await mkdir(join(root, 'user', 'default'), { recursive: true });
    const settings = { 'VisionBridge.Address': bridge.url };
    await writeFile(join(root, 'user', 'default', 'comfy.settings.json'), JSON.stringify(settings));
    workflows = (await readdir(join(PACK, 'example_workflows'))).filter((name) => name.endsWith('.json'));
  });
  afterAll(() => bridge[Symbol.asyncDispose]());

  const served = async (): Promise<string[]> => {
    const { nodes } = JSON.parse(await readFile(join(PACK, 'nodes.json'), 'utf8')) as {
      nodes: { class_type: string }[];
    };
    return nodes.map(({ class_type: name }) => name);
  };

  /** It loaded, quickly and without a complaint, and every node is there. */
  async function expectLoaded(comfyUI: ComfyUI, folder: string): Promise<void> {
    const complaints = comfyUI.log
      .split('\n')
      .filter((line) => /warn|fail|error|traceback/i.test(line) && /vision|bridge|custom_nodes|import/i.test(line));
    expect(complaints).toEqual([]);
    const seconds = comfyUI.log.split('\n').find((line) => line.includes(' seconds: ') && line.includes(folder));
    console.log(`ComfyUI says of the pack: ${seconds?.trim() ?? 'nothing'}`);
    const info = await comfyUI.get<ObjectInfo>('/object_info');
    for (const name of [...(await served()), 'VisionBridgeCLIPVisionLoader', 'VisionBridgeIPAdapterApply'])
      expect(Object.keys(info)).toContain(name);
  }

  it(
    '[comfyui] a link of another name loads as well as a copy',
    async () => {
      const link = join(root, 'custom_nodes', 'any name-1.0');
      await symlink(PACK, link);
      {
        await using comfyUI = await ComfyUI.start(root);
        await expectLoaded(comfyUI, 'any name-1.0');
      }
      await rm(link);
    },
    START_WAIT_MS + RUN_WAIT_MS,
  );

  it(
    '[comfyui] runs every example, tells errors on the node, is interrupted, and goes on after /free',
    async () => {
      await cp(PACK, join(root, 'custom_nodes', 'vision-bridge'), { recursive: true });
      await using comfyUI = await ComfyUI.start(root);
      await expectLoaded(comfyUI, 'vision-bridge');
      const info = await comfyUI.get<ObjectInfo>('/object_info');
      const promptOf = async (file: string): Promise<Prompt> =>
        toPrompt(JSON.parse(await readFile(join(PACK, 'example_workflows', file), 'utf8')) as Workflow, info);
      for (const file of workflows) {
        const { status_str: status, messages } = await comfyUI.run(await promptOf(file));
        expect(status, `${file}: ${JSON.stringify(messages)}`).toBe('success');
      }
      const saved = (await readdir(join(root, 'output'))).filter((name) => name.startsWith('features'));
      expect(saved).toHaveLength(1);

      const encode = (model: string, images: Prompt[string], crop = 'center'): Prompt => ({
        1: images,
        2: { class_type: 'VisionBridgeCLIPVisionLoader', inputs: { clip_name: model, precision: 'comfy' } },
        3: { class_type: 'CLIPVisionEncode', inputs: { clip_vision: ['2', 0], image: ['1', 0], crop } },
        4: { class_type: 'VisionBridgeSaveFeatures', inputs: { features: ['3', 0], filename_prefix: 'again' } },
      });
      const picture = { class_type: 'LoadImage', inputs: { image: 'example.png' } };
      const failed = await comfyUI.run(encode('cut.safetensors', picture));
      const [, error] = failed.messages.find(([type]) => type === 'execution_error') ?? [];
      expect(error).toMatchObject({ node_id: '2', node_type: 'VisionBridgeCLIPVisionLoader' });
      expect(error?.['exception_message']).toMatch(/Vision Bridge \[SAFETENSORS_INVALID\]: .*truncated download/s);

      const many = { class_type: 'EmptyImage', inputs: { width: 64, height: 64, batch_size: 256, color: 1234 } };
      const long = await comfyUI.queue(encode('clip_vision_h.safetensors', many));
      const pending = async (): Promise<number> => {
        const health = await fetch(`${bridge.url}/bridge/v1/health`);
        return ((await health.json()) as { inference: { pending: number } }).inference.pending;
      };
      while ((await pending()) === 0) await new Promise((resolve) => setTimeout(resolve, 5));
      await comfyUI.post('/interrupt', {});
      const interrupted = await comfyUI.wait(long);
      expect(interrupted.messages.map(([type]) => type)).toContain('execution_interrupted');
      await expect.poll(pending, { timeout: 5000 }).toBe(0);

      expect((await comfyUI.post('/free', { unload_models: true, free_memory: true })).status).toBe(200);
      const after = await comfyUI.run(encode('clip_vision_h.safetensors', picture, 'none'));
      expect(after.status_str, JSON.stringify(after.messages)).toBe('success');
    },
    START_WAIT_MS + 4 * RUN_WAIT_MS,
  );
});
