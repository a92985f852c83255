// The highest free place of a window, for one who asks again and again: what was looked through once is not looked through for each range. It keeps no
// account of what is taken, and has to be told of what is given back.

import type { Range } from '../base/ranges.js'
import { countBefore } from '../base/sorted.js'

/** The lowest taken range that has an address of [first, last]. */
type FirstOverlap = (range: Range) => Range | undefined

/** A range that was given back, as far as it was not looked through again: from its last address down to its first something may be free. */
interface Reopened {
  readonly first: bigint
  last: bigint
}

/** Above `end` no range of so many bytes, or of more, so aligned or coarser, is free, but where something was given back. */
interface Full {
  readonly bytes: bigint
  readonly align: bigint
  end: bigint
  /** Disjoint, in the order of addresses. */
  readonly reopened: Reopened[]
}

/** How many places are remembered for each magnitude before all of it is looked through again. */
const REOPENED = 1024

export class SearchFromAbove {
  /** The first address behind what may be given. */
  readonly #top: bigint
  readonly #firstOverlap: FirstOverlap
  /** One for each magnitude of bytes, so that small and large ranges can take turns. */
  readonly #full = new Map<number, Full>()

  constructor(top: bigint, firstOverlap: FirstOverlap) {
    this.#top = top
    this.#firstOverlap = firstOverlap
  }

  /** The first address of the highest free range of so many bytes, at `lowest` or above; undefined when there is none. */
  find(bytes: bigint, align: bigint, lowest: bigint): bigint | undefined {
    const full = this.#fullFor(bytes, align)
    const isLeast = bytes === full.bytes && align === full.align
    const again = this.#reopenedPlace(full, bytes, align)
    if (again !== undefined) return again >= lowest ? again : undefined
    const { place, end } = this.#walk({ bytes, align, end: full.end, floor: lowest })
    if (isLeast) full.end = end
    return place
  }

  /** The range was taken, and is not. */
  reopen({ first, last }: Range): void {
    if (this.#full.size === 0) return
    const end = this.#endOfGap(last)
    for (const [magnitude, full] of this.#full) {
      if (end <= full.end) continue
      if (full.reopened.length === REOPENED) this.#full.delete(magnitude)
      else insert(full.reopened, { first, last })
    }
  }

  /** Nothing is known any more of what is taken. */
  forget(): void {
    this.#full.clear()
  }

  /** What is known for such a wish. The least demanding wish of a magnitude is kept: it is of use to all others. */
  #fullFor(bytes: bigint, align: bigint): Full {
    const magnitude = bytes.toString(2).length
    const known = this.#full.get(magnitude)
    if (known !== undefined && bytes >= known.bytes && align >= known.align) return known
    const full = { bytes, align, end: this.#top, reopened: [] }
    this.#full.set(magnitude, full)
    return full
  }

  /** The highest place that was given back and is free. What the least demanding wish does not fit into is not looked at again. */
  #reopenedPlace(full: Full, bytes: bigint, align: bigint): bigint | undefined {
    const { reopened } = full
    const isLeast = bytes === full.bytes && align === full.align
    for (let at = reopened.length - 1; at >= 0; at--) {
      const one = reopened[at] as Reopened
      const { place, end } = this.#walk({ bytes, align, end: this.#endOfGap(one.last), floor: 0n, until: one.first })
      if (place !== undefined) {
        if (isLeast && end <= one.last) one.last = end - 1n
        return place
      }
      if (isLeast) reopened.splice(at, 1)
    }
    return undefined
  }

  /** Where what is free behind an address ends: it may have become one with what is free before. */
  #endOfGap(last: bigint): bigint {
    if (last + 1n >= this.#top) return this.#top
    return this.#firstOverlap({ first: last + 1n, last: this.#top - 1n })?.first ?? this.#top
  }

  /** Gap by gap down from `end`, while a gap ends above `until`: each turn starts in front of one taken range. Also gives where the last gap ended. */
  #walk(wish: { bytes: bigint; align: bigint; end: bigint; floor: bigint; until?: bigint }): {
    place: bigint | undefined
    end: bigint
  } {
    const { bytes, align, floor, until = floor } = wish
    let { end } = wish
    while (end > until) {
      const first = end >= bytes ? end - bytes - ((end - bytes) % align) : -1n
      if (first < floor) break
      const inTheWay = this.#firstOverlap({ first, last: first + bytes - 1n })
      if (inTheWay === undefined) return { place: first, end }
      end = inTheWay.first
    }
    return { place: undefined, end }
  }
}

/** Adds a range; those that it touches become one with it. */
function insert(reopened: Reopened[], { first, last }: Reopened): void {
  const from = countBefore(reopened, (one) => one.last < first)
  const to = countBefore(reopened, (one) => one.first <= last)
  const low = from < to ? (reopened[from] as Reopened).first : first
  const high = from < to ? (reopened[to - 1] as Reopened).last : last
  reopened.splice(from, to - from, { first: low < first ? low : first, last: high > last ? high : last })
}
