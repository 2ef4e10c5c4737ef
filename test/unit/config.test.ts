import { describe, expect, it } from 'vitest';
import { FLAGS, parseConfig } from '../../src/config.js';
import { readme } from '../support/readme.js';

describe('parseConfig', () => {
  it('gives the documented defaults and a frozen object', () => {
    const config = parseConfig({});
    expect(config).toMatchObject({
      listen: '127.0.0.1',
      port: 8189,
      maxUploadSize: 100,
      logLevel: 'info',
      allowedHost: [],
    });
    expect(Object.isFrozen(config)).toBe(true);
  });

  it('reads --listen and --enable-cors-header without a value as ComfyUI does', () => {
    expect(parseConfig({ listen: true, enableCorsHeader: true })).toMatchObject({
      listen: '0.0.0.0,::',
      enableCorsHeader: '*',
    });
  });

  it('names every wrong flag at once', () => {
    expect(() => parseConfig({ port: 'x', logLevel: '1', maxUploadSize: -1 })).toThrow(
      /--port: .*--max-upload-size: .*--log-level: /s,
    );
  });

  it('refuses half of a TLS pair and a token that can be guessed', () => {
    expect(() => parseConfig({ tlsKeyfile: 'k' })).toThrow(/belong together/);
    expect(() => parseConfig({ token: 'short' })).toThrow(/8 characters/);
  });
});

describe('the README', () => {
  it.each(FLAGS.map((flag) => [flag.usage, flag] as const))('documents %s as config.ts has it', (_usage, flag) => {
    expect(readme).toContain(
      `| \`${flag.usage}\` | ${flag.description} | ${flag.defaultText ?? ''} |`.replaceAll(/ +/g, ' '),
    );
  });
});
