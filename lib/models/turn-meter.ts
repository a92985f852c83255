// How much a device has done in one turn, and when it is to let others have theirs. What is counted is what a driver can make long: descriptors, bytes, commands.

/** Units between two looks at the clock: some hundred microseconds of work. */
const UNITS_A_LOOK = 4096
/** Units of a chain, besides its descriptors. */
const CHAIN_UNITS = 8
/** Bytes that cost a unit: 256. */
const BYTES_SHIFT = 8

/** Counts work, so that the clock is looked at when there was some, and not for every frame. Nothing here allocates. */
export class TurnMeter {
  readonly #isTimeUp: () => boolean
  #units = 0
  #isOver = false
  /** How many turns there were, the one under way included. */
  turn = 0

  /** `isTimeUp` says whether others are due; it is asked after a share of work, never before any. */
  constructor(isTimeUp: () => boolean) {
    this.#isTimeUp = isTimeUp
  }

  /** A turn begins. What earlier turns did counts until the next look, so that many short turns are not a long one. */
  begin(): void {
    this.#isOver = false
    this.turn++
  }

  /** A chain of `descriptors` was loaded. */
  countChain(descriptors: number): void {
    this.#units += descriptors + CHAIN_UNITS
  }

  /** Bytes were moved. */
  countBytes(bytes: number): void {
    this.#units += bytes >>> BYTES_SHIFT
  }

  /** Something was done of which it is not known how long it took: a function of the program. */
  countUnknown(): void {
    this.#units = UNITS_A_LOOK
  }

  /** Whether the turn is to end. Once it is, it stays so until the next begins. */
  get isOver(): boolean {
    if (this.#isOver) return true
    if (this.#units < UNITS_A_LOOK) return false
    this.#units = 0
    this.#isOver = this.#isTimeUp()
    return this.#isOver
  }
}

/** Queues that are served one after another. A turn that ends early has the next begin behind its last queue, so that none waits for ever for its neighbours. */
export class RoundRobin {
  #first = 0

  /** Has `serve` do its part for each of `count` queues, by index, until the turn is over. True when anything is left for another turn. */
  serveAll(count: number, meter: TurnMeter, serve: (index: number) => boolean): boolean {
    let wantsMore = false
    for (let done = 0; done < count; done++) {
      const index = (this.#first + done) % count
      wantsMore = serve(index) || wantsMore
      if (!meter.isOver) continue
      this.#first = (index + 1) % count
      return wantsMore || done < count - 1
    }
    return wantsMore
  }
}
