/** The README as tests compare it: with the padding of table cells, which the formatter adds, collapsed. */
import { readFileSync } from 'node:fs';

export const readme = readFileSync(new URL('../../README.md', import.meta.url), 'utf8').replaceAll(/ +/g, ' ');
