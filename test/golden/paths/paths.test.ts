/**
 * Folder maps, listings and lookups against what ComfyUI itself gave. Format: the README beside the cases.
 *
 * Where ComfyUI refuses to start, we report an error at the same place. Two intended differences: a folder that leads
 * back into itself is listed once, and a listed root that disappears is empty instead of failing every listing.
 */
import { chmod, lstat, mkdir, mkdtemp, realpath, rm, symlink, utimes, writeFile } from 'node:fs/promises';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import * as z from 'zod';
import { assemblePaths, type AssembledPaths } from '../../../src/paths/configuration.js';
import { DEFAULT_FOLDERS, OUTPUT_FOLDERS } from '../../../src/paths/default-folders.js';
import { FolderPaths } from '../../../src/paths/index.js';
import { candidatePaths } from '../../../src/paths/lookup.js';
import { makeAbsolute, posixRules, windowsRules, type PathPlatform } from '../../../src/paths/path-rules.js';

const folder = resolve(process.env['GOLDEN_PATHS_DIR'] ?? import.meta.dirname);

const entrySchema = z.object({
  type: z.enum(['dir', 'file', 'symlink', 'mtime', 'remove']),
  path: z.string(),
  size: z.number().optional(),
  text: z.string().optional(),
  base64: z.string().optional(),
  target: z.string().optional(),
  mtime: z.number().optional(),
});
const querySchema = z.object({ type: z.string(), name: z.string() });
const listsSchema = z.record(z.string(), z.array(z.string()));
const outcomeSchema = z.object({
  lists: listsSchema.optional(),
  listErrors: z.record(z.string(), z.unknown()).optional(),
  fullPaths: z.array(querySchema.extend({ path: z.string().nullable() })).optional(),
});
const configSchema = z.object({
  path: z.string(),
  text: z.string().optional(),
  base64: z.string().optional(),
  missing: z.boolean().optional(),
  inTree: z.boolean().optional(),
});
const caseSchema = z.object({
  name: z.string(),
  about: z.string().optional(),
  platform: z.enum(['posix', 'win32']),
  platformDependent: z.string().optional(),
  tree: z.array(entrySchema).default([]),
  env: z.record(z.string(), z.string()),
  args: z.object({
    installDir: z.string().default('<root>/ComfyUI'),
    cwd: z.string().optional(),
    baseDirectory: z.string().optional(),
    outputDirectory: z.string().optional(),
    extraConfigs: z.array(configSchema).default([]),
    autoConfig: z.string().optional(),
  }),
  queries: z.array(querySchema).default([]),
  steps: z.array(z.object({ changes: z.array(entrySchema), queries: z.array(querySchema).default([]) })).default([]),
  expect: outcomeSchema.extend({
    folders: z.record(z.string(), z.array(z.string())).optional(),
    nonStringTypes: z.array(z.object({ key: z.unknown(), keyType: z.string(), paths: z.array(z.string()) })).optional(),
    fullPathCandidates: z
      .array(querySchema.extend({ candidates: z.array(z.string()).optional(), error: z.unknown().optional() }))
      .optional(),
    steps: z.array(outcomeSchema).optional(),
    error: z
      .object({
        kind: z.string(),
        config: z.string(),
        section: z.string().optional(),
        key: z.string().optional(),
        line: z.number().optional(),
        column: z.number().optional(),
      })
      .optional(),
  }),
});
type PathCase = z.output<typeof caseSchema>;

const NOT_CASES = new Set(['defaults.json']);
const files = readdirSync(folder).filter((file) => file.endsWith('.json') && !NOT_CASES.has(file));

let root = '';
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'vision-bridge-paths-'));
});
afterAll(async () => {
  await rm(root, { recursive: true, force: true });
});

for (const file of files) {
  const cases = z.array(caseSchema).parse(JSON.parse(readFileSync(join(folder, file), 'utf8')));
  describe(file, () => {
    it.each(cases)('$name: $about', async (testCase) => {
      if (testCase.platform === 'win32') checkWindowsCase(testCase);
      else await checkPosixCase(testCase, join(root, testCase.name));
    });
  });
}

