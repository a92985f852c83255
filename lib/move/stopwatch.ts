// How long the steps of a move took, those before the stop apart from those after it.

import type { Steps } from '../base/steps.js'

/** One step of a move. */
export interface MoveStep {
  /** What it was: `'prepare'`, `'suspend'`, `'take'`, `'arrive'`, `'close'`, or `'return'` where the source had to go on. */
  readonly name: string
  /** How long it took. */
  readonly milliseconds: number
  /** Whether the guest stood still meanwhile. */
  readonly isStopped: boolean
}

/** How long a move took. */
export interface MoveReport {
  /** In the order in which they were made. */
  readonly steps: readonly MoveStep[]
  /** How long the guest stood still: the sum of the steps of the stop. */
  readonly stoppedMilliseconds: number
  /** What could not be told, or was done twice, as sentences. */
  readonly lost: readonly string[]
}

export class Stopwatch {
  readonly #steps: MoveStep[] = []

  /** Runs a step and notes how long it took, also where it fails. */
  async during<T>(name: string, isStopped: boolean, work: () => Promise<T>): Promise<T> {
    const begin = performance.now()
    try {
      return await work()
    } finally {
      this.#steps.push({ name, milliseconds: performance.now() - begin, isStopped })
    }
  }

  /** The same for a part of a procedure. */
  *duringSteps<T>(name: string, isStopped: boolean, steps: Steps<T>): Steps<T> {
    const begin = performance.now()
    try {
      return yield* steps
    } finally {
      this.#steps.push({ name, milliseconds: performance.now() - begin, isStopped })
    }
  }

  report(lost: readonly string[]): MoveReport {
    const stopped = this.#steps.filter(({ isStopped }) => isStopped)
    const stoppedMilliseconds = stopped.reduce((sum, { milliseconds }) => sum + milliseconds, 0)
    return { steps: [...this.#steps], stoppedMilliseconds, lost }
  }
}
