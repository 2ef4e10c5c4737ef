/**
 * Every golden file again, broken at random: whatever the bytes are, reading gives a result or an error of the catalogue,
 * soon and in little memory, and the files beside it are read all the same.
 */
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { extname, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { BridgeError } from '../../../src/common/errors.js';
import { readFileHeader, readTensor } from '../../../src/formats/index.js';
import { ModelReader } from '../../../src/registry/index.js';
import { mutate, readImage, writeImage, type FileImage, type Mutated } from '../../support/mutations.js';
import { seededRandom } from '../../support/random.js';
import { makeTestRegistry } from '../../support/registry.js';
import { modelCasePath, readModelCases } from './golden-models.js';

const SEED = 20_261;
const PER_CASE = 24;
/** Headers of the largest golden files have 300 kB. */
const MAX_HEAD_BYTES = 1 << 20;
/** Time of processors, not of the clock: other programs do not count. */
const MAX_READ_MS = 1000;
/** A claimed header of 100 MB is read, as the reference reader does, and may be there twice; nothing takes more. */
const MAX_GROWTH_KB = 256 * 1024;
const MAX_TENSOR_BYTES = 1 << 20;
const STATUSES = ['ok', 'incomplete', 'invalid', 'unreadable'];

const cases = await readModelCases();
let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'mutated-models-'));
});
afterAll(async () => {
  await rm(folder, { recursive: true, force: true });
});

const mutationsOf = (image: FileImage, file: string, seed: number, count: number): Mutated[] => {
  const random = seededRandom(seed);
  return Array.from({ length: count }, () => mutate(image, extname(file), random));
};

/** The result of some work; it must not have taken long, nor much more memory than the process ever had. */
async function bounded<T>(shown: string, work: () => Promise<T>): Promise<T> {
  const before = process.cpuUsage();
  const { maxRSS } = process.resourceUsage();
  const value = await work();
  const { user, system } = process.cpuUsage(before);
  expect((user + system) / 1000, shown).toBeLessThan(MAX_READ_MS);
  expect(process.resourceUsage().maxRSS - maxRSS, shown).toBeLessThan(MAX_GROWTH_KB);
  return value;
}

/** As a model is opened for running: its header, and the data of its first tensor. */
async function openModel(path: string): Promise<'opened' | BridgeError> {
  try {
    const header = await readFileHeader(path);
    const [small] = [...header.tensors.values()].filter(({ sizeBytes }) => sizeBytes <= MAX_TENSOR_BYTES);
    if (small !== undefined) await readTensor(header, small.name);
    return 'opened';
  } catch (error) {
    if (error instanceof BridgeError) return error;
    throw error;
  }
}

describe('files that are broken at random', () => {
  const reader = new ModelReader();

  it.each(cases.map((golden, i) => ({ golden, file: golden.file, seed: SEED + i })))(
    '$file',
    async ({ golden, file, seed }) => {
      const image = await readImage(await modelCasePath(golden, folder), MAX_HEAD_BYTES);
      for (const [i, mutated] of mutationsOf(image, file, seed, PER_CASE).entries()) {
        const path = join(folder, `${seed}-${i}${mutated.ending}`);
        await writeImage(path, mutated);
        const shown = `seed ${seed}, number ${i}: ${mutated.done.join(', ')}${mutated.ending}`;
        const reading = await bounded(shown, () => reader.read(path));
        expect(STATUSES, shown).toContain(reading.status);
        // A table of tensors may be known although their data is cut off.
        const { tensorCount = 0, parameterCount = 0 } = reading.facts ?? {};
        expect(Number.isSafeInteger(tensorCount) && tensorCount >= 0, shown).toBe(true);
        expect(Number.isFinite(parameterCount) && parameterCount >= 0, shown).toBe(true);
        if (reading.status !== 'ok') {
          expect(reading.problem, shown).toMatch(/\S/);
          expect(reading.problem?.length, shown).toBeLessThan(1000);
        }
        const opened = await bounded(shown, () => openModel(path));
        // What would run commands is not opened, however broken it is.
        if (reading.pickle?.verdict === 'dangerous') expect(opened, shown).toBeInstanceOf(BridgeError);
        await rm(path);
      }
    },
  );
});

describe('a scan of broken files', () => {
  it('reads the sound ones beside them', async () => {
    await using tree = await makeTestRegistry();
    const place = join(tree.models, 'loras');
    await mkdir(place, { recursive: true });
    const sound: string[] = [];
    let broken = 0;
    for (const [i, golden] of cases.entries()) {
      const image = await readImage(await modelCasePath(golden, folder), MAX_HEAD_BYTES);
      if (golden.bad === undefined) {
        sound.push(`sound-${i}${extname(golden.file)}`);
        await writeImage(join(place, `sound-${i}${extname(golden.file)}`), image);
      }
      for (const [k, mutated] of mutationsOf(image, golden.file, SEED + 1000 + i, 4).entries()) {
        await writeImage(join(place, `broken-${i}-${k}${mutated.ending}`), mutated);
        broken += 1;
      }
    }
    expect(await tree.registry.scan()).toMatchObject({ files: sound.length + broken, read: sound.length + broken });
    const rows = new Map(tree.registry.files().map(({ name, row }) => [name, row]));
    expect(sound.filter((name) => rows.get(name)?.status !== 'ok')).toEqual([]);
    // No file cost a thread its life, or kept one from answering.
    const problems = [...rows.values()].map((row) => row?.problem ?? '');
    expect(problems.filter((problem) => /thread|does not answer/.test(problem))).toEqual([]);
    expect([...rows.values()].filter((row) => row === undefined)).toEqual([]);
  });
});
