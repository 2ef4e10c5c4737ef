/**
 * The registry's first index, restart and answers, beside a Python loop of json.loads over the same headers, by turns.
 *
 *     npm run build && npx tsx test/bench/registry.ts [PYTHON] [TREE ...]
 *
 * Trees are sparse: true headers, no data. `loras`: 3,678 LoRAs of 792 tensors, whose tables repeat as those of a few
 * trainers do; `varied`: the same with a random rank for every module, so that no table comes twice; `spaced`: that, written
 * as Python's json.dumps does; `renamed`: other names in every file, so that none is known; `all`: 22,294 files, most of
 * them small LoRAs; `many`: 70,000, only when it is named. Medians of some processes each, after one that warms the page
 * cache. The time of all our threads on the processors tells more than the clock where others are at work.
 */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { mkdir, open } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { seededRandom } from '../support/random.js';

const PROCESSES = 3;
const RANKS = [4, 8, 16, 32, 64, 128];
const dist = new URL('../../dist/', import.meta.url).href;

const [python = 'python3', ...wanted] = process.argv.slice(2);

const median = (values: readonly number[]): number =>
  values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? NaN;

interface TreeOptions {
  readonly files: number;
  /** Three tensors each. */
  readonly modules: number;
  readonly ranks: 'per-file' | 'random';
  readonly isSpaced?: boolean;
  readonly isRenamed?: boolean;
}

/** Names as kohya's trainer gives them to the modules of SDXL. */
function moduleNames(count: number): string[] {
  return Array.from({ length: count }, (_none, i) => {
    const [block, rest] = [[4, 5, 7, 8][i % 4] ?? 4, Math.floor(i / 4)];
    const place = `${block}_1_transformer_blocks_${Math.floor(rest / 8) % 10}_attn${1 + (rest % 2)}_to_${'qkv'[Math.floor(rest / 2) % 3] ?? 'q'}`;
    return i < 240
      ? `lora_unet_input_blocks_${place}`
      : `lora_te1_text_model_encoder_layers_${i - 240}_self_attn_q_proj`;
  });
}

async function makeTree(root: string, options: TreeOptions): Promise<number> {
  const { files, modules, ranks, isSpaced = false, isRenamed = false } = options;
  const names = moduleNames(modules);
  const random = seededRandom(1);
  const [comma, colon] = isSpaced ? [', ', ': '] : [',', ':'];
  let headerBytes = 0;
  for (let i = 0; i < files; i += 1) {
    const metadata = {
      ss_base_model_version: 'sdxl_base_v1-0',
      ss_network_module: 'networks.lora',
      ss_network_dim: '16',
      ss_network_alpha: '8',
      ss_output_name: `lora ${i}`,
      ss_tag_frequency: JSON.stringify({
        [`10_concept ${i}`]: Object.fromEntries(Array.from({ length: 40 }, (_none, t) => [`tag ${t} of ${i}`, t])),
      }),
    };
    const parts = [`"__metadata__"${colon}${JSON.stringify(metadata)}`];
    let end = 0;
    names.forEach((name, m) => {
      const rank = RANKS[ranks === 'random' ? Math.floor(random() * RANKS.length) : i % RANKS.length] ?? 4;
      const number = isRenamed ? Math.floor(random() * 2 ** 32).toString(16) : String(m);
      for (const [suffix, shape] of [
        ['alpha', []],
        ['lora_down.weight', [rank, 640]],
        ['lora_up.weight', [640, rank]],
      ] as const) {
        const size = shape.reduce<number>((product, side) => product * side, 2);
        const fields = [`"dtype"${colon}"F16"`, `"shape"${colon}[${shape.join(comma)}]`];
        fields.push(`"data_offsets"${colon}[${end}${comma}${end + size}]`);
        parts.push(`"${name}_${number}.${suffix}"${colon}{${fields.join(comma)}}`);
        end += size;
      }
    });
    const json = Buffer.from(`{${parts.join(comma)}}`);
    const length = Buffer.alloc(8);
    length.writeBigUInt64LE(BigInt(json.length));
    const folder = join(root, 'models/loras', String(i % 40));
    if (i < 40) await mkdir(folder, { recursive: true });
    const file = await open(join(folder, `${i}.safetensors`), 'w');
    await file.write(Buffer.concat([length, json]));
    await file.truncate(8 + json.length + end);
    await file.close();
    headerBytes += json.length;
  }
  return headerBytes;
}

