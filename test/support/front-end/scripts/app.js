/**
 * What ComfyUI's front end does, in small: its requests at the start, its websocket, a graph that is built from the
 * definitions of nodes, the prompt and the workflow made of it, the events of a run, the pictures.
 *
 * `frontEnd` is what a test looks at; it acts by the controls of the page.
 */
const state = { answers: [], events: [], pictures: 0, loaded: [], definitions: {}, features: undefined };
globalThis.frontEnd = state;
const clientId = crypto.randomUUID();
const nodes = [];
const place = document.getElementById('graph');

async function ask(path, options) {
  const response = await fetch(path, options);
  const isJson = response.headers.get('content-type')?.includes('json') === true;
  const body = isJson ? await response.json() : await response.text();
  state.answers.push({ method: options?.method ?? 'GET', path, status: response.status, body });
  return { response, body };
}

const api = (path, options) => ask(`api${path}`, options);
const post = (path, body) => api(path, { method: 'POST', body: JSON.stringify(body) });

/** The requests of both front ends that were watched, 1.27.10 and 1.44.17, in their order. */
async function start() {
  await api('/system_stats');
  await api('/users');
  await api('/i18n');
  await api('/settings');
  await post('/settings/Comfy.InstalledVersion', '1.27.10');
  for (const folder of ['workflows', 'subgraphs/', 'subgraphs'])
    await api(`/userdata?dir=${encodeURIComponent(folder)}&recurse=true&split=false&full_info=true`);
  const { body: scripts } = await api('/extensions', { cache: 'no-store' });
  for (const script of scripts) await import(`..${script}`);
  const { body: definitions } = await api('/object_info', { cache: 'no-store' });
  for (const path of ['/queue', '/history?max_items=64', '/userdata/comfy.templates.json', '/workflow_templates'])
    await api(path);
  await ask('templates/index.json');
  for (const path of ['/experiment/models', '/embeddings', '/global_subgraphs', '/node_replacements', '/features'])
    await api(path);
  await api('/jobs?status=in_progress,pending&limit=200&offset=0');
  await api('/jobs?status=completed,failed,cancelled&limit=64&offset=0');
  for (const path of ['logs', 'logs/raw', 'folder_paths']) await ask(`internal/${path}`);
  await ask('internal/logs/subscribe', { method: 'PATCH', body: JSON.stringify({ clientId, enabled: true }) });
  await connect();
  state.definitions = definitions;
  for (const name of Object.keys(definitions).sort()) document.getElementById('classes').add(new Option(name));
  show('ready');
}

function show(text) {
  document.getElementById('state').textContent = text;
}

function connect() {
  const socket = new WebSocket(new URL(`api/ws?clientId=${clientId}`, location.href.replace(/^http/, 'ws')));
  socket.binaryType = 'arraybuffer';
  socket.addEventListener('open', () => {
    socket.send(JSON.stringify({ type: 'feature_flags', data: { supports_preview_metadata: true } }));
  });
  return new Promise((resolve, reject) => {
    socket.addEventListener('error', reject);
    socket.addEventListener('message', ({ data }) => {
      if (typeof data !== 'string') {
        addPicture(binaryPicture(data));
        return;
      }
      const event = JSON.parse(data);
      state.events.push(event);
      if (event.type === 'feature_flags') {
        state.features = event.data;
        resolve();
      }
      follow(event);
    });
  });
}

/** Frames of type 1 have a format and the picture, those of type 4 a length, JSON of that length and the picture. */
function binaryPicture(buffer) {
  const view = new DataView(buffer);
  const type = view.getUint32(0);
  const begin = type === 4 ? 8 + view.getUint32(4) : 8;
  return URL.createObjectURL(new Blob([buffer.slice(begin)]));
}

function follow({ type, data }) {
  if (type === 'progress_state') {
    for (const [id, node] of Object.entries(data.nodes)) fieldsetOf(id)?.setAttribute('data-state', node.state);
  } else if (type === 'executed') {
    for (const { filename, subfolder, type: area } of data.output?.images ?? [])
      addPicture(`api/view?${new URLSearchParams({ filename, subfolder, type: area, rand: Math.random() })}`);
  } else if (type === 'execution_error') show(`${data.node_type}: ${data.exception_message}`);
  else if (type === 'execution_success') show('done');
}

function addPicture(url) {
  const picture = document.createElement('img');
  picture.alt = '';
  picture.addEventListener('load', () => (state.pictures += 1));
  picture.src = url;
  document.getElementById('pictures').append(picture);
}

const fieldsetOf = (id) => place.querySelector(`[data-node="${id}"]`);

/** Inputs of a class: name, type or choices, options; hidden ones are the server's own. */
function inputsOf({ input }) {
  const listed = { ...input.required, ...input.optional };
  return Object.entries(listed).map(([name, [type, options = {}]]) => {
    const choices = Array.isArray(type) ? type : type === 'COMBO' ? (options.options ?? []) : undefined;
    return { name, type: choices === undefined ? type : 'COMBO', choices, options };
  });
}

