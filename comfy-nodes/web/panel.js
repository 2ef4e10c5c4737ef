/**
 * The sidebar tab: state of the bridge, its queue and memory, where the disk went, models, duplicates, pairs, and the
 * models that the open workflow misses.
 *
 * Parts that this bridge does not serve are left out. Everything can be reached with the keyboard; changes of state are
 * told to screen readers. Colours are ComfyUI's own, so it is dark or light as ComfyUI is.
 */
import { element, formatBytes } from './elements.js';
import { squarify } from './treemap.js';
import { repair } from './workflow.js';

const STATE_INTERVAL_MS = 5000;
const MAP_WIDTH = 320;
const MAP_HEIGHT = 180;
const MAX_TILES = 24;
/** Tiles that are too small for a word carry none; the table below has them all. */
const MIN_LABEL = { width: 44, height: 16 };
const GROUPINGS = ['kind', 'base', 'folder'];
const COLUMNS = ['name', 'kind', 'base', 'sizeBytes'];

/** @param {HTMLElement} root @param {{ bridge: object, t: Function, toast: Function, graph: () => object }} services */
export function createPanel(root, { bridge, t, toast, graph }) {
  const style = element('link', { rel: 'stylesheet', href: new URL('./panel.css', import.meta.url).href });
  const state = element('div', { role: 'status', 'aria-live': 'polite', class: 'vb-state' });
  const actions = element('div', { class: 'vb-actions' });
  const work = element('p', { class: 'vb-work' });
  const parts = element('div');
  const panel = element(
    'section',
    { class: 'vb-panel', 'aria-label': t('title') },
    element('h2', {}, t('title')),
    state,
    work,
    actions,
    parts,
  );
  root.replaceChildren(style, panel);

  let isConnected;
  let isDisposed = false;
  const button = (label, action) =>
    element('button', { type: 'button', onclick: (event) => run(event.currentTarget, action) }, label);

  /** One action at a time per button; its failure is a toast. */
  async function run(source, action) {
    source.setAttribute('aria-busy', 'true');
    source.disabled = true;
    try {
      await action();
    } catch (error) {
      toast('error', t('title'), error.message);
    }
    source.disabled = false;
    source.removeAttribute('aria-busy');
  }

  async function refresh() {
    let current;
    try {
      current = await bridge.state();
    } catch (error) {
      current = { health: null, problem: { message: error.message }, address: '' };
    }
    if (isDisposed) return;
    const { health, problem, address } = current;
    const text = health === null ? problem.message : t('connected', { version: health.version, address });
    // Written only when it changes, or a screen reader would read it out every few seconds.
    if (state.textContent !== text) state.textContent = text;
    state.dataset['state'] = health === null ? 'absent' : 'connected';
    work.textContent = health === null ? '' : describeWork(health, t);
    if (isConnected === (health !== null)) return;
    isConnected = health !== null;
    showActions(current);
    await showParts();
  }

  function showActions({ health, may_start: mayStart, is_installed: isInstalled }) {
    const again = button(t('checkAgain'), async () => {
      isConnected = undefined;
      await refresh();
    });
    const start = button(t('start'), async () => {
      const { started } = await bridge.start();
      if (!started) throw new Error(t('notStarted'));
      toast('info', t('title'), t('starting'));
    });
    const free = button(t('free'), async () => {
      await bridge.freeMemory();
      toast('success', t('title'), t('freed'));
    });
    const canStart = health === null && mayStart && isInstalled;
    actions.replaceChildren(again, ...(canStart ? [start] : []), ...(health === null ? [] : [free]));
  }

  async function showParts() {
    if (!isConnected) {
      parts.replaceChildren();
      return;
    }
    const made = await Promise.all(
      [statistics, models, duplicates, pairs, workflow].map(async (part) => {
        try {
          return await part();
        } catch (error) {
          return element('p', { role: 'alert', class: 'vb-error' }, error.message);
        }
      }),
    );
    if (!isDisposed) parts.replaceChildren(...made.filter(Boolean));
  }

  async function statistics() {
    const first = await bridge.stats(GROUPINGS[0]);
    if (first === undefined) return undefined;
    const body = element('div');
    const show = (groups) => body.replaceChildren(treemap(groups, t), groupTable(groups, t));
    const choice = element(
      'select',
      {
        'aria-label': t('groupBy'),
        onchange: async (event) => {
          try {
            show((await bridge.stats(event.target.value)) ?? []);
          } catch (error) {
            toast('error', t('title'), error.message);
          }
        },
      },
      ...GROUPINGS.map((name) => element('option', { value: name }, t(`by_${name}`))),
    );
    show(first);
    return fold(t('diskUse'), true, choice, body);
  }

  async function models() {
    const all = await bridge.models();
    if (all === undefined) return undefined;
    return fold(`${t('models')} (${all.length})`, false, modelTable(all, t));
  }

  async function duplicates() {
    const groups = await bridge.duplicates();
    if (groups === undefined) return undefined;
    const bytes = groups.reduce((sum, group) => sum + group.reclaimableBytes, 0);
    const lists = groups.map(({ files }) => element('ul', {}, ...files.map((file) => element('li', {}, file))));
    const text = groups.length === 0 ? t('noDuplicates') : t('reclaimable', { size: formatBytes(bytes) });
    return fold(`${t('duplicates')} (${groups.length})`, false, element('p', {}, text), ...lists);
  }

  async function pairs() {
    const found = await bridge.doctor();
    if (found === undefined || found.pairs.length === 0) return undefined;
    const rows = found.pairs.map(({ model, partner, problem }) =>
      element(
        'li',
        { class: problem === undefined ? 'vb-good' : 'vb-bad' },
        `${model} → ${partner ?? t('nothing')}`,
        problem === undefined ? undefined : element('span', { class: 'vb-reason' }, problem),
      ),
    );
    return fold(t('pairs'), false, element('ul', {}, ...rows));
  }

  async function workflow() {
    const list = element('div', { 'aria-live': 'polite' });
    const look = async () => {
      const found = await bridge.doctor(graph().serialize());
      if (found === undefined) throw new Error(t('notServed'));
      const missing = found.references.filter(({ status }) => status !== 'found');
      const movable = missing.filter(({ foundAs }) => foundAs !== undefined);
      list.replaceChildren(
        element('p', {}, missing.length === 0 ? t('nothingMissing') : t('missing', { count: missing.length })),
        element('ul', {}, ...missing.map((r) => element('li', {}, r.foundAs ? `${r.name} → ${r.foundAs}` : r.name))),
        ...(movable.length === 0
          ? []
          : [
              button(t('repair', { count: movable.length }), async () => {
                toast('success', t('title'), t('repaired', { count: repair(graph(), movable) }));
                await look();
              }),
            ]),
      );
    };
    if ((await bridge.doctor()) === undefined) return undefined;
    return fold(t('workflow'), false, button(t('lookAtWorkflow'), look), list);
  }

  const timer = setInterval(() => {
    if (!document.hidden) void refresh();
  }, STATE_INTERVAL_MS);
  const ready = refresh();
  return {
    ready,
    dispose() {
      isDisposed = true;
      clearInterval(timer);
      root.replaceChildren();
    },
  };
}

