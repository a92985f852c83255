// Answers that somebody waits for: each wait ends, with the answer, when its time is over, or when nothing will come any more. What is said afterwards is not heard.

import type { MissVerdict } from './translator.js'

/** How long a wait may be, and what it fails with then. */
export interface AnswerPatience {
  /** Milliseconds; 0: as long as it takes. */
  readonly timeoutMs: number
  readonly failure: () => Error
}

export class AwaitedAnswers {
  readonly #waits = new Set<(failure: Error) => void>()

  /** The answer, or its failure. Keeps the process alive while there is a time. */
  until(verdict: PromiseLike<MissVerdict>, { timeoutMs, failure }: AnswerPatience): Promise<MissVerdict> {
    return new Promise((resolve, reject) => {
      const timer = timeoutMs > 0 ? setTimeout(() => fail(failure()), timeoutMs) : undefined
      const end = () => {
        clearTimeout(timer)
        this.#waits.delete(fail)
      }
      const fail = (why: Error) => {
        end()
        reject(why)
      }
      this.#waits.add(fail)
      // Promise.resolve: a thenable of the program's own may throw.
      Promise.resolve(verdict).then((value) => {
        end()
        resolve(value)
      }, fail)
    })
  }

  /** Ends each wait. */
  breakOff(failure: Error): void {
    for (const fail of [...this.#waits]) fail(failure)
  }
}
