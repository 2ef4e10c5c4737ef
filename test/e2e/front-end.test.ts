/** A front end that `--front-end-root` names, in a real browser: its start, a graph built by hand, a run, the pictures. */
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startTestBridge, type TestBridge } from '../support/bridge.js';
import { findChromium, openPage, type Page } from '../support/chromium.js';

const chromium = findChromium();
if (chromium === undefined) console.log('The tests of front ends are skipped: no Chromium is installed.');

const FRONT_END = new URL('../support/front-end/', import.meta.url).pathname;
const PICTURES = resolve('.test-results', 'front-end');
const WIDTH = 1280;
const HEIGHT = 900;

const MODEL_FOLDERS = '[{folders: [string], name: string}]';
const SYSTEM =
  '{argv: [string], comfyui_version: string, embedded_python: boolean, installed_templates_version: null, os: string, ' +
  'python_version: string, pytorch_version: string, ram_free: number, ram_total: number, ' +
  'required_frontend_version: string, required_templates_version: string}';
const DEVICE =
  '{index: null, name: string, torch_vram_free: number, torch_vram_total: number, type: string, vram_free: number, vram_total: number}';

/**
 * Status and shape of what front end 1.27.10 is answered at its start by ComfyUI 0.3.64, recorded with the network view of a
 * browser; but for the templates, whose package was absent there, and what 1.44.17 asks beside it, which are our own answers.
 */
const ANSWERS: Readonly<Record<string, readonly [status: number, shape: string]>> = {
  'GET api/system_stats': [200, `{devices: [${DEVICE}], system: ${SYSTEM}}`],
  'GET api/users': [200, '{migrated: boolean, storage: string}'],
  'GET api/i18n': [200, '{}'],
  'GET api/settings': [200, '{}'],
  'POST api/settings/Comfy.InstalledVersion': [200, 'string'],
  'GET api/userdata?dir=workflows&recurse=true&split=false&full_info=true': [404, 'string'],
  'GET api/userdata?dir=subgraphs%2F&recurse=true&split=false&full_info=true': [404, 'string'],
  'GET api/extensions': [200, '[string]'],
  'GET api/queue': [200, '{queue_pending: [], queue_running: []}'],
  'GET api/history?max_items=64': [200, '{}'],
  'GET api/userdata/comfy.templates.json': [404, 'string'],
  'GET api/workflow_templates': [200, '{}'],
  'GET api/experiment/models': [200, MODEL_FOLDERS],
  'GET api/embeddings': [200, '[]'],
  'GET internal/logs': [200, 'string'],
  'GET internal/logs/raw': [200, '{entries: [{m: string, t: string}], size: {cols: number, rows: number}}'],
  'PATCH internal/logs/subscribe': [200, 'string'],
  // ComfyUI without its package of templates: 404; see routes/front-end.ts.
  'GET templates/index.json': [200, '[]'],
  // 1.44.17
  'GET api/userdata?dir=subgraphs&recurse=true&split=false&full_info=true': [404, 'string'],
  'GET api/global_subgraphs': [200, '{}'],
  'GET api/node_replacements': [200, '{}'],
  'GET api/jobs?status=in_progress,pending&limit=200&offset=0': [
    200,
    '{jobs: [], pagination: {has_more: boolean, limit: number, offset: number, total: number}}',
  ],
  'GET api/jobs?status=completed,failed,cancelled&limit=64&offset=0': [
    200,
    '{jobs: [], pagination: {has_more: boolean, limit: number, offset: number, total: number}}',
  ],
};

/** The fields that `--dialect latest` has beside, as the reference tells them. */
const ANSWERS_LATEST: typeof ANSWERS = {
  ...ANSWERS,
  'GET api/system_stats': [
    200,
    `{devices: [${DEVICE}], system: ${SYSTEM.replace('comfyui_version', 'comfy_package_versions: [], comfyui_version')
      .replace('embedded_python', 'deploy_environment: string, embedded_python')
      .replace('required_frontend_version: string', 'required_frontend_version: null')
      .replace('required_templates_version: string', 'required_templates_version: null')}}`,
  ],
  'GET api/experiment/models': [200, '[{extensions: [string], folders: [string], name: string}]'],
};

interface Answer {
  readonly method: string;
  readonly path: string;
  readonly status: number;
  readonly body: unknown;
}

