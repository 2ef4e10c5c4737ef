/** Every case of the golden folder: what a file is, or why it is refused, from its header alone. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { hashModel, ModelReader } from '../../../src/registry/index.js';
import { modelCasePath, readModelCases } from './golden-models.js';

const cases = await readModelCases();
const reader = new ModelReader();
let folder: string;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'golden-models-'));
});
afterAll(async () => {
  await rm(folder, { recursive: true, force: true });
});

describe('model files are told by their header', () => {
  it.each(cases)('$file', async (golden) => {
    const path = await modelCasePath(golden, folder);
    const { status, format, problem, headerBytes, facts, gguf, pickle } = await reader.read(path);
    if (golden.bad !== undefined) {
      expect(status).not.toBe('ok');
      expect(problem).toBeTypeOf('string');
      expect(facts).toBeUndefined();
      return;
    }
    expect(problem).toBeUndefined();
    expect(status).toBe('ok');
    if (golden.format !== undefined) expect(format).toBe(golden.format);
    // A key that the case has is compared; null there means that nothing may be claimed.
    for (const key of ['kind', 'baseModel', 'variant', 'prediction', 'encoder', 'architecture', 'scale'] as const) {
      if (golden[key] !== undefined) expect(facts?.[key] ?? null, key).toBe(golden[key]);
    }
    for (const key of ['tensorCount', 'parameterCount', 'dtypes', 'contains', 'embedding'] as const) {
      if (golden[key] !== undefined) expect(facts?.[key], key).toEqual(golden[key]);
    }
    if (golden.headerBytes !== undefined) expect(headerBytes).toBe(golden.headerBytes);
    if (golden.lora !== undefined) {
      const { rank, rankMin, rankMax, alpha, networkModule, ...lora } = golden.lora;
      expect(facts?.lora).toMatchObject({
        algorithm: lora.algorithm,
        keyStyle: lora.keyStyle,
        components: lora.components,
        modules: lora.modules,
      });
      const optional = { rank, rankMin, rankMax, alpha, networkModule };
      for (const key of ['rank', 'rankMin', 'rankMax', 'alpha', 'networkModule'] as const) {
        if (optional[key] !== undefined) expect(facts?.lora?.[key] ?? null, key).toBe(optional[key]);
      }
    }
    if (golden.training !== undefined) expect(facts?.training).toMatchObject(golden.training);
    if (golden.triggerWords !== undefined) expect(facts?.triggerWords ?? []).toEqual(golden.triggerWords);
    if (golden.gguf !== undefined) {
      const { version, architecture, fileType } = golden.gguf;
      expect(gguf).toMatchObject({ version, architecture, fileType });
    }
    if (golden.pickleGlobals !== undefined)
      expect([...(pickle?.globals ?? [])].sort()).toEqual([...golden.pickleGlobals].sort());
    if (golden.malicious !== undefined) expect(pickle?.verdict).toBe('dangerous');
  });
});

describe('hashes', () => {
  it.each(cases.filter(({ hashes }) => hashes !== undefined))('$file', async (golden) => {
    const { headerBytes, format, facts } = await reader.read(await modelCasePath(golden, folder));
    const dataStart = format === 'safetensors' && headerBytes !== undefined ? headerBytes + 8 : undefined;
    const found = await hashModel(await modelCasePath(golden, folder), { dataStart });
    const { autoV3Embedded, embeddedMatches, sshsLegacy, ...hashes } = golden.hashes ?? {};
    expect(found).toMatchObject(hashes);
    if (autoV3Embedded !== undefined) expect(facts?.autoV3Embedded ?? null).toBe(autoV3Embedded);
    if (embeddedMatches !== undefined) expect(facts?.autoV3Embedded === found.autoV3).toBe(embeddedMatches);
    if (sshsLegacy !== undefined) expect(facts?.legacyHash).toBe(sshsLegacy);
  });
});
