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
  /** Its place among all that were. */
  readonly order: number
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
  // Taken and not given to the model, oldest first; given and not completed.
  #taken: TakenChain[] = []
  #given: TakenChain[] = []
  #chain: DescriptorChain
  #count = 0
  // What was given by the time of each answer of state().
  readonly #givenAt = new WeakMap<RingState, readonly TakenChain[]>()

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
    return this.#isLate && this.#taken.length > 0
  }

  next(): boolean {
    this.#take()
    const at = this.#choose()
    const [chain] = at < 0 ? [] : this.#taken.splice(at, 1)
    if (chain === undefined) return false
    this.#given.push(chain)
    this.#chain = chain
    return true
  }

  rewind(): void {
    const chain = this.#given.pop()
    if (chain === undefined || chain !== this.#chain) throw new Error('no chain is in hand')
    this.#giveBack([chain])
  }

  complete(id: number, written: number): void {
    this.#ring.complete(id, written)
    this.#given = this.#given.filter((chain) => chain.id !== id)
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
    this.#givenAt.set(state, this.#given.slice())
    return state
  }

  /** To what state() answered: chains that were given since are as if they had not been. Otherwise a new beginning. */
  reset(state?: RingState): void {
    const before = state && this.#givenAt.get(state)
    if (before !== undefined) {
      this.#giveBack(this.#given.filter((chain) => !before.includes(chain)))
      return
    }
    this.#taken = []
    this.#given = []
    this.#ring.reset(state)
  }

  #take(): void {
    const ring = this.#ring
    while (this.#taken.length === 0 || this.#taken.length + this.#given.length < this.#limit) {
      if (!ring.next()) return
      const { id, count, readableCount, slots, readableLength, writableLength, iovaHigh, iovaLow, lengths } = ring.chain
      this.#taken.push({
        ...{ id, count, readableCount, slots, readableLength, writableLength },
        iovaHigh: iovaHigh.slice(0, count),
        iovaLow: iovaLow.slice(0, count),
        lengths: lengths.slice(0, count),
        turn: this.#meter.turn,
        order: this.#count++,
      })
    }
  }

  /** Where the chain is that is due; -1 when none is. */
  #choose(): number {
    const isDue = ({ turn }: TakenChain) => !this.#isLate || turn !== this.#meter.turn
    return this.#newestFirst ? this.#taken.findLastIndex(isDue) : this.#taken.findIndex(isDue)
  }

  #giveBack(chains: readonly TakenChain[]): void {
    this.#given = this.#given.filter((chain) => !chains.includes(chain))
    this.#taken = [...this.#taken, ...chains].sort((one, other) => one.order - other.order)
  }
}
