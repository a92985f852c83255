// A device's way to memory: the pieces of its address spaces, each mapped when it is first touched, and unmapped when the kernel says that it has changed.

import type { Backend, Handle } from '../backend/backend.js'
import { copyBytes } from '../memory/copy-bytes.js'
import type { MemoryRegion } from '../memory/memory-region.js'
import { RingMemory } from '../memory/ring-memory.js'
import { windowBytesOf } from '../memory/windows.js'
import { dmaAccess, type Dma } from '../models/device-ops.js'
import type { TableLocation } from '../virtqueue/virtqueue.js'
import type { DeviceNode, VdusePiece } from './nodes.js'

/** Bytes that one ArrayBuffer shows, or, where they may only be written, a file. */
interface Window {
  /** What it is of. */
  readonly piece: VdusePiece
  readonly high: number
  readonly low: number
  readonly length: number
  readonly bytes: Uint8Array
  readonly ringMemory: RingMemory
  readonly isWritable: boolean
  readonly isReadable: boolean
  /** Of what may only be written, which cannot be mapped. */
  readonly file: Handle | undefined
  /** Where in the file the window begins. */
  readonly fileOffset: bigint
}

/** How far an address lies behind the beginning of a window; out of [0, length) when it is elsewhere, exactly or not. */
function distance(window: Window, high: number, low: number): number {
  return (high - window.high) * 0x1_0000_0000 + (low - window.low)
}

/** What one request of the kernel's gave. */
interface Mapped {
  readonly piece: VdusePiece
  readonly region: MemoryRegion | undefined
  readonly file: Handle | undefined
  /** Bytes of the region before the piece, which begins within a page. */
  readonly skipped: number
}

class Space {
  version = 0
  mapped: Mapped[] = []
  /** By address; none overlap. */
  windows: Window[] = []
  last: Window | undefined
}

/** All address spaces of a device. */
export class IovaMemory implements Dma {
  readonly #backend: Backend
  readonly #onRefusal: (error: Error) => void
  #node: DeviceNode | undefined
  readonly #spaces: readonly Space[]
  readonly #location: { memory: RingMemory; offset: number } = { memory: new RingMemory(new ArrayBuffer(0)), offset: 0 }

  /** `onRefusal` hears of pieces that are there and cannot be mapped: the device cannot reach them. */
  constructor(backend: Backend, spaces: number, onRefusal: (error: Error) => void) {
    this.#backend = backend
    this.#onRefusal = onRefusal
    this.#spaces = Array.from({ length: spaces }, () => new Space())
  }

  /** Where to ask for what is mapped. */
  open(node: DeviceNode): void {
    this.#node = node
  }

  /** Whether somebody made a file shorter than the piece that he had mapped. */
  get isTorn(): boolean {
    return this.#spaces.some(({ mapped }) => mapped.some(({ region }) => region?.isTorn === true))
  }

  /** Pieces that are mapped now. */
  get pieces(): number {
    return this.#spaces.reduce((count, { mapped }) => count + mapped.length, 0)
  }

  version(asid: number): number {
    return this.#spaces[asid]?.version ?? 0
  }

  // eslint-disable-next-line max-params -- the contract's
  read(asid: number, high: number, low: number, target: Uint8Array, offset: number, length: number): boolean {
    for (let done = 0; done < length;) {
      const at = low + done
      const [nowHigh, nowLow] = at > 0xffff_ffff ? [high + 1, at - 0x1_0000_0000] : [high, at]
      const window = this.#windowAt(asid, nowHigh, nowLow)
      if (window === undefined || !window.isReadable) return false
      const from = distance(window, nowHigh, nowLow)
      const count = Math.min(window.length - from, length - done)
      copyBytes(window.bytes, from, target, offset + done, count)
      done += count
    }
    return true
  }

  // eslint-disable-next-line max-params -- the contract's
  write(asid: number, high: number, low: number, source: Uint8Array, offset: number, length: number): boolean {
    for (let done = 0; done < length;) {
      const at = low + done
      const [nowHigh, nowLow] = at > 0xffff_ffff ? [high + 1, at - 0x1_0000_0000] : [high, at]
      const window = this.#windowAt(asid, nowHigh, nowLow)
      if (window === undefined || !window.isWritable) return false
      const to = distance(window, nowHigh, nowLow)
      const count = Math.min(window.length - to, length - done)
      if (window.file === undefined) copyBytes(source, offset + done, window.bytes, to, count)
      else if (!writeFile(window, to, source.subarray(offset + done, offset + done + count))) return false
      done += count
    }
    return true
  }

  locate(asid: number, high: number, low: number, length: number, access: number): TableLocation | undefined {
    const window = this.#windowAt(asid, high, low)
    if (window === undefined || window.file !== undefined) return undefined
    if ((access & dmaAccess.WRITE) !== 0 && !window.isWritable) return undefined
    const at = distance(window, high, low)
    if (window.length - at < length) return undefined
    this.#location.memory = window.ringMemory
    this.#location.offset = at
    return this.#location
  }

