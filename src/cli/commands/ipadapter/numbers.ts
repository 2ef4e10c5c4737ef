/** Lists of numbers on the command line. */
import { InvalidRequestError } from '../../../common/errors.js';

/** `1,3` as numbers of layers, or `all`. @throws {InvalidRequestError} naming the flag. */
export function parseLayers(text: string, flag: string): number[] | 'all' {
  if (text === 'all') return text;
  if (/^\d+(\s*,\s*\d+)*$/.test(text.trim())) return text.split(',').map(Number);
  throw new InvalidRequestError(`${flag} takes layer numbers such as 1,3, or all; got "${text}".`);
}

/** `1,0.5` as numbers. @throws {InvalidRequestError} naming the flag. */
export function parseNumbers(text: string, flag: string): number[] {
  const numbers = text.split(',').map((entry) => (entry.trim() === '' ? NaN : Number(entry)));
  if (numbers.every(Number.isFinite)) return numbers;
  throw new InvalidRequestError(`${flag} takes numbers such as 1,0.5; got "${text}".`);
}
