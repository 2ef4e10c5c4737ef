/** Random prompts, HTTP requests and websocket messages: near enough to good ones to come far, and wrong somewhere. */
import fc from 'fast-check';
import { serializeSafetensors } from '../../src/formats/index.js';
import { f32Tensor } from '../../src/tensor/tensor.js';
import { REFERENCE_ROUTES } from './reference-routes.js';

/** `/object_info`, as far as prompts are made of it. */
export type ObjectInfo = Readonly<
  Record<
    string,
    {
      readonly input: Readonly<Record<string, Readonly<Record<string, readonly unknown[]>>>>;
      readonly output: readonly unknown[];
    }
  >
>;

export interface RandomRequest {
  readonly method: string;
  readonly path: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: Buffer | undefined;
}

const HUGE = ['18446744073709551615', '1e400', '-1e308', '9007199254740993', '-0.0', 'NaN', '1' + '0'.repeat(400)];
const ODD_TEXTS = [
  '',
  '..',
  '../../etc/passwd',
  '__proto__',
  'constructor',
  '\u0000',
  '%',
  '(a+)+$',
  'a'.repeat(40) + '!',
];
/** Sizes stay small: the test is of what is refused and survived, not of how long large pictures take. */
const SIDES = [1, 2, 7, 16, 33, 64];

/** A value as it stands in JSON, which can say more than JSON.stringify can. */
const rawValue: fc.Arbitrary<string> = fc.oneof(
  fc.json({ maxDepth: 3 }),
  fc.constantFrom(...HUGE),
  fc.constantFrom(...ODD_TEXTS).map((text) => JSON.stringify(text)),
  fc.string({ unit: 'binary', maxLength: 30 }).map((text) => JSON.stringify(text)),
  fc.integer({ min: 1, max: 2000 }).map((depth) => '['.repeat(depth) + ']'.repeat(depth)),
  fc.tuple(fc.constantFrom('1', '2', '9', ''), rawSlot()).map(([node, slot]) => `["${node}",${slot}]`),
);

function rawSlot(): fc.Arbitrary<string> {
  return fc.constantFrom('0', '0', '1', '7', '-1', '0.5', '1e99', 'null', '"0"', 'true');
}

/** Mostly what the input takes. */
function fittingValue(name: string, type: unknown, options: unknown): fc.Arbitrary<string> {
  const choices = Array.isArray(type) ? type : (options as { options?: readonly unknown[] } | undefined)?.options;
  if (choices !== undefined && choices.length > 0)
    return fc.constantFrom(...choices).map((choice) => JSON.stringify(choice));
  if (name === 'batch_size' || name === 'amount') return fc.constantFrom('1', '2', '3');
  if (type === 'INT') return fc.constantFrom(...SIDES).map(String);
  if (type === 'FLOAT') return fc.constantFrom('0', '0.5', '1', '1.5', '2');
  if (type === 'BOOLEAN') return fc.constantFrom('true', 'false');
  if (type === 'STRING') return fc.string({ maxLength: 12 }).map((text) => JSON.stringify(text));
  return rawValue;
}

/** The JSON of a graph of some nodes, each linked to those before it where an input needs that. */
export function randomGraph(info: ObjectInfo): fc.Arbitrary<string> {
  const classes = Object.keys(info);
  return (
    fc
      .array(fc.constantFrom(...classes), { minLength: 0, maxLength: 6 })
      // Most nodes want a picture.
      .map((chosen) => ['EmptyImage', ...chosen])
      .chain((chosen) => fc.tuple(...chosen.map((name, index) => nodeText(info, name, chosen.slice(0, index)))))
      .chain((nodes) => {
        const last = nodes.length;
        const sink = `"${last + 1}":{"class_type":"PreviewAny","inputs":{"source":["${last}",0]}}`;
        const good = nodes.map((text, index) => `"${index + 1}":${text}`);
        const usual = fc.constant(`{${[...good, sink].join()}}`);
        const broken = rawValue.map((value) => `{${[...good, sink, `"${last + 2}":${value}`].join()}}`);
        return fc.oneof(
          { weight: 8, arbitrary: usual },
          { weight: 1, arbitrary: broken },
          { weight: 1, arbitrary: rawValue },
        );
      })
  );
}

function nodeText(info: ObjectInfo, name: string, before: readonly string[]): fc.Arbitrary<string> {
  const { required = {}, optional = {} } = info[name]?.input ?? {};
  const inputs = Object.entries({ ...required, ...optional }).map(([key, [type, options]]) => {
    const links = before.flatMap((source, index) =>
      (info[source]?.output ?? []).flatMap((output, slot) =>
        output === type || type === '*' ? [`["${index + 1}",${slot}]`] : [],
      ),
    );
    const fitting = links.length > 0 ? fc.constantFrom(...links) : fittingValue(key, type, options);
    const value = fc.oneof(
      { weight: 60, arbitrary: fitting },
      { weight: 1, arbitrary: rawValue },
      { weight: 1, arbitrary: fc.constant(undefined) },
    );
    return value.map((text) => (text === undefined ? [] : [`${JSON.stringify(key)}:${text}`]));
  });
  const className = fc.oneof(
    { weight: 30, arbitrary: fc.constant(JSON.stringify(name)) },
    { weight: 1, arbitrary: rawValue },
  );
  return fc
    .tuple(className, ...inputs)
    .map(([type, ...pairs]) => `{"class_type":${type},"inputs":{${pairs.flat().join()}}}`);
}

