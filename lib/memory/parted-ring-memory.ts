// Ring bytes that lie in several places: the part of a ring that is over several mappings, or over several pieces of a guest's memory. The same law as
// `RingMemory`, and slower: an offset is looked up at each access. Rings that lie in one piece never come here.

import { rangeError } from '../base/checks.js'
import type { RingMemory } from './ring-memory.js'

/** What a ring needs of an area's bytes. `RingMemory` is that, where they lie in one piece. */
export type RingBytes = Pick<
  RingMemory,
  'byteLength' | 'byteOffset' | 'u8' | 'u16' | 'u32' | 'setU8' | 'setU16' | 'setU32' | 'load16' | 'store16'
>

/** Windows one after the other, as one. */
export class PartedRingMemory implements RingBytes {
  /** Bytes of all windows. */
  readonly byteLength: number
  /** Of the first window, in its buffer. */
  readonly byteOffset: number
  /** The windows, in order. */
  readonly parts: readonly RingMemory[]
  readonly #starts: readonly number[]
  // Accesses go on where the last one was, mostly.
  #at = 0

  /** RangeError for no windows, or for one of no bytes. */
  constructor(parts: readonly RingMemory[]) {
    const [first] = parts
    if (first === undefined || parts.some((part) => part.byteLength === 0))
      throw rangeError('parts', 'windows of at least one byte', parts)
    let length = 0
    this.#starts = parts.map((part) => {
      const start = length
      length += part.byteLength
      return start
    })
    this.parts = [...parts]
    this.byteOffset = first.byteOffset
    this.byteLength = length
  }

  /** As of `RingMemory`, all of these: RangeError past the end, TypeError once a buffer is detached. */
  u8(offset: number): number {
    return this.#partOf(offset).u8(offset - this.#start)
  }

  /** Plain, at any offset, over an edge too. */
  u16(offset: number): number {
    const part = this.#partOf(offset)
    const at = offset - this.#start
    return at + 2 <= part.byteLength ? part.u16(at) : this.u8(offset) | (this.u8(offset + 1) << 8)
  }

  /** Plain, at any offset, over an edge too. */
  u32(offset: number): number {
    const part = this.#partOf(offset)
    const at = offset - this.#start
    return at + 4 <= part.byteLength ? part.u32(at) : (this.u16(offset) | (this.u16(offset + 2) << 16)) >>> 0
  }

  /** Writes the low 8 bits of `value`. */
  setU8(offset: number, value: number): void {
    this.#partOf(offset).setU8(offset - this.#start, value)
  }

  /** Plain, at any offset, over an edge too. */
  setU16(offset: number, value: number): void {
    const part = this.#partOf(offset)
    const at = offset - this.#start
    if (at + 2 <= part.byteLength) part.setU16(at, value)
    else {
      this.setU8(offset, value)
      this.setU8(offset + 1, value >>> 8)
    }
  }

  /** Plain, at any offset, over an edge too. */
  setU32(offset: number, value: number): void {
    const part = this.#partOf(offset)
    const at = offset - this.#start
    if (at + 4 <= part.byteLength) part.setU32(at, value)
    else {
      this.setU16(offset, value)
      this.setU16(offset + 2, value >>> 16)
    }
  }

  /** A field that announces something lies in one window: areas and windows begin at even addresses. RangeError where it does not. */
  load16(offset: number): number {
    return this.#partOf(offset).load16(offset - this.#start)
  }

  /** The same, for writing. */
  store16(offset: number, value: number): void {
    this.#partOf(offset).store16(offset - this.#start, value)
  }

  get #start(): number {
    return this.#starts[this.#at] as number
  }

  /** The window that has the byte, which #start is of from now on. */
  #partOf(offset: number): RingMemory {
    const starts = this.#starts
    const start = starts[this.#at] as number
    const current = this.parts[this.#at] as RingMemory
    if (offset >= start && offset < start + current.byteLength) return current
    if (!(offset >= 0 && offset < this.byteLength)) throw rangeError('offset', `below ${this.byteLength}`, offset)
    let [low, high] = [0, starts.length]
    while (low < high) {
      const middle = (low + high) >>> 1
      if ((starts[middle] as number) <= offset) low = middle + 1
      else high = middle
    }
    this.#at = low - 1
    return this.parts[this.#at] as RingMemory
  }
}

/** Whether two areas are the same bytes in the same places, and those are there. */
export function isSamePlace(one: RingBytes, other: RingBytes): boolean {
  const [ones, others] = [windowsOf(one), windowsOf(other)]
  return (
    ones.length === others.length &&
    ones.every((window, index) => {
      const against = others[index] as RingMemory
      return (
        window.buffer === against.buffer && window.byteOffset === against.byteOffset && window.buffer.byteLength > 0
      )
    })
  )
}

/** Whether memory of an area was freed. */
export function isGone(area: RingBytes): boolean {
  return area instanceof PartedRingMemory
    ? area.parts.some((part) => part.buffer.byteLength === 0)
    : (area as RingMemory).buffer.byteLength === 0
}

function windowsOf(area: RingBytes): readonly RingMemory[] {
  return area instanceof PartedRingMemory ? area.parts : [area as RingMemory]
}
