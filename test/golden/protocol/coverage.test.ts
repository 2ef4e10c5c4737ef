/**
 * What the recordings show is what is served: every route, event type, frame type and error type in them.
 *
 * The sets come from the recordings themselves, so that a recording that shows more asks for more.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { request } from 'node:http';
import { join, resolve } from 'node:path';
import { describe, expect, it } from 'vitest';
import { startTestBridge } from '../../support/bridge.js';
import { observe } from './replayer.js';
import { parseScenario, type Scenario } from './scenario.js';

const folder = resolve(process.env['GOLDEN_PROTOCOL_DIR'] ?? join(import.meta.dirname, 'scenarios'));
const scenarios = readdirSync(folder)
  .filter((file) => file.endsWith('.json'))
  .map((file) => parseScenario(readFileSync(join(folder, file), 'utf8')));

/** No route: what ComfyUI answers to any path. */
const UNKNOWN = new Set([404, 405]);

/** `event executing`, `frame 4`, `error value_not_in_list`, `exception ValueError`: what a message holds, at any depth. */
function kindsIn(message: unknown, kinds = new Set<string>()): Set<string> {
  if (typeof message !== 'object' || message === null) return kinds;
  const { type, data, message: text, extra_info: info, event_type: frame } = message as Record<string, unknown>;
  if (typeof type === 'string' && typeof data === 'object') kinds.add(`event ${type}`);
  if (typeof type === 'string' && typeof text === 'string' && info !== undefined) kinds.add(`error ${type}`);
  if (typeof frame === 'number') kinds.add(`frame ${frame}`);
  const { exception_type: exception } = message as Record<string, unknown>;
  if (typeof exception === 'string') kinds.add(`exception ${exception}`);
  for (const value of Object.values(message)) kindsIn(value, kinds);
  return kinds;
}

/** Kinds of the answers and the events, not of what was sent. */
function kindsOf(scenario: Scenario): Set<string> {
  const answers = scenario.steps.flatMap((step) => ('request' in step ? [step.response.body] : []));
  return kindsIn([answers, scenario.ws]);
}

/** Few recordings that show everything: each in turn the one that shows most of what is left. */
function cover(): { readonly wanted: ReadonlySet<string>; readonly chosen: readonly Scenario[] } {
  const shown = new Map(scenarios.map((scenario) => [scenario, kindsOf(scenario)]));
  const wanted = new Set([...shown.values()].flatMap((kinds) => [...kinds]));
  const left = new Set(wanted);
  const chosen: Scenario[] = [];
  while (left.size > 0) {
    const news = (scenario: Scenario): number =>
      [...(shown.get(scenario) ?? [])].filter((kind) => left.has(kind)).length;
    const [best] = [...scenarios].sort((a, b) => news(b) - news(a));
    if (best === undefined) break;
    chosen.push(best);
    for (const kind of shown.get(best) ?? []) left.delete(kind);
  }
  return { wanted, chosen };
}

describe('the recordings', () => {
  it('show no event, frame, error or exception type that the server does not send', { timeout: 180_000 }, async () => {
    const { wanted, chosen } = cover();
    const sent = new Set<string>();
    for (const scenario of chosen) await observe(scenario, (message) => kindsIn(message, sent));
    expect(wanted.size).toBeGreaterThan(0);
    expect([...wanted].filter((kind) => !sent.has(kind))).toEqual([]);
  });

  it('show no route that is not served', { timeout: 120_000 }, async () => {
    await using started = await startTestBridge();
    const ask = (method: string, path: string): Promise<{ status: number; type: string; allow: string }> =>
      new Promise((settle, reject) => {
        const call = request(started.url + path, { method }, (response) => {
          const { 'content-type': type = '', allow = '' } = response.headers;
          response.resume();
          response.on('end', () => {
            settle({ status: response.statusCode ?? 0, type, allow });
          });
        });
        call.on('error', reject).end();
      });
    const steps = scenarios.flatMap(({ steps: all }) => all);
    const routes = new Set<string>();
    for (const step of steps) {
      const [method, path, status] =
        'request' in step
          ? [step.request.method, step.request.path, step.response.status]
          : 'ws_connect' in step
            ? ['GET', step.ws_connect.path, 101]
            : ['', '', 404];
      if (UNKNOWN.has(status) || method === 'OPTIONS') continue;
      routes.add(`${method} ${(path.split('?')[0] ?? '').replaceAll(/<\w+:?\d*>/g, 'x')}`);
    }
    const missing: string[] = [];
    for (const route of routes) {
      const [method = '', path = ''] = route.split(' ');
      // A path that is none of ours allows GET and HEAD alone, and answers them with this type.
      const { allow } = await ask(method === 'PATCH' ? 'PUT' : 'PATCH', path);
      const { status, type } = method === 'GET' ? await ask('GET', path) : { status: 0, type: '' };
      const isUnknown = status === 404 && type === 'application/octet-stream';
      if (!allow.split(',').includes(method) || isUnknown) missing.push(route);
    }
    expect(routes.size).toBeGreaterThan(0);
    expect(missing).toEqual([]);
  });
});
