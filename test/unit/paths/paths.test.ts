import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, relative, sep } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { DEFAULT_FOLDERS } from '../../../src/paths/default-folders.js';
import { expandBasePath } from '../../../src/paths/expand.js';
import { readExtraModelPaths } from '../../../src/paths/extra-model-paths.js';
import { FolderPaths, resolveInside, splitAnnotation } from '../../../src/paths/index.js';
import { extensionOf, sortByCodePoint } from '../../../src/paths/listing.js';
import { containName } from '../../../src/paths/lookup.js';
import { posixRules, windowsRules, type PathPlatform } from '../../../src/paths/path-rules.js';

const posix: PathPlatform = {
  kind: 'posix',
  rules: posixRules,
  environment: { HOME: '/home/me', SD: '/sd' },
  workingDirectory: '/work',
  homeOf: (user) => (user === 'eve' ? '/home/eve' : undefined),
};
const windows: PathPlatform = {
  kind: 'win32',
  rules: windowsRules,
  environment: { USERPROFILE: 'C:\\Users\\me', Sd: 'D:\\sd' },
  workingDirectory: 'C:\\work',
  homeOf: () => undefined,
};

let root = '';
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'vision-bridge-paths-unit-'));
});
afterAll(() => rm(root, { recursive: true }));

describe('expandBasePath', () => {
  it.each([
    ['~/m', '/home/me/m'],
    ['~', '/home/me'],
    ['~eve/m', '/home/eve/m'],
    ['~mallory/m', '~mallory/m'],
    ['$SD/${SD}x/$NONE', '/sd//sdx/$NONE'],
    ['a$$b${}', 'a$$b${}'],
  ])('gives %s on POSIX as %s', (path, expected) => {
    expect(expandBasePath(posix, path)).toBe(expected);
  });

  it.each([
    ['~\\m', 'C:\\Users\\me\\m'],
    ['~eve/m', 'C:\\Users\\eve/m'],
    ['%SD%\\x', 'D:\\sd\\x'],
    ['$sd/${SD}', 'D:\\sd/D:\\sd'],
    ["'%SD%' %% $$ %NO%", "'%SD%' % $ %NO%"],
  ])('gives %s on Windows as %s', (path, expected) => {
    expect(expandBasePath(windows, path)).toBe(expected);
  });
});

describe('names', () => {
  it.each([
    ['a.SAFETENSORS', '.safetensors'],
    ['.safetensors', ''],
    ['x/..a.pt', '.pt'],
    ['dir.pt/file', ''],
    ['a.', '.'],
  ])('%s has the ending "%s"', (name, ending) => {
    expect(extensionOf(name)).toBe(ending);
  });

  it('are ordered by code point, not by UTF-16 unit', () => {
    expect(sortByCodePoint(['😀', '～', 'a/b', 'a b', 'a.b', 'B'])).toEqual(['B', 'a b', 'a.b', 'a/b', '～', '😀']);
  });

  it('never leave their folder', () => {
    fc.assert(
      fc.property(fc.array(fc.constantFrom('..', '.', '', 'a', 'b.pt', '/', '\\', '~', 'C:', '//')), (parts) => {
        const name = parts.join('/');
        expect(containName(posix, name)?.split('/') ?? []).not.toContain('..');
        expect(containName(windows, name)?.split('\\') ?? []).not.toContain('..');
        const inside = resolveInside('/base/folder', name);
        if (inside !== undefined) expect(relative('/base/folder', inside).split(sep)[0]).not.toBe('..');
      }),
    );
    expect(resolveInside('/base', 'a\0b')).toBeUndefined();
    expect(resolveInside('/base', '../based')).toBeUndefined();
  });

  it('carry an annotation of their folder', () => {
    expect(splitAnnotation('x.png [output]')).toEqual({ name: 'x.png', area: 'output' });
    expect(splitAnnotation('x.png')).toEqual({ name: 'x.png' });
    expect(splitAnnotation('[temp]')).toEqual({ name: '', area: 'temp' });
  });
});

describe('warnings about what is legal but surely not meant', () => {
  const messages = (yaml: string): string[] =>
    readExtraModelPaths(posix, '/conf/extra.yaml', new TextEncoder().encode(yaml)).problems.map(
      ({ severity, message }) => `${severity}: ${message}`,
    );

  it.each([
    ['a:\n  lora: x\n', /warning: "lora" is no folder type.*did you mean loras\?/],
    ['a:\n  base path: x\n', /did you mean base_path\?/],
    ['a:\n  is_default: "false"\n  loras: x\n', /warning: is_default: "false" is a text, and any text counts as true/],
    ['a:\n  loras: ~/x\n', /warning: "~\/x" is taken literally/],
    ['a:\n  loras: |\n    x\n    # y\n', /warning: "# y" is taken as a folder name/],
    ['a:\n  base_path: |\n    /m\n  loras: x\n', /warning: base_path ends with a blank or a line break/],
    ['a:\n  base_path: $NOPE/m\n  loras: x\n', /warning: base_path holds a variable that is not set/],
    ['loras: x\n', /error: "loras" stands at the top level/],
    ['a:\n  base_path:/m\n', /error: a blank is missing after the colon/],
  ])('%j', (yaml, message) => {
    expect(messages(yaml).join('\n')).toMatch(message);
  });

  it('reports all problems of a file at once', () => {
    expect(messages('a:\n  loras: [x]\n  vae: 5\nb: 7\nc:\n  base_path: ~\n')).toHaveLength(4);
  });
});

