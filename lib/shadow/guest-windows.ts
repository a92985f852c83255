// The guest's memory as the device reaches it: a window for each piece, and where it is mapped. Addresses are numbers here, because this is the hot path; a guest has no memory above 2^53.

import type { MemoryRegion } from '../memory/memory-region.js'
import type { AddressSpace } from '../device/address-space.js'
import type { GuestPieces } from './dirty-log.js'

/** A piece of the guest's memory. */
export interface GuestWindow {
  /** Guest address of the first byte. */
  readonly first: number
  /** Guest address of the last byte. */
  readonly last: number
  readonly region: MemoryRegion
  /** Bytes into the region. */
  readonly offset: number
  /** Whether the device can reach it. */
  readonly isMapped: boolean
  /** What is added to a guest address for the device's: 0 where it is mapped at its own address, which is usual. */
  readonly isSame: boolean
  /** The device's address of the first byte, in halves. */
  readonly iovaHigh: number
  readonly iovaLow: number
}

const WORD = 0x1_0000_0000

/** The windows of one guest, found by address. */
export class GuestWindows {
  readonly #memory: GuestPieces
  readonly #space: AddressSpace
  #windows: readonly GuestWindow[] = []
  #last: GuestWindow | undefined
  #stop: (() => void) | undefined

  constructor(memory: GuestPieces, space: AddressSpace) {
    this.#memory = memory
    this.#space = space
    this.refresh()
    this.#stop = memory.onChange?.(() => this.refresh())
  }

  /** Looks again at the table and at what is mapped. */
  refresh(): void {
    this.#last = undefined
    const windows = this.#memory.pieces().flatMap((piece) => {
      const first = Number(piece.address)
      const last = first + piece.size - 1
      if (last > Number.MAX_SAFE_INTEGER) return []
      const { region, offset } = piece
      const iova = this.#iovaOf(piece.address, region, offset, piece.size)
      return [
        {
          first,
          last,
          region,
          offset,
          isMapped: iova !== undefined,
          isSame: iova === piece.address,
          iovaHigh: Number((iova ?? 0n) >> 32n),
          iovaLow: Number((iova ?? 0n) & 0xffff_ffffn),
        },
      ]
    })
    this.#windows = windows.sort((a, b) => a.first - b.first)
  }

  /** The window that an address is in. */
  at(address: number): GuestWindow | undefined {
    const last = this.#last
    if (last !== undefined && address >= last.first && address <= last.last) return last
    const windows = this.#windows
    let [low, high] = [0, windows.length]
    while (low < high) {
      const middle = (low + high) >>> 1
      if ((windows[middle] as GuestWindow).first <= address) low = middle + 1
      else high = middle
    }
    const found = windows[low - 1]
    if (found === undefined || address > found.last) return undefined
    this.#last = found
    return found
  }

  /** The bytes at [address, address + length), which one window holds; undefined where none does. */
  bytes(address: number, length: number): Uint8Array | undefined {
    const window = this.at(address)
    if (window === undefined || window.last - address + 1 < length) return undefined
    return window.region.view(window.offset + (address - window.first), length)
  }

  /** Follows the table no more. */
  close(): void {
    this.#stop?.()
    this.#stop = undefined
  }

  /** Where all of a piece is mapped in one piece, at its own address before all others. */
  #iovaOf(address: bigint, region: MemoryRegion, offset: number, size: number): bigint | undefined {
    const own = this.#space.lookup(address)
    const isWhole = (mapping: { readonly offset: number; readonly size: bigint }) =>
      mapping.offset <= offset && BigInt(offset + size) <= BigInt(mapping.offset) + mapping.size
    if (own !== undefined && own.region === region && own.offset === offset && isWhole(own.mapping)) return address
    const other = this.#space.mappings.find((mapping) => mapping.region === region && isWhole(mapping))
    return other === undefined ? undefined : other.iova + BigInt(offset - other.offset)
  }
}

/** The upper half of the device's address. */
export function iovaHighOf(window: GuestWindow, address: number): number {
  const offset = address - window.first
  return window.iovaHigh + Math.floor((window.iovaLow + offset) / WORD)
}

/** The lower half of the same. */
export function iovaLowOf(window: GuestWindow, address: number): number {
  return (window.iovaLow + (address - window.first)) % WORD
}
