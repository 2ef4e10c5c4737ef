import { describe, expect, it } from 'vitest';
import { BridgeError, ERROR_CODES, ModelNotFoundError, systemCodeOf } from '../../../src/common/errors.js';
import { readme } from '../../support/readme.js';

describe('the error catalogue', () => {
  it.each(Object.entries(ERROR_CODES))('has a row for %s in the README', (code, meaning) => {
    expect(readme).toContain(`| \`${code}\` | ${meaning} |`);
  });

  it('has no row in the README that is not a code', () => {
    const rows = [...readme.matchAll(/^\| `([A-Z_]+)` \| /gm)].map((match) => match[1]);
    expect(rows.toSorted()).toEqual(Object.keys(ERROR_CODES).toSorted());
  });

  it('names an error after its class and keeps cause and details', () => {
    const cause = new Error('disk');
    const error = new ModelNotFoundError('no such model', { cause, details: { name: 'a' } });
    expect(error).toBeInstanceOf(BridgeError);
    expect(error).toMatchObject({ name: 'ModelNotFoundError', code: 'MODEL_NOT_FOUND', cause, details: { name: 'a' } });
  });

  it('reads the code of a system error and of nothing else', () => {
    expect(systemCodeOf(Object.assign(new Error('x'), { code: 'ENOENT' }))).toBe('ENOENT');
    expect(systemCodeOf(Object.assign(new Error('x'), { code: 5 }))).toBeUndefined();
    expect(systemCodeOf('ENOENT')).toBeUndefined();
  });
});