/** The body of `POST /prompt`. */
export function randomPromptBody(graph: fc.Arbitrary<string>): fc.Arbitrary<string> {
  const extra = fc.oneof(
    { weight: 6, arbitrary: fc.constant('') },
    {
      weight: 1,
      arbitrary: fc
        .tuple(fc.constantFrom('front', 'number', 'extra_data', 'prompt_id', 'partial_execution_targets'), rawValue)
        .map(([key, value]) => `,"${key}":${value}`),
    },
  );
  return fc.tuple(graph, extra).map(([prompt, more]) => `{"prompt":${prompt},"client_id":"fuzz"${more}}`);
}

const OWN_ROUTES = [
  ...['health', 'paths', 'ipadapter', 'ipadapter/inspect', 'ipadapter/weights', 'ipadapter/layers'].map((end) => ({
    method: 'GET',
    path: `/bridge/v1/${end}`,
  })),
  ...[
    ...['encode', 'nodes/EmptyImage', 'nodes/ImageScale', 'nodes/NoSuchNode', 'faces/similarity'],
    ...['ipadapter/embeds', 'ipadapter/combine', 'ipadapter/project'],
  ].map((end) => ({ method: 'POST', path: `/bridge/v1/${end}` })),
];
/** Our own routes twice: they are fewer, and each does more. */
const ROUTES: readonly { readonly method: string; readonly path: string }[] = [
  ...REFERENCE_ROUTES,
  ...REFERENCE_ROUTES.map(({ method, path: end }) => ({ method, path: `/api${end}` })),
  ...OWN_ROUTES,
  ...OWN_ROUTES,
];
const QUERY_NAMES = (
  'filename type subfolder preview channel max_items offset clientId dir recurse full_info split overwrite model ' +
  'crop tile adapter status limit sort_by sort_order workflow_id call_id client_id weight_type weight token path'
).split(' ');
const HEADER_VALUES: Readonly<Record<string, readonly string[]>> = {
  range: ['bytes=0-', 'bytes=5-1', 'bytes=-1', 'bytes=99999999999999999999-', 'bytes=0-0,2-3', 'lines=1'],
  'if-none-match': ['*', '"x"', 'W/"0-0"', ','],
  'if-modified-since': ['yesterday', 'Thu, 01 Jan 1970 00:00:00 GMT', '-1'],
  'if-range': ['"x"', 'never'],
  'accept-encoding': ['gzip', 'br;q=0, *', 'gzip;q=x'],
  accept: ['*/*', 'application/json', 'text/html', ';'],
  'comfy-user': ['default', '../x', '__proto__', ''],
  origin: ['null', 'http://127.0.0.1', 'http://evil.example', 'not a url'],
  'sec-fetch-site': ['cross-site', 'same-origin', '?'],
  cookie: ['a=b', '=;=;', 'vision_bridge_token=%'],
  authorization: ['Bearer x', 'Basic', ''],
  expect: ['100-continue', 'nothing'],
  connection: ['close', 'keep-alive', 'upgrade'],
  upgrade: ['websocket', 'h2c'],
};
const TYPES = [
  'application/json',
  'text/plain',
  'application/octet-stream',
  'x',
  '',
  'multipart/form-data',
  'a/b; charset=nope',
];
const METHODS = ['GET', 'POST', 'DELETE', 'PATCH', 'PUT', 'HEAD', 'OPTIONS', 'PROPFIND'];
const BOUNDARY = 'random-form';

const name = fc.oneof(
  fc.constantFrom('a.json', 'demo.png', 'clip_vision', 'CLIP-ViT-H-demo.safetensors', 'input', 'output', '1', 'true'),
  fc.constantFrom(...ODD_TEXTS),
  fc.string({ unit: 'grapheme', maxLength: 20 }),
);
const encodedName = fc.oneof(
  // Halves of surrogate pairs have no UTF-8.
  name.map((text) => encodeURIComponent(Buffer.from(text, 'utf8').toString('utf8'))),
  fc.constantFrom('%', '%zz', '%ff', '%2e%2e%2f', '%00', 'a'.repeat(3000), ''),
);

const replacement = fc.oneof(
  { weight: 3, arbitrary: fc.constant(undefined) },
  { weight: 1, arbitrary: fc.tuple(fc.nat(5), encodedName) },
);
const queryName = fc.oneof(
  { weight: 9, arbitrary: fc.constantFrom(...QUERY_NAMES) },
  { weight: 1, arbitrary: encodedName },
);
const queryPairs = fc.array(fc.tuple(queryName, encodedName), { maxLength: 4 });

