// Calls that are held back on purpose: what a `delay` fault holds, and the promise that no call on an object overtakes another.

/** A held call, to those who only keep it. */
export interface Held {
  /** Whether its caller has its answer, or was told that it was given up. */
  readonly isDelivered: boolean
  /** Has it done; its result stays back until release(). Once begun, it is not begun again. */
  begin(): void
  /** Has it done, if it was not, and lets the caller have its result. */
  release(): void
}

/** One call that is held: not begun until it is released, or until another call on the same object wants to go after it. */
export class LateCall<T> implements Held {
  /** What the caller waits for. */
  readonly promise: Promise<T>
  readonly #start: () => Promise<T>
  readonly #resolve: (work: T | Promise<T>) => void
  #work: Promise<T> | undefined
  #isDelivered = false

  constructor(start: () => Promise<T>) {
    this.#start = start
    let resolve: (work: T | Promise<T>) => void = () => undefined
    this.promise = new Promise<T>((ours) => {
      resolve = ours
    })
    this.#resolve = resolve
  }

  get isDelivered(): boolean {
    return this.#isDelivered
  }

  /** Has it done; its result stays back until release(). */
  begin(): void {
    if (this.#work !== undefined || this.#isDelivered) return
    this.#work = this.#start()
    // Whoever waits hears of a refusal at release(); until then nobody needs to.
    this.#work.catch(() => undefined)
  }

  release(): void {
    this.begin()
    this.#isDelivered = true
    if (this.#work !== undefined) this.#resolve(this.#work)
  }

  /** Gives it up with this answer, unless it was begun. */
  cancel(answer: T): void {
    if (this.#work !== undefined || this.#isDelivered) return
    this.#isDelivered = true
    this.#resolve(answer)
  }
}

/** The held calls of every object, in the order of asking. */
export class Lanes {
  readonly #held = new Map<string, Held[]>()

  /** Puts a call behind those that are held on the object. */
  hold(target: string, call: Held): void {
    const lane = this.#held.get(target)?.filter((held) => !held.isDelivered) ?? []
    this.#held.set(target, [...lane, call])
  }

  /** Begins what waits, because another call on the object is about to be made. */
  beginAll(target: string): void {
    const lane = this.#held.get(target)
    if (lane === undefined) return
    this.#held.delete(target)
    for (const call of lane) call.begin()
  }
}

/** What one fault holds. */
export class HeldCalls {
  #calls: Held[] = []
  readonly #arrivals: (() => void)[] = []

  /** Calls whose callers wait, oldest first. */
  get waiting(): number {
    return this.#prune().length
  }

  /** Holds one more. */
  add(call: Held): void {
    this.#prune().push(call)
    for (const arrived of this.#arrivals.splice(0)) arrived()
  }

  /** As LateFault.arrival(). */
  arrival(): Promise<void> {
    if (this.waiting > 0) return Promise.resolve()
    return new Promise((resolve) => this.#arrivals.push(resolve))
  }

  /** Lets the oldest `count` go on; returns how many there were. */
  release(count: number): number {
    const released = this.#prune().splice(0, count)
    for (const call of released) call.release()
    return released.length
  }

  /** Forgets those that were given up meanwhile. */
  #prune(): Held[] {
    this.#calls = this.#calls.filter((call) => !call.isDelivered)
    return this.#calls
  }
}
