// Where guest-physical addresses lie: the parts of a guest's memory behind a range, and the identity map of all of it around what is reserved.

import { overlaps, type Range } from '../base/ranges.js'
import type { Access } from '../iotlb/mapping.js'
import type { MappingChange, MemorySlice } from '../iotlb/mapping-sink.js'
import type { GuestMemory } from '../memory/guest-memory.js'

/** One mapping of a sink: what a domain's mapping becomes, in as many pieces as the guest's memory lies in. */
export interface Piece {
  readonly range: Range
  readonly slice: MemorySlice
  readonly access: Access
}

/** Pieces that go, and pieces that come. */
export interface PieceChange {
  readonly gone: readonly Piece[]
  readonly come: readonly Piece[]
}

/** The way back. */
export function inverse({ gone, come }: PieceChange): PieceChange {
  return { gone: come, come: gone }
}

/** As a sink takes it. */
export function changesOf({ gone, come }: PieceChange): MappingChange[] {
  return [
    ...gone.map(({ range }): MappingChange => ({ verb: 'unmap', range })),
    ...come.map(({ range, slice, access }): MappingChange => ({ verb: 'map', iova: range.first, slice, access })),
  ]
}

/** Whether two pieces are the same mapping. */
export function isSame(one: Piece, other: Piece): boolean {
  return (
    one.range.first === other.range.first &&
    one.range.last === other.range.last &&
    one.access === other.access &&
    one.slice.region === other.slice.region &&
    one.slice.offset === other.slice.offset
  )
}

/** The pieces of a mapping of `range` to guest-physical addresses from `physical` on, whose sum does not pass 2^64-1; undefined where the guest has no memory at one of them. */
export function piecesOf(memory: GuestMemory, range: Range, physical: bigint, access: Access): Piece[] | undefined {
  const pieces: Piece[] = []
  for (let first = range.first; first <= range.last;) {
    const at = physical + (first - range.first)
    const found = memory.lookup(at)
    if (found === undefined) return undefined
    const { piece, region, offset } = found
    const left = piece.address + BigInt(piece.size) - at
    const wanted = range.last - first + 1n
    const size = left < wanted ? left : wanted
    pieces.push({ range: { first, last: first + size - 1n }, slice: { region, offset, size: Number(size) }, access })
    first += size
  }
  return pieces
}

/** Everything that the guest has inside `window` and outside `reserved` (sorted, apart), each address leading to itself, in whole pages. */
export function identityPieces(
  memory: GuestMemory,
  window: Range,
  reserved: readonly Range[],
  pageSize: bigint,
): Piece[] {
  const pieces: Piece[] = []
  for (const { address, region, offset, size } of memory.pieces()) {
    const whole = { first: address, last: address + BigInt(size) - 1n }
    for (const free of without(whole, window, reserved)) {
      const first = ((free.first + pageSize - 1n) / pageSize) * pageSize
      const last = ((free.last + 1n) / pageSize) * pageSize - 1n
      if (last < first) continue
      const slice = { region, offset: offset + Number(first - address), size: Number(last - first + 1n) }
      pieces.push({ range: { first, last }, slice, access: 'rw' })
    }
  }
  return pieces
}

/** What is left of a range inside a window and outside of ranges that are sorted and apart. */
function without(range: Range, window: Range, holes: readonly Range[]): Range[] {
  const last = range.last < window.last ? range.last : window.last
  const result: Range[] = []
  let first = range.first > window.first ? range.first : window.first
  for (const hole of holes) {
    if (first > last) return result
    if (!overlaps(hole, { first, last })) continue
    if (hole.first > first) result.push({ first, last: hole.first - 1n })
    first = hole.last + 1n
  }
  if (first <= last) result.push({ first, last })
  return result
}
