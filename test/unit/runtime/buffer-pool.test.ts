import { describe, expect, it } from 'vitest';
import { BufferPool } from '../../../src/runtime/index.js';

describe('memory of answers', () => {
  it('is used again once it is released, for answers that are not much smaller', async () => {
    const pool = new BufferPool();
    const first = pool.lease();
    const buffer = first.take(1000);
    expect(pool.lease().take(1000)).not.toBe(buffer);
    await first.release();
    expect(pool.lease().take(1001)).not.toBe(buffer);
    expect(pool.lease().take(400)).not.toBe(buffer);
    expect(pool.lease().take(600)).toBe(buffer);
    expect(pool.lease().take(600)).not.toBe(buffer);
  });

  it('stays as it is while a use that has begun goes on', async () => {
    const pool = new BufferPool();
    const lease = pool.lease();
    const buffer = lease.take(1000);
    let end = (): void => undefined;
    const use = lease.use(
      () =>
        new Promise<void>((resolve) => {
          end = resolve;
        }),
    );
    const released = lease.release();
    expect(pool.lease().take(1000)).not.toBe(buffer);
    end();
    await Promise.all([use, released]);
    expect(pool.lease().take(1000)).toBe(buffer);
  });

  it('is given back where a use has failed, which is told to who began it', async () => {
    const pool = new BufferPool();
    const lease = pool.lease();
    const buffer = lease.take(1000);
    const use = lease.use(() => Promise.reject(new Error('full')));
    await Promise.all([expect(use).rejects.toThrow('full'), lease.release()]);
    expect(pool.lease().take(1000)).toBe(buffer);
  });

  it('after a release is memory of its own, and is not used any more', async () => {
    const pool = new BufferPool();
    const lease = pool.lease();
    const buffer = lease.take(1000);
    await lease.release();
    expect(lease.take(1000)).not.toBe(buffer);
    let isUsed = false;
    await lease.use(() => {
      isUsed = true;
      return Promise.resolve();
    });
    expect(isUsed).toBe(false);
    await lease.release();
    expect(pool.lease().take(1000)).toBe(buffer);
    expect(pool.lease().take(1000)).not.toBe(buffer);
  });

  it('is not kept without bound', async () => {
    const pool = new BufferPool();
    const lease = pool.lease();
    const buffers = Array.from({ length: 5 }, () => lease.take(10_000_000));
    await lease.release();
    const next = pool.lease();
    const again = Array.from({ length: 5 }, () => next.take(10_000_000));
    expect(again.filter((buffer) => buffers.includes(buffer))).toHaveLength(3);
  });
});
