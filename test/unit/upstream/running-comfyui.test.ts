import { mkdir, mkdtemp, realpath, rm, writeFile } from 'node:fs/promises';
import { once } from 'node:events';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { openFolders } from '../../../src/bridge.js';
import { silentLogger } from '../../../src/common/logger.js';
import { parseConfig } from '../../../src/config.js';
import { askRunningComfyUI } from '../../../src/upstream/index.js';
import { readFlags } from '../../../src/upstream/running-comfyui.js';

let root = '';
let server: Server;
let answers: Record<string, string>;
const url = (): string => `http://127.0.0.1:${(server.address() as AddressInfo).port}`;

beforeEach(async () => {
  root = await realpath(await mkdtemp(join(tmpdir(), 'vision-bridge-upstream-')));
  await mkdir(join(root, 'comfy'));
  await mkdir(join(root, 'models', 'loras'), { recursive: true });
  await mkdir(join(root, 'node-made'));
  for (const name of ['main.py', 'folder_paths.py']) await writeFile(join(root, name), '');
  answers = {
    '/system_stats': JSON.stringify({
      system: { comfyui_version: '0.3.64', argv: ['main.py', '--output-directory', join(root, 'out')] },
    }),
    '/internal/folder_paths': JSON.stringify({
      loras: [join(root, 'models', 'loras'), join(root, 'node-made')],
      own: [join(root, 'node-made')],
    }),
  };
  server = createServer((request, response) => {
    const answer = answers[request.url ?? ''];
    response.writeHead(answer === undefined ? 404 : 200).end(answer);
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
});
afterEach(async () => {
  server.close();
  server.closeAllConnections();
  await rm(root, { recursive: true });
});

describe('a running ComfyUI', () => {
  it('has its own folder map used, its flags as well, and the difference to the files reported', async () => {
    const { paths, running } = await openFolders(parseConfig({ comfyui: root, comfyuiUrl: url() }), silentLogger);
    expect(running?.version).toBe('0.3.64');
    expect(paths.names()).toEqual(['loras', 'own']);
    expect(paths.folders('loras')).toEqual(
      [join(root, 'models', 'loras'), join(root, 'node-made')].map((path) => ({
        path,
        origin: { kind: 'running', url: url() },
      })),
    );
    expect(paths.outputDirectory).toBe(join(root, 'out'));
    const messages = paths.problems.map(({ message }) => message);
    expect(messages).toContainEqual(
      expect.stringMatching(
        /^loras: the running ComfyUI has .*node-made, which the files do not name and lacks .*out\/loras/,
      ),
    );
    await writeFile(join(root, 'node-made', 'x.safetensors'), '');
    expect(await paths.list('loras')).toEqual(['x.safetensors']);
  });

  it.each([
    [
      'does not answer',
      () => {
        server.close();
        server.closeAllConnections();
      },
      /No ComfyUI answers at .*ECONNREFUSED/,
    ],
    [
      'is something else',
      () => {
        answers['/system_stats'] = '<html>';
      },
      /not JSON/,
    ],
    [
      'gives another shape',
      () => {
        answers['/internal/folder_paths'] = '{"loras": 5}';
      },
      /not what ComfyUI gives/,
    ],
    [
      'lacks the route',
      () => {
        delete answers['/internal/folder_paths'];
      },
      /status 404/,
    ],
    [
      'runs elsewhere',
      () => {
        answers['/internal/folder_paths'] = '{"loras": ["/elsewhere/loras"]}';
      },
      /another machine, or in a container/,
    ],
  ])('that %s is a clear error', async (_what, change, message) => {
    const address = url();
    change();
    await expect(askRunningComfyUI(address)).rejects.toMatchObject({
      code: 'UPSTREAM_UNAVAILABLE',
      message: expect.stringMatching(message) as string,
    });
  });

  it('names folders by its flags, in both spellings, absolute ones only', () => {
    expect(
      readFlags(['main.py', '--base-directory', '/b', '--output-directory=/o', '--input-directory', 'relative']),
    ).toEqual({ baseDirectory: '/b', outputDirectory: '/o' });
    expect(readFlags([])).toEqual({});
  });
});
