// Errors of a server that nobody was there to catch: the first hundred as sentences, how many there were, and who is told of each.

import { callUnasked } from './program-calls.js'

const KEPT = 100

export class KeptErrors<E extends Error = Error> {
  /** The first hundred. */
  readonly sentences: string[] = []
  /** How many there were in all. */
  count = 0

  /** Booked before `tell` is called, whose own errors go to 'uncaughtException'. */
  add(error: E, tell?: (error: E) => void): void {
    this.count++
    if (this.sentences.length < KEPT) this.sentences.push(error.message)
    if (tell !== undefined) callUnasked(() => tell(error))
  }
}
