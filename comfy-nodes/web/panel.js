/**
 * The sidebar tab: state of the bridge, its queue and memory, where the disk went, models, duplicates, pairs, and the
 * models that the open workflow misses.
 *
 * Parts that this bridge does not serve are left out. Everything can be reached with the keyboard; changes of state are
 * told to screen readers. Colours are ComfyUI's own, so it is dark or light as ComfyUI is.
 */
import { element } from './elements.js';
import { createParts } from './parts.js';

const STATE_INTERVAL_MS = 5000;
/** How soon the parts are asked for again while the bridge still reads model files. */
const SCAN_INTERVAL_MS = 2000;

/** @param {HTMLElement} root @param {{ bridge: object, t: Function, toast: Function, graph: () => object }} services */
export function createPanel(root, { bridge, t, toast, graph }) {
  const style = element('link', { rel: 'stylesheet', href: new URL('./panel.css', import.meta.url).href });
  const state = element('div', { role: 'status', 'aria-live': 'polite', class: 'vb-state' });
  const actions = element('div', { class: 'vb-actions' });
  const work = element('p', { class: 'vb-work' });
  const progress = element('p', { role: 'status', class: 'vb-work' });
  const parts = element('div');
  const panel = element(
    'section',
    { class: 'vb-panel', 'aria-label': t('title') },
    element('h2', {}, t('title')),
    state,
    work,
    actions,
    progress,
    parts,
  );
  root.replaceChildren(style, panel);

  let isConnected;
  let scanTimer;
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
    if (!isConnected) progress.textContent = '';
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

  /** Anew when the connection came or went, and while the bridge reads model files; what is open stays open. */
  async function showParts() {
    clearTimeout(scanTimer);
    if (!isConnected) {
      parts.replaceChildren();
      return;
    }
    const makers = createParts({ bridge, t, toast, graph, button });
    const made = await Promise.all(
      Object.entries(makers).map(async ([name, make]) => {
        try {
          return { name, ...(await make()) };
        } catch (error) {
          return { name, body: element('p', { role: 'alert', class: 'vb-error' }, error.message) };
        }
      }),
    );
    if (isDisposed || !isConnected) return;
    const scan = made.map((part) => part.scan).find(Boolean);
    const isOpen = (name) => parts.querySelector(`details[data-part="${name}"]`)?.open;
    const alerts = new Set();
    const shown = made
      .filter(({ title, body }) => {
        // One failure of all parts is told once.
        if (title !== undefined || body === undefined) return body !== undefined;
        return !alerts.has(body.textContent) && alerts.add(body.textContent);
      })
      .map(({ name, title, body, startsOpen = false }) => {
        if (title === undefined) return body;
        return element(
          'details',
          { 'data-part': name, open: isOpen(name) ?? startsOpen },
          element('summary', {}, title),
          body,
        );
      });
    progress.textContent = scan === undefined ? '' : t('scanning', scan);
    // Somebody who is in there is not thrown out: it is shown once they have left.
    const isInUse = parts.contains(document.activeElement);
    if (!isInUse) parts.replaceChildren(...shown);
    if (scan !== undefined || isInUse) scanTimer = setTimeout(() => void showParts(), SCAN_INTERVAL_MS);
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
      clearTimeout(scanTimer);
      root.replaceChildren();
    },
  };
}

function describeWork({ queue_remaining: queued, inference }, t) {
  const running = inference?.pid === null || inference?.pid === undefined ? t('asleep') : t('awake');
  return `${t('queue', { queued: queued ?? 0, pending: inference?.pending ?? 0 })} ${running}`;
}
