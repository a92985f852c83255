// A device's way to the memory of a front end: guest addresses, found in the table's windows. Writes are logged while somebody wants that.

import { dmaAccess, type Dma } from '../models/device-ops.js'
import { copyBytes } from '../memory/copy-bytes.js'
import { RingMemory } from '../memory/ring-memory.js'
import type { WriteMarks } from '../memory/write-marks.js'
import type { TableLocation } from '../virtqueue/virtqueue.js'
import type { MemoryTable, MemoryWindow } from './memory-table.js'

/** One address space: vhost-user knows no other. */
export class TableDma implements Dma {
  /** Where writes are logged; undefined while nobody asks. */
  log: WriteMarks | undefined
  readonly #table: MemoryTable
  readonly #location: { memory: RingMemory; offset: number } = { memory: new RingMemory(new ArrayBuffer(0)), offset: 0 }
  #last: MemoryWindow | undefined
  #version = -1

  constructor(table: MemoryTable) {
    this.#table = table
  }

  version(): number {
    return this.#table.version
  }

  // eslint-disable-next-line max-params -- the contract's
  read(_asid: number, high: number, low: number, target: Uint8Array, offset: number, length: number): boolean {
    for (let at = high * 0x1_0000_0000 + low, done = 0; done < length;) {
      const window = this.#windowAt(at)
      if (window === undefined) return false
      const count = Math.min(window.length - (at - window.first), length - done)
      copyBytes(window.bytes, at - window.first, target, offset + done, count)
      at += count
      done += count
    }
    return true
  }

  // eslint-disable-next-line max-params -- the contract's
  write(_asid: number, high: number, low: number, source: Uint8Array, offset: number, length: number): boolean {
    for (let at = high * 0x1_0000_0000 + low, done = 0; done < length;) {
      const window = this.#windowAt(at)
      if (window === undefined) return false
      const count = Math.min(window.length - (at - window.first), length - done)
      copyBytes(source, offset + done, window.bytes, at - window.first, count)
      this.log?.mark(at, count)
      at += count
      done += count
    }
    return true
  }

  locate(
    _asid: number,
    high: number,
    low: number,
    length: number,
    _access: number = dmaAccess.READ,
  ): TableLocation | undefined {
    const at = high * 0x1_0000_0000 + low
    const window = this.#windowAt(at)
    if (window === undefined || window.length - (at - window.first) < length) return undefined
    this.#location.memory = window.ringMemory
    this.#location.offset = at - window.first
    return this.#location
  }

  #windowAt(at: number): MemoryWindow | undefined {
    const last = this.#last
    if (
      this.#version === this.#table.version &&
      last !== undefined &&
      at >= last.first &&
      at < last.first + last.length
    )
      return last
    this.#version = this.#table.version
    const { windows } = this.#table
    let [low, high] = [0, windows.length]
    while (low < high) {
      const middle = (low + high) >>> 1
      if ((windows[middle]?.first ?? 0) <= at) low = middle + 1
      else high = middle
    }
    const found = windows[low - 1]
    this.#last = found !== undefined && at < found.first + found.length ? found : undefined
    return this.#last
  }
}
