// Memory of a program that uses a channel: as its backend made it, and known by its address, so that it can be shown to the far end before it is mapped there.

import { vdpaError } from '../base/errors.js'
import { U64_LAST } from '../base/ranges.js'
import { Holds } from '../memory/holds.js'
import type { CloseMemoryOptions, MemoryHold, MemoryHolder, MemoryRegion } from '../memory/memory-region.js'
import type { DmaMemory } from './region.js'

/** A region that says when it is closed. */
export class SharedRegion implements MemoryRegion, DmaMemory {
  readonly region: MemoryRegion
  readonly fileOffset: bigint
  readonly length: number
  readonly pageSize: number
  /** The address, also once it is closed. */
  readonly first: bigint
  readonly #holds = new Holds()
  readonly #closing: (region: SharedRegion) => void

  /** `closing` is called before the memory is freed. */
  constructor(region: MemoryRegion, fileOffset: bigint, closing: (region: SharedRegion) => void) {
    this.region = region
    this.fileOffset = fileOffset
    this.length = region.length
    this.pageSize = region.pageSize
    this.first = region.address
    this.#closing = closing
  }

  get isClosed(): boolean {
    return this.region.isClosed
  }

  get address(): bigint {
    return this.region.address
  }

  get buffer(): ArrayBuffer {
    return this.region.buffer
  }

  get fd(): number | undefined {
    return this.region.fd
  }

  get holders(): readonly string[] {
    return this.#holds.names
  }

  /** True where a page of adopted memory was gone when it was touched; false where nobody looks. */
  get isTorn(): boolean {
    return this.region.isTorn === true
  }

  /** Apart from what the far end, where it is in this process, holds: that lets go when the region is closed. */
  hold(holder: string | MemoryHolder): MemoryHold {
    if (this.isClosed) throw vdpaError('ERR_VDPA_CLOSED', 'the memory region is closed')
    return this.#holds.take(holder, this)
  }

  view(offset: number, length: number): Uint8Array {
    return this.region.view(offset, length)
  }

  close(options: CloseMemoryOptions = {}): void {
    if (this.isClosed) return
    if (options.unmap === true) this.#holds.letGo()
    // A holder that let go may have closed it on the way.
    if (this.isClosed) return
    this.#holds.refuseWhileHeld(`memory of ${this.length} bytes`)
    this.#closing(this)
    this.region.close()
  }

  [Symbol.dispose](): void {
    this.close()
  }
}

/** The regions of one program. */
export class SharedMemory {
  readonly #regions = new Set<SharedRegion>()
  readonly #listeners = new Set<(region: SharedRegion) => void>()

  /** Takes a region in; `fileOffset` is where it begins in its file. */
  add(region: MemoryRegion, fileOffset: bigint): SharedRegion {
    const shared = new SharedRegion(region, fileOffset, (closed) => this.#forget(closed))
    this.#regions.add(shared)
    return shared
  }

  /** The region that has all bytes of a range; undefined when none has. */
  find(address: bigint, size: bigint): SharedRegion | undefined {
    if (size === 0n || address > U64_LAST - size + 1n) return undefined
    for (const region of this.#regions)
      if (address >= region.first && address + size <= region.first + BigInt(region.length)) return region
    return undefined
  }

  /** Calls `listener` when a region is closed; returns how to stop. */
  onClose(listener: (region: SharedRegion) => void): () => void {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }

  #forget(region: SharedRegion): void {
    this.#regions.delete(region)
    for (const listener of [...this.#listeners]) listener(region)
  }
}
