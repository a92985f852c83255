// The memory that one client showed: where he sees it, and where the far end finds it.

import { U64_LAST } from '../base/ranges.js'
import type { MemoryRegion } from '../memory/memory-region.js'
import { regionError } from './refusal.js'

/** Pieces of memory of one client. */
const PIECES_LAST = 512

interface Piece {
  readonly first: bigint
  readonly last: bigint
  /** As the far end has it. */
  readonly shown: MemoryRegion
}

/** Pieces that do not cross. */
export class ClientMemory {
  readonly #pieces: Piece[] = []
  readonly #pageSize: bigint
  readonly #show: (region: MemoryRegion) => MemoryRegion

  constructor(pageSize: number, show: (region: MemoryRegion) => MemoryRegion) {
    this.#pageSize = BigInt(pageSize)
    this.#show = show
  }

  /** EINVAL, EEXIST, ENOSPC. */
  add(at: bigint, region: MemoryRegion): void {
    const size = BigInt(region.length)
    if (at % this.#pageSize !== 0n || size % this.#pageSize !== 0n || at > U64_LAST - size + 1n)
      throw regionError('EINVAL', 'mapDma', `${size} bytes at 0x${at.toString(16)} are not whole pages`)
    const last = at + size - 1n
    if (this.#pieces.some((piece) => piece.first <= last && at <= piece.last))
      throw regionError('EEXIST', 'mapDma', `memory at 0x${at.toString(16)} crosses memory that is there`)
    if (this.#pieces.length >= PIECES_LAST) throw regionError('ENOSPC', 'mapDma', `${PIECES_LAST} pieces are the most`)
    this.#pieces.push({ first: at, last, shown: this.#show(region) })
  }

  /** EINVAL where nothing begins there. */
  remove(at: bigint): void {
    const index = this.#pieces.findIndex(({ first }) => first === at)
    const [piece] = index < 0 ? [] : this.#pieces.splice(index, 1)
    if (piece === undefined) throw regionError('EINVAL', 'unmapDma', `no memory begins at 0x${at.toString(16)}`)
    piece.shown.close({ unmap: true })
  }

  /** The far end's address of a range that lies in one piece; undefined where it does not. */
  find(at: bigint, size: bigint): bigint | undefined {
    const piece = this.#pieces.find(({ first, last }) => first <= at && at <= last)
    if (piece === undefined || size === 0n || size > piece.last - at + 1n) return undefined
    return piece.shown.address + (at - piece.first)
  }

  /** Every piece: where the client sees it, its bytes, and the far end's address. */
  *pieces(): Generator<{ readonly at: bigint; readonly size: bigint; readonly address: bigint }> {
    for (const { first, last, shown } of this.#pieces)
      yield { at: first, size: last - first + 1n, address: shown.address }
  }

  close(): void {
    for (const { shown } of this.#pieces.splice(0)) shown.close({ unmap: true })
  }
}
