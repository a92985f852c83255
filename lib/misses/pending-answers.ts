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
  /** retry() was called meanwhile: that there is nothing may be true no more. */
  isToBeRetried = false
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
  readonly #inTime = new Set<Pending>()
  /** The newest of those, by what they ask: a translator that has the same asked again on the way to its answer has two. */
  readonly #byKey = new Map<string, Pending>()
  readonly #late = new Set<Pending>()

  /** Questions whose time is not over. */
  get size(): number {
    return this.#inTime.size
  }

  /** The question under way that will answer a request as well. */
  find(request: MissRequest): Pending | undefined {
    // Most translators answer at once, and nothing is under way.
    return this.#inTime.size === 0 ? undefined : this.#byKey.get(keyOf(request))
  }

  add(pending: Pending): void {
    this.#inTime.add(pending)
    this.#byKey.set(keyOf(pending.request), pending)
  }

  /** Its time is over. */
  makeLate(pending: Pending): void {
    this.#forget(pending)
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
    if (!this.#late.delete(pending)) this.#forget(pending)
  }

  invalidate(range: Range): void {
    for (const pending of this.#inTime) pending.invalidate(range)
    for (const pending of this.#late) pending.invalidate(range)
  }

  /** Those of a range are asked for again where nothing is found. Those that are late have been asked for again already. */
  retry({ first, last }: Range): void {
    for (const pending of this.#inTime)
      if (pending.request.iova >= first && pending.request.iova <= last) pending.isToBeRetried = true
  }

  clear(): void {
    for (const pending of [...this.#inTime, ...this.#late]) this.remove(pending)
  }

  #forget(pending: Pending): void {
    this.#inTime.delete(pending)
    const key = keyOf(pending.request)
    if (this.#byKey.get(key) === pending) this.#byKey.delete(key)
  }
}

/** What makes two misses the same question. */
export function keyOf({ asid, iova, access }: MissRequest): string {
  return `${asid} ${iova} ${access}`
}
