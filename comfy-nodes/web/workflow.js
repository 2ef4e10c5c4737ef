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
    const model = loader.widgets?.find(({ name }) => name === 'clip_name')?.value;
    setWidget(dropIn, 'clip_name', model);
    const targets = (loader.outputs?.[0]?.links ?? []).map((id) => graph.links.get?.(id) ?? graph.links[id]);
    for (const link of targets.filter(Boolean)) {
      const target = graph.getNodeById(link.target_id);
      if (target) dropIn.connect(0, target, link.target_slot);
    }
    graph.remove(loader);
  }
  return loaders.length;
}

/** Writes the names under which models were found into the nodes that look for them. Gives the number of changes. */
export function repair(graph, references) {
  let count = 0;
  for (const { nodeId, input, foundAs } of references) {
    const node = graph.getNodeById(Number.isNaN(Number(nodeId)) ? nodeId : Number(nodeId));
    if (node && foundAs !== undefined && setWidget(node, input, foundAs)) count += 1;
  }
  return count;
}

function setWidget(node, name, value) {
  const widget = node.widgets?.find((candidate) => candidate.name === name);
  if (widget === undefined || value === undefined) return false;
  widget.value = value;
  widget.callback?.(value);
  node.setDirtyCanvas?.(true, true);
  return true;
}
