// When a served device works: soon after it asked, and at most some milliseconds before the event loop has its turn.

import { setImmediate } from './loop-turn.js'
import { callUnasked } from './program-calls.js'

/** Milliseconds of one turn: other devices and other front ends of this process wait meanwhile. */
const TURN_MILLISECONDS = 4

/** The pieces of work of one device, oldest first. */
export class Turns {
  #work: (() => void)[] = []
  #end = Infinity
  #isArmed = false
  #isStopped = false
  readonly #run = () => this.#flush()

  /** Whether the turn under way has lasted long enough. */
  get isOver(): boolean {
    return this.#end !== Infinity && performance.now() >= this.#end
  }

  schedule(work: () => void): void {
    if (this.#isStopped) return
    this.#work.push(work)
    if (this.#isArmed) return
    this.#isArmed = true
    queueMicrotask(this.#run)
  }

  /** Nothing runs any more. */
  stop(): void {
    this.#isStopped = true
    this.#work = []
  }

  #flush(): void {
    this.#end = performance.now() + TURN_MILLISECONDS
    for (let rounds = 0; rounds < 64 && !this.isOver; rounds++) {
      const work = this.#work.shift()
      if (work === undefined) break
      callUnasked(work)
    }
    this.#end = Infinity
    this.#isArmed = this.#work.length > 0
    if (this.#isArmed) setImmediate(this.#run)
  }
}
