// The memory of the pretended process: regions at addresses of its own numbering, found again by address. It knows nothing of devices.

import { constants } from 'node:buffer'
import { checkInteger, checkString, rangeError, toU64 } from '../base/checks.js'
import { vdpaError } from '../base/errors.js'
import { Holds } from '../memory/holds.js'
import type { AdoptOptions, AllocateOptions, MemoryHold, MemoryRegion } from '../memory/memory-region.js'
import { RingMemory } from '../memory/ring-memory.js'

export const PAGE_BYTES = 4096
const PAGE_SIZES: readonly number[] = [PAGE_BYTES, 2 ** 21, 2 ** 30]
/** Where regions begin, and the end of what a process can address on x86-64. */
const FIRST_ADDRESS = 0x7000_0000_0000
export const ADDRESS_LIMIT = 0x7fff_ffff_f000

/** Bytes that several regions may show: an anonymous file. They go when the last region is closed. */
export class MemoryFile {
  readonly buffer: ArrayBuffer
  #users = 0

  constructor(length: number) {
    this.buffer = new ArrayBuffer(length)
  }

  use(): void {
    this.#users++
  }

  release(): void {
    this.#users--
    // Transferring detaches the buffer: every view has length 0 from now on.
    if (this.#users === 0) structuredClone(this.buffer, { transfer: [this.buffer] })
  }
}

export class SimulatedRegion implements MemoryRegion {
  readonly length: number
  readonly pageSize: number
  readonly buffer: ArrayBuffer
  /** What DMA copies from and to; of length 0 after close. */
  readonly bytes: Uint8Array
  /** The same for rings. */
  readonly ringMemory: RingMemory
  /** The address as a number, which is exact: all are below 2^47. */
  readonly start: number
  readonly #file: MemoryFile
  readonly #holds = new Holds()
  readonly #forget: (region: SimulatedRegion) => void
  #isClosed = false

  constructor(file: MemoryFile, start: number, pageSize: number, forget: (region: SimulatedRegion) => void) {
    file.use()
    this.#file = file
    this.#forget = forget
    this.start = start
    this.pageSize = pageSize
    this.buffer = file.buffer
    this.length = file.buffer.byteLength
    this.bytes = new Uint8Array(file.buffer)
    this.ringMemory = new RingMemory(file.buffer)
  }

  get isClosed(): boolean {
    return this.#isClosed
  }

  /** Errors: ERR_VDPA_CLOSED. */
  get address(): bigint {
    this.#checkOpen()
    return BigInt(this.start)
  }

  get fd(): undefined {
    return undefined
  }

  get holders(): readonly string[] {
    return this.#holds.names
  }

  /** Errors: ERR_VDPA_CLOSED. */
  hold(holder: string): MemoryHold {
    this.#checkOpen()
    return this.#holds.take(holder, this)
  }

  close(): void {
    if (this.#isClosed) return
    this.#holds.refuseWhileHeld(`memory of ${this.length} bytes`)
    this.#isClosed = true
    this.#forget(this)
    this.#file.release()
  }

  [Symbol.dispose](): void {
    this.close()
  }

  #checkOpen(): void {
    if (this.#isClosed) throw vdpaError('ERR_VDPA_CLOSED', 'the memory region is closed')
  }
}

/** All regions of the process, in the order of their addresses, which are never used again. */
export class ProcessMemory {
  readonly #regions: SimulatedRegion[] = []
  #next = FIRST_ADDRESS
  #lastFound: SimulatedRegion | undefined

  /** RangeError for a size or page size that is not to be had. */
  allocate(length: number, options: AllocateOptions = {}): SimulatedRegion {
    const { pageSize = PAGE_BYTES, name } = options
    if (name !== undefined) checkString(name, 'options.name')
    if (!PAGE_SIZES.includes(pageSize))
      throw rangeError('options.pageSize', `one of ${PAGE_SIZES.join(', ')}`, pageSize)
    checkInteger(length, 'length', 1, Math.floor(constants.MAX_LENGTH / pageSize) * pageSize)
    return this.#map(new MemoryFile(Math.ceil(length / pageSize) * pageSize), pageSize)
  }

  /** Shows a file once more, at another address. The simulator cannot show a part of a file, because a region's buffer is the whole of it. */
  adopt(file: MemoryFile, options: AdoptOptions): SimulatedRegion {
    const whole = file.buffer.byteLength
    if (toU64(options.offset ?? 0n, 'options.offset') !== 0n)
      throw rangeError('options.offset', '0n in a simulator', options.offset)
    if (options.length !== whole)
      throw rangeError('options.length', `${whole}, the whole file, in a simulator`, options.length)
    return this.#map(file, PAGE_BYTES)
  }

  /** The region that has the address, or the first one above it; undefined when there is none. */
  at(address: number): SimulatedRegion | undefined {
    const cached = this.#lastFound
    if (cached !== undefined && address >= cached.start && address < cached.start + cached.length) return cached
    let from = 0
    let to = this.#regions.length
    while (from < to) {
      const middle = (from + to) >>> 1
      const region = this.#regions[middle]
      if (region !== undefined && region.start + region.length <= address) from = middle + 1
      else to = middle
    }
    this.#lastFound = this.#regions[from]
    return this.#lastFound
  }

  #map(file: MemoryFile, pageSize: number): SimulatedRegion {
    const start = Math.ceil(this.#next / pageSize) * pageSize
    const region = new SimulatedRegion(file, start, pageSize, (closed) => this.#forget(closed))
    // A page between regions, so that running past the end of one never reaches another.
    this.#next = start + region.length + PAGE_BYTES
    this.#regions.push(region)
    return region
  }

  #forget(region: SimulatedRegion): void {
    if (this.#lastFound === region) this.#lastFound = undefined
    const index = this.#regions.indexOf(region)
    if (index >= 0) this.#regions.splice(index, 1)
  }
}
