/** Disk use as a treemap and a table, and model files as a list that can be sorted. */
import { element, formatBytes } from './elements.js';
import { squarify } from './treemap.js';

const MAP_WIDTH = 320;
const MAP_HEIGHT = 180;
const MAX_TILES = 24;
/** Tiles that are too small for a word carry none; the table below has them all. */
const MIN_LABEL = { width: 44, height: 16 };
const COLUMNS = ['name', 'sizeBytes', 'kind', 'base'];

export function treemap(groups, t) {
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

export function groupTable(groups, t) {
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
export function modelTable(models, t) {
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
            model.status === undefined ? undefined : element('span', { class: 'vb-reason' }, model.status),
          ),
          element('td', { class: 'vb-number' }, formatBytes(model.sizeBytes)),
          element('td', {}, model.kind),
          element('td', {}, model.base),
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
