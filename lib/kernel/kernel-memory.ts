// Memory for DMA from the operating system: shared files (memfd, hugetlb, another program's), one mapping each, seen through one ArrayBuffer or several.

import { readdirSync, statfsSync, statSync } from 'node:fs'
import { checkBoolean, checkInteger, checkObject, checkString, rangeError, toU64 } from '../base/checks.js'
import { vdpaError } from '../base/errors.js'
import { Holds, type HolderNames } from '../memory/holds.js'
import type {
  AdoptOptions,
  AllocateOptions,
  CloseMemoryOptions,
  MemoryHold,
  MemoryHolder,
  MemoryRegion,
} from '../memory/memory-region.js'
import { LONGEST_REGION, noSingleBuffer, windowBytesOf, windowIndex } from '../memory/windows.js'
import { warnIfCollected } from './leak-warning.js'
import type { NativeAddon, NativeRegion, Refused } from './native.js'
import { isRefused } from './native.js'
import { closedError, madeOr, type Refuse } from './refusal.js'

// A region lives as long as its buffers: a program that keeps only `region.buffer` has not lost the region.
const regionOfBuffer = new WeakMap<ArrayBuffer, KernelRegion>()

/** One mapping. A region that was lost without close() is freed with a warning; while somebody holds it, it stays mapped. */
export class KernelRegion implements MemoryRegion {
  readonly length: number
  readonly pageSize: number
  readonly #native: NativeRegion
  // Made when they are asked for, but for the only one of a region that has one.
  readonly #windows: ArrayBuffer[] = []
  readonly #holds = new Holds()
  readonly #forgetLeak: () => void
  #isClosed = false

  constructor(native: NativeRegion, length: number, pageSize: number) {
    this.#native = native
    this.length = length
    this.pageSize = pageSize
    this.#forgetLeak = warnIfCollected(this, leakOf(length, this.#holds.last))
    if (windowBytesOf(length) === length) this.#window(0)
  }

  /** Errors: ERR_VDPA_NOT_SUPPORTED where there is no single one. */
  get buffer(): ArrayBuffer {
    if (windowBytesOf(this.length) < this.length) throw noSingleBuffer(this.length)
    return this.#windows[0] as ArrayBuffer
  }

