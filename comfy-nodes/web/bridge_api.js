/**
 * Requests of the panel, by the pack's own routes, and their answers in the panel's own form.
 *
 * What a bridge does not serve is `undefined`: the panel leaves that part out. What it serves in another form is an
 * error, not an empty list.
 */

const GUARD = { 'X-Vision-Bridge': '1', 'Content-Type': 'application/json' };
/** More rows than this are of no use in a sidebar. */
const MAX_MODELS = 500;

/** @param {(path: string, options?: RequestInit) => Promise<Response>} fetchApi */
export function createBridgeApi(fetchApi) {
  const ask = async (path, options) => {
    const response = await fetchApi(`/vision_bridge/${path}`, options);
    if (response.status === 404) return undefined;
    const body = await response.json();
    if (!response.ok) throw new Error(body?.error?.message ?? `HTTP ${response.status}`);
    return body;
  };
  const send = (path, body) => ask(path, { method: 'POST', headers: GUARD, body: JSON.stringify(body) });
  return {
    state: () => ask('state'),
    start: () => send('start', {}),
    freeMemory: () => send('free', { unload_models: true, free_memory: true }),
    /** Disk use in groups, largest first, and how far the scan is. */
    async stats(by) {
      const body = await ask(`stats?by=${encodeURIComponent(by)}`);
      if (body === undefined) return undefined;
      const groups = listOf(body, 'groups').map((group) => ({
        label: textOf(group, 'group'),
        files: numberOf(group, 'files'),
        sizeBytes: numberOf(group, 'sizeBytes'),
      }));
      return { groups: groups.sort((a, b) => b.sizeBytes - a.sizeBytes), scan: scanOf(body) };
    },
    /** Model files, largest first. */
    async models() {
      const body = await ask(`models?sort=size&descending=true&limit=${MAX_MODELS}`);
      if (body === undefined) return undefined;
      const models = listOf(body, 'models').map((model) => ({
        name: nameOf(model),
        kind: model.kind ?? '',
        base: model.base ?? '',
        sizeBytes: numberOf(model, 'size'),
        // Broken files say what they are; sound ones say nothing.
        status: model.status === 'ok' ? undefined : (model.status ?? undefined),
      }));
      return { total: numberOf(body, 'total'), models };
    },
    /** Files that are there more than once. Reads them all: it takes its time. */
    async duplicates() {
      const body = await send('duplicates', {});
      if (body === undefined) return undefined;
      return {
        reclaimableBytes: numberOf(body, 'reclaimableBytes'),
        groups: listOf(body, 'groups').map((group) => ({
          files: listOf(group, 'files').map(String),
          sizeBytes: numberOf(group, 'sizeBytes'),
        })),
      };
    },
    /** What is wrong with files, and which encoder fits which adapter. */
    async doctor() {
      const body = await ask('doctor');
      if (body === undefined) return undefined;
      return {
        issues: listOf(body, 'issues').map(({ severity, path, problem, fix }) => ({ severity, path, problem, fix })),
        pairs: listOf(body, 'pairs').map(({ adapter, needs, matches, mismatches, advice }) => ({
          adapter: nameOf(adapter),
          needs: needs?.label ?? '',
          matches: (matches ?? []).map(nameOf),
          mismatches: (mismatches ?? []).map(({ path, reason }) => `${path}: ${reason}`),
          advice: advice ?? '',
        })),
      };
    },
    /** The models that a workflow names, and where they are. */
    async references(workflow) {
      const body = await send('missing-models', workflow);
      if (body === undefined) return undefined;
      return listOf(body, 'references').map((reference) => ({
        nodeId: textOf(reference, 'nodeId'),
        nodeType: textOf(reference, 'nodeType'),
        name: textOf(reference, 'name'),
        status: textOf(reference, 'status'),
        path: reference.path ?? undefined,
        replacement: reference.replacement ?? undefined,
      }));
    },
  };
}

/** @throws {Error} for an answer of another form */
function listOf(body, key) {
  if (Array.isArray(body[key])) return body[key];
  throw otherForm(key);
}

function numberOf(object, key) {
  if (typeof object[key] === 'number') return object[key];
  throw otherForm(key);
}

function textOf(object, key) {
  if (typeof object[key] === 'string') return object[key];
  throw otherForm(key);
}

function otherForm(key) {
  return new Error(`The bridge's answer has no "${key}": the pack and vision-bridge are of different versions.`);
}

function scanOf({ scan }) {
  const isDone = scan?.state === undefined || scan.state === 'done';
  return isDone ? undefined : { known: scan.known ?? 0, files: scan.files ?? 0 };
}

function nameOf(file) {
  return [file.folder, file.name].filter(Boolean).join('/');
}
