/** What commands print: one JSON document with --json, else text for people. Results go to stdout, all else to stderr. */
import { statSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { InvalidRequestError } from '../common/errors.js';

export function printJson(value: unknown): void {
  process.stdout.write(`${JSON.stringify(value, undefined, 2)}\n`);
}

export function printLine(text = ''): void {
  process.stdout.write(`${text}\n`);
}

/** 1,264,153,600 bytes as `1.26 GB`; decimal units, as file managers and download pages show sizes. */
export function formatBytes(bytes: number): string {
  const units = ['B', 'kB', 'MB', 'GB', 'TB'];
  let value = bytes;
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${unit === 0 ? value : value.toPrecision(3)} ${units[unit] ?? ''}`;
}

/** 11,901,408,320 as `11.9 B`, as people speak of parameters. */
export function formatCount(count: number): string {
  const units = ['', ' k', ' M', ' B', ' T'];
  let value = count;
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${unit === 0 ? value : value.toPrecision(3)}${units[unit] ?? ''}`;
}

/** Sees to it before the work that its result has a place. @throws {InvalidRequestError} */
export function requireTarget(flag: string, file: string | undefined): void {
  if (file === undefined) return;
  const folder = dirname(resolve(file));
  if (statSync(folder, { throwIfNoEntry: false })?.isDirectory() !== true)
    throw new InvalidRequestError(`${flag}: there is no folder ${folder}.`);
  if (statSync(file, { throwIfNoEntry: false })?.isDirectory() === true)
    throw new InvalidRequestError(`${flag}: ${file} is a folder; name a file in it.`);
}
