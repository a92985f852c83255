// The guest's memory as the front end gave it: files that are mapped here, by guest address and by the front end's own. It checks before it maps, and a
// table that is refused leaves the one before as it was.

import { fstatSync } from 'node:fs'
import type { Backend } from '../backend/backend.js'
import type { PassedFile } from '../backend/sockets.js'
import { vdpaError, type VdpaError } from '../base/errors.js'
import type { MemoryRegion } from '../memory/memory-region.js'
import { RingMemory } from '../memory/ring-memory.js'
import { windowBytesOf } from '../memory/windows.js'
import type { RegionDescription } from './codec.js'

/** Guest addresses are handled as numbers, which are exact up to here. */
const ADDRESS_LAST = 2n ** 53n - 1n

/** Bytes of one region that one ArrayBuffer shows. */
export interface MemoryWindow {
  /** Guest address of its first byte. */
  readonly first: number
  /** Bytes. */
  readonly length: number
  readonly bytes: Uint8Array
  readonly ringMemory: RingMemory
}

/** A region that is mapped. */
class MappedRegion {
  readonly description: RegionDescription
  /** Which file it is. */
  readonly identity: string
  readonly memory: MemoryRegion
  readonly windows: readonly MemoryWindow[]

  constructor(description: RegionDescription, identity: string, memory: MemoryRegion) {
    this.description = description
    this.identity = identity
    this.memory = memory
    const step = windowBytesOf(memory.length)
    const size = Number(description.size)
    const first = Number(description.guestAddress)
    this.windows = Array.from({ length: Math.ceil(size / step) }, (_, index) => {
      const bytes = memory.view(index * step, Math.min(step, size - index * step))
      const ringMemory = new RingMemory(bytes.buffer, bytes.byteOffset, bytes.byteLength)
      return { first: first + index * step, length: bytes.byteLength, bytes, ringMemory }
    })
  }

  isLike(other: RegionDescription): boolean {
    const { guestAddress, userAddress, size } = this.description
    return guestAddress === other.guestAddress && userAddress === other.userAddress && size === other.size
  }

  isSame(other: RegionDescription, identity: string): boolean {
    return this.isLike(other) && this.description.offset === other.offset && this.identity === identity
  }
}

const refused = (text: string): VdpaError => vdpaError('ERR_VDPA_PROTOCOL', text)

const hex = (value: bigint) => `0x${value.toString(16)}`

function overlap(one: RegionDescription, other: RegionDescription, of: 'guestAddress' | 'userAddress'): boolean {
  return one[of] < other[of] + other.size && other[of] < one[of] + one.size
}

/** Which file it is, having made sure that it has the region: memory beyond the end of a file can be mapped, and not touched. */
function identify(file: PassedFile, region: RegionDescription): string {
  const status = fstatSync(file.fd, { bigint: true })
  if (!status.isFile()) throw refused('memory is in a descriptor that is no file')
  if (region.offset + region.size > status.size)
    throw refused(`${hex(region.size)} bytes at ${hex(region.offset)} of a file that has ${hex(status.size)}`)
  return `${status.dev}:${status.ino}`
}

/** A part of the guest's memory. */
export interface TableSlice {
  readonly region: MemoryRegion
  readonly offset: number
  readonly size: number
}

/** The table of one front end. */
export class MemoryTable {
  readonly #backend: Backend
  readonly #slots: number
  readonly #drop: (memory: MemoryRegion) => void
  #regions: readonly MappedRegion[] = []
  /** By guest address; none overlap. */
  windows: readonly MemoryWindow[] = []
  /** Changes with the table. */
  version = 0

  /** `drop` is given the memory that is not in the table any more, to be closed. */
  constructor(backend: Backend, slots: number, drop = (memory: MemoryRegion) => memory.close()) {
    this.#backend = backend
    this.#slots = slots
    this.#drop = drop
  }

  /** What is in it. */
  get regions(): readonly { readonly description: RegionDescription; readonly memory: MemoryRegion }[] {
    return this.#regions
  }

  /** The parts that cover [address, address + size) of the guest. RangeError where it has no memory. */
  slices(address: bigint, size: number): TableSlice[] {
    const slices = this.find(address, size)
    if (slices === undefined) throw new RangeError(`the guest has no memory at ${hex(address)}, or not ${size} bytes`)
    return slices
  }

