/** The format of the recordings. Source: the README beside this file, "File format". */
import * as z from 'zod';
import { parseJson, toPlain } from '../../../src/protocol/json.js';

const fileSchema = z.object({ base64: z.string().optional(), length: z.number().optional() });
const partSchema = z.object({
  name: z.string(),
  value: z.string().optional(),
  filename: z.string().optional(),
  content_type: z.string().optional(),
  data_base64: z.string().optional(),
});
const exchangeSchema = z.object({
  request: z.object({
    method: z.string(),
    path: z.string(),
    headers: z.record(z.string(), z.string()).optional(),
    body: z.unknown().optional(),
    body_text: z.string().optional(),
    body_base64: z.string().optional(),
    multipart: z.array(partSchema).optional(),
  }),
  response: z.object({
    status: z.number(),
    headers: z.record(z.string(), z.string()).default({}),
    body: z.unknown().optional(),
    body_text: z.string().optional(),
    body_binary: z
      .object({ sha256: z.string(), length: z.number(), image: z.record(z.string(), z.unknown()).optional() })
      .optional(),
  }),
});
const stepSchema = z.union([
  exchangeSchema,
  z.object({ ws_connect: z.object({ client: z.string(), path: z.string() }) }),
  z.object({
    ws_send: z.object({
      client: z.string(),
      json: z.unknown().optional(),
      raw: z.string().optional(),
      binary_base64: z.string().optional(),
    }),
  }),
  z.object({ ws_close: z.object({ client: z.string() }) }),
  z.object({
    wait_event: z.object({
      client: z.string(),
      type: z.string(),
      data: z.record(z.string(), z.unknown()).optional(),
      count: z.number().optional(),
    }),
  }),
  z.object({ wait_idle: z.literal(true) }),
  z.object({ sleep_ms: z.number() }),
  z.object({ remove_file: z.string() }),
]);

const scenarioSchema = z.object({
  name: z.string(),
  description: z.string(),
  server_flags: z.array(z.string()).optional(),
  notes: z.array(z.string()).optional(),
  setup: z.object({ files: z.record(z.string(), fileSchema) }).optional(),
  steps: z.array(stepSchema),
  ws: z.record(z.string(), z.array(z.record(z.string(), z.unknown()))).default({}),
});
export type Scenario = z.output<typeof scenarioSchema>;
export type Step = Scenario['steps'][number];
export type Exchange = z.output<typeof exchangeSchema>;

const FLOAT = /^<float:(.+)>$/;

/** A recording. Whole numbers keep all their digits, and floats such as 0.0 of requests the form in which they are sent. */
export function parseScenario(text: string): Scenario {
  const marked = text.replaceAll(/"(?:[^"\\]|\\.)*"|-?\d+(?:\.0(?!\d)|(?:\.\d+)?[eE][-+]?\d+)/g, (token) =>
    token.startsWith('"') ? token : `"<float:${token}>"`,
  );
  const scenario = scenarioSchema.parse(toPlain(parseJson(marked)));
  const steps = scenario.steps.map((step) =>
    'request' in step ? { ...step, response: withNumbers(step.response) } : step,
  );
  return { ...scenario, steps, ws: withNumbers(scenario.ws) };
}

/** JSON to send, with floats as they were written. */
export function withFloats(json: string): string {
  return json.replaceAll(/"<float:([^>]+)>"/g, '$1');
}

function withNumbers<T>(value: T): T;
function withNumbers(value: unknown): unknown {
  if (typeof value === 'string') {
    const float = FLOAT.exec(value)?.[1];
    return float === undefined ? value : Number(float);
  }
  if (Array.isArray(value)) return value.map((entry: unknown) => withNumbers(entry));
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, entry]) => [key, withNumbers(entry as unknown)]));
}
