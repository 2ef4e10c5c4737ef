/** The pack's sidebar tab in a real browser, beside a real server. */
import { readFileSync } from 'node:fs';
import { copyFile, mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import axe from 'axe-core';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startTestBridge, type TestBridge } from '../support/bridge.js';
import { findChromium, openPage, type Page } from '../support/chromium.js';
import { serveComfyUIPage, type ComfyUIPage } from '../support/comfyui-page.js';

const chromium = findChromium();
if (chromium === undefined) console.log('The tests of the sidebar tab are skipped: no Chromium is installed.');

const PICTURES = resolve('.test-results', 'panel');
const GOLDEN = new URL('../golden/vision/', import.meta.url).pathname;
/** An attempt to inject markup. */
const HOSTILE = '<img src=x onerror=alert(1)>.safetensors';

/** The pack's table of routes: which of ours a path of the panel stands for. */
const PASSED_ON = new Map(
  [
    ...readFileSync(new URL('../../comfy-nodes/routes.py', import.meta.url), 'utf8').matchAll(
      /"\/vision_bridge\/([a-z-]+)": \("(GET|POST)", "([^"]+)", \(([^)]*)\)\)/g,
    ),
  ].map(([, name = '', method = '', target = '', parameters = '']) => [
    name,
    { method, target, parameters: [...parameters.matchAll(/"(\w+)"/g)].map(([, parameter]) => parameter) },
  ]),
);

/** Models of every sort: sound, twice there, cut off, with a hostile name, an adapter that has its encoder and one that has not. */
async function addModels(root: string): Promise<void> {
  const models = join(root, 'models');
  for (const folder of ['ipadapter', 'checkpoints', 'clip_vision', 'loras'])
    await mkdir(join(models, folder), { recursive: true });
  const encoder = join(models, 'clip_vision', 'CLIP-ViT-H-demo.safetensors');
  await copyFile(encoder, join(models, 'clip_vision', 'the same.safetensors'));
  await copyFile(join(GOLDEN, 'models', 'clip-h-tiny.safetensors'), join(models, 'clip_vision', HOSTILE));
  await writeFile(join(models, 'loras', 'cut.safetensors'), (await readFile(encoder)).subarray(0, 3000));
  for (const name of ['base-sd15', 'plus-sdxl-form'])
    await copyFile(
      join(GOLDEN, 'ipadapter', 'models', `${name}.safetensors`),
      join(models, 'ipadapter', `${name}.safetensors`),
    );
  await copyFile(
    join(GOLDEN, 'ipadapter', 'models', 'faceid-sd15.safetensors'),
    join(models, 'checkpoints', 'faceid.safetensors'),
  );
}

const WORKFLOW = {
  nodes: [
    { id: 3, type: 'CLIPVisionLoader', widgets_values: ['old/CLIP_ViT_H_demo.safetensors'] },
    { id: 4, type: 'CheckpointLoaderSimple', widgets_values: ['gone.safetensors'] },
    { id: 5, type: 'CLIPVisionLoader', widgets_values: ['base-sd15.safetensors'] },
  ],
  links: [],
};

