/**
 * The extension: a sidebar tab, commands and settings. What the tab shows is in panel.js; the browser talks to ComfyUI
 * only, by the routes of routes.py.
 */
import { api } from '../../scripts/api.js';
import { app } from '../../scripts/app.js';
import { createBridgeApi } from './bridge_api.js';
import { createPanel } from './panel.js';
import { loadStrings } from './strings.js';
import { useDropIn } from './workflow.js';

const TAB_ID = 'vision-bridge';

const bridge = createBridgeApi((path, options) => api.fetchApi(path, options));
const strings = loadStrings(
  (path) => api.fetchApi(path),
  () => app.ui?.settings?.getSettingValue?.('Comfy.Locale'),
);

/** @param {'success' | 'info' | 'warn' | 'error'} severity */
function toast(severity, summary, detail) {
  app.extensionManager.toast.add({ severity, summary, detail, life: severity === 'error' ? 10000 : 4000 });
}

/** Says in a toast what an action came to; errors never vanish silently. */
async function say(action) {
  const t = await strings;
  try {
    const message = await action(t);
    toast('success', t('title'), message);
  } catch (error) {
    toast('error', t('title'), error.message);
  }
}

const commands = [
  {
    id: 'VisionBridge.CheckConnection',
    label: 'Vision Bridge: Check the connection',
    icon: 'pi pi-link',
    function: () =>
      say(async (t) => {
        const { health, problem, address } = await bridge.state();
        if (health === null) throw new Error(problem?.message ?? t('absent'));
        return t('connected', { version: health.version, address });
      }),
  },
  {
    id: 'VisionBridge.FreeMemory',
    label: 'Vision Bridge: Free memory',
    icon: 'pi pi-eraser',
    function: () =>
      say(async (t) => {
        await bridge.freeMemory();
        return t('freed');
      }),
  },
  {
    id: 'VisionBridge.UseDropIn',
    label: 'Vision Bridge: Use it for every Load CLIP Vision of this workflow',
    icon: 'pi pi-arrow-right-arrow-left',
    function: () =>
      say((t) => {
        const count = useDropIn(app.graph, globalThis.LiteGraph);
        return Promise.resolve(t('swapped', { count }));
      }),
  },
];

app.registerExtension({
  name: 'VisionBridge',
  commands,
  menuCommands: [{ path: ['Extensions', 'Vision Bridge'], commands: commands.map(({ id }) => id) }],
  settings: [
    {
      id: 'VisionBridge.Address',
      name: 'Address of the bridge',
      category: ['Vision Bridge', 'Connection', 'Address'],
      tooltip: 'Where vision-bridge listens. Its own default is http://127.0.0.1:8189.',
      type: 'text',
      defaultValue: 'http://127.0.0.1:8189',
    },
    {
      id: 'VisionBridge.Token',
      name: 'Token of the bridge',
      category: ['Vision Bridge', 'Connection', 'Token'],
      tooltip: 'Only if vision-bridge was started with --token.',
      type: 'text',
      defaultValue: '',
    },
    {
      id: 'VisionBridge.Start',
      name: 'Start an installed vision-bridge when none answers',
      category: ['Vision Bridge', 'Connection', 'Start'],
      tooltip: 'Runs the command vision-bridge if it is installed on this machine. Nothing is ever downloaded.',
      type: 'boolean',
      defaultValue: false,
    },
  ],
  async setup() {
    const t = await strings;
    let panel;
    app.extensionManager.registerSidebarTab({
      id: TAB_ID,
      icon: 'pi pi-eye',
      title: t('title'),
      tooltip: t('tooltip'),
      type: 'custom',
      render(element) {
        panel?.dispose();
        panel = createPanel(element, { bridge, t, toast, graph: () => app.graph });
      },
      destroy() {
        panel?.dispose();
        panel = undefined;
      },
    });
  },
});
