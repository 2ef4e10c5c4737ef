/** What has the name of a file but is none is refused unopened: opening a pipe would wait for its writer, for ever. */
import { spawnSync } from 'node:child_process';
import { mkdtemp, open, rm, symlink } from 'node:fs/promises';
import { createServer, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { readFaceNetwork } from '../../../src/faces/network.js';
import { readModelHeader, readSafetensorsMetadata } from '../../../src/formats/index.js';
import { decodeImage } from '../../../src/image/index.js';
import { findIssues, readWorkflowFile } from '../../../src/library/index.js';
import { hashModel, ModelReader } from '../../../src/registry/index.js';
import { checkValues } from '../../../src/registry/values.js';
import { hashFiles } from '../../../src/vision/thread-tasks.js';
import { CLIP_H, writeSparseModel } from '../../support/model-files.js';
import { makeTestRegistry } from '../../support/registry.js';

/** A read that takes longer than this waits for a writer. */
const MAX_WAIT_MS = 5000;
const NAMES = ['pipe.safetensors', 'socket.safetensors', 'device.safetensors'] as const;

let folder = '';
let socket: Server;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'vision-bridge-pipes-'));
  expect(spawnSync('mkfifo', [join(folder, 'pipe.safetensors')]).status).toBe(0);
  socket = createServer();
  await new Promise<void>((resolve) => {
    socket.listen(join(folder, 'socket.safetensors'), resolve);
  });
  await symlink('/dev/zero', join(folder, 'device.safetensors'));
});
afterAll(async () => {
  // Whoever waits at the pipe after all is let go, so that a failure ends.
  const writer = await open(join(folder, 'pipe.safetensors'), 'r+');
  await writer.close();
  await new Promise((resolve) => socket.close(resolve));
  await rm(folder, { recursive: true });
});

const READERS: readonly (readonly [what: string, read: (path: string) => unknown])[] = [
  ['the header of a model', readModelHeader],
  ['the metadata of a model', (path) => readSafetensorsMetadata(path, 1 << 20)],
  ['the hashes of a model', (path) => hashModel(path)],
  ['the values of a model', (path) => checkValues(path, 'safetensors')],
  ['the values of a GGUF file', (path) => checkValues(path, 'gguf')],
  ['the identity of weights', (path) => hashFiles([path])],
  ['a face network', readFaceNetwork],
  ['a picture', (path) => decodeImage(path)],
  ['a workflow', readWorkflowFile],
];

describe.skipIf(process.platform === 'win32')('a pipe, a socket and a device', () => {
  it.each(READERS.flatMap(([what, read]) => NAMES.map((name) => [name, what, read] as const)))(
    '%s is not read as %s',
    async (name, _what, read) => {
      await expect(Promise.resolve().then(() => read(join(folder, name)))).rejects.toThrow(/it is not a regular file/);
    },
    MAX_WAIT_MS,
  );

  it.each(NAMES)('%s is a file that a scan cannot read', async (name) => {
    expect(await new ModelReader().read(join(folder, name))).toEqual({
      status: 'unreadable',
      problem: 'it is not a regular file',
    });
  });

  it('are told by doctor, and the models beside them are there', async () => {
    await using tree = await makeTestRegistry();
    const place = join(tree.models, 'clip_vision');
    await writeSparseModel(join(place, 'sound.safetensors'), CLIP_H);
    for (const name of NAMES) await symlink(join(folder, name), join(place, name));
    expect(spawnSync('mkfifo', [join(place, 'own.gguf')]).status).toBe(0);
    expect(await tree.registry.scan()).toMatchObject({ files: 1, read: 1 });
    const told = findIssues(tree.registry).filter(({ kind }) => kind === 'root');
    expect(told.map(({ problem }) => problem).sort()).toEqual(
      [...NAMES, 'own.gguf'].map((name) => `${join(place, name)} is a pipe, a socket or a device, not a file`).sort(),
    );
    expect(new Set(told.map(({ fix }) => fix))).toEqual(new Set(['Remove it, or repair what it leads to.']));
  });
});
