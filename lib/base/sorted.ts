// Looks at sorted lists.

/** How many of a list come before a place: `isBefore` is true for the first ones and false for the others. Where each look counts, the search stands in its place without a call. */
export function countBefore<T>(list: readonly T[], isBefore: (one: T) => boolean): number {
  let [low, high] = [0, list.length]
  while (low < high) {
    const middle = (low + high) >>> 1
    if (isBefore(list[middle] as T)) low = middle + 1
    else high = middle
  }
  return low
}
