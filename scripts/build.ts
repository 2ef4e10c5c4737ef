/**
 * `npm run build`: JavaScript of the package in dist/; `tsc` adds the declarations.
 *
 * It is bundled because Node takes longer to find and read a file for every module than to run them: `serve` would load
 * 800 of them before it answers. Packages with binaries, or with threads or files of their own that are used, stay outside. The
 * licences of those that are inside are written beside it.
 */
import { readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { build, type BuildOptions } from 'esbuild';

const TARGET = 'dist';
const OUTSIDE = [
  'hash-wasm',
  'lmdb',
  'onnxruntime-node',
  'piscina',
  'sharp',
  // What fastify has for JSON Schema and for tests: a fifth of all that would be read, and never used.
  '@fastify/ajv-compiler',
  '@fastify/fast-json-stringify-compiler',
  'light-my-request',
];
const ENTRIES = [
  'src/cli/main.ts',
  'src/index.ts',
  'src/protocol/index.ts',
  // What benches open.
  'src/bridge.ts',
  'src/runtime/index.ts',
  'src/vision-services.ts',
  'src/workers/index.ts',
];
/** What processes and threads start with. */
const PROGRAMS = readdirSync('src/workers').flatMap((file) => (file === 'index.ts' ? [] : `src/workers/${file}`));
/** Packages in CommonJS require Node's modules, which has no meaning in ES modules. */
const REQUIRE = "import { createRequire } from 'node:module'; const require = createRequire(import.meta.url);";

/** `node_modules/@scope/name/lib/file.js` lies in `node_modules/@scope/name`. */
function packageFolder(file: string): string | undefined {
  return /^(?:.*\/)?node_modules\/(?:@[^/]+\/)?[^/]+/.exec(file)?.[0];
}

function licenceOf(folder: string): string {
  const { name, version, license } = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')) as Record<
    'name' | 'version' | 'license',
    string
  >;
  const texts = readdirSync(folder)
    .filter((file) => /^(licen[cs]e|copying|notice)/i.test(file))
    .map((file) => readFileSync(join(folder, file), 'utf8').trim());
  return [`## ${name} ${version} (${license})`, ...texts].join('\n\n');
}

rmSync(TARGET, { recursive: true, force: true });
const options = {
  outbase: 'src',
  outdir: TARGET,
  bundle: true,
  format: 'esm',
  platform: 'node',
  target: 'node20.19',
  external: OUTSIDE,
  banner: { js: REQUIRE },
  // Less to read at every start; names and lines stay, for stack traces.
  minifySyntax: true,
  minifyWhitespace: true,
  lineLimit: 120,
  metafile: true,
  logLevel: 'warning',
} satisfies BuildOptions;
const results = [
  // One folder deep, as the modules of src: addresses relative to a module stay true.
  await build({ ...options, entryPoints: ENTRIES, splitting: true, chunkNames: 'chunks/[name]-[hash]' }),
  // A file each, without what only others of a room's users need: parts that are shared are shared whole.
  await build({ ...options, entryPoints: PROGRAMS }),
];
const used = results.flatMap(({ metafile }) =>
  Object.values(metafile.outputs).flatMap(({ inputs }) => Object.keys(inputs)),
);
const folders = new Set(used.map(packageFolder).filter((folder) => folder !== undefined));
const licences = [...folders].sort().map(licenceOf);
writeFileSync(
  join(TARGET, 'THIRD-PARTY-LICENSES.md'),
  `${['# Licences of bundled packages', ...licences].join('\n\n')}\n`,
);
