// The memory of the pretended process: regions at addresses of its own numbering, found again by address. It knows nothing of devices.

import { checkInteger, checkObject, checkString, rangeError, toU64 } from '../base/checks.js'
import { vdpaError } from '../base/errors.js'
import { Holds } from '../memory/holds.js'
import type {
  AdoptOptions,
  AllocateOptions,
  CloseMemoryOptions,
  MemoryHold,
  MemoryHolder,
  MemoryRegion,
} from '../memory/memory-region.js'
import { RingMemory } from '../memory/ring-memory.js'
import { LONGEST_REGION, noSingleBuffer, windowBytesOf, windowIndex } from '../memory/windows.js'

/** Bytes of an ordinary page, on whatever machine the simulator runs. */
export const PAGE_BYTES = 4096
const PAGE_SIZES: readonly number[] = [PAGE_BYTES, 2 ** 21, 2 ** 30]
/** Where regions begin. */
const FIRST_ADDRESS = 0x7000_0000_0000
/** The end of what a process can address on x86-64. */
export const ADDRESS_LIMIT = 0x7fff_ffff_f000

/** Bytes that one ArrayBuffer holds, in the shapes that DMA copies from and to. All of length 0 when their memory is gone. */
export class MemoryWindow {
  /** Where they begin in the region, in bytes. */
  readonly first: number
  readonly buffer: ArrayBuffer
  readonly bytes: Uint8Array
  /** The same bytes as 32-bit words, for copying. */
  readonly words: Int32Array
  /** The same for rings. */
  readonly ringMemory: RingMemory

  constructor(first: number, bytes: Uint8Array) {
    const { buffer, byteOffset, length } = bytes
    this.first = first
    this.buffer = buffer as ArrayBuffer
    this.bytes = bytes
    this.words = new Int32Array(buffer, byteOffset, length >>> 2)
    this.ringMemory = new RingMemory(buffer, byteOffset, length)
  }
}

const gone = new MemoryWindow(0, new Uint8Array(0))

/** Where regions have their bytes from. */
interface RegionFile {
  /** One of the regions is closed. */
  release(part: RegionPart): void
}

/** Bytes that a region shows. */
interface RegionPart {
  readonly length: number
  /** The bytes of window `index`. */
  window(index: number): MemoryWindow
}

/** Bytes of a file that regions show. They go when the last of these regions is closed. */
class FilePart implements RegionPart {
  readonly offset: number
  readonly length: number
  users = 0
  /** Made when they are first touched: a guest's memory is large, and mostly empty. */
  readonly #windows: (MemoryWindow | undefined)[] = []

  constructor(offset: number, length: number) {
    this.offset = offset
    this.length = length
  }

  window(index: number): MemoryWindow {
    const bytes = windowBytesOf(this.length)
    return (this.#windows[index] ??=
      this.users === 0
        ? gone
        : new MemoryWindow(index * bytes, new Uint8Array(Math.min(bytes, this.length - index * bytes))))
  }

  /** Detaches what was made: every view has length 0 from now on. */
  detach(): void {
    for (const window of this.#windows)
      if (window !== undefined) structuredClone(window.buffer, { transfer: [window.buffer] })
  }
}

/**
 * An anonymous file. Its bytes exist in the parts that are shown: each part is an ArrayBuffer, which regions at several addresses may share, and no two
 * parts have a byte in common, because two ArrayBuffers cannot.
 */
export class MemoryFile {
  /** Bytes; whole pages. */
  readonly length: number
  readonly #parts: FilePart[] = []

  constructor(length: number) {
    this.length = length
  }

  /** The bytes from `offset` on, for one more region. RangeError when they cross a part that is shown already without being it. */
  use(offset: number, length: number): FilePart {
    let part = this.#parts.find((other) => other.offset < offset + length && offset < other.offset + other.length)
    if (part === undefined) {
      part = new FilePart(offset, length)
      this.#parts.push(part)
    } else if (part.offset !== offset || part.length !== length) {
      const shown = `[${part.offset}, ${part.offset + part.length - 1}]`
      throw rangeError(
        'options',
        `the part ${shown} of the file that is adopted already, or one apart from it`,
        `[${offset}, ${offset + length - 1}]`,
      )
    }
    part.users++
    return part
  }

