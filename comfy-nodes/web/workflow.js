/** Changes to the open workflow: the drop-in for ComfyUI's own loader, and names of models that lie elsewhere. */

const OWN_LOADER = 'CLIPVisionLoader';
const DROP_IN = 'VisionBridgeCLIPVisionLoader';

/** Replaces every Load CLIP Vision by the drop-in, links and model included. Gives their number. */
export function useDropIn(graph, liteGraph) {
  const loaders = graph._nodes.filter((node) => node.type === OWN_LOADER);
  for (const loader of loaders) {
    const dropIn = liteGraph.createNode(DROP_IN);
    if (dropIn === null || dropIn === undefined) throw new Error(`${DROP_IN} is not there; reload the page.`);
    dropIn.pos = [...loader.pos];
    graph.add(dropIn);
    const widget = dropIn.widgets?.find(({ name }) => name === 'clip_name');
    const model = loader.widgets?.find(({ name }) => name === 'clip_name')?.value;
    if (widget !== undefined && model !== undefined) setWidget(dropIn, widget, model);
    const targets = (loader.outputs?.[0]?.links ?? []).map((id) => graph.links.get?.(id) ?? graph.links[id]);
    for (const link of targets.filter(Boolean)) {
      const target = graph.getNodeById(link.target_id);
      if (target) dropIn.connect(0, target, link.target_slot);
    }
    graph.remove(loader);
  }
  return loaders.length;
}

/** Writes the names under which models were found into the widgets that name them otherwise. Gives their number. */
export function repair(graph, references) {
  const graphs = [graph, ...(graph.subgraphs?.values?.() ?? [])];
  let count = 0;
  for (const { nodeId, nodeType, name, replacement } of references) {
    const id = Number.isNaN(Number(nodeId)) ? nodeId : Number(nodeId);
    const nodes = graphs.map((candidate) => candidate.getNodeById(id)).filter((node) => node?.type === nodeType);
    for (const node of nodes) {
      for (const widget of node.widgets ?? []) {
        const value = replaceName(widget.value, name, replacement);
        if (value === widget.value) continue;
        setWidget(node, widget, value);
        count += 1;
      }
    }
  }
  return count;
}

/** The value with another name in it: the name itself, a prompt that names an embedding, or an object that holds one. */
function replaceName(value, name, replacement) {
  if (typeof value === 'string') {
    if (value === name) return replacement;
    return value.replaceAll(`embedding:${name}`, () => `embedding:${replacement}`);
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return value;
  const entries = Object.entries(value).map(([key, entry]) => [key, replaceName(entry, name, replacement)]);
  return entries.every(([key, entry]) => entry === value[key]) ? value : { ...value, ...Object.fromEntries(entries) };
}

function setWidget(node, widget, value) {
  widget.value = value;
  widget.callback?.(value);
  node.setDirtyCanvas?.(true, true);
}