const target = fc
  .tuple(fc.constantFrom(...ROUTES), replacement, queryPairs, fc.nat(4), fc.constantFrom(...METHODS))
  .map(([route, replaced, query, die, other]) => {
    const parts = route.path.split('/');
    if (replaced !== undefined) parts[1 + (replaced[0] % (parts.length - 1))] = replaced[1];
    const pairs = query.map(([key, value]) => `${key}=${value}`);
    const path = parts.join('/') + (pairs.length === 0 ? '' : `?${pairs.join('&')}`);
    return { method: die === 0 ? other : route.method, path };
  });

const headers = fc
  .array(
    fc
      .constantFrom(...Object.keys(HEADER_VALUES))
      .chain((key) => fc.tuple(fc.constant(key), fc.constantFrom(...(HEADER_VALUES[key] ?? [])))),
    { maxLength: 3 },
  )
  .map((pairs) => Object.fromEntries(pairs));

const formPart = fc
  .tuple(
    fc.constantFrom('image', 'subfolder', 'type', 'overwrite', 'original_ref', 'mask', 'x'),
    fc.option(name),
    fc.oneof(
      rawValue.map((text) => Buffer.from(text)),
      fc.uint8Array({ maxLength: 60 }).map((bytes) => Buffer.from(bytes)),
      name.map((text) => Buffer.from(text)),
    ),
  )
  .map(([field, file, data]) =>
    Buffer.concat([
      Buffer.from(`--${BOUNDARY}\r\nContent-Disposition: form-data; name="${field}"`),
      Buffer.from(file === null ? '\r\n\r\n' : `; filename="${file}"\r\n\r\n`),
      data,
      Buffer.from('\r\n'),
    ]),
  );

const nodeInputs = fc
  .array(
    fc.tuple(fc.constantFrom('width', 'height', 'batch_size', 'image', 'crop'), fc.oneof(rawValue, fc.constant('8'))),
    {
      maxLength: 5,
    },
  )
  .map((pairs) => `{${pairs.map(([key, value]) => `"${key}":${value}`).join()}}`);

const tensors = fc
  .tuple(
    fc.constantFrom('image', 'image_embeds', 'embeds', 'cond', 'x'),
    fc.array(fc.integer({ min: 0, max: 5 }), { maxLength: 4 }),
    fc.oneof(rawValue, nodeInputs),
  )
  .map(([key, shape, inputs]) => {
    const count = shape.reduce((a, b) => a * b, 1);
    return Buffer.from(serializeSafetensors({ [key]: f32Tensor(shape, new Float32Array(count)) }, { inputs }));
  });

const jsonBody = fc.oneof(
  rawValue,
  fc
    .array(
      fc.tuple(
        fc.constantFrom(
          'clear',
          'delete',
          'prompt_id',
          'unload_models',
          'free_memory',
          'username',
          'clientId',
          'enabled',
          'prompt',
          'job_ids',
          'a.b',
        ),
        rawValue,
      ),
      { maxLength: 4 },
    )
    .map((pairs) => `{${pairs.map(([key, value]) => `"${key}":${value}`).join()}}`),
);

const body = fc.oneof(
  fc.constant(undefined),
  fc.tuple(
    fc.constantFrom(...TYPES),
    fc.oneof(
      jsonBody.map((text) => Buffer.from(text)),
      tensors,
      fc.uint8Array({ maxLength: 200 }).map((bytes) => Buffer.from(bytes)),
    ),
  ),
  fc
    .array(formPart, { maxLength: 4 })
    .chain((parts) =>
      fc
        .boolean()
        .map((isWhole): [string, Buffer] => [
          `multipart/form-data; boundary=${BOUNDARY}`,
          Buffer.concat([...parts, Buffer.from(isWhole ? `--${BOUNDARY}--\r\n` : `--${BOUNDARY}`)]),
        ]),
    ),
);

export const randomRequest: fc.Arbitrary<RandomRequest> = fc
  .tuple(target, headers, body)
  .map(([{ method, path }, some, sent]) => ({
    method,
    path,
    headers: { ...some, ...(sent === undefined ? {} : { 'content-type': sent[0] }) },
    body: sent?.[1],
  }));

export const randomMessage: fc.Arbitrary<string | Buffer> = fc.oneof(
  rawValue,
  fc.string({ unit: 'binary', maxLength: 100 }),
  fc.uint8Array({ maxLength: 200 }).map((bytes) => Buffer.from(bytes)),
  fc
    .tuple(fc.constantFrom('feature_flags', 'status', 'x'), rawValue)
    .map(([type, data]) => `{"type":"${type}","data":${data}}`),
  rawValue.map((value) => `{"type":"feature_flags","data":{"supports_preview_metadata":${value}}}`),
);
