// The guest's memory in the device's address space 0: what a front end's table says, region by region. Memory that left the table is closed when nothing maps it.

import { sharingOf } from '../backend/memory-sharing.js'
import { overlaps, rangeOf } from '../base/ranges.js'
import type { GuestMemoryChange, GuestPiece } from '../memory/guest-memory.js'
import type { MemoryRegion } from '../memory/memory-region.js'
import type { VdpaDevice } from '../device/vdpa-device.js'
import type { MemoryTable } from '../vhost-user/memory-table.js'

/** A region that the device reaches. */
interface Mapped {
  readonly iova: bigint
  readonly size: bigint
  /** The memory as the device's backend has it. */
  readonly region: MemoryRegion
}

/** Follows a table. */
export class GuestMappings {
  readonly #device: VdpaDevice
  readonly #mapped = new Map<MemoryRegion, Mapped>()
  #retired: MemoryRegion[] = []
  readonly #listeners = new Set<(change: GuestMemoryChange) => void>()

  constructor(device: VdpaDevice) {
    this.#device = device
  }

  /** The guest's memory as the device reaches it, each piece at its guest address. */
  pieces(): GuestPiece[] {
    return [...this.#mapped.values()].map(pieceOf)
  }

  /** Calls `listener` after each change, until the returned function is called. */
  onChange(listener: (change: GuestMemoryChange) => void): () => void {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }

  /** Memory that is not in the table any more. */
  retire(memory: MemoryRegion): void {
    this.#retired.push(memory)
  }

  /** Whether bringing the device to the table takes away what it has. */
  loses(table: MemoryTable): boolean {
    return goneFrom(table, this.#mapped).length > 0
  }

  /** Whether the device has the memory of the table, and no other. */
  isLike(table: MemoryTable): boolean {
    const { regions } = table
    return regions.length === this.#mapped.size && regions.every(({ memory }) => this.#mapped.has(memory))
  }

  /** Whether the table has memory where something else of ours is mapped: rings of shadows, and those of a control queue that cannot be alone, which are placed where there was none. */
  isObstructed(table: MemoryTable): boolean {
    const guests = new Set([...this.#mapped.values()].map(({ iova }) => iova))
    const others = this.#device.addressSpace(0).mappings.filter(({ iova }) => !guests.has(iova))
    return table.regions.some(({ description: { guestAddress, size } }) => {
      const range = rangeOf(guestAddress, size)
      return others.some((other) => {
        const taken = rangeOf(other.iova, other.size)
        return range !== undefined && taken !== undefined && overlaps(range, taken)
      })
    })
  }

  /** Brings the device to the table: what goes first, then what comes, each in one batch. What is refused leaves the rest as it was, and the table without what the device has not. */
  async follow(table: MemoryTable): Promise<void> {
    try {
      await this.#unmap(goneFrom(table, this.#mapped))
      await this.#map(table)
    } catch (failure) {
      table.keep((memory) => this.#mapped.has(memory))
      this.#closeRetired()
      throw failure
    }
  }

  async #map(table: MemoryTable): Promise<void> {
    const come = table.regions.filter(({ memory }) => !this.#mapped.has(memory))
    const shared = come.map(({ memory, description }) => ({
      memory,
      iova: description.guestAddress,
      // Whole pages, as an IOMMU has them.
      size: BigInt(memory.length),
      region: this.#shared(memory),
    }))
    try {
      await this.#device
        .addressSpace(0)
        .map(shared.map(({ iova, region, size }) => ({ iova, region, offset: 0, size: Number(size) })))
    } catch (failure) {
      for (const { region, memory } of shared) if (region !== memory) region.close()
      throw failure
    }
    for (const { memory, ...mapped } of shared) {
      this.#mapped.set(memory, mapped)
      this.#tell('add', mapped)
    }
  }

  /** A device that was closed has nothing mapped: what is left is memory. */
  forget(): void {
    for (const [memory, { region }] of this.#mapped) if (region !== memory) region.close()
    this.#mapped.clear()
    this.#closeRetired()
  }

  async #unmap(gone: readonly MemoryRegion[]): Promise<void> {
    const mapped = gone.flatMap((memory) => this.#mapped.get(memory) ?? [])
    if (mapped.length > 0) await this.#device.addressSpace(0).unmap(mapped.map(({ iova, size }) => ({ iova, size })))
    for (const memory of gone) {
      const one = this.#mapped.get(memory)
      this.#mapped.delete(memory)
      if (one !== undefined) this.#tell('remove', one)
      if (one?.region !== memory) one?.region.close()
    }
    this.#closeRetired()
  }

  #tell(kind: GuestMemoryChange['kind'], mapped: Mapped): void {
    for (const listener of [...this.#listeners]) listener({ kind, piece: pieceOf(mapped) })
  }

  #closeRetired(): void {
    const [closing, kept] = [
      this.#retired.filter((one) => !this.#mapped.has(one)),
      this.#retired.filter((one) => this.#mapped.has(one)),
    ]
    this.#retired = kept
    for (const memory of closing) memory.close()
  }

  #shared(memory: MemoryRegion): MemoryRegion {
    return sharingOf(this.#device.backend)?.share(memory) ?? memory
  }
}

/** What of `mapped` is not in the table any more. */
function goneFrom({ regions }: MemoryTable, mapped: ReadonlyMap<MemoryRegion, Mapped>): MemoryRegion[] {
  const there = new Set(regions.map(({ memory }) => memory))
  return [...mapped.keys()].filter((memory) => !there.has(memory))
}

function pieceOf({ iova, size, region }: Mapped): GuestPiece {
  return { address: iova, region, offset: 0, size: Number(size) }
}
