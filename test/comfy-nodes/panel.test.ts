/** The pack's sidebar tab in a real browser, beside a real server. */
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startTestBridge, type TestBridge } from '../support/bridge.js';
import { findChromium, openPage, type Page } from '../support/chromium.js';
import { serveComfyUIPage, type ComfyUIPage } from '../support/comfyui-page.js';

const chromium = findChromium();
if (chromium === undefined) console.log('The tests of the sidebar tab are skipped: no Chromium is installed.');

const GB = 1_000_000_000;
/** Facts about models, in the form of the bridge's routes; a name is an attempt to inject markup. */
const REGISTRY: Readonly<Record<string, unknown>> = {
  'stats?by=kind': {
    groups: [
      { key: 'LoRA', files: 120, size_bytes: 14 * GB },
      { key: 'checkpoint', files: 9, size_bytes: 41 * GB },
      { key: 'VAE', files: 4, size_bytes: 1.2 * GB },
    ],
  },
  'stats?by=base': { groups: [{ key: 'SDXL', files: 60, size_bytes: 40 * GB }] },
  'models?sort=size&limit=500': {
    models: [
      { folder: 'checkpoints', name: 'a.safetensors', kind: 'checkpoint', base: 'SDXL', size_bytes: 7 * GB },
      {
        folder: 'loras',
        name: '<img src=x onerror=alert(1)>',
        kind: 'LoRA',
        base: 'Flux',
        size_bytes: GB,
        problems: ['truncated'],
      },
    ],
  },
  duplicates: { groups: [{ files: ['loras/a', 'loras/b'], reclaimable_bytes: 2 * GB }] },
  doctor: {
    pairs: [
      { model: { folder: 'ipadapter', name: 'plus' }, encoder: { folder: 'clip_vision', name: 'H' } },
      { model: { folder: 'ipadapter', name: 'other' }, encoder: null, problem: 'it projects from 1280' },
    ],
    references: [
      { node_id: 3, input: 'clip_name', name: 'old.safetensors', status: 'elsewhere', found_as: 'new.safetensors' },
      { node_id: 4, input: 'ckpt_name', name: 'gone.safetensors', status: 'missing' },
    ],
  },
};

