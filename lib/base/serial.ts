// One thing at a time: procedures on one object run in the order they were asked for, whether they sleep or not.

import { vdpaError } from './errors.js'
import { runAsync, runSync, type Steps } from './steps.js'

export class Serial {
  readonly #subject: string
  #last: Promise<unknown> = Promise.resolve()
  #waiting = 0

  /** `subject` is what the sentence of a refusal speaks of, such as a device's path. */
  constructor(subject: string) {
    this.#subject = subject
  }

  get isBusy(): boolean {
    return this.#waiting > 0
  }

  /** Runs the procedure after all that were asked for before it. `start` is called when its turn comes. */
  run<T>(start: () => Steps<T>): Promise<T> {
    this.#waiting++
    const result = this.#last.then(() => runAsync(start())).finally(() => this.#waiting--)
    this.#last = result.catch(() => undefined)
    return result
  }

  /** Runs it on the spot; refused with ERR_VDPA_STATE while an asynchronous one is under way, because it may not overtake it. */
  runSync<T>(start: () => Steps<T>): T {
    if (this.isBusy) {
      throw vdpaError(
        'ERR_VDPA_STATE',
        'an asynchronous call is under way and may not be overtaken: await it, or use the asynchronous form',
        {
          path: this.#subject,
        },
      )
    }
    return runSync(start())
  }

  /** Resolves when everything asked for so far has ended, well or badly. */
  async settled(): Promise<void> {
    await this.#last
  }
}
