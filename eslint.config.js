import js from '@eslint/js';
import { defineConfig } from 'eslint/config';
import { createTypeScriptImportResolver } from 'eslint-import-resolver-typescript';
import importX from 'eslint-plugin-import-x';
import globals from 'globals';
import tseslint from 'typescript-eslint';

/** Bottom first. A room imports from rows above its own in this list, never from its own row or below. */
const LAYERS = [
  ['common'],
  ['tensor', 'protocol'],
  ['formats', 'paths', 'image', 'store'],
  ['registry', 'onnx', 'runtime', 'graph'],
  ['vision', 'faces', 'upstream'],
  ['adapter'],
  ['library'],
  ['nodes'],
  ['config.ts'],
  ['workers'],
  ['vision-services.ts'],
  ['bridge.ts'],
  ['server'],
  ['cli', 'index.ts'],
];
const ALL = LAYERS.flat();
const path = (name) => `./src/${name}`;
const zone = (room, forbidden) => ({
  target: path(room),
  from: [...forbidden, 'dashboard'].filter((name) => name !== room).map(path),
  message: `${room} may not import this: see the import order in README.md.`,
});
const zones = [
  ...LAYERS.flatMap((row, i) =>
    row.map((room) => zone(room, [...row.filter((r) => r !== room), ...LAYERS.slice(i + 1).flat()])),
  ),
  zone(
    'dashboard',
    ALL.filter((room) => room !== 'protocol'),
  ),
];

/** Between rooms, import the door (index.ts); `common`, `tensor` and `protocol` are open shelves. */
const OPEN = ['common', 'tensor', 'protocol'];
const doors = ALL.filter((name) => !name.endsWith('.ts') && !OPEN.includes(name)).map((room) => ({
  target: [`./src/!(${room})/**`, './src/*.ts'],
  from: path(room),
  except: ['./index.ts'],
  message: `Import ${room}/index.js, its door.`,
}));

/** Packages with one importing room. */
const OWNED = { sharp: 'image', 'onnxruntime-node': 'runtime', lmdb: 'store' };
const ENVIRONMENT = 'Read the environment in src/common/environment.ts only.';
const ownedElsewhere = (room) => Object.entries(OWNED).filter(([, owner]) => owner !== room);
const restrictedImports = (room) => [
  'error',
  {
    paths: [
      { name: 'node:process', importNames: ['env'], message: ENVIRONMENT },
      ...ownedElsewhere(room).map(([name, owner]) => ({
        name,
        message: `Only src/${owner} imports ${name}.`,
        allowTypeImports: false,
      })),
    ],
  },
];

export default defineConfig(
  { ignores: ['dist', 'coverage', '.test-results'] },
  js.configs.recommended,
  tseslint.configs.strictTypeChecked,
  {
    languageOptions: {
      parserOptions: { projectService: { allowDefaultProject: ['*.js'] }, tsconfigRootDir: import.meta.dirname },
    },
    plugins: { 'import-x': importX },
    settings: { 'import-x/resolver-next': [createTypeScriptImportResolver()] },
    rules: {
      'import-x/no-restricted-paths': ['error', { zones: [...zones, ...doors] }],
      'import-x/no-cycle': 'error',
      '@typescript-eslint/no-restricted-imports': restrictedImports(''),
      '@typescript-eslint/switch-exhaustiveness-check': 'error',
      '@typescript-eslint/restrict-template-expressions': ['error', { allowNumber: true }],
      'no-restricted-properties': ['error', { object: 'process', property: 'env', message: ENVIRONMENT }],
      'no-console': 'error',
    },
  },
  ...[...new Set(Object.values(OWNED))].map((room) => ({
    files: [`src/${room}/**`],
    rules: { '@typescript-eslint/no-restricted-imports': restrictedImports(room) },
  })),
  { files: ['src/common/environment.ts', 'test/**'], rules: { 'no-restricted-properties': 'off' } },
  { files: ['test/**'], rules: { '@typescript-eslint/no-restricted-imports': 'off' } },
  { files: ['src/cli/**', 'test/**'], rules: { 'no-console': 'off' } },
  { files: ['**/*.js'], extends: [tseslint.configs.disableTypeChecked], languageOptions: { globals: globals.node } },
  {
    files: ['comfy-nodes/web/**/*.js', 'test/support/front-end/**/*.js'],
    languageOptions: { globals: globals.browser },
  },
);