describe.skipIf(chromium === undefined)('the sidebar tab', () => {
  let started: TestBridge;
  let server: ComfyUIPage;
  let page: Page;
  let isUp = true;
  let hasRegistry = false;
  const sent: { path: string; body: unknown }[] = [];

  beforeAll(async () => {
    started = await startTestBridge();
    server = await serveComfyUIPage(async (method, path, body) => {
      if (method === 'POST') sent.push({ path, body });
      if (path === 'state') {
        const health: unknown = isUp ? await (await fetch(`${started.url}/bridge/v1/health`)).json() : null;
        const problem = isUp ? null : { code: 'BRIDGE_UNAVAILABLE', message: 'No bridge answers; start it.' };
        return { status: 200, body: { address: started.url, health, problem, may_start: true, is_installed: true } };
      }
      if (path === 'free') return { status: 200, body: {} };
      if (path === 'start') return { status: 200, body: { started: false } };
      return hasRegistry && path in REGISTRY ? { status: 200, body: REGISTRY[path] } : { status: 404, body: {} };
    });
    page = await openPage(chromium ?? '', server.url, 380, 1400);
    await page.waitFor(`document.querySelector('.vb-state')?.dataset.state === 'connected'`);
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
  const again = async (): Promise<void> => {
    await press('Check again');
    await page.waitFor(`document.querySelector('[aria-busy]') === null`);
  };

  it('shows the state of the bridge, and leaves out what this bridge does not serve', async () => {
    expect(await text()).toContain(`Connected to Vision Bridge 0.1.0 at ${started.url}`);
    expect(await text()).toContain('0 prompts and 0 encodes wait.');
    expect(await page.evaluate(`document.querySelectorAll('details').length`)).toBe(0);
  });

  it('registers commands and settings under names of its own', async () => {
    const [extension] = (await page.evaluate(
      `page.extensions.map(({ name, commands, settings }) => ({ name, ids: [...commands, ...settings].map(({ id }) => id) }))`,
    )) as [{ name: string; ids: string[] }];
    expect(extension.name).toBe('VisionBridge');
    expect(extension.ids.every((id) => id.startsWith('VisionBridge.'))).toBe(true);
  });

  it('shows disk use, models, duplicates, pairs, and names of files as text', async () => {
    hasRegistry = true;
    await again();
    await page.waitFor(`document.querySelectorAll('details').length === 5`);
    await page.evaluate(`document.querySelectorAll('details').forEach((d) => (d.open = true))`);
    const shown = await text();
    for (const part of ['checkpoint', '41.0 GB', '<img src=x onerror=alert(1)>', 'truncated', '2.00 GB can be freed'])
      expect(shown).toContain(part);
    expect(shown).toContain('it projects from 1280');
    expect(await page.evaluate(`document.querySelector('.vb-panel img')`)).toBeNull();
    const areas = (await page.evaluate(
      `[...document.querySelectorAll('.vb-tile')].map((t) => t.offsetWidth * t.offsetHeight)`,
    )) as [number, number, number];
    expect(areas[0] / areas[1]).toBeCloseTo(41 / 14, 0);
  });

  it('sorts models by the column whose head is pressed', async () => {
    const first = (): Promise<unknown> => page.evaluate(`document.querySelector('.vb-scroll tbody th').innerText`);
    expect(await first()).toContain('checkpoints/a');
    await press('Name');
    await press('Name');
    expect(await first()).toContain('loras/');
    expect(await page.evaluate(`document.querySelector('[aria-sort=descending]').innerText`)).toBe('Name');
  });

  it('repairs the names of the open workflow with one press', async () => {
    await page.evaluate(
      `page.nodes = { 3: { widgets: [{ name: 'clip_name', value: 'old.safetensors' }] }, 4: { widgets: [] } }; 0`,
    );
    await press('Look for missing models');
    await page.waitFor(`[...document.querySelectorAll('button')].some((b) => b.textContent === 'Repair 1')`);
    expect(await text()).toContain('2 models are not where the workflow looks for them');
    await press('Repair 1');
    await page.waitFor(`page.nodes[3].widgets[0].value === 'new.safetensors'`);
  });

  it('tells success and failure in toasts', async () => {
    await press('Free memory');
    await page.waitFor(
      `page.toasts.some(({ severity, detail }) => severity === 'success' && detail === 'Memory was freed.')`,
    );
    expect(sent).toContainEqual({ path: 'free', body: { unload_models: true, free_memory: true } });
    isUp = false;
    await again();
    expect(await text('.vb-state')).toBe('No bridge answers; start it.');
    await press('Start the bridge');
    await page.waitFor(`page.toasts.some(({ severity }) => severity === 'error')`);
    isUp = true;
    await again();
    await page.waitFor(`document.querySelectorAll('details').length === 5`);
  });

  it('is used with the keyboard alone', async () => {
    await page.evaluate(`document.activeElement?.blur()`);
    const reached: unknown[] = [];
    for (let i = 0; i < 12; i += 1) {
      await page.press('Tab');
      reached.push(await page.evaluate(`document.activeElement.textContent.slice(0, 20)`));
    }
    expect(reached.slice(0, 3)).toEqual(['Check again', 'Free memory', 'Disk use']);
    await page.evaluate(`document.querySelectorAll('summary')[1].focus()`);
    await page.press('Enter');
    expect(await page.evaluate(`document.querySelectorAll('details')[1].open`)).toBe(true);
  });

  it('names everything that can be pressed, and tells changes of state', async () => {
    await page.evaluate(`document.querySelectorAll('details').forEach((d) => (d.open = true))`);
    const nodes = await page.accessibleNodes();
    const controls = nodes.filter(({ role }) =>
      ['button', 'combobox', 'img', 'region', 'DisclosureTriangle'].includes(role),
    );
    expect(controls.length).toBeGreaterThan(10);
    expect(controls.filter(({ name }) => name === '')).toEqual([]);
    expect(nodes.some(({ role }) => role === 'status')).toBe(true);
  });

  it('has readable contrast in dark and light', async () => {
    for (const isDark of [false, true]) {
      await page.setDark(isDark);
      const worst = Number(await page.evaluate(CONTRAST));
      expect(worst).toBeGreaterThanOrEqual(4.5);
      await mkdir(resolve('.test-results'), { recursive: true });
      await writeFile(resolve('.test-results', `panel-${isDark ? 'dark' : 'light'}.png`), await page.screenshot());
    }
  });

  it('left no error in the console', () => {
    expect(page.complaints.filter((complaint) => !complaint.includes('404'))).toEqual([]);
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
