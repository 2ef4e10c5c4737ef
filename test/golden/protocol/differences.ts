/**
 * Where we differ from ComfyUI 0.3.64 on purpose: its behaviour is a defect, or the node is none of ours.
 *
 * An entry excuses a difference only where we give what it says; an entry that is not needed fails the replay. Each is
 * so its own test.
 */
export interface Difference {
  readonly scenario: string;
  /** `step 3` or `client a` */
  readonly place: string;
  /** As a difference is told: `status`, `body.error`. */
  readonly field: string;
  /** What we give instead; null for nothing. */
  readonly ours: unknown;
  readonly reason: string;
}

const steps = (
  scenario: string,
  places: readonly number[],
  field: string,
  ours: unknown,
  reason: string,
): Difference[] => places.map((place) => ({ scenario, place: `step ${place}`, field, ours, reason }));

const BAD_REQUEST =
  "A request that cannot be read or understood is the client's error: 400 with a message, where ComfyUI fails with 500.";
const badRequests = (scenario: string, ...places: number[]): Difference[] =>
  steps(scenario, places, 'status', 400, BAD_REQUEST);

const UNKNOWN_CLASS = 'Classes that we do not serve are unknown here.';
const unknownClass = (scenario: string, place: number, name: string): Difference[] =>
  steps(scenario, [place], `body.${name}`, null, UNKNOWN_CLASS);

const cycle = (place: number, output: string, id: string, ids: readonly string[]): Difference => ({
  scenario: 'validate-cycle',
  place: `step ${place}`,
  field: `body.node_errors.${id}`,
  ours: {
    errors: [
      {
        type: 'dependency_cycle',
        message: 'Dependency cycle detected',
        details: [...ids, ids[0]].map((node) => `${node ?? ''} (ImageInvert)`).join(' -> '),
        extra_info: { node_id: id, cycle_nodes: ids },
      },
    ],
    dependent_outputs: [output],
    class_type: 'ImageInvert',
  },
  reason: 'A cycle is told as later versions of ComfyUI tell it; 0.3.64 swallows the error.',
});

const LAST_PART = 'A file name is its last component.';

const KEPT_FILE =
  'A file that is there is never written over; with %batch_num% in the prefix ComfyUI counts from 1 again and loses it.';

export const DIFFERENCES: readonly Difference[] = [
  ...badRequests('engine-free-clears-cache', 10),
  ...badRequests('history-queries', 19, 20),
  ...badRequests('interrupt-idle', 7, 8),
  ...badRequests('queue-bad-bodies', 1, 2, 3, 6, 9, 10, 11, 14),
  ...badRequests('upload-subfolder-and-type', 7),
  ...badRequests('flags-multi-user', 3),
  ...steps(
    'flags-multi-user',
    [10],
    'status',
    403,
    'A user that is not known is refused, where ComfyUI fails with 500.',
  ),
  ...badRequests('settings', 10, 11),
  ...badRequests('users', 3),
  ...badRequests('ws-logs-subscribe', 7, 8),
  ...badRequests('upload-mask', 5, 6, 7),
  ...steps(
    'upload-mask',
    [3],
    'status',
    400,
    'A mask whose original is not there is not stored, and the answer says so.',
  ),
  ...badRequests('upload-traversal', 2, 6),
  ...steps('upload-traversal', [3], 'status', 200, LAST_PART),
  ...steps('upload-traversal', [4], 'body.name', 'evil.png', LAST_PART),
  ...steps('upload-traversal', [5], 'body.name', 'fine.png', LAST_PART),
  ...steps('http-origin-host', [15], 'status', 403, 'What a page of another site asks is refused.'),
  ...steps(
    'http-methods',
    [15],
    'headers.accept-ranges',
    null,
    'Without a front end the index page is made, not a file.',
  ),
  ...steps('models-listing', [11, 13], 'body', [], 'Files that come with a ComfyUI are listed where there is one.'),
  ...badRequests('validate-malformed-bodies', 0, 1, 3, 6, 7, 8),
  ...unknownClass('object-info-empty-models', 0, 'CheckpointLoaderSimple'),
  ...unknownClass('object-info-empty-models', 3, 'VAELoader'),
  ...unknownClass('object-info-single', 7, 'unCLIPConditioning'),
  ...unknownClass('object-info-single', 8, 'StyleModelLoader'),
  ...unknownClass('object-info-single', 9, 'StyleModelApply'),
  ...unknownClass('object-info-single', 10, 'KSampler'),
  cycle(1, '3', '1', ['1', '2']),
  cycle(1, '3', '2', ['1', '2']),
  cycle(2, '2', '1', ['1']),
  ...[0, 1, 2].map((image) => ({
    scenario: 'run-batch-images',
    place: 'client a',
    field: `[30].json.data.output.images[${image}].filename`,
    ours: `b_${image}_16x12_0000${image + 2}_.png`,
    reason: KEPT_FILE,
  })),
  ...steps('http-origin-host', [7], 'status', 403, 'Origin: null is refused: any page in a sandboxed frame has it.'),
  ...steps('http-origin-host', [11, 12], 'status', 403, 'A Host that is not loopback is refused: DNS rebinding.'),
  ...steps('view-basic', [9, 11], 'headers.content-type', 'application/octet-stream', 'Scripts and SVG are not shown.'),
];
