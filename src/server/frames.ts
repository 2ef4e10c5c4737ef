/** Binary websocket frames. All integers are unsigned 32-bit big-endian; the first is the kind of the frame. */
import { writeJson } from '../protocol/json.js';
import type { NodePlace } from '../graph/index.js';

const PREVIEW_IMAGE = 1;
const TEXT = 3;
const PREVIEW_IMAGE_WITH_METADATA = 4;

export interface FrameImage {
  readonly format: 'jpeg' | 'png';
  readonly bytes: Uint8Array;
}

function words(...values: number[]): Buffer {
  const buffer = Buffer.alloc(values.length * 4);
  values.forEach((value, i) => buffer.writeUInt32BE(value, i * 4));
  return buffer;
}

/** Kind 1: image type (1 JPEG, 2 PNG), image. */
export function previewFrame({ format, bytes }: FrameImage): Buffer {
  return Buffer.concat([words(PREVIEW_IMAGE, format === 'jpeg' ? 1 : 2), bytes]);
}

/** Kind 4: length of the metadata, metadata as JSON, image. */
export function previewFrameWithMetadata({ format, bytes }: FrameImage, place: NodePlace): Buffer {
  const metadata = Buffer.from(
    writeJson({
      node_id: place.nodeId,
      prompt_id: place.promptId,
      display_node_id: place.displayNodeId,
      parent_node_id: place.parentNodeId,
      real_node_id: place.realNodeId,
      image_type: `image/${format}`,
    }),
  );
  return Buffer.concat([words(PREVIEW_IMAGE_WITH_METADATA, metadata.length), metadata, bytes]);
}

/** Kind 3: length of the node id, node id, text. */
export function textFrame(nodeId: string, text: string): Buffer {
  const id = Buffer.from(nodeId);
  return Buffer.concat([words(TEXT, id.length), id, Buffer.from(text)]);
}
