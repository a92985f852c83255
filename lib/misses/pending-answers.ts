// Translations that were asked for and have not come: which there are, which came too late, and which an invalidation made stale. No device and no translator.

import { overlaps, type Range } from '../base/ranges.js'
import type { MissRequest } from './translator.js'

/** Answers that did not come in time and may still come; the oldest are given up beyond that. */
const LATE_KEPT = 256
/** Invalidations that one answer is compared with; more are taken for one of everything between. */
const STALE_KEPT = 64

/** One question under way. */
export class Pending {
  readonly request: MissRequest
  /** Times that it was asked again because an invalidation overtook the answer. */
  readonly restarts: number
  /** It did not come in time: the miss is a fault, until it comes. */
  isLate = false
  /** Nobody waits for it any more. */
  isOver = false
  timer: NodeJS.Timeout | undefined
  #stale: Range[] = []

  constructor(request: MissRequest, restarts: number) {
    this.request = request
    this.restarts = restarts
  }

  /** What the translator may be looking at is no more. */
  invalidate(range: Range): void {
    this.#stale.push(range)
    if (this.#stale.length > STALE_KEPT) this.#stale = [hullOf(this.#stale)]
  }

  /** Whether an answer speaks of what was invalidated after it was asked for. That there is none may be true no more after any invalidation. */
  isStale(answer: Range | undefined): boolean {
    return this.#stale.some((range) => answer === undefined || overlaps(range, answer))
  }
}

function hullOf(ranges: readonly Range[]): Range {
  return ranges.reduce((hull, { first, last }) => ({
    first: first < hull.first ? first : hull.first,
    last: last > hull.last ? last : hull.last,
  }))
}

export class PendingAnswers {
  /** Those that are in time, by what they ask. */
  readonly #inTime = new Map<string, Pending>()
  readonly #late = new Set<Pending>()

  /** Questions whose time is not over. */
  get size(): number {
    return this.#inTime.size
  }

  /** The question under way that will answer a request as well. */
  find(request: MissRequest): Pending | undefined {
    // Most translators answer at once, and nothing is under way.
    return this.#inTime.size === 0 ? undefined : this.#inTime.get(keyOf(request))
  }

  add(pending: Pending): void {
    this.#inTime.set(keyOf(pending.request), pending)
  }

  /** Its time is over. */
  makeLate(pending: Pending): void {
    this.#inTime.delete(keyOf(pending.request))
    pending.isLate = true
    this.#late.add(pending)
    if (this.#late.size <= LATE_KEPT) return
    for (const oldest of this.#late) {
      this.remove(oldest)
      return
    }
  }

  /** It came, or is given up. */
  remove(pending: Pending): void {
    clearTimeout(pending.timer)
    pending.isOver = true
    if (!this.#late.delete(pending)) this.#inTime.delete(keyOf(pending.request))
  }

  invalidate(range: Range): void {
    for (const pending of this.#inTime.values()) pending.invalidate(range)
    for (const pending of this.#late) pending.invalidate(range)
  }

  clear(): void {
    for (const pending of [...this.#inTime.values(), ...this.#late]) this.remove(pending)
  }
}

/** What makes two misses the same question. */
export function keyOf({ asid, iova, access }: MissRequest): string {
  return `${asid} ${iova} ${access}`
}
