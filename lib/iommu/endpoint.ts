// One endpoint: the device, or virtqueue group, whose DMA goes through a domain, and what the address space behind it has mapped for us.

import { isVdpaError } from '../base/errors.js'
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
  /** What it may have besides, beginning where something else does: after changes that could not be taken back. Mostly none. */
  readonly #behind: Piece[] = []

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
      gone: [...[...this.#have.values()].filter((piece) => !isKept(piece, wanted)), ...this.#behind],
      come: want.filter((piece) => !isKept(piece, this.#have)),
    }
  }

  /** What the sink has. */
  pieces(): Iterable<Piece> {
    return this.#have.values()
  }

  /**
   * Changes the sink, in one batch: all of it, or nothing and the sink's failure. What somebody else unmapped is gone already. Where the sink could not take back what it had
   * done, the endpoint is astray, and knows what the sink has.
   */
  *apply(change: PieceChange): Steps<void> {
    if (this.sink === undefined || change.gone.length + change.come.length === 0) return
    // A sink may look up what it is being given.
    this.#book(change)
    try {
      yield* this.sink.batch(changesOf(change))
    } catch (failure) {
      this.#book(inverse(change))
      const lost = new Set(change.gone.filter((piece) => !this.#isThere(piece)))
      const code = isVdpaError(failure) ? failure.code : undefined
      if (code !== 'ERR_VDPA_NOT_MAPPED' || lost.size === 0) {
        // What overlaps was found out beforehand, and may be the same that somebody else mapped.
        this.#lookAgain(lost, code === 'ERR_VDPA_OVERLAP' ? [] : change.come)
        throw failure
      }
      for (const piece of lost) this.#forget(piece)
      const gone = change.gone.filter((piece) => !lost.has(piece))
      return yield* this.apply({ gone, come: change.come })
    }
  }

  /** Looks what the sink has of what was mapped there: somebody else may have unmapped some of it. */
  look(): void {
    for (const piece of this.#have.values()) if (!this.#isThere(piece)) this.#forget(piece)
  }

  #isThere({ range, slice, access }: Piece): boolean {
    return this.sink?.has?.(range.first, slice, access) !== false
  }

  /** After a failure: what went and could not be put back is lost, and of what came there is what could not be taken back. */
  #lookAgain(lost: ReadonlySet<Piece>, come: readonly Piece[]): void {
    if (this.sink?.has === undefined) return
    const left = come.filter((piece) => this.#isThere(piece))
    if (lost.size + left.length > 0) this.isAstray = true
    for (const piece of lost) this.#forget(piece)
    for (const piece of left) this.#keep(piece)
  }

  #keep(piece: Piece): void {
    const before = this.#have.get(piece.range.first)
    if (before !== undefined && !isSame(before, piece)) this.#behind.push(before)
    this.#have.set(piece.range.first, piece)
  }

  #forget(piece: Piece): void {
    const { first } = piece.range
    const behind = this.#behind.findIndex((other) => isSame(piece, other))
    if (behind >= 0) this.#behind.splice(behind, 1)
    else this.#have.delete(first)
  }

  /** Brings the sink to what it is to have. */
  *bring(want: readonly Piece[], view: EndpointView): Steps<void> {
    this.view = view
    yield* this.apply(this.differenceTo(want))
    this.isAstray = false
  }

  #book({ gone, come }: PieceChange): void {
    for (const piece of gone) this.#forget(piece)
    for (const piece of come) this.#keep(piece)
  }
}
