// One thing at a time: procedures on one object run in the order they were asked for, whether they sleep or not.

import { checkSignal } from './checks.js'
import { vdpaError } from './errors.js'
import { runAsync, runSync, type SleepingCall, type Steps } from './steps.js'

/** A queue of procedures. A failure ends its own procedure only. */
export class Serial {
  readonly #subject: string
  #last: Promise<unknown> = Promise.resolve()
  #waiting = 0
  #isInside = false
  #isOnTheSpot = false

  /** `subject` is what the sentence of a refusal speaks of, such as a device's path. */
  constructor(subject: string) {
    this.#subject = subject
  }

  /** Whether a procedure runs or waits for its turn. */
  get isBusy(): boolean {
    return this.#waiting > 0 || this.#isOnTheSpot
  }

  /** Whether a procedure is what asks, between two of its sleeping calls, and not somebody beside it. */
  get isInside(): boolean {
    return this.#isInside
  }

  /**
   * Runs the procedure after all that were asked for before it. `start` is called when its turn comes. A signal that aborts before that, or between two of
   * its sleeping calls, ends it with ERR_VDPA_CANCELED, thrown where it stands, so that it can undo what it did.
   */
  async run<T>(start: () => Steps<T>, signal?: AbortSignal): Promise<T> {
    checkSignal(signal)
    const canceled = () => (signal?.aborted === true ? this.#canceled(signal) : undefined)
    this.#waiting++
    const result = this.#last
      .then(() => {
        const failure = canceled()
        if (failure !== undefined) throw failure
        return runAsync(this.#inside(start), canceled)
      })
      .finally(() => this.#waiting--)
    this.#last = result.catch(() => undefined)
    return result
  }

  /** Runs it on the spot; refused with ERR_VDPA_STATE while another is under way, because it may not overtake it, nor come in the middle of it. */
  runSync<T>(start: () => Steps<T>): T {
    this.checkIdle()
    this.#isOnTheSpot = true
    try {
      return runSync(this.#inside(start))
    } finally {
      this.#isOnTheSpot = false
    }
  }

  /** Throws ERR_VDPA_STATE while a procedure is under way. */
  checkIdle(): void {
    if (!this.isBusy) return
    const text = this.#isOnTheSpot
      ? 'a call is under way that called you: use the asynchronous form, which comes after it'
      : 'an asynchronous call is under way and may not be overtaken: await it, or use the asynchronous form'
    throw vdpaError('ERR_VDPA_STATE', text, { path: this.#subject })
  }

  /** The same procedure, which knows when it runs. */
  *#inside<T>(start: () => Steps<T>): Steps<T> {
    let steps: Steps<T> | undefined
    let resume = () => (steps = start()).next()
    for (;;) {
      this.#isInside = true
      let next: IteratorResult<SleepingCall<unknown>, T>
      try {
        next = resume()
      } finally {
        this.#isInside = false
      }
      if (next.done === true) return next.value
      const { value: call } = next
      try {
        const answer = yield call
        resume = () => (steps as Steps<T>).next(answer)
      } catch (failure) {
        resume = () => (steps as Steps<T>).throw(failure)
      }
    }
  }

  #canceled(signal: AbortSignal): Error {
    return vdpaError('ERR_VDPA_CANCELED', 'the call was canceled', { path: this.#subject, cause: signal.reason })
  }

  /** Resolves when everything asked for so far has ended, well or badly. */
  async settled(): Promise<void> {
    await this.#last
  }
}
