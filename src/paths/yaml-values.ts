/**
 * Scalars as PyYAML's safe loader resolves them: YAML 1.1, with PyYAML's own patterns.
 *
 * The `yaml` package reads the structure; its own idea of scalars is set aside, because readers differ in what `1e3`,
 * `012` or `on` mean, and ComfyUI starts or stops by what PyYAML makes of them.
 *
 * Source: the YAML 1.1 type repository and the PyYAML manual; checked by the recorded cases in test/golden/paths.
 */

/** Types by the names that Python's own messages use. */
type PythonType =
  'str' | 'NoneType' | 'bool' | 'int' | 'float' | 'datetime.date' | 'datetime.datetime' | 'bytes' | 'list' | 'dict';

/** Where something is written, 1-based, in characters. */
export interface Position {
  readonly line: number;
  readonly column: number;
}

export interface YamlScalar {
  readonly type: Exclude<PythonType, 'list' | 'dict'>;
  /** The text of a `str`; the source text of everything else. */
  readonly text: string;
  /** Value of a bool, int or float. */
  readonly value?: boolean | number;
  readonly at: Position;
}

interface YamlList {
  readonly type: 'list';
  readonly items: readonly YamlValue[];
  readonly at: Position;
}

/** One object per mapping that is written: aliases share it, as they share Python's dict. */
export interface YamlMap {
  readonly type: 'dict';
  readonly entries: Map<string, { readonly key: YamlScalar; readonly value: YamlValue }>;
  readonly at: Position;
}

export type YamlValue = YamlScalar | YamlList | YamlMap;

const BOOLS: Readonly<Record<string, boolean>> = {
  yes: true,
  true: true,
  on: true,
  no: false,
  false: false,
  off: false,
};
const BOOL = /^(?:yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF)$/;
const NULL = /^(?:~|null|Null|NULL|)$/;
const INT =
  /^(?:[-+]?0b[01_]+|[-+]?0[0-7_]+|[-+]?(?:0|[1-9][0-9_]*)|[-+]?0x[0-9a-fA-F_]+|[-+]?[1-9][0-9_]*(?::[0-5]?[0-9])+)$/;
const FLOAT =
  /^(?:[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+][0-9]+)?|\.[0-9][0-9_]*(?:[eE][-+][0-9]+)?|[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+\.[0-9_]*|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$/;
const DATE = /^[0-9]{4}-[0-9]{2}-[0-9]{2}$/;
const DATE_TIME =
  /^[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:[Tt]|[ \t]+)[0-9]{1,2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]*)?(?:[ \t]*(?:Z|[-+][0-9]{1,2}(?::?[0-9]{2})?))?$/;

/** Resolves a plain scalar; quoted and block scalars are always text. */
export function resolvePlain(text: string, at: Position): YamlScalar {
  if (NULL.test(text)) return { type: 'NoneType', text, at };
  if (BOOL.test(text)) return { type: 'bool', text, value: BOOLS[text.toLowerCase()] ?? false, at };
  if (INT.test(text)) return { type: 'int', text, value: parseInteger(text), at };
  if (FLOAT.test(text)) return { type: 'float', text, value: parseFloatText(text), at };
  if (DATE.test(text)) return { type: 'datetime.date', text, at };
  if (DATE_TIME.test(text)) return { type: 'datetime.datetime', text, at };
  return { type: 'str', text, at };
}

/** Python's truth of a value, as `is_default` is read: any text but the empty one is true. */
export function isTruthy(value: YamlValue): boolean {
  switch (value.type) {
    case 'list':
      return value.items.length > 0;
    case 'dict':
      return value.entries.size > 0;
    case 'NoneType':
      return false;
    case 'str':
    case 'bytes':
      return value.text !== '';
    case 'bool':
    case 'int':
    case 'float':
      return value.value !== false && value.value !== 0;
    case 'datetime.date':
    case 'datetime.datetime':
      return true;
  }
}

/** Identity of a mapping key: Python's 1, 1.0 and true are one key. */
export function keyIdentity(key: YamlScalar): string {
  if (key.type === 'str') return `s${key.text}`;
  return key.value === undefined ? `${key.type} ${key.text}` : `n${Number(key.value)}`;
}

function signed(text: string): [sign: number, digits: string] {
  const digits = text.replaceAll('_', '');
  if (digits.startsWith('-')) return [-1, digits.slice(1)];
  return [1, digits.startsWith('+') ? digits.slice(1) : digits];
}

function parseInteger(text: string): number {
  const [sign, digits] = signed(text);
  if (digits.startsWith('0b')) return sign * Number.parseInt(digits.slice(2), 2);
  if (digits.startsWith('0x')) return sign * Number.parseInt(digits.slice(2), 16);
  if (digits.includes(':')) return sign * sexagesimal(digits);
  if (digits.length > 1 && digits.startsWith('0')) return sign * Number.parseInt(digits, 8);
  return sign * Number(digits);
}

function parseFloatText(text: string): number {
  const [sign, digits] = signed(text.toLowerCase());
  if (digits === '.inf') return sign * Infinity;
  if (digits === '.nan') return NaN;
  return sign * (digits.includes(':') ? sexagesimal(digits) : Number(digits));
}

/** `12:30` is 12·60 + 30. */
function sexagesimal(digits: string): number {
  return digits.split(':').reduce((total, part) => total * 60 + Number(part), 0);
}
