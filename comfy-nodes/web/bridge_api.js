/**
 * Requests of the panel, and their answers in the panel's own form.
 *
 * What a bridge does not serve is `undefined`: the panel leaves that part out. What it serves in another form is an
 * error, not an empty list.
 */

const GUARD = { 'X-Vision-Bridge': '1', 'Content-Type': 'application/json' };

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
    /** Disk use in groups, largest first. */
    async stats(by) {
      const body = await ask(`stats?by=${encodeURIComponent(by)}`);
      return (
        body &&
        listOf(body, 'groups')
          .map(toGroup)
          .sort((a, b) => b.sizeBytes - a.sizeBytes)
      );
    },
    /** Model files, largest first. */
    async models() {
      const body = await ask('models?sort=size&limit=500');
      return body && listOf(body, 'models').map(toModel);
    },
    /** Files that are there more than once. */
    async duplicates() {
      const body = await ask('duplicates');
      return (
        body &&
        listOf(body, 'groups').map((group) => ({
          files: listOf(group, 'files').map((file) => (typeof file === 'string' ? file : nameOf(file))),
          reclaimableBytes: number(group, 'reclaimable_bytes', 'reclaimableBytes'),
        }))
      );
    },
    /** Pairs and mismatches of all models; with a workflow, its models too. */
    async doctor(workflow) {
      const body = await send('doctor', workflow === undefined ? {} : { workflow });
      if (body === undefined) return undefined;
      return {
        pairs: (body.pairs ?? []).map((pair) => ({
          model: nameOf(pair.model ?? pair),
          partner: pair.encoder === undefined || pair.encoder === null ? undefined : nameOf(pair.encoder),
          problem: pair.problem ?? pair.reason ?? undefined,
        })),
        references: (body.references ?? body.models ?? []).map((reference) => ({
          nodeId: reference.node_id ?? reference.nodeId,
          input: reference.input,
          name: nameOf(reference),
          status: reference.status,
          foundAs: reference.found_as ?? reference.foundAs,
        })),
      };
    },
  };
}

function listOf(body, key) {
  if (Array.isArray(body[key])) return body[key];
  throw new Error(`The bridge's answer has no list "${key}": the pack and vision-bridge are of different versions.`);
}

function number(object, ...names) {
  const name = names.find((candidate) => typeof object[candidate] === 'number');
  if (name === undefined) throw new Error(`The bridge's answer has no number "${names[0]}".`);
  return object[name];
}

function nameOf(file) {
  return typeof file === 'string' ? file : [file.folder, file.name].filter(Boolean).join('/');
}

function toGroup(group) {
  return {
    label: String(group.label ?? group.key ?? group.name),
    files: number(group, 'files', 'count'),
    sizeBytes: number(group, 'size_bytes', 'sizeBytes', 'bytes'),
  };
}

function toModel(model) {
  return {
    name: nameOf(model),
    kind: String(model.kind ?? ''),
    base: String(model.base ?? model.base_model ?? model.baseModel ?? ''),
    sizeBytes: number(model, 'size_bytes', 'sizeBytes'),
    problems: (model.problems ?? model.health ?? []).map((problem) => String(problem.message ?? problem)),
  };
}