function checkWindowsCase({ args, env, expect: expected }: PathCase): void {
  const platform: PathPlatform = {
    kind: 'win32',
    rules: windowsRules,
    environment: env,
    workingDirectory: args.cwd ?? 'C:\\',
    homeOf: () => undefined,
  };
  const contents = new Map<string, string>();
  if (args.autoConfig !== undefined) contents.set(`${args.installDir}\\extra_model_paths.yaml`, args.autoConfig);
  for (const config of args.extraConfigs) contents.set(makeAbsolute(platform, config.path), config.text ?? '');
  const assembled = assemblePaths(
    platform,
    {
      ...args,
      installDirectory: args.installDir,
      extraModelPathsConfigs: args.extraConfigs.map((config) => config.path),
    },
    {
      kindOf: (path) => (contents.has(path) ? 'file' : undefined),
      read: (path) => new TextEncoder().encode(contents.get(path)),
    },
  );
  checkAssembled(assembled, expected, (path) => path);
  for (const query of expected.fullPathCandidates ?? []) {
    const type = assembled.map.get(query.type);
    const got = type === undefined ? [] : candidatePaths(platform, type, query.name);
    // Another drive or share makes Python raise; we find nothing there.
    expect(got, `${query.type} ${query.name}`).toEqual(query.error === undefined ? query.candidates : []);
  }
}

function checkAssembled(
  assembled: AssembledPaths,
  expected: PathCase['expect'],
  localize: (path: string) => string,
): void {
  const errors = assembled.problems.filter(({ severity }) => severity === 'error');
  if (expected.error !== undefined) {
    const { config, section, key, line, column } = expected.error;
    const place = { file: localize(config), section, key, line, column };
    const [first] = errors;
    const { file, section: gotSection, key: gotKey, line: gotLine, column: gotColumn } = first ?? {};
    expect({ file, section: gotSection, key: gotKey, line: gotLine, column: gotColumn }, first?.message).toEqual(place);
    return;
  }
  expect(errors).toEqual([]);
  const got = Object.fromEntries(
    assembled.map.names().map((name) => [name, (assembled.map.get(name)?.folders ?? []).map(({ path }) => path)]),
  );
  const want = Object.fromEntries(
    Object.entries(expected.folders ?? {}).map(([name, paths]) => [name, paths.map(localize)]),
  );
  if (expected.folders !== undefined) {
    expect(got).toEqual(want);
    expect(Object.keys(got)).toEqual(Object.keys(want));
  }
  if (expected.nonStringTypes !== undefined) {
    expect(assembled.nonStringTypes).toEqual(
      expected.nonStringTypes.map((type) => ({ ...type, paths: type.paths.map(localize) })),
    );
  }
}

async function checkPosixCase(testCase: PathCase, home: string): Promise<void> {
  const local = (text: string): string => text.replaceAll('<root>', home);
  const { args } = testCase;
  const cwd = local(args.cwd ?? '<root>');
  const inCwd = (path: string): string => resolve(cwd, local(path));
  for (const config of args.extraConfigs) {
    if (config.missing === true || config.inTree === true) continue;
    await writeEntry(inCwd(config.path), { type: 'file', path: '', text: config.text, base64: config.base64 }, local);
  }
  await applyChanges(testCase.tree, home, local);
  await mkdir(local(args.installDir), { recursive: true });
  if (args.autoConfig !== undefined) {
    await writeFile(join(local(args.installDir), 'extra_model_paths.yaml'), local(args.autoConfig));
  }

  const platform: PathPlatform = {
    kind: 'posix',
    rules: posixRules,
    environment: Object.fromEntries(Object.entries(testCase.env).map(([name, value]) => [name, local(value)])),
    workingDirectory: cwd,
    homeOf: () => undefined,
  };
  const configuration = {
    installDirectory: await realpath(local(args.installDir)),
    baseDirectory: args.baseDirectory === undefined ? undefined : local(args.baseDirectory),
    outputDirectory: args.outputDirectory === undefined ? undefined : local(args.outputDirectory),
    extraModelPathsConfigs: args.extraConfigs.map((config) => local(config.path)),
  };
  const assembled = assemblePaths(platform, configuration, {
    kindOf: (path) => (existsSync(path) ? (readdirSafe(path) ? 'folder' : 'file') : undefined),
    read: (path) => readFileSync(path),
  });
  checkAssembled(assembled, testCase.expect, local);
  if (testCase.expect.error !== undefined) return;

  const paths = new FolderPaths({ ...configuration, platform });
  await checkOutcome(paths, testCase, testCase.expect, local);
  for (const [index, step] of testCase.steps.entries()) {
    await sleep(20); // folder times have a granularity of some milliseconds
    await applyChanges(step.changes, home, local);
    await checkOutcome(paths, testCase, testCase.expect.steps?.[index] ?? {}, local);
  }
}