const WIDGETS = new Set(['INT', 'FLOAT', 'STRING', 'BOOLEAN', 'COMBO']);

function add(classType) {
  const definition = state.definitions[classType];
  const id = String(nodes.length + 1);
  const fieldset = document.createElement('fieldset');
  fieldset.dataset.node = id;
  fieldset.append(Object.assign(document.createElement('legend'), { textContent: definition.display_name }));
  const controls = inputsOf(definition).map((input) => {
    const control = controlOf(input);
    const label = Object.assign(document.createElement('label'), { textContent: `${input.name} ` });
    label.append(control);
    fieldset.append(label);
    return { ...input, control };
  });
  place.append(fieldset);
  nodes.push({ id, classType, definition, controls });
}

/** A widget for a value, a list of the outputs that fit for a link. */
function controlOf({ name, type, choices, options }) {
  const control = document.createElement(choices !== undefined || !WIDGETS.has(type) ? 'select' : 'input');
  control.name = name;
  if (choices !== undefined) for (const choice of choices) control.add(new Option(choice));
  else if (type === 'BOOLEAN') Object.assign(control, { type: 'checkbox', checked: options.default === true });
  else if (WIDGETS.has(type)) control.value = options.default ?? (type === 'STRING' ? '' : 0);
  else {
    control.add(new Option('', ''));
    for (const { id, definition } of nodes)
      definition.output.forEach((output, slot) => {
        if (output === type || type === '*')
          control.add(new Option(`${id} ${definition.output_name[slot]}`, `${id}:${slot}`));
      });
  }
  if (choices !== undefined && options.default !== undefined) control.value = options.default;
  return control;
}

function valueOf({ type, control }) {
  if (type === 'BOOLEAN') return control.checked;
  return type === 'INT' || type === 'FLOAT' ? Number(control.value) : control.value;
}

/** The API form, and the form that a person's file has: links by number, values in the order of the widgets. */
function serialize() {
  const prompt = {};
  const workflow = { id: clientId, revision: 0, version: 0.4, nodes: [], links: [], groups: [], config: {}, extra: {} };
  for (const { id, classType, definition, controls } of nodes) {
    const inputs = {};
    const sockets = [];
    const values = [];
    for (const input of controls) {
      if (WIDGETS.has(input.type)) {
        values.push((inputs[input.name] = valueOf(input)));
        continue;
      }
      const [source, slot] = input.control.value.split(':');
      const number = source === '' ? null : workflow.links.length + 1;
      if (number !== null) {
        inputs[input.name] = [source, Number(slot)];
        workflow.links.push([number, Number(source), Number(slot), Number(id), sockets.length, input.type]);
      }
      sockets.push({ name: input.name, type: input.type, link: number });
    }
    prompt[id] = { class_type: classType, inputs, _meta: { title: definition.display_name } };
    workflow.nodes.push({ id: Number(id), type: classType, inputs: sockets, widgets_values: values });
  }
  return { prompt, workflow };
}

async function run() {
  show('running');
  for (const { id } of nodes) fieldsetOf(id).removeAttribute('data-state');
  const { prompt, workflow } = serialize();
  const { response, body } = await post('/prompt', {
    client_id: clientId,
    prompt,
    extra_data: { extra_pnginfo: { workflow } },
  });
  state.promptId = body.prompt_id;
  // Outputs that are sound run, whatever is wrong with others.
  for (const id of Object.keys(body.node_errors)) fieldsetOf(id).dataset.state = 'failed';
  if (!response.ok) show(body.error.message);
}

/** Draws a picture and sends it, as pasting one does. */
async function upload() {
  const canvas = Object.assign(document.createElement('canvas'), { width: 96, height: 64 });
  const context = canvas.getContext('2d');
  const gradient = context.createLinearGradient(0, 0, 96, 64);
  gradient.addColorStop(0, '#f80');
  gradient.addColorStop(1, '#08f');
  context.fillStyle = gradient;
  context.fillRect(0, 0, 96, 64);
  const form = new FormData();
  form.append('image', await new Promise((resolve) => canvas.toBlob(resolve)), 'drawn.png');
  const { body } = await api('/upload/image', { method: 'POST', body: form });
  const refreshed = await api('/object_info/LoadImage');
  Object.assign(state.definitions, refreshed.body);
  show(`uploaded ${body.name}`);
}

for (const [id, act] of [
  ['add', () => add(document.getElementById('classes').value)],
  ['run', run],
  ['upload', upload],
])
  document
    .getElementById(id)
    .addEventListener('click', () => void Promise.resolve(act()).catch((error) => show(String(error))));
start().catch((error) => show(String(error)));