  /** What was in [start, last] may be elsewhere now, or nowhere. */
  invalidate(asid: number, start: bigint, last: bigint): void {
    const space = this.#spaces[asid]
    if (space === undefined) return
    space.version++
    space.last = undefined
    const stays = ({ piece }: { readonly piece: VdusePiece }) => piece.last < start || last < piece.start
    const gone = space.mapped.filter((mapped) => !stays(mapped))
    space.mapped = space.mapped.filter(stays)
    space.windows = space.windows.filter(stays)
    for (const { region, file } of gone) {
      region?.close()
      file?.closeSync()
    }
  }

  /** Nothing is mapped any more. */
  close(): void {
    for (const asid of this.#spaces.keys()) this.invalidate(asid, 0n, 2n ** 64n - 1n)
  }

  #windowAt(asid: number, high: number, low: number): Window | undefined {
    const space = this.#spaces[asid]
    if (space === undefined) return undefined
    const { last } = space
    if (last !== undefined) {
      const at = distance(last, high, low)
      if (at >= 0 && at < last.length) return last
    }
    return (space.last = search(space.windows, high, low) ?? this.#map(space, asid, high, low))
  }

  /** Asks the kernel for what is at an address. */
  #map(space: Space, asid: number, high: number, low: number): Window | undefined {
    try {
      const piece = this.#node?.pieceAt(asid, BigInt(high) * 0x1_0000_0000n + BigInt(low))
      if (piece === undefined) return undefined
      const mapped = this.#open(piece)
      space.mapped.push(mapped)
      const windows = windowsOf(mapped)
      const [first] = windows
      // The windows of a piece lie behind one another.
      if (first !== undefined) space.windows.splice(placeOf(space.windows, first.high, first.low), 0, ...windows)
      return search(space.windows, high, low)
    } catch (error) {
      this.#onRefusal(error as Error)
      return undefined
    }
  }

  /** Maps a piece. The kernel opened its file as the piece may be used; what may only be written cannot be mapped by anybody, and is written through the file. */
  #open(piece: VdusePiece): Mapped {
    const file = this.#backend.openFd(piece.fd)
    let isKept = false
    try {
      isKept = (piece.perm & dmaAccess.READ) === 0
      return isKept ? { piece, region: undefined, file, skipped: 0 } : this.#adopt(piece, file)
    } finally {
      if (!isKept) file.closeSync()
    }
  }

  #adopt(piece: VdusePiece, file: Handle): Mapped {
    const page = this.#backend.pageSize
    const skipped = Number(piece.offset % BigInt(page))
    const length = Math.ceil((skipped + lengthOf(piece)) / page) * page
    const isReadOnly = (piece.perm & dmaAccess.WRITE) === 0
    const offset = piece.offset - BigInt(skipped)
    const region = this.#backend.adopt(file.fd, { length, offset, guarded: true, isReadOnly })
    return { piece, region, file: undefined, skipped }
  }
}

function lengthOf({ start, last }: VdusePiece): number {
  return Number(last - start + 1n)
}

/** Behind the windows that begin at an address or below. */
function placeOf(windows: readonly Window[], high: number, low: number): number {
  let [from, to] = [0, windows.length]
  while (from < to) {
    const middle = (from + to) >>> 1
    const window = windows[middle] as Window
    if (window.high < high || (window.high === high && window.low <= low)) from = middle + 1
    else to = middle
  }
  return from
}

function search(windows: readonly Window[], high: number, low: number): Window | undefined {
  const found = windows[placeOf(windows, high, low) - 1]
  if (found === undefined) return undefined
  return distance(found, high, low) < found.length ? found : undefined
}

const noBytes = new Uint8Array(0)

function windowsOf({ piece, region, file, skipped }: Mapped): Window[] {
  const end = skipped + lengthOf(piece)
  const step = region === undefined ? end : windowBytesOf(region.length)
  return Array.from({ length: Math.ceil(end / step) }, (_, index) => {
    const at = index === 0 ? skipped : index * step
    const first = piece.start + BigInt(at - skipped)
    const count = Math.min((index + 1) * step, end) - at
    const bytes = region?.view(at, count) ?? noBytes
    return {
      piece,
      high: Number(first >> 32n),
      low: Number(first & 0xffff_ffffn),
      length: count,
      bytes,
      ringMemory: new RingMemory(bytes.buffer, bytes.byteOffset, bytes.byteLength),
      isReadable: (piece.perm & dmaAccess.READ) !== 0,
      isWritable: (piece.perm & dmaAccess.WRITE) !== 0,
      file,
      fileOffset: piece.offset + BigInt(at - skipped),
    }
  })
}

function writeFile({ file, fileOffset }: Window, at: number, bytes: Uint8Array): boolean {
  return file?.pwrite?.(bytes, fileOffset + BigInt(at)) === bytes.byteLength
}