/** One process's worth, from the built package: threads from TypeScript source take a second to load. */
const MEASURE = `
const [root, data] = process.argv.slice(1);
const { ComfyUIPathResolver } = await import('${dist}index.js');
const { openRegistry } = await import('${dist}bridge.js');
const quiet = { error() {}, warn() {}, info() {}, debug() {} };
const resolver = ComfyUIPathResolver.fromComfyUI(root);
const cpu = process.cpuUsage();
const begin = performance.now();
const owned = openRegistry({ roots: () => resolver.modelRoots(), dataDirectory: data, logger: quiet });
const { files, read } = await owned.registry.scan();
const scan = performance.now() - begin;
const { user, system } = process.cpuUsage(cpu);
const answer = performance.now();
owned.registry.stats('kind');
const done = performance.now();
console.log(JSON.stringify({ files, read, scan, cpu: (user + system) / 1000, stats: done - answer, sinceStart: done, memory: process.resourceUsage().maxRSS / 1024 }));
await owned[Symbol.asyncDispose]();
`;
const LOOP = `
import json, os, struct, sys, time
paths = [os.path.join(d, f) for d, _, fs in os.walk(sys.argv[1]) for f in fs]
begin, used = time.perf_counter(), time.process_time()
for path in paths:
    with open(path, 'rb') as file:
        json.loads(file.read(struct.unpack('<Q', file.read(8))[0]))
print(json.dumps([(time.perf_counter() - begin) * 1000, (time.process_time() - used) * 1000]))
`;

interface Figures {
  readonly files: number;
  readonly read: number;
  readonly scan: number;
  readonly cpu: number;
  readonly stats: number;
  readonly sinceStart: number;
  readonly memory: number;
}

const measure = (root: string, data: string): Figures =>
  JSON.parse(
    execFileSync(process.execPath, ['--input-type=module', '-e', MEASURE, root, data], { encoding: 'utf8' }),
  ) as Figures;
const loop = (root: string): [wall: number, cpu: number] =>
  JSON.parse(execFileSync(python, ['-c', LOOP, join(root, 'models')], { encoding: 'utf8' })) as [number, number];

const TREES: Readonly<Record<string, TreeOptions>> = {
  loras: { files: 3678, modules: 264, ranks: 'per-file' },
  varied: { files: 3678, modules: 264, ranks: 'random' },
  spaced: { files: 3678, modules: 264, ranks: 'random', isSpaced: true },
  renamed: { files: 3678, modules: 264, ranks: 'random', isRenamed: true },
  all: { files: 22_294, modules: 24, ranks: 'per-file' },
  many: { files: 70_000, modules: 8, ranks: 'random' },
};

for (const [name, options] of Object.entries(TREES)) {
  if (wanted.length === 0 ? name === 'many' : !wanted.includes(name)) continue;
  const root = mkdtempSync(join(tmpdir(), `bench-registry-${name}-`));
  try {
    const headerBytes = await makeTree(root, options);
    const data = join(root, 'data');
    loop(root);
    const first: Figures[] = [];
    const again: Figures[] = [];
    const loops: [wall: number, cpu: number][] = [];
    for (let i = 0; i < PROCESSES; i += 1) {
      rmSync(data, { recursive: true, force: true });
      first.push(measure(root, data));
      again.push(measure(root, data));
      loops.push(loop(root));
    }
    const of = (figures: readonly Figures[], key: keyof Figures): number => median(figures.map((entry) => entry[key]));
    const [index, json] = [of(first, 'scan'), median(loops.map(([wall]) => wall))];
    const [cpu, jsonCpu] = [of(first, 'cpu'), median(loops.map(([, used]) => used))];
    console.log(
      `${name}: ${options.files} files, ${(headerBytes / 1e6).toFixed(0)} MB of headers. ` +
        `First index ${index.toFixed(0)} ms, json.loads ${json.toFixed(0)} ms: ${(json / index).toFixed(1)}x. ` +
        `On the processors ${cpu.toFixed(0)} and ${jsonCpu.toFixed(0)} ms. ` +
        `Restart ${of(again, 'sinceStart').toFixed(0)} ms from the start of the process, of it the scan ${of(again, 'scan').toFixed(0)} ms. ` +
        `Statistics ${of(again, 'stats').toFixed(1)} ms. Memory ${of(first, 'memory').toFixed(0)} MB at most.`,
    );
  } finally {
    rmSync(root, { recursive: true, force: true });
  }
}
