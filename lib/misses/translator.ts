// Who knows where a device's addresses lead, as whoever serves misses asks: the contract only.

import { checkBigint, rangeError, typeError } from '../base/checks.js'
import { rangeOf, showRange, U64_LAST, type Range } from '../base/ranges.js'
import { permOf, type Access } from '../iotlb/mapping.js'
import type { MemoryRegion } from '../memory/memory-region.js'

/** What a device asks for: an address that it has no translation of. */
export interface MissRequest {
  /** The address that the device could not translate. */
  readonly iova: bigint
  /** What it is about to do there; `'rw'` on the used rings that the server was told of. */
  readonly access: Access
  /** The address space; 0 on vhost-net and vhost-vsock, which have one. */
  readonly asid: number
  /** 1, and more when it is asked again: an invalidation came before the answer, or retry() was called. */
  readonly attempt: number
}

/** Where an address leads, and how far around it that is so. */
export interface MissAnswer {
  /** The first address of the translation, at or below the one that was asked for. */
  readonly iova: bigint
  /** Bytes, 1 to 2^64-1. The address that was asked for is among them. What is behind them is asked for when the device comes to it. */
  readonly size: bigint
  /** The address in this process that `iova` leads to. */
  readonly uaddr: bigint
  /**
   * What the device may do there, not what it asked for: one that was given `'ro'` and then writes has no other miss, and stops.
   */
  readonly access: Access
  /** The memory, where the server is to keep it from being freed for as long as the device may have the translation. */
  readonly region?: MemoryRegion
}

/** Where an address leads; nothing where it leads nowhere. */
export type MissVerdict = MissAnswer | undefined | null

/** Answers misses. What it throws, and what it rejects with, is a fault. A domain of a virtio-iommu is one: `{ translate: ({ iova, access }) => iommu.translate(8, iova, access) }`. */
export interface Translator {
  /** Where `request.iova` leads, now or later. */
  translate(request: MissRequest): MissVerdict | PromiseLike<MissVerdict>
}

/** An answer as it was when it was looked at, and its range. */
export interface CheckedAnswer {
  readonly answer: MissAnswer
  readonly range: Range
}

/** An answer that may be given to the device. TypeError or RangeError for what is none, or does not have the address that was asked for. */
export function checkedAnswer(given: MissAnswer, wanted: bigint): CheckedAnswer {
  if (typeof given !== 'object') throw typeError('answer', 'a MissAnswer, or undefined', given)
  const { iova, size, uaddr, access, region } = given
  checkBigint(iova, 'answer.iova')
  checkBigint(size, 'answer.size')
  checkBigint(uaddr, 'answer.uaddr')
  const range = iova < 0n ? undefined : rangeOf(iova, size)
  // Sizes are 64 bits: the whole space has none.
  if (range === undefined || size > U64_LAST)
    throw rangeError('answer.size', 'from 1 to 2^64-1, and not past the last address', size)
  if (wanted < range.first || wanted > range.last)
    throw rangeError('answer', `a translation of 0x${wanted.toString(16)}`, showRange(range))
  if (uaddr < 0n || rangeOf(uaddr, size) === undefined)
    throw rangeError('answer.uaddr', 'an address with answer.size bytes up to 2^64', uaddr)
  permOf(access)
  if (region !== undefined && typeof (region as Partial<MemoryRegion> | null)?.hold !== 'function')
    throw typeError('answer.region', 'a MemoryRegion', region)
  return { answer: { iova, size, uaddr, access, ...(region !== undefined && { region }) }, range }
}
