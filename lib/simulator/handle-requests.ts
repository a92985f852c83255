// The asynchronous requests of a simulated handle, as work that can be done in parts or on the spot.

import type { HandleRequest } from './handle-queue.js'

/** What a request came to. */
type Ending<T> = { readonly value: T } | { readonly failure: unknown }

/** A request that is done in one go: an ioctl, the closing. */
export class ShortRequest<T> implements HandleRequest {
  readonly letsIn = false
  readonly #run: () => T
  #ending: Ending<T> | undefined

  constructor(run: () => T) {
    this.#run = run
  }

  finish(): void {
    if (this.#ending !== undefined) return
    try {
      this.#ending = { value: this.#run() }
    } catch (failure) {
      // A device of the program may throw.
      this.#ending = { failure }
    }
  }

  /** What it came to, done now if it was not. */
  result(): T {
    this.finish()
    const ending = this.#ending as Ending<T>
    if ('failure' in ending) throw ending.failure
    return ending.value
  }
}

/** One writeEach: what write(2) answers to each record, until one is refused. */
export class WriteSequence implements HandleRequest {
  readonly letsIn = true
  readonly #records: Uint8Array
  readonly #stride: number
  readonly #write: (records: Uint8Array, offset: number, length: number) => number
  #completed = 0
  #end: { readonly errno: number } | { readonly thrown: unknown } | undefined

  /** `write` returns how many bytes of a record were taken, or a negative errno. */
  constructor(
    records: Uint8Array,
    stride: number,
    write: (records: Uint8Array, offset: number, length: number) => number,
  ) {
    this.#records = records
    this.#stride = stride
    this.#write = write
  }

  /** Records that were taken. */
  get completed(): number {
    return this.#completed
  }

  /** What ended it before its end; the errno is 0 where a record was taken in part. */
  get end(): { readonly errno: number } | { readonly thrown: unknown } | undefined {
    return this.#end
  }

  get isDone(): boolean {
    return this.#end !== undefined || this.#completed * this.#stride >= this.#records.length
  }

  finish(): void {
    this.advance(Infinity)
  }

  /** Writes up to `count` records. */
  advance(count: number): void {
    for (let done = 0; done < count && !this.isDone; done++) {
      let result: number
      try {
        result = this.#write(this.#records, this.#completed * this.#stride, this.#stride)
      } catch (thrown) {
        // A device of the program may throw; what was taken before counts all the same.
        this.#end = { thrown }
        return
      }
      if (result < 0) this.#end = { errno: -result }
      else if (result < this.#stride) this.#end = { errno: 0 }
      else this.#completed++
    }
  }
}