function describeWork({ queue_remaining: queued, inference }, t) {
  const running = inference?.pid === null || inference?.pid === undefined ? t('asleep') : t('awake');
  return `${t('queue', { queued: queued ?? 0, pending: inference?.pending ?? 0 })} ${running}`;
}

function fold(title, isOpen, ...children) {
  return element('details', { open: isOpen }, element('summary', {}, title), ...children);
}

function treemap(groups, t) {
  const shown = groups.filter(({ sizeBytes }) => sizeBytes > 0).slice(0, MAX_TILES);
  const label = shown.map((group) => `${group.label} ${formatBytes(group.sizeBytes)}`).join(', ');
  const map = element('div', { class: 'vb-treemap', role: 'img', 'aria-label': `${t('diskUse')}: ${label}` });
  const rectangles = squarify(
    shown.map(({ sizeBytes }) => sizeBytes),
    MAP_WIDTH,
    MAP_HEIGHT,
  );
  shown.forEach((group, i) => {
    const { x, y, width, height } = rectangles[i];
    const hasLabel = width >= MIN_LABEL.width && height >= MIN_LABEL.height;
    const tile = element('div', {
      class: `vb-tile vb-tile-${i % 8}`,
      title: `${group.label}: ${formatBytes(group.sizeBytes)}`,
    });
    if (hasLabel) tile.textContent = group.label;
    tile.style.left = `${(x / MAP_WIDTH) * 100}%`;
    tile.style.top = `${(y / MAP_HEIGHT) * 100}%`;
    tile.style.width = `${(width / MAP_WIDTH) * 100}%`;
    tile.style.height = `${(height / MAP_HEIGHT) * 100}%`;
    map.append(tile);
  });
  return map;
}

function groupTable(groups, t) {
  return element(
    'table',
    {},
    element('caption', {}, t('diskUse')),
    element(
      'thead',
      {},
      element(
        'tr',
        {},
        ...['group', 'files', 'size'].map((key) =>
          element('th', { scope: 'col', class: key === 'group' ? undefined : 'vb-number' }, t(key)),
        ),
      ),
    ),
    element(
      'tbody',
      {},
      ...groups.map(({ label, files, sizeBytes }) =>
        element(
          'tr',
          {},
          element('th', { scope: 'row' }, label),
          element('td', { class: 'vb-number' }, String(files)),
          element('td', { class: 'vb-number' }, formatBytes(sizeBytes)),
        ),
      ),
    ),
  );
}

/** Sorted by the column whose head was pressed last. */
function modelTable(models, t) {
  const body = element('tbody');
  let sorted = { column: 'sizeBytes', isDescending: true };
  const heads = COLUMNS.map((column) => {
    const press = () => {
      sorted = { column, isDescending: sorted.column === column ? !sorted.isDescending : column === 'sizeBytes' };
      show();
    };
    return element(
      'th',
      { scope: 'col' },
      element('button', { type: 'button', onclick: press }, t(`column_${column}`)),
    );
  });
  function show() {
    const { column, isDescending } = sorted;
    const compare = (a, b) =>
      column === 'sizeBytes' ? a.sizeBytes - b.sizeBytes : String(a[column]).localeCompare(String(b[column]));
    const rows = [...models].sort((a, b) => (isDescending ? compare(b, a) : compare(a, b)));
    heads.forEach((head, i) => {
      const isSorted = COLUMNS[i] === column;
      head.setAttribute('aria-sort', isSorted ? (isDescending ? 'descending' : 'ascending') : 'none');
    });
    body.replaceChildren(
      ...rows.map((model) =>
        element(
          'tr',
          {},
          element(
            'th',
            { scope: 'row' },
            model.name,
            ...model.problems.map((problem) => element('span', { class: 'vb-reason' }, problem)),
          ),
          element('td', {}, model.kind),
          element('td', {}, model.base),
          element('td', { class: 'vb-number' }, formatBytes(model.sizeBytes)),
        ),
      ),
    );
  }
  show();
  return element(
    'div',
    { class: 'vb-scroll', tabindex: '0', role: 'region', 'aria-label': t('models') },
    element('table', {}, element('thead', {}, element('tr', {}, ...heads)), body),
  );
}
