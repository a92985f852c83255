// Whether an answer that mostly comes within microseconds is looked for before the interrupt is waited for: waiting costs two switches of the processor
// and a turn of the event loop, a multiple of what the device needs. Looking blocks the loop's thread, so it is kept short, and rare where it is in vain.

/** How often is looked: some tens of microseconds in all. A count, not a time, so that a clock that stands still (fake timers) ends it as well. */
export const LOOKS = 2000
/** Answers of one turn of the event loop that may be found so: a program that awaits one command after the other lets the loop turn all the same. */
export const FOUND_PER_TURN = 32
/** After looking in vain the next one is not looked for, then the next two, four, up to so many. */
export const LONGEST_PAUSE = 64

/** Looks for answers of one device. */
export class BriefLook {
  #foundThisTurn = 0
  #skips = 0
  #pause = 0

  /** Asks until the answer is yes, unless it is not the time for it. True when it was. */
  until(isAnswered: () => boolean): boolean {
    if (this.#skips > 0) {
      this.#skips--
      return false
    }
    if (this.#foundThisTurn === FOUND_PER_TURN) return false
    for (let look = 0; look < LOOKS; look++) {
      if (!isAnswered()) continue
      this.#pause = 0
      if (this.#foundThisTurn++ === 0) setImmediate(() => (this.#foundThisTurn = 0))
      return true
    }
    this.#pause = Math.min(Math.max(1, 2 * this.#pause), LONGEST_PAUSE)
    this.#skips = this.#pause
    return false
  }
}