describe.skipIf(chromium === undefined)('the sidebar tab', () => {
  let started: TestBridge;
  let server: ComfyUIPage;
  let page: Page;
  let mode: 'up' | 'down' | 'broken' | 'scanning' = 'up';
  const sent: { path: string; body: unknown }[] = [];

  /** What the pack's routes do, on the real server. */
  async function passOn(method: string, path: string, body: unknown): Promise<{ status: number; body: unknown }> {
    const url = new URL(path, 'http://localhost/');
    const route = PASSED_ON.get(url.pathname.slice(1));
    if (route?.method !== method) return { status: 404, body: {} };
    const target = new URL(route.target, started.url);
    for (const [name, value] of url.searchParams) {
      expect(route.parameters).toContain(name);
      target.searchParams.set(name, value);
    }
    if (route.target.startsWith('/bridge/v1/')) target.searchParams.set('wait', 'true');
    const init =
      method === 'GET' ? {} : { body: JSON.stringify(body), headers: { 'content-type': 'application/json' } };
    const response = await fetch(target, { method, ...init });
    const text = await response.text();
    return { status: response.status, body: text === '' ? {} : JSON.parse(text) };
  }

  beforeAll(async () => {
    started = await startTestBridge();
    await addModels(started.tree.root);
    await mkdir(PICTURES, { recursive: true });
    server = await serveComfyUIPage(async (method, path, body) => {
      if (method === 'POST') sent.push({ path, body });
      if (path === 'state') {
        const health: unknown = mode === 'down' ? null : await (await fetch(`${started.url}/bridge/v1/health`)).json();
        const message = 'no bridge answers at http://127.0.0.1:8189. Start it with `vision-bridge serve`.';
        const problem = mode === 'down' ? { code: 'BRIDGE_UNAVAILABLE', message } : null;
        return { status: 200, body: { address: started.url, health, problem, may_start: true, is_installed: true } };
      }
      if (path === 'start') return { status: 200, body: { started: false } };
      if (mode === 'broken')
        return { status: 502, body: { error: { code: 'INTERNAL', message: 'The disk is gone.' } } };
      const answer = await passOn(method, path, body);
      if (mode !== 'scanning' || !path.startsWith('stats')) return answer;
      return { ...answer, body: { ...(answer.body as object), scan: { state: 'scanning', known: 3, files: 9 } } };
    });
    page = await openPage(chromium ?? '', server.url, 380, 2600);
    await page.waitFor(`document.querySelectorAll('details[data-part]').length === 6`);
    await page.evaluate(`${axe.source}; 0`);
  });
  afterAll(async () => {
    await page[Symbol.asyncDispose]();
    await server[Symbol.asyncDispose]();
    await started[Symbol.asyncDispose]();
  });

  const text = async (selector = '.vb-panel'): Promise<string> =>
    String(await page.evaluate(`document.querySelector(${JSON.stringify(selector)}).innerText`));
  const press = (label: string): Promise<unknown> =>
    page.evaluate(
      `[...document.querySelectorAll('button')].find((b) => b.textContent === ${JSON.stringify(label)}).click()`,
    );
  const settled = (): Promise<void> => page.waitFor(`document.querySelector('[aria-busy]') === null`);
  const again = async (next: typeof mode = 'up'): Promise<void> => {
    mode = next;
    await press('Check again');
    await settled();
  };
  const openAll = (): Promise<unknown> =>
    page.evaluate(`document.querySelectorAll('details').forEach((d) => (d.open = true))`);
  /** axe and contrast in both themes, and a picture of each for people to look at. */
  const inspect = async (name: string): Promise<void> => {
    for (const isDark of [false, true]) {
      await page.setDark(isDark);
      const violations = await page.evaluate(
        `axe.run('#sidebar').then(({ violations }) => violations.map(({ id, nodes }) => id + ': ' + nodes.map((n) => n.html).join(' | ')))`,
      );
      expect(violations).toEqual([]);
      expect(Number(await page.evaluate(CONTRAST))).toBeGreaterThanOrEqual(4.5);
      await writeFile(join(PICTURES, `${name}-${isDark ? 'dark' : 'light'}.png`), await page.screenshot());
    }
  };

  it('shows the state of the bridge, and every part of it', async () => {
    expect(await text()).toContain(`Connected to Vision Bridge 0.1.0 at ${started.url}`);
    expect(await text()).toContain('0 prompts and 0 encodes wait. No model is in memory.');
    const titles = await page.evaluate(
      `[...document.querySelectorAll('details[data-part] > summary')].map((s) => s.textContent)`,
    );
    expect(titles).toEqual([
      'Disk use',
      expect.stringMatching(/^Models \(\d+\)$/),
      'Duplicates',
      expect.stringMatching(/^Health \(\d+\)$/),
      'Which encoder fits which model',
      'Models of this workflow',
    ]);
    await inspect('connected');
  });

  it('registers commands and settings under names of its own', async () => {
    const [extension] = (await page.evaluate(
      `page.extensions.map(({ name, commands, settings }) => ({ name, ids: [...commands, ...settings].map(({ id }) => id) }))`,
    )) as [{ name: string; ids: string[] }];
    expect(extension.name).toBe('VisionBridge');
    expect(extension.ids.every((id) => id.startsWith('VisionBridge.'))).toBe(true);
  });

  it('shows disk use, models, health and pairs as the server tells them, and names of files as text', async () => {
    await openAll();
    const shown = await text();
    for (const part of [
      'clip_vision',
      'ipadapter',
      HOSTILE,
      'invalid',
      'Error: ',
      'cut.safetensors',
      'ipadapter/base-sd15.safetensors: an encoder of width 36',
      'Fits: clip_vision/',
    ])
      expect(shown).toContain(part);
    expect(shown).not.toContain('undefined');
    expect(await page.evaluate(`document.querySelector('.vb-panel img')`)).toBeNull();
    const sizes = new Map(
      (
        (await (await fetch(`${started.url}/bridge/v1/stats?by=kind&wait=true`)).json()) as {
          groups: { group: string; sizeBytes: number }[];
        }
      ).groups.map(({ group, sizeBytes }) => [group, sizeBytes]),
    );
    const areas = (await page.evaluate(
      `[...document.querySelectorAll('.vb-tile')].slice(0, 2).map((t) => [t.title.split(':')[0], t.offsetWidth * t.offsetHeight])`,
    )) as [[string, number], [string, number]];
    const [[first, firstArea], [second, secondArea]] = areas;
    const ratio = (sizes.get(first) ?? 0) / (sizes.get(second) ?? 1);
    expect(firstArea / secondArea / ratio).toBeGreaterThan(0.8);
    expect(firstArea / secondArea / ratio).toBeLessThan(1.25);
  });

  it('groups disk use by what is chosen', async () => {
    await page.evaluate(
      `(() => { const s = document.querySelector('select'); s.value = 'folder'; s.dispatchEvent(new Event('change')); })()`,
    );
    await page.waitFor(`document.querySelector('[data-part=statistics] tbody').innerText.includes('checkpoints')`);
  });

  it('sorts models by the column whose head is pressed', async () => {
    const names = async (): Promise<string[]> =>
      (await page.evaluate(
        `[...document.querySelectorAll('.vb-scroll tbody th')].map((th) => th.firstChild.textContent)`,
      )) as string[];
    const bySize = await names();
    expect(bySize.at(-1)).toBe('loras/cut.safetensors');
    await press('Name');
    const byName = await names();
    expect(byName).toEqual([...bySize].sort((a, b) => a.localeCompare(b)));
    await press('Name');
    expect(await names()).toEqual(byName.toReversed());
    expect(await page.evaluate(`document.querySelector('[aria-sort=descending]').innerText`)).toBe('Name');
  });

  it('looks for duplicates when it is asked to', async () => {
    expect(sent.some(({ path }) => path === 'duplicates')).toBe(false);
    await press('Look for duplicates');
    await settled();
    expect(await text('[data-part=duplicates]')).toMatch(/ MB can be freed\./);
    expect(await text('[data-part=duplicates]')).toContain('the same.safetensors');
  });

  it('repairs the names of the open workflow with one press, and says where the others are', async () => {
    await page.evaluate(`page.workflow = ${JSON.stringify(WORKFLOW)}; page.nodes = Object.fromEntries(
      page.workflow.nodes.map(({ id, type, widgets_values: [value] }) => [id, { type, widgets: [{ name: 'any', value }] }])); 0`);
    await press('Look for missing models');
    await settled();
    const shown = await text('[data-part=workflow]');
    expect(shown).toContain('3 models are not where the workflow looks for them');
    expect(shown).toContain('It is here under another name: CLIP-ViT-H-demo.safetensors');
    expect(shown).toContain('It is nowhere in the model folders.');
    expect(shown).toMatch(/folder that this node does not look in: .*ipadapter.base-sd15/);
    await openAll();
    await inspect('full');
    await press('Repair 1');
    await page.waitFor(`page.nodes[3].widgets[0].value === 'CLIP-ViT-H-demo.safetensors'`);
    expect(await page.evaluate(`page.nodes[4].widgets[0].value`)).toBe('gone.safetensors');
    await settled();
    await inspect('repaired');
  });

  it('tells success and failure in toasts', async () => {
    await press('Free memory');
    await page.waitFor(
      `page.toasts.some(({ severity, detail }) => severity === 'success' && detail === 'Memory was freed.')`,
    );
    expect(sent).toContainEqual({ path: 'free', body: { unload_models: true, free_memory: true } });
    await again('down');
    expect(await text('.vb-state')).toContain('vision-bridge serve');
    expect(await page.evaluate(`document.querySelectorAll('details').length`)).toBe(0);
    await press('Start the bridge');
    await page.waitFor(`page.toasts.some(({ severity }) => severity === 'error')`);
    await settled();
    await inspect('absent');
  });

  it('says how far the bridge has read, and shows what it has so far', async () => {
    await again('scanning');
    await page.waitFor(`document.querySelectorAll('details[data-part]').length === 6`);
    expect(await text()).toContain('Reading model files: 3 of 9 …');
    await inspect('scanning');
    mode = 'up';
    await page.waitFor(`!document.querySelector('.vb-panel').innerText.includes('Reading model files')`);
  });

  it('tells one failure of all parts once', async () => {
    await again('broken');
    await page.waitFor(`document.querySelectorAll('[role=alert]').length === 1`);
    expect(await text('[role=alert]')).toBe('The disk is gone.');
    await inspect('broken');
    await again('up');
    await page.waitFor(`document.querySelectorAll('details[data-part]').length === 6`);
  });

  it('is used with the keyboard alone', async () => {
    await page.evaluate(`document.querySelector('.vb-actions button').focus()`);
    const reached: unknown[] = [];
    for (let i = 0; i < 8; i += 1) {
      await page.press('Tab');
      reached.push(await page.evaluate(`document.activeElement.textContent.slice(0, 11)`));
    }
    const [free, diskUse, choice, ...others] = reached;
    expect([free, diskUse, choice]).toEqual(['Free memory', 'Disk use', 'KindBase mo']);
    expect(others).toEqual(
      ['Models (8)', 'Duplicates', 'Health (2)', 'Which encod', 'Models of t'].slice(0, others.length),
    );
    await page.evaluate(`document.querySelector('[data-part=duplicates] summary').focus()`);
    const before = await page.evaluate(`document.querySelector('[data-part=duplicates]').open`);
    await page.press('Enter');
    expect(await page.evaluate(`document.querySelector('[data-part=duplicates]').open`)).toBe(!(before as boolean));
  });

  it('names everything that can be pressed, and tells changes of state', async () => {
    await openAll();
    const nodes = await page.accessibleNodes();
    const controls = nodes.filter(({ role }) =>
      ['button', 'combobox', 'img', 'region', 'DisclosureTriangle'].includes(role),
    );
    expect(controls.length).toBeGreaterThan(10);
    expect(controls.filter(({ name }) => name === '')).toEqual([]);
    expect(nodes.some(({ role }) => role === 'status')).toBe(true);
  });

  it('left no error in the console', () => {
    expect(page.complaints.filter((complaint) => !complaint.includes('502'))).toEqual([]);
  });
});

