// One endpoint: the device, or virtqueue group, whose DMA goes through a domain, and what the address space behind it has mapped for us.

import type { Range } from '../base/ranges.js'
import type { Steps } from '../base/steps.js'
import type { MappingSink } from '../iotlb/mapping-sink.js'
import type { Domain } from './domain.js'
import { changesOf, inverse, isSame, type Piece, type PieceChange } from './pieces.js'
import type { ReservedRange } from './reserved.js'

/** Where accesses of an endpoint lead: through a domain, or to the same address, or nowhere. */
export interface EndpointView {
  readonly domain: Domain | undefined
  /** Whether it reaches all memory while it is in no domain. */
  readonly isBypassed: boolean
}

export class Endpoint {
  readonly id: number
  readonly sink: MappingSink | undefined
  /** The addresses that it can reach. */
  readonly window: Range
  /** Lowest first, and apart. */
  readonly reserved: readonly Required<ReservedRange>[]
  domain: Domain | undefined
  /** What the sink was brought to: lookups lead nowhere else, so that all that they gave goes with what the sink has. */
  view: EndpointView = { domain: undefined, isBypassed: false }
  /** Something could not be taken back: the sink has not what it should have, and the next change is to mend it. */
  isAstray = false
  /** What the sink has, by first address. */
  readonly #have = new Map<bigint, Piece>()

  constructor(id: number, sink: MappingSink | undefined, window: Range, reserved: readonly Required<ReservedRange>[]) {
    this.id = id
    this.sink = sink
    this.window = window
    this.reserved = reserved
  }

  /** What leads from what the sink has to `want`. */
  differenceTo(want: readonly Piece[]): PieceChange {
    const wanted = new Map(want.map((piece) => [piece.range.first, piece]))
    const isKept = (piece: Piece, others: ReadonlyMap<bigint, Piece>) => {
      const other = others.get(piece.range.first)
      return other !== undefined && isSame(piece, other)
    }
    return {
      gone: [...this.#have.values()].filter((piece) => !isKept(piece, wanted)),
      come: want.filter((piece) => !isKept(piece, this.#have)),
    }
  }

  /** What the sink has. */
  pieces(): Iterable<Piece> {
    return this.#have.values()
  }

  /** Changes the sink, in one batch: all of it, or nothing and the sink's failure. */
  *apply(change: PieceChange): Steps<void> {
    if (this.sink === undefined || change.gone.length + change.come.length === 0) return
    // A sink may look up what it is being given.
    this.#book(change)
    try {
      yield* this.sink.batch(changesOf(change))
    } catch (failure) {
      this.#book(inverse(change))
      throw failure
    }
  }

  /** Brings the sink to what it is to have. */
  *bring(want: readonly Piece[], view: EndpointView): Steps<void> {
    this.view = view
    yield* this.apply(this.differenceTo(want))
    this.isAstray = false
  }

  #book({ gone, come }: PieceChange): void {
    for (const { range } of gone) this.#have.delete(range.first)
    for (const piece of come) this.#have.set(piece.range.first, piece)
  }
}
