// Closing: the two shapes of things that must be closed, and the stack on which a parent keeps its children.

import { Failures } from './failures.js'
import { runAsync, runSync, sleeping, type SleepingCall, type Steps } from './steps.js'

/** Something whose closing may take time. Both symbols and both callers of a second `close()` wait for the same end. */
export interface Closeable extends AsyncDisposable {
  /** True from the first `close()` on, also while closing is still under way. */
  readonly isClosed: boolean
  /** Closes it. May be called again: both callers wait for the same end, and a failure of closing rejects both. */
  close(): Promise<void>
}

/** Something that closes at once: memory, an eventfd, a subscription. Closing twice is allowed. */
export interface Releasable extends Disposable {
  /** True once it was closed. */
  readonly isClosed: boolean
  /** Closes it at once; a second call does nothing. `Symbol.dispose` is the same. */
  close(): void
}

/** One step of closing: a call that may take time, or one in both forms, so that it can be closed on the spot too. */
type Step = (() => void | Promise<void>) | SleepingCall<void>

/** A step, until it was run or taken off. */
interface Place {
  steps: (() => Steps<void>) | undefined
}

/** Steps of closing, run newest first; a failing step does not stop the rest, and all failures are reported together. */
export class CloseStack {
  // Oldest first. A step that was taken off is undefined until half of them are such: thousands of children may be closed one after the other.
  #steps: Place[] = []
  #taken = 0
  #closing: Promise<void> | undefined
  #isClosed = false

  /** True from the first close on, also while its steps are still running. */
  get isClosed(): boolean {
    return this.#isClosed
  }

  /** Adds a step; returns a function that takes it off again (for a child that was closed by itself). */
  push(step: Step): () => void {
    return this.pushSteps(() => sleeping(typeof step === 'function' ? bothForms(step) : step))
  }

  /** push() of a step that is a procedure. */
  pushSteps(steps: () => Steps<void>): () => void {
    const place: Place = { steps }
    this.#steps.push(place)
    return () => {
      if (place.steps === undefined) return
      place.steps = undefined
      if (++this.#taken * 2 <= this.#steps.length) return
      this.#steps = this.#steps.filter((one) => one.steps !== undefined)
      this.#taken = 0
    }
  }

  /** The newest, which is taken off. */
  #pop(): (() => Steps<void>) | undefined {
    for (let place = this.#steps.pop(); place !== undefined; place = this.#steps.pop()) {
      const { steps } = place
      place.steps = undefined
      if (steps !== undefined) return steps
      this.#taken--
    }
    return undefined
  }

  /** Runs the steps, each after the one before it has ended. */
  close(): Promise<void> {
    this.#closing ??= runAsync(this.closeSteps())
    return this.#closing
  }

  /** close() on the spot. While a close() is under way it does nothing: that one goes on. Throws when a step has no form of its own for it. */
  closeSync(): void {
    if (this.#isClosed) return
    this.#closing = Promise.resolve()
    runSync(this.closeSteps())
  }

  /** close() as part of another procedure, which calls it once. */
  *closeSteps(): Steps<void> {
    this.#isClosed = true
    const failures = new Failures()
    for (let step = this.#pop(); step !== undefined; step = this.#pop()) yield* failures.attempt(step())
    failures.throwMet(`closing met ${failures.count} failures`)
  }
}

function bothForms(step: () => void | Promise<void>): SleepingCall<void> {
  return {
    now: () => {
      if (step() instanceof Promise) throw new TypeError('a step of closing takes time, and was to end on the spot')
    },
    later: async () => step(),
  }
}
