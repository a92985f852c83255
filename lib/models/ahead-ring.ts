// A device ring that takes chains ahead of what is answered, and may answer them out of order: what hardware does. Only for devices that are asked to.

import type { DescriptorChain, DeviceRing, RingFormat, RingState } from '../virtqueue/virtqueue.js'
import type { TurnMeter } from './turn-meter.js'

/** How chains are taken ahead. */
export interface AheadOptions {
  /** Chains that are taken and not answered, at most. */
  readonly chains: number
  /** Answer the newest first, where the driver did not negotiate IN_ORDER. */
  readonly newestFirst: boolean
  /** Queues that answer in the turn in which they take. */
  readonly atOnce: (index: number) => boolean
}

/** What such a ring knows of its queue. */
export interface AheadQueue {
  readonly index: number
  readonly inOrder: boolean
  readonly meter: TurnMeter
}

/** A chain that was taken: a copy, as the ring's own is filled again with the next. */
interface TakenChain extends DescriptorChain {
  /** The turn in which it was taken. */
  readonly turn: number
}

/** A ring whose chains are taken in one turn and answered in another. It allocates for each chain. */
export class AheadRing implements DeviceRing {
  readonly format: RingFormat
  readonly size: number
  readonly #ring: DeviceRing
  readonly #limit: number
  readonly #newestFirst: boolean
  readonly #isLate: boolean
  readonly #meter: TurnMeter
  // Taken and not given to the model, oldest first: those that may be given, of which the first #head are gone, and those of the turn under way, which may not yet.
  #due: TakenChain[] = []
  #head = 0
  #fresh: TakenChain[] = []
  // Given back, the one that was given first on top: they come again before any other, whatever became due meanwhile.
  #returned: TakenChain[] = []
  // Given and not completed, by their ids, in the order of giving.
  readonly #given = new Map<number, TakenChain>()
  #chain: DescriptorChain
  // What was given by the time of each answer of state().
  readonly #givenAt = new WeakMap<RingState, ReadonlySet<TakenChain>>()

  constructor(ring: DeviceRing, options: AheadOptions, { index, inOrder, meter }: AheadQueue) {
    this.format = ring.format
    this.size = ring.size
    this.#ring = ring
    this.#limit = options.chains
    this.#newestFirst = options.newestFirst && !inOrder
    this.#isLate = !options.atOnce(index)
    this.#meter = meter
    this.#chain = ring.chain
  }

  get isBroken(): boolean {
    return this.#ring.isBroken
  }

  get inFlight(): number {
    return this.#ring.inFlight
  }

  get chain(): DescriptorChain {
    return this.#chain
  }

  /** Whether a later turn has something to answer. */
  get owesAnswers(): boolean {
    return this.#isLate && this.#takenCount > 0
  }

  next(): boolean {
    this.#take()
    const chain = this.#choose()
    if (chain === undefined) return false
    this.#given.set(chain.id, chain)
    this.#chain = chain
    return true
  }

  rewind(): void {
    const chain = this.#given.get(this.#chain.id)
    if (chain === undefined || chain !== this.#chain) throw new Error('no chain is in hand')
    this.#giveBack([chain])
  }

  complete(id: number, written: number): void {
    this.#ring.complete(id, written)
    this.#given.delete(id)
  }

  publish(): boolean {
    return this.#ring.publish()
  }

  enableKicks(): boolean {
    return this.#ring.enableKicks()
  }

  disableKicks(): void {
    this.#ring.disableKicks()
  }

  state(): RingState {
    const state = this.#ring.state()
    this.#givenAt.set(state, new Set(this.#given.values()))
    return state
  }

  /** To what state() answered: chains that were given since are as if they had not been. Otherwise a new beginning. */
  reset(state?: RingState): void {
    const before = state && this.#givenAt.get(state)
    if (before !== undefined) {
      this.#giveBack([...this.#given.values()].filter((chain) => !before.has(chain)))
      return
    }
    this.#due = []
    this.#head = 0
    this.#fresh = []
    this.#returned = []
    this.#given.clear()
    this.#ring.reset(state)
  }

  get #takenCount(): number {
    return this.#due.length - this.#head + this.#fresh.length + this.#returned.length
  }

  #take(): void {
    const ring = this.#ring
    this.#ripen()
    const taking = this.#isLate ? this.#fresh : this.#due
    while (this.#takenCount === 0 || this.#takenCount + this.#given.size < this.#limit) {
      if (!ring.next()) return
      const { id, count, readableCount, slots, readableLength, writableLength, iovaHigh, iovaLow, lengths } = ring.chain
      taking.push({
        ...{ id, count, readableCount, slots, readableLength, writableLength },
        iovaHigh: iovaHigh.slice(0, count),
        iovaLow: iovaLow.slice(0, count),
        lengths: lengths.slice(0, count),
        turn: this.#meter.turn,
      })
    }
  }

  /** What was taken in a turn before this one is due. */
  #ripen(): void {
    const [first] = this.#fresh
    if (first === undefined || first.turn === this.#meter.turn) return
    for (const chain of this.#fresh) this.#due.push(chain)
    this.#fresh = []
  }

  /** The chain that is due, which is taken out; undefined when none is. */
  #choose(): TakenChain | undefined {
    const returned = this.#returned.pop()
    if (returned !== undefined) return returned
    if (this.#head === this.#due.length) return undefined
    if (this.#newestFirst) return this.#due.pop()
    const chain = this.#due[this.#head++]
    if (this.#head * 2 > this.#due.length) {
      this.#due.splice(0, this.#head)
      this.#head = 0
    }
    return chain
  }

  /** Chains that were given, in the order of giving, come again in that order. */
  #giveBack(chains: readonly TakenChain[]): void {
    for (const { id } of chains) this.#given.delete(id)
    for (let at = chains.length - 1; at >= 0; at--) this.#returned.push(chains[at] as TakenChain)
  }
}