interface Event {
  readonly type: string;
  readonly data: Readonly<Record<string, unknown>>;
}

interface HistoryEntry {
  readonly prompt: readonly [
    number: number,
    id: string,
    prompt: unknown,
    extraData: { readonly extra_pnginfo: { readonly workflow: unknown } },
  ];
  readonly status: unknown;
}

/** Keys sorted; of a list its first entry. */
function shapeOf(value: unknown): string {
  if (value === null) return 'null';
  if (Array.isArray(value)) return value.length === 0 ? '[]' : `[${shapeOf(value[0])}]`;
  if (typeof value !== 'object') return typeof value;
  const entries = Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1));
  return `{${entries.map(([key, entry]) => `${key}: ${shapeOf(entry)}`).join(', ')}}`;
}

/** A person at the page: chooses in lists, types, clicks. */
function personAt(page: Page) {
  const quoted = JSON.stringify;
  const click = (id: string): Promise<unknown> => page.evaluate(`document.getElementById(${quoted(id)}).click()`);
  return {
    click,
    state: () => page.evaluate(`document.getElementById('state').textContent`),
    waitForState: (text: string) =>
      page.waitFor(`document.getElementById('state')?.textContent.startsWith(${quoted(text)})`),
    /** Adds a node and fills in what is given; gives its id. */
    async add(classType: string, values: Readonly<Record<string, string>> = {}): Promise<string> {
      await page.evaluate(`document.getElementById('classes').value = ${quoted(classType)}`);
      await click('add');
      const id = String(await page.evaluate(`document.querySelectorAll('[data-node]').length`));
      for (const [name, value] of Object.entries(values)) await this.fill(id, name, value);
      return id;
    },
    async fill(id: string, name: string, value: string): Promise<void> {
      const control = `document.querySelector('[data-node="${id}"] [name="${name}"]')`;
      await page.evaluate(`${control}.value = ${quoted(value)}`);
      // A list refuses what it does not have.
      expect([name, await page.evaluate(`${control}.value`)]).toEqual([name, value]);
    },
  };
}

async function eventsOf(page: Page): Promise<readonly Event[]> {
  return JSON.parse(String(await page.evaluate('JSON.stringify(frontEnd.events)'))) as Event[];
}

