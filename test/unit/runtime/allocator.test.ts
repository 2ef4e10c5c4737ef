import { describe, expect, it } from 'vitest';
import { withAllocatorSettings } from '../../../src/runtime/allocator.js';

describe('the environment of the inference process', () => {
  it('asks glibc for huge pages and bounds what it keeps', () => {
    expect(withAllocatorSettings({ HOME: '/home/me' })).toEqual({
      HOME: '/home/me',
      GLIBC_TUNABLES: 'glibc.malloc.hugetlb=1',
      MALLOC_MMAP_THRESHOLD_: '6000000',
      MALLOC_TRIM_THRESHOLD_: '33554432',
    });
  });

  it.each([
    ['glibc.malloc.check=3', 'glibc.malloc.check=3:glibc.malloc.hugetlb=1'],
    ['glibc.malloc.hugetlb=0', 'glibc.malloc.hugetlb=0'],
    ['', 'glibc.malloc.hugetlb=1'],
  ])('keeps what the user set: GLIBC_TUNABLES=%s', (own, expected) => {
    expect(withAllocatorSettings({ GLIBC_TUNABLES: own })['GLIBC_TUNABLES']).toBe(expected);
  });
});
