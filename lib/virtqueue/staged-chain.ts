// A chain that a driver is putting together: segments in columns, checked as they come. Nothing here is visible to the device.

import { rangeError, toU64, typeError } from '../base/checks.js'
import * as layout from './layout.js'
import type { ChainSegment } from './virtqueue.js'

// Constants of this module: an imported name would be a property load each time it is used.
const { CHAIN_BYTES_LAST } = layout

/** One chain, filled again for each that is begun. The columns have the first `limit` segments. */
export class StagedChain {
  readonly iovaHigh: Uint32Array
  readonly iovaLow: Uint32Array
  readonly lengths: Uint32Array
  /** Segments pushed, also those that had no room: `count > limit` says that the chain is longer than any that can be. */
  count = 0
  /** Segments that the device reads; they come first. */
  readableCount = 0
  /** Bytes of those. */
  readableLength = 0
  /** Bytes of the segments that the device writes. */
  writableLength = 0
  readonly #limit: number

  /** `limit`: the longest chain, which is the ring's size (sections 2.7.5.3.1 and 2.8.17). */
  constructor(limit: number) {
    this.#limit = limit
    this.iovaHigh = new Uint32Array(limit)
    this.iovaLow = new Uint32Array(limit)
    this.lengths = new Uint32Array(limit)
  }

  /** Forgets the chain before. */
  begin(): void {
    this.count = 0
    this.readableCount = 0
    this.readableLength = 0
    this.writableLength = 0
  }

  /** As DriverRing.push(). */
  push(iovaHigh: number, iovaLow: number, length: number, deviceWrites: boolean): void {
    const at = this.count
    // One test, so that this function stays small enough to be inlined.
    if (
      !isSegment(iovaHigh, iovaLow, length) ||
      this.readableLength + this.writableLength + length > CHAIN_BYTES_LAST ||
      (!deviceWrites && at !== this.readableCount)
    ) {
      throw this.#refusal(iovaHigh, iovaLow, length)
    }
    if (deviceWrites) {
      this.writableLength += length
    } else {
      this.readableCount = at + 1
      this.readableLength += length
    }
    this.count = at + 1
    if (at >= this.#limit) return
    this.iovaHigh[at] = iovaHigh
    this.iovaLow[at] = iovaLow
    this.lengths[at] = length
  }

  #refusal(iovaHigh: number, iovaLow: number, length: number): Error {
    if (!isSegment(iovaHigh, iovaLow, length)) return notSegment(iovaHigh, iovaLow, length)
    if (this.readableLength + this.writableLength + length > CHAIN_BYTES_LAST) {
      return rangeError('length', 'such that the chain has 2^32 bytes or fewer', length)
    }
    return rangeError('deviceWrites', 'true after a segment that the device writes', false)
  }

  /** Begins anew with segments that are known. */
  load(segments: readonly ChainSegment[]): void {
    this.begin()
    for (const { iovaHigh, iovaLow, length, deviceWrites } of segments)
      this.push(iovaHigh, iovaLow, length, deviceWrites)
  }

  /** As DriverRing.pushAddress(). */
  pushAddress(iova: bigint, length: number, deviceWrites: boolean): void {
    const address = toU64(iova, 'iova')
    this.push(Number(address >> 32n), Number(address & 0xffff_ffffn), length, deviceWrites)
  }
}

/** Whether a segment can be: 32-bit halves, 1 byte to 2^32-1, and none past address 2^64-1. */
export function isSegment(iovaHigh: number, iovaLow: number, length: number): boolean {
  // The types first: a bigint in arithmetic throws, and not by name. Sums of two numbers below 2^32 are exact.
  return (
    typeof length === 'number' &&
    typeof iovaLow === 'number' &&
    typeof iovaHigh === 'number' &&
    length >>> 0 === length &&
    length !== 0 &&
    iovaLow >>> 0 === iovaLow &&
    iovaHigh >>> 0 === iovaHigh &&
    (iovaHigh !== 0xffff_ffff || iovaLow + length <= 0x1_0000_0000)
  )
}

/** Why isSegment() says no. */
export function notSegment(iovaHigh: number, iovaLow: number, length: number): Error {
  if (typeof length !== 'number') return typeError('length', 'an integer from 1 to 2^32-1', length)
  if (typeof iovaLow !== 'number') return typeError('iovaLow', 'an integer from 0 to 2^32-1', iovaLow)
  if (typeof iovaHigh !== 'number') return typeError('iovaHigh', 'an integer from 0 to 2^32-1', iovaHigh)
  if (length >>> 0 !== length || length === 0) return rangeError('length', 'an integer from 1 to 2^32-1', length)
  if (iovaLow >>> 0 !== iovaLow) return rangeError('iovaLow', 'an integer from 0 to 2^32-1', iovaLow)
  if (iovaHigh >>> 0 !== iovaHigh) return rangeError('iovaHigh', 'an integer from 0 to 2^32-1', iovaHigh)
  return rangeError('length', 'such that the segment ends at 2^64-1 or before', length)
}

/** Whether segments that were read from memory can be those of a chain with so many writable bytes: whether push() would take them. */
export function isWhole(segments: readonly ChainSegment[], writableLength: number): boolean {
  const chain = new StagedChain(segments.length)
  try {
    chain.load(segments)
  } catch {
    return false
  }
  return chain.writableLength === writableLength
}
