/**
 * The parts of the sidebar tab below the state of the bridge: disk use, models, duplicates, health, pairs, and the models of
 * the open workflow.
 *
 * Each gives its title and body, or nothing where this bridge does not serve it. Names of files are text, never markup.
 */
import { element, formatBytes } from './elements.js';
import { groupTable, modelTable, treemap } from './tables.js';
import { repair } from './workflow.js';

const GROUPINGS = ['kind', 'base', 'folder'];

/** @param {{ bridge: object, t: Function, toast: Function, graph: () => object, button: Function }} services */
export function createParts({ bridge, t, toast, graph, button }) {
  // Asked for once, shown in two parts each.
  const doctor = bridge.doctor();
  const files = bridge.models();
  for (const asked of [doctor, files]) asked.catch(() => undefined);

  async function statistics() {
    const first = await bridge.stats(GROUPINGS[0]);
    if (first === undefined) return {};
    const chart = element('div');
    const show = (groups) =>
      chart.replaceChildren(
        ...(groups.length === 0 ? [element('p', {}, t('noModels'))] : [treemap(groups, t), groupTable(groups, t)]),
      );
    const onchange = async (event) => {
      try {
        const grouped = await bridge.stats(event.target.value);
        show(grouped?.groups ?? []);
      } catch (error) {
        toast('error', t('title'), error.message);
      }
    };
    const options = GROUPINGS.map((name) => element('option', { value: name }, t(`by_${name}`)));
    const choice = element('label', {}, `${t('groupBy')} `, element('select', { onchange }, ...options));
    show(first.groups);
    return { title: t('diskUse'), startsOpen: true, body: element('div', {}, choice, chart), scan: first.scan };
  }

  async function models() {
    const found = await files;
    if (found === undefined || found.total === 0) return {};
    const { total, models: shown } = found;
    const table = modelTable(shown, t);
    const note = total > shown.length ? element('p', {}, t('onlyLargest', { count: shown.length })) : undefined;
    return { title: `${t('models')} (${total})`, body: element('div', {}, note, table) };
  }

  /** Only on request: the bridge reads whole files for it. */
  async function duplicates() {
    const result = element('div', { 'aria-live': 'polite' });
    const look = async () => {
      const found = await bridge.duplicates();
      if (found === undefined) throw new Error(t('notServed'));
      const { groups, reclaimableBytes } = found;
      const text = groups.length === 0 ? t('noDuplicates') : t('reclaimable', { size: formatBytes(reclaimableBytes) });
      const lists = groups.map(({ files: names, sizeBytes }) =>
        element('ul', { 'aria-label': formatBytes(sizeBytes) }, ...names.map((file) => element('li', {}, file))),
      );
      result.replaceChildren(element('p', {}, text), ...lists);
    };
    const first = await files;
    if (first === undefined || first.total === 0) return {};
    return { title: t('duplicates'), body: element('div', {}, button(t('lookForDuplicates'), look), result) };
  }

  async function health() {
    const found = await doctor;
    if (found === undefined) return {};
    const { issues } = found;
    if (issues.length === 0) return { title: t('health'), body: element('p', {}, t('healthy')) };
    const items = issues.map(({ severity, path, problem, fix }) =>
      element(
        'li',
        { class: severity === 'error' ? 'vb-bad' : 'vb-warn' },
        element('strong', {}, t(severity === 'error' ? 'error' : 'warning')),
        ` ${path}`,
        element('span', { class: 'vb-reason' }, `${problem}. ${fix}`),
      ),
    );
    return { title: `${t('health')} (${issues.length})`, body: element('ul', { class: 'vb-list' }, ...items) };
  }

  async function pairs() {
    const found = await doctor;
    if (found === undefined || found.pairs.length === 0) return {};
    const items = found.pairs.map(({ adapter, needs, matches, mismatches, advice }) =>
      element(
        'li',
        { class: matches.length > 0 ? 'vb-good' : 'vb-bad' },
        `${adapter}: ${needs}`,
        element(
          'span',
          { class: 'vb-reason' },
          matches.length > 0 ? `${t('fits')} ${matches.join(', ')}` : `${t('nothing')} ${advice}`,
        ),
        mismatches.length === 0
          ? undefined
          : element(
              'details',
              { class: 'vb-more' },
              element('summary', {}, t('notFitting', { count: mismatches.length })),
              element('ul', {}, ...mismatches.map((text) => element('li', {}, text))),
            ),
      ),
    );
    return { title: t('pairs'), body: element('ul', { class: 'vb-list' }, ...items) };
  }

  async function workflow() {
    if ((await doctor) === undefined) return {};
    const result = element('div', { 'aria-live': 'polite' });
    const look = async () => {
      const references = await bridge.references(graph().serialize());
      if (references === undefined) throw new Error(t('notServed'));
      showReferences(references);
    };
    const repairAll = async (repairable) => {
      const count = repair(graph(), repairable);
      if (count < repairable.length) toast('warn', t('title'), t('repairedSome', { count, all: repairable.length }));
      else toast('success', t('title'), t('repaired', { count }));
      await look();
      // The button that was pressed is gone.
      result.querySelector('p')?.focus();
    };
    const showReferences = (references) => {
      const absent = references.filter(({ status }) => status !== 'found');
      const repairable = absent.filter(({ replacement }) => replacement !== undefined);
      const text = absent.length === 0 ? t('nothingMissing') : t('missing', { count: absent.length });
      const items = absent.map(({ name, status, replacement, path }) =>
        element(
          'li',
          { class: replacement === undefined ? 'vb-bad' : 'vb-warn' },
          name,
          element('span', { class: 'vb-reason' }, t(`status_${status}`, { replacement, path })),
        ),
      );
      result.replaceChildren(
        element('p', { tabindex: '-1' }, text),
        element('ul', { class: 'vb-list' }, ...items),
        ...(repairable.length === 0
          ? []
          : [button(t('repair', { count: repairable.length }), () => repairAll(repairable))]),
      );
    };
    return { title: t('workflow'), body: element('div', {}, button(t('lookAtWorkflow'), look), result) };
  }

  return { statistics, models, duplicates, health, pairs, workflow };
}