  /** Errors: ERR_VDPA_CLOSED; RangeError for bytes that are not in one window. */
  view(offset: number, length: number): Uint8Array {
    const index = windowIndex(this.length, offset, length)
    this.#checkOpen()
    return new Uint8Array(this.#window(index), offset - index * windowBytesOf(this.length), length)
  }

  get isClosed(): boolean {
    return this.#isClosed
  }

  /** Errors: ERR_VDPA_CLOSED. */
  get address(): bigint {
    this.#checkOpen()
    return this.#native.address
  }

  /** Errors: ERR_VDPA_CLOSED. */
  get fd(): number {
    this.#checkOpen()
    return this.#native.fd
  }

  get holders(): readonly string[] {
    return this.#holds.names
  }

  /** Of guarded memory: whether a page of it was gone when this process touched it. False after close. */
  get isTorn(): boolean {
    return !this.#isClosed && this.#native.isTorn()
  }

  /** Errors: ERR_VDPA_CLOSED. */
  hold(holder: string | MemoryHolder): MemoryHold {
    this.#checkOpen()
    return this.#holds.take(holder, this, (isHeld) => this.#native.hold(isHeld))
  }

  close(options: CloseMemoryOptions = {}): void {
    if (this.#isClosed) return
    checkObject(options, 'options')
    if (options.unmap === true) this.#holds.letGo()
    // A holder that let go may have closed it on the way.
    if (this.#isClosed) return
    this.#holds.refuseWhileHeld(`memory of ${this.length} bytes`)
    this.#isClosed = true
    this.#forgetLeak()
    this.#native.close()
  }

  [Symbol.dispose](): void {
    this.close()
  }

  #window(index: number): ArrayBuffer {
    let window = this.#windows[index]
    if (window === undefined) {
      const bytes = windowBytesOf(this.length)
      window = this.#native.view(index * bytes, Math.min(bytes, this.length - index * bytes))
      this.#windows[index] = window
      regionOfBuffer.set(window, this)
    }
    return window
  }

  #checkOpen(): void {
    if (this.#isClosed) throw closedError('the memory region')
  }
}

/** `last` must not lead to what holds the memory: that may lead back to the region, which would never be collected then. */
function leakOf(length: number, last: HolderNames): () => string {
  const what = `memory of ${length} bytes was garbage-collected without close()`
  return () => {
    const holders = last.names().join(', ')
    if (holders === '') return `${what}; it was freed`
    return `${what} while it was held by ${holders}; it stays mapped until the program ends, because a device may still write to it`
  }
}

/** How many offsets a file can have (off_t). */
const OFFSETS = 1n << 63n

/** Makes regions for one backend. */
export class KernelMemory {
  readonly #addon: NativeAddon
  readonly #refuse: Refuse

  constructor(addon: NativeAddon, refuse: Refuse) {
    this.#addon = addon
    this.#refuse = refuse
  }

  /** Errors: ENOMEM (no huge pages free, no memory), EMFILE; RangeError for a size that is not to be had. */
  allocate(length: number, options: AllocateOptions = {}): KernelRegion {
    checkObject(options, 'options')
    const { pageSize = this.#addon.pageSize, name = 'vhost-vdpa' } = options
    checkString(name, 'options.name')
    checkPageSize(pageSize, this.#addon.pageSize)
    checkInteger(length, 'length', 1, LONGEST_REGION)
    const rounded = Math.ceil(length / pageSize) * pageSize
    const isHuge = pageSize !== this.#addon.pageSize
    const made = this.#addon.allocate(name, rounded, isHuge ? Math.log2(pageSize) : 0)
    const hint = isHuge
      ? `reserve huge pages: ${hugePageFolder(pageSize)}/nr_hugepages says how many there are`
      : undefined
    return new KernelRegion(madeOr(made, this.#refuse, { path: `${rounded} bytes of memory`, hint }), rounded, pageSize)
  }

  /** Errors: EBADF, EACCES (the fd is not open for reading and writing), ENODEV; RangeError for pages or bytes that the file does not have. */
  adopt(fd: number, options: AdoptOptions): KernelRegion {
    checkInteger(fd, 'fd', 0, 0x7fff_ffff)
    checkObject(options, 'options')
    const offset = toU64(options.offset ?? 0n, 'options.offset')
    const file = examine(fd, this.#addon.pageSize)
    checkInteger(options.length, 'options.length', 1, LONGEST_REGION)
    const { sealed = false, guarded = false, isReadOnly = false } = options
    checkBoolean(sealed, 'options.sealed')
    checkBoolean(guarded, 'options.guarded')
    checkBoolean(isReadOnly, 'options.isReadOnly')
    if (offset % BigInt(file.pageSize) !== 0n)
      throw rangeError('options.offset', `a multiple of the page size ${file.pageSize}`, offset)
    // Nodes of devices have no end of their own.
    if (offset + BigInt(options.length) > OFFSETS)
      throw rangeError('options.offset', 'an offset of a file, with all of the length below 2^63', offset)
    // Memory beyond the end of a file can be mapped, but touching it ends the process; the rest of its last page is there, and nobody else's.
    if (file.size !== undefined && offset + BigInt(options.length) > file.size) {
      throw rangeError('options', `a part of the file, which has ${file.size} bytes`, show(options.length, offset))
    }
    const length = Math.ceil(options.length / file.pageSize) * file.pageSize
    const made = this.#addon.adopt(fd, length, offset, sealed, guarded, isReadOnly)
    if (sealed && isRefused(made)) refuseUnsealed(made, fd)
    return new KernelRegion(madeOr(made, this.#refuse, { path: `fd ${fd}` }), length, file.pageSize)
  }
}

function show(length: number, offset: bigint): string {
  return `${length} bytes at ${offset}`
}

/** What is refused because the file is not what `sealed` demands. */
function refuseUnsealed([, syscall]: Refused, fd: number): void {
  if (syscall === 'F_GET_SEALS') {
    throw vdpaError('ERR_VDPA_NOT_SUPPORTED', `the file of fd ${fd} can be made shorter: it has no F_SEAL_SHRINK`, {
      hint: 'its owner makes it with memfd_create(MFD_ALLOW_SEALING) and adds the seal',
    })
  }
  if (syscall === 'fstat') throw rangeError('options', 'a part of the file, which is shorter', `fd ${fd}`)
}

function hugePageFolder(pageSize: number): string {
  return `/sys/kernel/mm/hugepages/hugepages-${pageSize / 1024}kB`
}

function checkPageSize(pageSize: number, ordinary: number): void {
  if (pageSize === ordinary) return
  const sizes = [ordinary, ...hugePageSizes()]
  if (!sizes.includes(pageSize)) throw rangeError('options.pageSize', `one of ${sizes.join(', ')}`, pageSize)
}

function hugePageSizes(): number[] {
  try {
    return readdirSync('/sys/kernel/mm/hugepages').map(
      (folder) => Number(/^hugepages-(\d+)kB$/.exec(folder)?.[1]) * 1024,
    )
  } catch {
    return []
  }
}

const hugetlbfsMagic = 0x958458f6

/** The page size behind a file, and its size in bytes when that says how much of it there is to map. */
function examine(fd: number, ordinary: number): { readonly pageSize: number; readonly size: bigint | undefined } {
  const path = `/proc/self/fd/${fd}`
  try {
    const status = statSync(path, { bigint: true })
    const system = statfsSync(path)
    return {
      pageSize: system.type === hugetlbfsMagic ? system.bsize : ordinary,
      size: status.isFile() ? status.size : undefined,
    }
  } catch {
    // No such fd, or no /proc: the kernel's own answer to mmap says which.
    return { pageSize: ordinary, size: undefined }
  }
}
