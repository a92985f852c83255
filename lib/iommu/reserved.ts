// Addresses that no mapping may have: what a program reserves for an endpoint, and what the endpoint's device cannot reach. Checked and sorted once.

import { checkObject, checkOneOf, rangeError, toU64 } from '../base/checks.js'
import { overlaps, showRange, U64_LAST, type Range } from '../base/ranges.js'

/** Addresses that a driver may not map for an endpoint, because the platform uses them itself. */
export interface ReservedRange extends Range {
  /** `'msi'`: the doorbell of message-signalled interrupts lies there (one range an endpoint at most). Default `'reserved'`. */
  readonly kind?: 'reserved' | 'msi'
}

/** The smallest range that contains all of them; everything where there are none. */
export function hullOf(ranges: readonly Range[]): Range {
  const [head, ...rest] = ranges
  if (head === undefined) return { first: 0n, last: U64_LAST }
  return rest.reduce(
    (hull, { first, last }) => ({
      first: first < hull.first ? first : hull.first,
      last: last > hull.last ? last : hull.last,
    }),
    head,
  )
}

/** What the program reserved and what lies in `hull` outside of `window`, lowest first. RangeError for ranges that overlap, and for two of `'msi'`. */
export function reservedRanges(given: readonly ReservedRange[], window: Range, hull: Range): Required<ReservedRange>[] {
  const ranges = given.map(checkReserved)
  if (hull.first < window.first) ranges.push({ first: hull.first, last: window.first - 1n, kind: 'reserved' })
  if (hull.last > window.last) ranges.push({ first: window.last + 1n, last: hull.last, kind: 'reserved' })
  ranges.sort((a, b) => (a.first < b.first ? -1 : 1))
  for (const [index, range] of ranges.entries()) {
    const next = ranges[index + 1]
    if (next !== undefined && overlaps(range, next))
      throw rangeError('reserved', `ranges that are apart, and inside ${showRange(window)}`, next.first)
  }
  if (ranges.filter(({ kind }) => kind === 'msi').length > 1)
    throw rangeError('reserved', "ranges of which one at most is of kind 'msi'", ranges.length)
  return ranges
}

function checkReserved(range: ReservedRange): Required<ReservedRange> {
  checkObject(range, 'a reserved range')
  const { kind = 'reserved' } = range
  const first = toU64(range.first, 'first')
  const last = toU64(range.last, 'last')
  if (last < first) throw rangeError('last', 'at or above first', last)
  checkOneOf(kind, 'kind', ['reserved', 'msi'])
  return { first, last, kind }
}