  /** One region of the part fewer; with the last of them the bytes go, and their buffer is detached. */
  release(part: FilePart): void {
    part.users--
    if (part.users > 0) return
    this.#parts.splice(this.#parts.indexOf(part), 1)
    part.detach()
  }
}

/** Memory of another backend, which is held and stays where it is. */
class ForeignPart implements RegionPart, RegionFile {
  readonly length: number
  readonly #region: MemoryRegion
  readonly #hold: MemoryHold
  readonly #windows: (MemoryWindow | undefined)[] = []

  constructor(region: MemoryRegion) {
    this.length = region.length
    this.#region = region
    this.#hold = region.hold('a simulator that shows it')
  }

  window(index: number): MemoryWindow {
    const bytes = windowBytesOf(this.length)
    const first = index * bytes
    return (this.#windows[index] ??= this.#hold.isClosed
      ? gone
      : new MemoryWindow(first, this.#region.view(first, Math.min(bytes, this.length - first))))
  }

  release(): void {
    this.#windows.length = 0
    this.#hold.close()
  }
}

/** Bytes at an address of the pretended process: one part of a file. */
export class SimulatedRegion implements MemoryRegion {
  readonly length: number
  readonly pageSize: number
  /** The address as a number, which is exact: all are below 2^47. */
  readonly start: number
  readonly #file: RegionFile
  readonly #part: RegionPart
  readonly #windowBytes: number
  readonly #holds = new Holds()
  readonly #forget: (region: SimulatedRegion) => void
  #isClosed = false

  constructor(
    file: RegionFile,
    part: RegionPart,
    start: number,
    pageSize: number,
    forget: (region: SimulatedRegion) => void,
  ) {
    this.#file = file
    this.#part = part
    this.#forget = forget
    this.start = start
    this.pageSize = pageSize
    this.length = part.length
    this.#windowBytes = windowBytesOf(part.length)
    if (this.#windowBytes === this.length) part.window(0)
  }

  /** Errors: ERR_VDPA_NOT_SUPPORTED where there is no single one. */
  get buffer(): ArrayBuffer {
    if (this.#windowBytes < this.length) throw noSingleBuffer(this.length)
    return this.#part.window(0).buffer
  }

  /** Errors: ERR_VDPA_CLOSED; RangeError for bytes that are not in one window. */
  view(offset: number, length: number): Uint8Array {
    const index = windowIndex(this.length, offset, length)
    this.#checkOpen()
    const { bytes, first } = this.#part.window(index)
    return bytes.subarray(offset - first, offset - first + length)
  }

  /** What DMA at `offset` copies from and to. */
  windowAt(offset: number): MemoryWindow {
    return this.#part.window(Math.floor(offset / this.#windowBytes))
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
  hold(holder: string | MemoryHolder): MemoryHold {
    this.#checkOpen()
    return this.#holds.take(holder, this)
  }

  close(options: CloseMemoryOptions = {}): void {
    if (this.#isClosed) return
    checkObject(options, 'options')
    if (options.unmap === true) this.#holds.letGo()
    // A holder that let go may have closed it on the way.
    if (this.#isClosed) return
    this.#holds.refuseWhileHeld(`memory of ${this.length} bytes`)
    this.#isClosed = true
    this.#forget(this)
    this.#file.release(this.#part)
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
  /** Bytes that may be pinned in all. */
  readonly pinLimit: number
  #pinned = 0
  #closings = 0

  constructor(pinLimit = Infinity) {
    this.pinLimit = pinLimit
  }

  /** How many regions were closed so far. */
  get closings(): number {
    return this.#closings
  }

  /** Bytes that are pinned now. */
  get pinned(): number {
    return this.#pinned
  }

  /** False when that is more than may be. */
  pin(bytes: number): boolean {
    if (this.#pinned + bytes > this.pinLimit) return false
    this.#pinned += bytes
    return true
  }

  /** Gives back what pin() counted. */
  unpin(bytes: number): void {
    this.#pinned -= bytes
  }

  /** RangeError for a size or page size that is not to be had. */
  allocate(length: number, options: AllocateOptions = {}): SimulatedRegion {
    checkObject(options, 'options')
    const { pageSize = PAGE_BYTES, name } = options
    if (name !== undefined) checkString(name, 'options.name')
    if (!PAGE_SIZES.includes(pageSize))
      throw rangeError('options.pageSize', `one of ${PAGE_SIZES.join(', ')}`, pageSize)
    checkInteger(length, 'length', 1, LONGEST_REGION)
    const whole = Math.ceil(length / pageSize) * pageSize
    const file = new MemoryFile(whole)
    return this.#map(file, file.use(0, whole), pageSize)
  }

  /** Shows a part of a file, at an address of its own. Rounded up to pages. RangeError for what does not begin at a page, or is not in the file. */
  adopt(file: MemoryFile, options: AdoptOptions): SimulatedRegion {
    checkObject(options, 'options')
    const offset = toU64(options.offset ?? 0n, 'options.offset')
    const { length } = options
    if (offset % BigInt(PAGE_BYTES) !== 0n || offset >= BigInt(file.length))
      throw rangeError(
        'options.offset',
        `a multiple of ${PAGE_BYTES} below ${file.length}, the size of the file`,
        offset,
      )
    checkInteger(length, 'options.length', 1, file.length - Number(offset))
    if (options.isReadOnly === true)
      throw vdpaError('ERR_VDPA_NOT_SUPPORTED', 'a simulator has no memory that only reads its file')
    const whole = Math.ceil(length / PAGE_BYTES) * PAGE_BYTES
    return this.#map(file, file.use(Number(offset), whole), PAGE_BYTES)
  }

  /** Shows memory of another backend, at an address of its own. RangeError for what is not in whole pages. */
  share(region: MemoryRegion): SimulatedRegion {
    if (region.length % PAGE_BYTES !== 0)
      throw rangeError('region.length', `a multiple of ${PAGE_BYTES}`, region.length)
    const part = new ForeignPart(region)
    return this.#map(part, part, PAGE_BYTES)
  }

  /** Whether the bytes of a region, of whichever object (a decorator's), are those at its address. */
  has(region: MemoryRegion): boolean {
    const start = Number(region.address)
    const own = this.at(start)
    if (own === undefined || own.start !== start || own.length !== region.length) return false
    return own === region || own.view(0, 0).buffer === region.view(0, 0).buffer
  }

  /** The region that has the address, or the first one above it; undefined when there is none. */
  at(address: number): SimulatedRegion | undefined {
    const cached = this.#lastFound
    if (cached !== undefined && address >= cached.start && address < cached.start + cached.length) return cached
    this.#lastFound = this.#regions[this.#placeOf(address)]
    return this.#lastFound
  }

  /** The place of the first region that ends behind the address. */
  #placeOf(address: number): number {
    let from = 0
    let to = this.#regions.length
    while (from < to) {
      const middle = (from + to) >>> 1
      const region = this.#regions[middle]
      if (region !== undefined && region.start + region.length <= address) from = middle + 1
      else to = middle
    }
    return from
  }

  #map(file: RegionFile, part: RegionPart, pageSize: number): SimulatedRegion {
    const start = Math.ceil(this.#next / pageSize) * pageSize
    const region = new SimulatedRegion(file, part, start, pageSize, (closed) => this.#forget(closed))
    // A page between regions, so that running past the end of one never reaches another.
    this.#next = start + region.length + PAGE_BYTES
    this.#regions.push(region)
    return region
  }

  #forget(region: SimulatedRegion): void {
    this.#closings++
    if (this.#lastFound === region) this.#lastFound = undefined
    const place = this.#placeOf(region.start)
    if (this.#regions[place] === region) this.#regions.splice(place, 1)
  }
}