  /** The same; undefined where it has no memory. */
  find(address: bigint, size: number): TableSlice[] | undefined {
    const slices: TableSlice[] = []
    for (let done = 0; done < size;) {
      const at = address + BigInt(done)
      const found = this.#regions.find(({ description: { guestAddress, size: bytes } }) => {
        return at >= guestAddress && at < guestAddress + bytes
      })
      if (found === undefined) return undefined
      const offset = Number(at - found.description.guestAddress)
      const slice = {
        region: found.memory,
        offset,
        size: Math.min(size - done, Number(found.description.size) - offset),
      }
      slices.push(slice)
      done += slice.size
    }
    return slices
  }

  /** The 16 bits at a guest address; undefined where it has no memory. */
  wordAt(address: bigint): number | undefined {
    const [slice] = this.find(address, 2) ?? []
    return slice && new DataView(slice.region.view(slice.offset, 2).slice().buffer).getUint16(0, true)
  }

  /** Whether the front end made a file shorter than the region that it said is there. */
  get isTorn(): boolean {
    for (const { memory } of this.#regions) if (memory.isTorn === true) return true
    return false
  }

  /** Replaces the table. Regions that are in both stay mapped where they are. The files stay the caller's to close; so below. */
  replace(regions: readonly RegionDescription[], files: readonly PassedFile[]): void {
    const next: MappedRegion[] = []
    try {
      for (const [index, region] of regions.entries()) {
        const file = files[index]
        if (file !== undefined) next.push(this.#map(region, file, next))
      }
    } catch (error) {
      this.#closeBut(next, this.#regions)
      throw error
    }
    this.#exchange(next)
  }

  /** Adds a region. One that is there already is added again by QEMU for each queue pair, which changes nothing. */
  add(region: RegionDescription, file: PassedFile): void {
    const mapped = this.#map(region, file, this.#regions)
    if (this.#regions.includes(mapped)) return
    if (this.#regions.length === this.#slots) {
      this.#drop(mapped.memory)
      throw refused(`all ${this.#slots} memory slots are in use`)
    }
    this.#exchange([...this.#regions, mapped])
  }

  /** Takes a region out of the table; its offset and file do not matter. */
  remove(region: RegionDescription): void {
    const found = this.#regions.find((other) => other.isLike(region))
    if (found === undefined) throw refused(`there is no such region at guest address ${hex(region.guestAddress)}`)
    this.#exchange(this.#regions.filter((other) => other !== found))
  }

  /** Takes out what `isKept` says false of. */
  keep(isKept: (memory: MemoryRegion) => boolean): void {
    const next = this.#regions.filter(({ memory }) => isKept(memory))
    if (next.length < this.#regions.length) this.#exchange(next)
  }

  /** The guest address of what the front end has at `userAddress`; undefined when not all `length` bytes are in one region. */
  guestAddressOf(userAddress: bigint, length: number): bigint | undefined {
    for (const { description } of this.#regions) {
      const at = userAddress - description.userAddress
      if (at >= 0n && at + BigInt(length) <= description.size) return description.guestAddress + at
    }
    return undefined
  }

  /** The end of the highest region: how many bytes a dirty log must cover. */
  get end(): number {
    const last = this.windows.at(-1)
    return last === undefined ? 0 : last.first + last.length
  }

  clear(): void {
    this.#exchange([])
  }

  #map(region: RegionDescription, file: PassedFile, others: readonly MappedRegion[]): MappedRegion {
    if (region.guestAddress + region.size - 1n > ADDRESS_LAST)
      throw refused(`guest address ${hex(region.guestAddress)} is above 2^53`)
    const identity = identify(file, region)
    const same = [...others, ...this.#regions].find((other) => other.isSame(region, identity))
    if (same !== undefined) return same
    for (const { description } of others) {
      if (overlap(description, region, 'guestAddress'))
        throw refused(`two regions at guest address ${hex(region.guestAddress)}`)
      if (overlap(description, region, 'userAddress'))
        throw refused(`two regions at user address ${hex(region.userAddress)}`)
    }
    const page = BigInt(this.#backend.pageSize)
    if (region.guestAddress % page !== 0n || region.offset % page !== 0n)
      throw refused(`a region at ${hex(region.guestAddress)} that does not begin at a page, or not in its file`)
    const options = { length: Number(region.size), offset: region.offset, guarded: true }
    const memory = this.#backend.adopt(file.fd, options)
    try {
      return new MappedRegion(region, identity, memory)
    } catch (error) {
      memory.close()
      throw error
    }
  }

  #exchange(next: readonly MappedRegion[]): void {
    const before = this.#regions
    this.#regions = next
    this.windows = next.flatMap(({ windows }) => windows).sort((one, other) => one.first - other.first)
    this.version++
    this.#closeBut(before, next)
  }

  #closeBut(regions: readonly MappedRegion[], kept: readonly MappedRegion[]): void {
    for (const region of regions) if (!kept.includes(region)) this.#drop(region.memory)
  }
}