function readdirSafe(path: string): boolean {
  try {
    readdirSync(path);
    return true;
  } catch {
    return false;
  }
}

async function checkOutcome(
  paths: FolderPaths,
  testCase: PathCase,
  expected: z.output<typeof outcomeSchema>,
  local: (text: string) => string,
): Promise<void> {
  const lists: Record<string, readonly string[]> = {};
  for (const name of paths.names()) {
    // Where ComfyUI fails because a root vanished, we list the rest.
    if (expected.listErrors?.[name] !== undefined) continue;
    const list = await paths.list(name);
    if (list.length > 0) lists[name] = list;
  }
  const wanted = Object.fromEntries(Object.entries(expected.lists ?? {}).filter(([, list]) => list.length > 0));
  if (testCase.platformDependent === undefined) expect(lists).toEqual(wanted);
  else expectListedOnce(lists, wanted);
  for (const query of expected.fullPaths ?? []) {
    const found = await paths.find(query.type, query.name);
    expect(found, `${query.type} ${query.name}`).toBe(query.path === null ? undefined : local(query.path));
  }
}

/** Of a loop, the shortest name of every file. */
function expectListedOnce(
  got: Readonly<Record<string, readonly string[]>>,
  expected: z.output<typeof listsSchema>,
): void {
  for (const [name, list] of Object.entries(expected)) {
    const shortest = list.reduce((best, candidate) => (candidate.length < best.length ? candidate : best));
    expect(got[name]).toEqual([shortest]);
  }
}

async function applyChanges(
  entries: readonly z.output<typeof entrySchema>[],
  home: string,
  local: (text: string) => string,
): Promise<void> {
  for (const entry of entries) await writeEntry(join(home, entry.path), entry, local);
  for (const entry of entries) {
    if (entry.mtime !== undefined) await utimes(join(home, entry.path), entry.mtime, entry.mtime);
  }
}

async function writeEntry(
  path: string,
  entry: z.output<typeof entrySchema>,
  local: (text: string) => string,
): Promise<void> {
  if (entry.type === 'remove') {
    await rm(path, { recursive: true });
    return;
  }
  if (entry.type === 'mtime') return;
  if (entry.type === 'dir') {
    await mkdir(path, { recursive: true });
    return;
  }
  await mkdir(dirname(path), { recursive: true });
  if (entry.type === 'symlink') {
    await symlink(local(entry.target ?? ''), path);
    return;
  }
  const content =
    entry.base64 !== undefined
      ? Buffer.from(entry.base64, 'base64')
      : entry.text !== undefined
        ? local(entry.text)
        : Buffer.alloc(entry.size ?? 0);
  await writeFile(path, content);
  if ((await lstat(path)).isFile()) await chmod(path, 0o644);
}

describe('defaults.json', () => {
  const { types } = z
    .object({
      types: z.array(
        z.object({
          type: z.string(),
          folders: z.array(z.string()),
          outputFolder: z.string().nullable(),
          extensions: z.array(z.string()),
        }),
      ),
    })
    .parse(JSON.parse(readFileSync(join(folder, 'defaults.json'), 'utf8')));

  it("holds ComfyUI's types, folders, endings and order", () => {
    const output = new Map(OUTPUT_FOLDERS.map(([name, path]) => [name, `output/${path}`]));
    const ours = DEFAULT_FOLDERS.map(({ name, folders, extensions }) => ({
      type: name,
      folders,
      outputFolder: output.get(name) ?? null,
      extensions: extensions.toSorted(),
    }));
    expect(ours).toEqual(
      types.map(({ type, folders, outputFolder, extensions }) => ({
        type,
        folders,
        outputFolder,
        extensions: extensions.toSorted(),
      })),
    );
  });
});
