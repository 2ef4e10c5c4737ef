import { describe, expect, it } from 'vitest';
import { abortable, throwIfAborted } from '../../../src/common/abort.js';
import { SingleFlight } from '../../../src/common/single-flight.js';

describe('abortable', () => {
  it('gives the value when nobody aborts', async () => {
    await expect(abortable(Promise.resolve(3), new AbortController().signal)).resolves.toBe(3);
  });

  it('rejects with CANCELLED as soon as the signal fires, while the work goes on', async () => {
    const controller = new AbortController();
    let finish: ((value: number) => void) | undefined;
    const work = new Promise<number>((resolve) => {
      finish = resolve;
    });
    const waiting = abortable(work, controller.signal);
    controller.abort();
    await expect(waiting).rejects.toMatchObject({ code: 'CANCELLED' });
    finish?.(7);
    await expect(work).resolves.toBe(7);
  });

  it('refuses to start with a signal that has fired', async () => {
    const signal = AbortSignal.abort('enough');
    expect(() => {
      throwIfAborted(signal);
    }).toThrow(expect.objectContaining({ code: 'CANCELLED', cause: 'enough' }) as Error);
    await expect(abortable(Promise.resolve(1), signal)).rejects.toMatchObject({ code: 'CANCELLED' });
  });
});

describe('SingleFlight', () => {
  it('shares one run among concurrent callers of a key and runs again afterwards', async () => {
    const flights = new SingleFlight<string, number>();
    let runs = 0;
    const work = (): Promise<number> => Promise.resolve((runs += 1));
    expect(await Promise.all([flights.run('a', work), flights.run('a', work), flights.run('b', work)])).toEqual([
      1, 1, 2,
    ]);
    expect(await flights.run('a', work)).toBe(3);
  });

  it('forgets a run that failed', async () => {
    const flights = new SingleFlight<string, number>();
    await expect(flights.run('a', () => Promise.reject(new Error('once')))).rejects.toThrow('once');
    await expect(flights.run('a', () => Promise.resolve(1))).resolves.toBe(1);
  });
});
