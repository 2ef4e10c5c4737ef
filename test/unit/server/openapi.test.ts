/** The description of our routes, against the routes of a real app. */
import Fastify from 'fastify';
import { describe, expect, it } from 'vitest';
import { ERROR_CODES } from '../../../src/common/errors.js';
import { describeApi } from '../../../src/server/openapi.js';
import { registerRoutes } from '../../../src/server/routes/index.js';
import { startTestBridge } from '../../support/bridge.js';

interface Described {
  readonly parameters: readonly { readonly name: string; readonly in: string; readonly required: boolean }[];
  readonly responses: Readonly<Record<string, unknown>>;
}
type Document = Readonly<Record<'paths', Readonly<Record<string, Readonly<Record<string, Described>>>>>> & {
  readonly components: { readonly schemas: { readonly Error: object } };
};

/** `/x/:folder/*` as OpenAPI writes it. */
const templated = (url: string): string => url.replace(/:(\w+)/g, '{$1}').replace(/\*$/, '{name}');

describe('openapi.json', () => {
  it('has an entry for every route and method of /bridge/v1, and none besides', async () => {
    await using test = await startTestBridge();
    const app = Fastify();
    const routes = new Set<string>();
    app.addHook('onRoute', ({ url, method }) => {
      if (!url.startsWith('/bridge/')) return;
      for (const name of [method].flat()) if (name !== 'HEAD') routes.add(`${name} ${templated(url)}`);
    });
    const context = { bridge: test.bridge, dialect: {}, hub: {}, users: {}, frontEnd: {} };
    registerRoutes(app, context as unknown as Parameters<typeof registerRoutes>[1]);
    await app.ready();
    const served = (await (await fetch(`${test.url}/bridge/v1/openapi.json`)).json()) as Document;
    const described = Object.entries(served.paths).flatMap(([path, methods]) =>
      Object.keys(methods).map((method) => `${method.toUpperCase()} ${path}`),
    );
    expect(routes.size).toBeGreaterThan(20);
    expect(described.sort()).toEqual([...routes].sort());
  });

  it('names every part of a path, every filter of a query and every error', () => {
    const { paths, components } = describeApi('1.2.3') as unknown as Document;
    for (const [path, methods] of Object.entries(paths)) {
      for (const { parameters, responses } of Object.values(methods)) {
        const inPath = parameters.filter((parameter) => parameter.in === 'path').map(({ name }) => `{${name}}`);
        expect(inPath).toEqual(path.match(/\{\w+\}/g) ?? []);
        expect(Object.keys(responses)).toEqual(['200', 'default']);
      }
    }
    const filters = paths['/bridge/v1/models']?.['get']?.parameters.map(({ name }) => name);
    expect(filters).toEqual(expect.arrayContaining(['kind', 'base', 'sort', 'limit', 'fields', 'wait']));
    const model = paths['/bridge/v1/encode']?.['post']?.parameters.find(({ name }) => name === 'model');
    expect(model).toMatchObject({ in: 'query', required: true });
    expect(JSON.stringify(components)).toContain(JSON.stringify(Object.keys(ERROR_CODES)));
  });
});
