/**
 * How glibc hands out the memory of the inference process. Other systems' allocators do not read these variables.
 *
 * Weights and tensors are large, and touching memory for the first time costs a page fault per page: in huge pages there
 * are 512 times fewer. Where the system does not offer them (`madvise` or `always` in
 * /sys/kernel/mm/transparent_hugepage/enabled), nothing changes.
 *
 * Source: the GNU C Library manual, "Memory Allocation Tunables"; mallopt(3).
 */

/**
 * Allocations above this go back to the system when they are freed; glibc's default grows and keeps them. Below are what a
 * picture and its features need, which are wanted again at once; above are the weights of the larger encoders.
 */
const MMAP_THRESHOLD_BYTES = 6_000_000;
/** Bound of what is kept of the smaller ones. */
const TRIM_THRESHOLD_BYTES = 33_554_432;
const HUGE_PAGES = 'glibc.malloc.hugetlb';

type Environment = Readonly<Record<string, string | undefined>>;

/** The environment with the allocator's settings; the user's own choice of huge pages stays. */
export function withAllocatorSettings(environment: Environment): Environment {
  const tunables = environment['GLIBC_TUNABLES'];
  const chosen = tunables === undefined || tunables === '' ? [] : tunables.split(':');
  if (!chosen.some((tunable) => tunable.startsWith(`${HUGE_PAGES}=`))) chosen.push(`${HUGE_PAGES}=1`);
  return {
    ...environment,
    MALLOC_MMAP_THRESHOLD_: String(MMAP_THRESHOLD_BYTES),
    MALLOC_TRIM_THRESHOLD_: String(TRIM_THRESHOLD_BYTES),
    GLIBC_TUNABLES: chosen.join(':'),
  };
}