describe('texts that other readers of YAML accept and PyYAML refuses', () => {
  it.each([
    ['s:\t\n  loras: x\n', 1, 3, /tab/],
    ['s:\n  loras: x\t# comment\n', 2, 11, /tab/],
    ['s:\n  loras: "a\tb" # \tfine\n  vae: |\n    c\td\n  clip:\tx\n', 5, 8, /tab/],
    ['s: &a\n  loras: &a x\n', 2, 10, /anchor &a is given twice/],
    ['s:\n  loras: *b\n', 2, 10, /alias \*b has no anchor/],
    ['s:\n  loras: <<\n', 2, 10, /no meaning here/],
    ['s: x\n  loras: y\n', 2, 8, /key/],
    ['s: [a]\n loras:\n', 2, 2, /indented otherwise/],
  ])('%j is refused where PyYAML refuses it', (yaml, line, column, message) => {
    const [first] = readExtraModelPaths(posix, '/conf/extra.yaml', new TextEncoder().encode(yaml)).problems;
    expect(first).toMatchObject({ severity: 'error', line, column, message: expect.stringMatching(message) as string });
  });
});

describe('a random configuration and tree', () => {
  const folderName = fc.constantFrom('loras', 'vae', 'clip_vision', 'clip', 'unet', 'own_type');
  const fileName = fc.constantFrom(
    'a.safetensors',
    'b.pt',
    'sub/c.ckpt',
    'sub/deep/d.bin',
    'e.txt',
    '.hidden.pt',
    '.git/f.pt',
  );
  const section = fc.record({ type: folderName, folder: fc.constantFrom('m1', 'm2', 'm3/x'), isDefault: fc.boolean() });

  it('obeys the laws of lookup', async () => {
    let run = 0;
    await fc.assert(
      fc.asyncProperty(
        fc.array(section, { maxLength: 6 }),
        fc.array(fc.tuple(fc.constantFrom('m1', 'm2', 'm3/x', 'install/models/loras'), fileName), { maxLength: 12 }),
        async (sections, files) => {
          run += 1;
          const base = join(root, `run${run}`);
          const install = join(base, 'install');
          await mkdir(install, { recursive: true });
          for (const [folder, file] of files) {
            await mkdir(join(base, folder, file, '..'), { recursive: true });
            await writeFile(join(base, folder, file), '');
          }
          const yaml = sections
            .map(
              ({ type, folder, isDefault }, i) =>
                `s${i}:\n  base_path: ${base}\n  is_default: ${isDefault}\n  ${type}: ${folder}\n`,
            )
            .join('');
          if (sections.length > 0) await writeFile(join(install, 'extra_model_paths.yaml'), yaml);
          const paths = new FolderPaths({ installDirectory: install });
          for (const type of paths.names()) {
            const folders = paths.folders(type).map(({ path }) => path);
            expect(new Set(folders).size).toBe(folders.length);
            for (const name of await paths.list(type)) {
              // Lookup of a listed name gives a file of one of the folders, the first that has it.
              const found = await paths.find(type, name);
              expect(folders.map((folder) => join(folder, name)).find((candidate) => candidate === found)).toBe(found);
              expect(found).toBeDefined();
              // The name cannot be used to leave: more dots lead to the same file.
              expect(await paths.find(type, `../../${name}`)).toBe(found);
            }
          }
          // Sections that are no default come in the order in which they are written, after the default folders.
          const plain = sections
            .filter(({ type, isDefault }) => type === 'loras' && !isDefault)
            .map(({ folder }) => join(base, folder));
          if (!sections.some(({ isDefault }) => isDefault)) {
            const own = paths
              .folders('loras')
              .map(({ path }) => path)
              .filter((path) => plain.includes(path));
            expect(own).toEqual([...new Set(plain)]);
          }
          // An unrelated folder changes nothing else.
          await writeFile(join(install, 'extra_model_paths.yaml'), `${yaml}unrelated:\n  gligen: ${base}/elsewhere\n`);
          const more = new FolderPaths({ installDirectory: install });
          for (const { name } of DEFAULT_FOLDERS.filter((folder) => folder.name !== 'gligen')) {
            expect(more.folders(name).map(({ path }) => path)).toEqual(paths.folders(name).map(({ path }) => path));
            expect(await more.list(name)).toEqual(await paths.list(name));
          }
        },
      ),
      { numRuns: 40 },
    );
  });
});
