// Inclusive u64 ranges [first, last], as the kernel and virtio write them: the only form in which the whole 2^64 space can be said.

/** The largest `__u64`. */
export const U64_LAST = 0xffff_ffff_ffff_ffffn

/** Addresses from `first` to `last`, both included. */
export interface Range {
  /** The first address, 0..2^64-1. */
  readonly first: bigint
  /** The last address that still belongs to it; not below `first`. */
  readonly last: bigint
}

/** The range of `size` bytes (at least 1) at `first`, or undefined when it would pass 2^64-1. */
export function rangeOf(first: bigint, size: bigint): Range | undefined {
  if (size <= 0n) return undefined
  const last = first + size - 1n
  return last > U64_LAST ? undefined : { first, last }
}

/** Whether all of `inner` lies in `outer`. */
export function contains(outer: Range, inner: Range): boolean {
  return outer.first <= inner.first && inner.last <= outer.last
}

/** Whether the two have an address in common. */
export function overlaps(a: Range, b: Range): boolean {
  return a.first <= b.last && b.first <= a.last
}

/** `[0x1000, 0x1fff]` */
export function showRange(range: Range): string {
  return `[0x${range.first.toString(16)}, 0x${range.last.toString(16)}]`
}
