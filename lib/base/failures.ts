// Procedures that go on past what fails: failures are collected on the way, and thrown at the end.

import type { Steps } from './steps.js'

/** The failures that one procedure met. */
export class Failures {
  readonly #met: unknown[] = []

  /** How many there were. */
  get count(): number {
    return this.#met.length
  }

  keep(failure: unknown): void {
    this.#met.push(failure)
  }

  /** Calls `work`; what it throws is kept. Returns whether it ended well. */
  now(work: () => void): boolean {
    try {
      work()
      return true
    } catch (failure) {
      this.keep(failure)
      return false
    }
  }

  /** The same for a procedure. */
  *attempt(steps: Steps<void>): Steps<boolean> {
    try {
      yield* steps
      return true
    } catch (failure) {
      this.keep(failure)
      return false
    }
  }

  /** Throws what was met, as the last thing the procedure does: the failure itself, or all of them in an AggregateError with `sentence`. */
  throwMet(sentence: string): void {
    const met = this.#met.splice(0)
    if (met.length === 1) throw met[0]
    if (met.length > 1) throw new AggregateError(met, sentence)
  }
}
