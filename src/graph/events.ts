/** What the executor tells the world, and whom; server/ turns it into frames. */
import type { Jsonable } from '../protocol/json.js';
import type { PreviewImage } from './node-definition.js';

/** Ids that a preview or text belongs to. */
export interface NodePlace {
  readonly nodeId: string;
  readonly promptId: string;
  readonly displayNodeId: string;
  readonly parentNodeId: string | null;
  readonly realNodeId: string;
}

/** `to` is a client id, or undefined for everybody. Data is read while the event is delivered: later it may tell of later. */
export type GraphEvent =
  | {
      readonly kind: 'json';
      readonly to: string | undefined;
      readonly type: string;
      readonly data: Readonly<Record<string, Jsonable>>;
    }
  /**
   * Sent twice per report: `before-progress` for clients that know frames with metadata, `after-progress` for the others.
   */
  | {
      readonly kind: 'preview';
      readonly to: string | undefined;
      readonly moment: 'before-progress' | 'after-progress';
      readonly image: PreviewImage;
      readonly place: NodePlace;
    }
  | { readonly kind: 'text'; readonly to: string | undefined; readonly nodeId: string; readonly text: string };

export type GraphListener = (event: GraphEvent) => void;