describe.skipIf(chromium === undefined)('a front end in a browser', () => {
  let started: TestBridge;
  let page: Page;
  let person: ReturnType<typeof personAt>;

  beforeAll(async () => {
    started = await startTestBridge({ frontEndRoot: FRONT_END });
    await mkdir(PICTURES, { recursive: true });
    page = await openPage(chromium ?? '', started.url, WIDTH, HEIGHT);
    person = personAt(page);
    await person.waitForState('ready');
  }, 60_000);

  afterAll(async () => {
    await page[Symbol.asyncDispose]();
    await started[Symbol.asyncDispose]();
  });

  const answersOf = async (at: Page): Promise<readonly Answer[]> =>
    JSON.parse(String(await at.evaluate('JSON.stringify(frontEnd.answers)'))) as Answer[];
  const asListed = (answers: readonly Answer[], listed: typeof ANSWERS): Record<string, unknown> =>
    Object.fromEntries(
      answers
        .map(({ method, path, status, body }) => [`${method} ${path}`, [status, shapeOf(body)]] as const)
        .filter(([name]) => name in listed),
    );

  it('is answered at its start as by ComfyUI 0.3.64', async () => {
    const answers = await answersOf(page);
    expect(asListed(answers, ANSWERS)).toEqual(ANSWERS);
    expect(answers.filter(({ status }) => status >= 500)).toEqual([]);
    expect(await page.evaluate('frontEnd.loaded.join()')).toBe('/extensions/core/example.js');
    expect(await page.evaluate('frontEnd.features.supports_preview_metadata')).toBe(true);
  });

  it('uploads a picture that was drawn in the page, and finds it in the list of the node', async () => {
    await person.click('upload');
    await person.waitForState('uploaded drawn.png');
    expect(await readdir(started.bridge.directories.input)).toContain('drawn.png');
    expect(await page.evaluate('frontEnd.definitions.LoadImage.input.required.image[0].join()')).toBe('drawn.png');
  });

  it('runs a graph that was built by hand, follows it, and shows every picture', async () => {
    const image = await person.add('LoadImage', { image: 'drawn.png' });
    const model = await person.add('CLIPVisionLoader', { clip_name: 'CLIP-ViT-H-demo.safetensors' });
    const links = { clip_vision: `${model}:0`, image: `${image}:0` };
    const encoded = await person.add('CLIPVisionEncode', links);
    const map = await person.add('VisionBridgePatchMap', { features: `${encoded}:0` });
    await person.add('PreviewImage', { images: `${map}:0` });
    await person.add('SaveImage', { images: `${image}:0`, filename_prefix: 'by hand' });
    await person.add('SaveImageWebsocket', { images: `${image}:0` });
    await person.click('run');
    await person.waitForState('done');
    // One preview, one saved picture, one that came as bytes of the websocket.
    await page.waitFor('frontEnd.pictures === 3');
    expect(
      await page.evaluate(`[...document.querySelectorAll('#pictures img')].every((i) => i.naturalWidth >= 64)`),
    ).toBe(true);
    const finished = `[...document.querySelectorAll('[data-node]')].map((node) => node.dataset.state).join()`;
    expect(await page.evaluate(finished)).toBe(Array.from({ length: 7 }, () => 'finished').join(','));
    await writeFile(join(PICTURES, 'ran.png'), await page.screenshot());
    const types = (await eventsOf(page)).map(({ type }) => type);
    expect(types.indexOf('execution_start')).toBeLessThan(types.indexOf('executed'));
    expect(types.lastIndexOf('executed')).toBeLessThan(types.indexOf('execution_success'));
  });

  it('keeps the workflow that it sent, in the history and in the saved picture', async () => {
    const id = String(await page.evaluate('frontEnd.promptId'));
    const history = (await (await fetch(`${started.url}/history/${id}`)).json()) as Record<string, HistoryEntry>;
    const { prompt, status } = history[id] ?? {};
    expect(status).toMatchObject({ status_str: 'success', completed: true });
    expect(prompt?.[3].extra_pnginfo.workflow).toMatchObject({
      version: 0.4,
      nodes: { length: 7 },
      links: { length: 6 },
    });
    const saved = await readFile(join(started.bridge.directories.output, 'by hand_00001_.png'), 'latin1');
    expect(saved).toContain('tEXtworkflow\0{');
    expect(saved).toContain('"type": "VisionBridgePatchMap"');
  });

  it('shows at the node what is wrong with it', async () => {
    const encoder = await person.add('CLIPVisionEncode');
    await person.add('VisionBridgeSaveFeatures', { features: `${encoder}:0` });
    await person.click('run');
    await page.waitFor(`document.querySelector('[data-node="${encoder}"]').dataset.state === 'failed'`);
    const [answer] = (await answersOf(page)).slice(-1);
    // The good outputs run all the same, so the answer is not a refusal.
    expect(answer).toMatchObject({
      status: 200,
      body: { node_errors: { [encoder]: { errors: [{ type: 'required_input_missing' }, {}] } } },
    });
    await person.waitForState('done');
  });

  it('left nothing in the console but what ComfyUI leaves there', () => {
    const expected = ['/favicon.ico', '/user.css', '/userdata?dir=', '/comfy.templates.json'];
    expect(page.complaints.filter((complaint) => !expected.some((path) => complaint.includes(path)))).toEqual([]);
  });

  it('is answered in the newer dialect with the fields that came later', async () => {
    await using newer = await startTestBridge({ frontEndRoot: FRONT_END, dialect: 'latest' });
    await using other = await openPage(chromium ?? '', newer.url, WIDTH, HEIGHT);
    await personAt(other).waitForState('ready');
    expect(asListed(await answersOf(other), ANSWERS_LATEST)).toEqual(ANSWERS_LATEST);
    expect(await other.evaluate('frontEnd.features.assets')).toBe(false);
  });

  it('works behind a token that is in the address of the page only', async () => {
    await using guarded = await startTestBridge({ frontEndRoot: FRONT_END, token: 'a long secret' });
    await using other = await openPage(chromium ?? '', `${guarded.url}/?token=a%20long%20secret`, WIDTH, HEIGHT);
    await personAt(other).waitForState('ready');
    expect((await fetch(guarded.url)).status).toBe(401);
  });
});
