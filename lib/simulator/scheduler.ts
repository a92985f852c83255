// When devices and listeners get their turn: in microtasks, by hand, or after a latency. Time decides nothing here but when the event loop gets its turn.

import { checkInteger, checkOneOf } from '../base/checks.js'
import { isLoopTurnOver, setImmediate } from '../base/loop-turn.js'
import { ProgramCalls } from '../base/program-calls.js'

/**
 * `'automatic'`: as soon as the program gives way, in microtasks, or in another turn of the event loop once this one has lasted. `'manual'`: only in step()
 * and drain(). `'realtime'`: `latency` milliseconds after it was asked for.
 */
export type SchedulerMode = 'automatic' | 'manual' | 'realtime'

/**
 * How long one flush may last, in milliseconds, before the event loop gets its turn: devices and listeners that wake one another for ever must not stop
 * the program. A piece of work is not cut from outside: who does it asks `isTurnOver`, and leaves the rest for another.
 */
const FLUSH_MILLISECONDS = 4

const nothing = () => undefined

/** Pieces of work, each run once, oldest first. */
export class Scheduler {
  /** What it was made with. */
  readonly mode: SchedulerMode
  readonly #latency: number
  // A queue in an array: what is before #head has run, and nothing waits from #tail on. Both begin anew when nothing waits, so that no turn needs new memory.
  #work: (() => void)[] = []
  // What each piece is, in words.
  #names: string[] = []
  #head = 0
  #tail = 0
  #isFlushing = false
  // When the flush under way is to end.
  #end = Infinity
  readonly #flush = () => this.#runFlush()

  constructor(mode: SchedulerMode = 'automatic', latency = 1) {
    checkOneOf(mode, 'scheduler', ['automatic', 'manual', 'realtime'])
    checkInteger(latency, 'latency', 0, 0x7fff_ffff)
    this.mode = mode
    this.#latency = latency
  }

  /** Pieces of work that wait for their turn. */
  get pending(): number {
    return this.#tail - this.#head
  }

  /** Whether the flush under way has lasted long enough. Work that a program runs by hand lasts as long as it does. */
  get isTurnOver(): boolean {
    return this.#end !== Infinity && performance.now() >= this.#end
  }

  /** `name` says what the work is, for who steps: `/dev/vhost-vdpa-0 works`. */
  schedule(work: () => void, name: string): void {
    this.#work[this.#tail] = work
    this.#names[this.#tail++] = name
    this.#arm()
  }

  /** Runs the oldest piece of work and says what it was; undefined when there was none. What it throws is thrown here. */
  step(): string | undefined {
    if (this.pending === 0) return undefined
    const at = this.#head++
    const work = this.#work[at] as () => void
    const name = this.#names[at] as string
    this.#work[at] = nothing
    if (this.#head === this.#tail) this.#head = this.#tail = 0
    else if (this.#head > 1024 && this.#head * 2 > this.#tail) this.#forget(this.#head)
    work()
    return name
  }

  /**
   * Runs work until there is none, that which it causes included; returns how many pieces. What they throw is thrown when all have run. RangeError after
   * `limit` (default 1,000,000): it would not end.
   */
  drain(limit = 1_000_000): number {
    const calls = new ProgramCalls()
    let count = 0
    for (; this.pending > 0; count++) {
      if (count > limit) throw new RangeError(`the simulator is still busy after ${limit} pieces of work`)
      calls.call(() => this.step())
    }
    calls.throwKept()
    return count
  }

  #forget(count: number): void {
    this.#work = this.#work.slice(count, this.#tail)
    this.#names = this.#names.slice(count, this.#tail)
    this.#head = 0
    this.#tail -= count
  }

  #arm(): void {
    if (this.#isFlushing || this.mode === 'manual') return
    this.#isFlushing = true
    if (this.mode === 'realtime') setTimeout(this.#flush, this.#latency)
    // A program that answers each interrupt with the next request would go on in microtasks for ever.
    else if (isLoopTurnOver()) setImmediate(this.#flush)
    else queueMicrotask(this.#flush)
  }

  #runFlush(): void {
    // Work that comes while realtime work runs waits for a latency of its own.
    let due = this.mode === 'realtime' ? this.pending : Infinity
    this.#end = performance.now() + FLUSH_MILLISECONDS
    try {
      while (due > 0 && this.step() !== undefined) {
        due--
        if (this.isTurnOver) break
      }
    } finally {
      this.#end = Infinity
      this.#isFlushing = false
      if (this.pending > 0) this.#armLater(due > 0)
    }
  }

  /** What is left: when it is due already, after the event loop's turn. */
  #armLater(isDue: boolean): void {
    if (this.mode === 'realtime' && !isDue) {
      this.#arm()
      return
    }
    this.#isFlushing = true
    setImmediate(this.#flush)
  }
}
