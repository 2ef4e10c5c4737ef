/**
 * Python's regular expressions as JavaScript's, for `re.sub`.
 *
 * The two languages share most of their syntax; what differs is rewritten: named groups, `\A \Z \d \w \s \b`, `^ $ .`
 * over lines, inline flags. What JavaScript has no word for (atomic groups, possessive repeats, conditions, flags inside
 * a pattern) is refused by name, never read as something else.
 *
 * Source: Python's documentation of `re`; tested against values recorded from it.
 */
import { PythonError } from '../graph/index.js';

export interface RegexFlags {
  readonly ignoreCase: boolean;
  readonly multiline: boolean;
  readonly dotAll: boolean;
}

/** Contents of character classes, for the `v` flag. */
const CLASSES: Readonly<Record<string, string>> = {
  d: '\\p{Nd}',
  w: '\\p{L}\\p{N}_',
  s: '[\\s\\x1c-\\x1f\\x85]--[\\ufeff]',
};
const WORD = '[\\p{L}\\p{N}_]';
const CONTROLS: Readonly<Record<string, string>> = { a: '\\x07', f: '\\f', n: '\\n', r: '\\r', t: '\\t', v: '\\v' };
/** Characters that stand for themselves only behind a backslash, with the `v` flag: outside of classes and in them. */
const SYNTAX = /[\^$\\.*+?()[\]{}|/]/;
const CLASS_SYNTAX = /[\^$\\.*+?()[\]{}|/\-&!#%,:;<=>@`~]/;

/** @throws {PythonError} `re.error` */
export function translatePattern(source: string, flags: RegexFlags): RegExp {
  const pattern = new Translator(source, flags);
  try {
    return new RegExp(pattern.translate(), `gv${pattern.flags.ignoreCase ? 'i' : ''}`);
  } catch (error) {
    if (error instanceof PythonError) throw error;
    throw regexError(error instanceof Error ? error.message : 'bad pattern', 0);
  }
}

function regexError(message: string, at: number): PythonError {
  return new PythonError('re.error', `${message} at position ${at}`);
}

class Translator {
  readonly #source: string;
  #at = 0;
  flags: RegexFlags;

  constructor(source: string, flags: RegexFlags) {
    this.#source = source;
    this.flags = flags;
  }

  translate(): string {
    this.#leadingFlags();
    let out = '';
    while (this.#at < this.#source.length) out += this.#next();
    return out;
  }

  /** `(?ims)` before anything else. */
  #leadingFlags(): void {
    const match = /^\(\?([aiLmsux]+)\)/.exec(this.#source);
    if (match === null) return;
    const letters = match[1] ?? '';
    const unknown = /[aLx]/.exec(letters);
    if (unknown !== null) throw regexError(`the flag ${unknown[0]} is not supported`, 2);
    this.flags = {
      ignoreCase: this.flags.ignoreCase || letters.includes('i'),
      multiline: this.flags.multiline || letters.includes('m'),
      dotAll: this.flags.dotAll || letters.includes('s'),
    };
    this.#at = match[0].length;
  }

  #next(): string {
    const character = String.fromCodePoint(this.#source.codePointAt(this.#at) ?? 0);
    if (character === '\\') return this.#escape();
    if (character === '[') return this.#class();
    if (character === '(') return this.#group();
    this.#at += character.length;
    switch (character) {
      case '.':
        return this.flags.dotAll ? '[^]' : '[^\\n]';
      case '^':
        return this.flags.multiline ? '(?<![^\\n])' : '(?<![^])';
      case '$':
        return this.flags.multiline ? '(?![^\\n])' : '(?=\\n?(?![^]))';
      case '{':
        return this.#repeat();
      case '*':
      case '+':
      case '?':
        return this.#refusePossessive(character);
      case ')':
      case '|':
        return character;
      default:
        return SYNTAX.test(character) ? `\\${character}` : character;
    }
  }

  #refusePossessive(repeat: string): string {
    if (this.#source[this.#at] === '+') throw regexError('possessive repeats are not supported', this.#at);
    return repeat;
  }

  /** `{m,n}`, or a brace that stands for itself. */
  #repeat(): string {
    const match = /^(\d*)(,?)(\d*)\}/.exec(this.#source.slice(this.#at));
    const [whole = '', low = '', comma = '', high = ''] = match ?? [];
    if (match === null || (low === '' && high === '')) return '\\{';
    this.#at += whole.length;
    return this.#refusePossessive(`{${low === '' ? '0' : low}${comma}${high}}`);
  }

  #group(): string {
    const rest = this.#source.slice(this.#at);
    const take = (match: RegExpExecArray, out: string): string => {
      this.#at += match[0].length;
      return out;
    };
    const comment = /^\(\?#[^)]*\)/.exec(rest);
    if (comment !== null) return take(comment, '');
    const named = /^\(\?P<([A-Za-z_]\w*)>/.exec(rest);
    if (named !== null) return take(named, `(?<${named[1] ?? ''}>`);
    const same = /^\(\?P=([A-Za-z_]\w*)\)/.exec(rest);
    if (same !== null) return take(same, `\\k<${same[1] ?? ''}>`);
    const plain = /^\((?:\?(?::|=|!|<=|<!))?(?!\?)/.exec(rest);
    if (plain !== null) return take(plain, plain[0]);
    throw regexError(`the group ${rest.slice(0, 4)} is not supported`, this.#at);
  }

  #escape(): string {
    const at = this.#at;
    const escaped = this.#source[at + 1];
    if (escaped === undefined) throw regexError('bad escape (end of pattern)', at);
    this.#at += 2;
    if (escaped === 'A') return '(?<![^])';
    if (escaped === 'Z') return '(?![^])';
    if (escaped === 'b') return `(?:(?<=${WORD})(?!${WORD})|(?<!${WORD})(?=${WORD}))`;
    if (escaped === 'B') return `(?:(?<=${WORD})(?=${WORD})|(?<!${WORD})(?!${WORD}))`;
    const inside = CLASSES[escaped.toLowerCase()];
    if (inside !== undefined) return `[${escaped === escaped.toLowerCase() ? '' : '^'}${nested(inside)}]`;
    if (/[1-9]/.test(escaped)) {
      const more = /^\d/.exec(this.#source.slice(this.#at))?.[0] ?? '';
      this.#at += more.length;
      return `(?:\\${escaped}${more})`;
    }
    return this.#character(escaped, at);
  }

  /** An escaped character, in a class or outside. */
  #character(escaped: string, at: number): string {
    const control = CONTROLS[escaped];
    if (control !== undefined) return control;
    const digits = { x: 2, u: 4, U: 8 }[escaped];
    if (digits !== undefined) {
      const hex = this.#source.slice(this.#at, this.#at + digits);
      if (!/^[0-9A-Fa-f]+$/.test(hex) || hex.length !== digits) throw regexError(`incomplete escape \\${escaped}`, at);
      this.#at += digits;
      return `\\u{${hex}}`;
    }
    if (escaped === '0') {
      const octal = /^[0-7]{0,2}/.exec(this.#source.slice(this.#at))?.[0] ?? '';
      this.#at += octal.length;
      return `\\u{${parseInt(`0${octal}`, 8).toString(16)}}`;
    }
    if (/[A-Za-z]/.test(escaped)) throw regexError(`bad escape \\${escaped}`, at);
    return SYNTAX.test(escaped) ? `\\${escaped}` : escaped;
  }

  #class(): string {
    const begin = this.#at;
    this.#at += 1;
    let out = '[';
    if (this.#source[this.#at] === '^') {
      out += '^';
      this.#at += 1;
    }
    for (let isFirst = true; ; isFirst = false) {
      const code = this.#source.codePointAt(this.#at);
      if (code === undefined) throw regexError('unterminated character set', begin);
      const character = String.fromCodePoint(code);
      if (character === ']' && !isFirst) break;
      out += character === '\\' ? this.#classEscape() : this.#classCharacter(character, isFirst);
    }
    this.#at += 1;
    return `${out}]`;
  }

  #classCharacter(character: string, isFirst: boolean): string {
    this.#at += character.length;
    // A hyphen is a range only between two characters.
    if (character === '-' && !isFirst && this.#source[this.#at] !== ']') return '-';
    return CLASS_SYNTAX.test(character) ? `\\${character}` : character;
  }

  #classEscape(): string {
    const at = this.#at;
    const escaped = this.#source[at + 1];
    if (escaped === undefined) throw regexError('unterminated character set', at);
    this.#at += 2;
    if (escaped === 'b') return '\\x08';
    const inside = CLASSES[escaped.toLowerCase()];
    if (inside !== undefined) return `[${escaped === escaped.toLowerCase() ? '' : '^'}${nested(inside)}]`;
    return this.#character(escaped, at);
  }
}

function nested(inside: string): string {
  return inside.includes('--') ? `[${inside}]` : inside;
}

/** `\1 \g<1> \g<name> \n` of a replacement, filled in for one match. @throws {PythonError} `re.error` */
export function expandTemplate(template: string, match: RegExpExecArray): string {
  return template.replaceAll(
    /\\(?:g<(\w+)>|([1-9]\d?)|(0[0-7]{0,2})|([^]|$))/g,
    (
      whole: string,
      name: string | undefined,
      number: string | undefined,
      octal: string | undefined,
      other: string | undefined,
      at: number,
    ) => {
      const group = name ?? number;
      if (group !== undefined) {
        const isNumber = /^\d+$/.test(group);
        const isKnown = isNumber ? Number(group) < match.length : Object.hasOwn(match.groups ?? {}, group);
        if (!isKnown && isNumber) throw regexError(`invalid group reference ${group}`, at + 1);
        if (!isKnown) throw new PythonError('IndexError', `unknown group name '${group}'`);
        return (isNumber ? match[Number(group)] : match.groups?.[group]) ?? '';
      }
      if (octal !== undefined) return String.fromCharCode(parseInt(octal, 8));
      const control = { a: '\x07', b: '\b', f: '\f', n: '\n', r: '\r', t: '\t', v: '\v', '\\': '\\' }[other ?? ''];
      if (control !== undefined) return control;
      if (/^[A-Za-z]?$/.test(other ?? '')) throw regexError(`bad escape ${whole}`, at);
      return whole;
    },
  );
}