/** The lowest contrast of a text with what is behind it. Source: WCAG 2, contrast ratio. */
const CONTRAST = `(() => {
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const luminance = (c) => c.slice(0, 3).map((v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (e) => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor); if (c[3] !== 0) return c; } return [255, 255, 255]; };
  let worst = 21;
  for (const e of document.querySelectorAll('.vb-panel *')) {
    if (![...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim())) continue;
    const [a, b] = [luminance(rgb(getComputedStyle(e).color)), luminance(behind(e))].sort((x, y) => y - x);
    worst = Math.min(worst, (a + 0.05) / (b + 0.05));
  }
  return worst;
})()`;

it('every language has every text', async () => {
  const folder = new URL('../../comfy-nodes/locales/', import.meta.url).pathname;
  const languages = await readdir(folder);
  expect(languages.sort()).toEqual(['en', 'es', 'zh']);
  const keysOf = async (language: string, file: string): Promise<string[]> => {
    const flat = (value: unknown, path: string): string[] =>
      typeof value === 'string' ? [path] : Object.entries(value as object).flatMap(([k, v]) => flat(v, `${path}.${k}`));
    return flat(JSON.parse(await readFile(join(folder, language, file), 'utf8')), '').sort();
  };
  for (const file of ['main.json', 'nodeDefs.json', 'settings.json', 'commands.json']) {
    const english = await keysOf('en', file);
    for (const language of languages) expect(await keysOf(language, file)).toEqual(english);
  }
});
