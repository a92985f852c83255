// What each chain in flight has written when it comes back, and what it has of the bounce memory: lists in columns, so that nothing is allocated for a chain.

const NONE = -1

/** The lists, by the number of the chain. Entries are walked in the order in which they were added. */
export class SegmentBook {
  /** Guest addresses, lengths and bounce chunks (-1: none) by entry. */
  address: Float64Array
  length: Float64Array
  chunk: Int32Array
  /** 1 where the device writes. */
  isWritten: Uint8Array
  /** Of a chain that has but one segment, which the device writes: its guest address, and its length or 0. Such a chain has no list. */
  readonly onlyAddress: Float64Array
  readonly onlyLength: Uint32Array
  #next: Int32Array
  #free = NONE
  readonly #first: Int32Array
  readonly #last: Int32Array

  /** `chains`: how many there are at most. */
  constructor(chains: number) {
    const entries = Math.max(chains, 4)
    this.address = new Float64Array(entries)
    this.length = new Float64Array(entries)
    this.chunk = new Int32Array(entries)
    this.isWritten = new Uint8Array(entries)
    this.#next = new Int32Array(entries)
    this.onlyAddress = new Float64Array(chains)
    this.onlyLength = new Uint32Array(chains)
    this.#first = new Int32Array(chains).fill(NONE)
    this.#last = new Int32Array(chains).fill(NONE)
    this.#chainFree(0)
  }

  /** Instead of a list: the one segment that a chain has. */
  setOnly(chain: number, address: number, length: number): void {
    this.onlyAddress[chain] = address
    this.onlyLength[chain] = length
  }

  /** Adds an entry to a chain's list. */
  add(chain: number, address: number, length: number, chunk: number, isWritten: boolean): void {
    if (this.#free === NONE) this.#grow()
    const entry = this.#free
    this.#free = this.#next[entry] as number
    this.address[entry] = address
    this.length[entry] = length
    this.chunk[entry] = chunk
    this.isWritten[entry] = isWritten ? 1 : 0
    this.#next[entry] = NONE
    const last = this.#last[chain] as number
    if (last === NONE) this.#first[chain] = entry
    else this.#next[last] = entry
    this.#last[chain] = entry
  }

  /** The first entry of a chain, or -1. */
  first(chain: number): number {
    return this.#first[chain] as number
  }

  /** The entry after one, or -1. */
  next(entry: number): number {
    return this.#next[entry] as number
  }

  /** Empties a chain's list. */
  clear(chain: number): void {
    const first = this.#first[chain] as number
    if (first === NONE) return
    this.#next[this.#last[chain] as number] = this.#free
    this.#free = first
    this.#first[chain] = this.#last[chain] = NONE
  }

  #chainFree(from: number): void {
    const entries = this.#next.length
    for (let entry = from; entry < entries; entry++) this.#next[entry] = entry + 1 === entries ? NONE : entry + 1
    this.#free = from
  }

  #grow(): void {
    const entries = this.#next.length
    const longer = <T extends Float64Array | Int32Array | Uint8Array>(into: T, from: T): T => {
      into.set(from)
      return into
    }
    this.address = longer(new Float64Array(2 * entries), this.address)
    this.length = longer(new Float64Array(2 * entries), this.length)
    this.chunk = longer(new Int32Array(2 * entries), this.chunk)
    this.isWritten = longer(new Uint8Array(2 * entries), this.isWritten)
    this.#next = longer(new Int32Array(2 * entries), this.#next)
    this.#chainFree(entries)
  }
}
