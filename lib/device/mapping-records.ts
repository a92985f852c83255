// Pieces of memory as IOTLB records: arguments checked, bigints taken apart once, and 72-byte records written with flat numbers.
// Bigints in this loop would cost an allocation a step, and the loop is where the start-up time of a large guest goes.

import { rangeError, typeError } from '../base/checks.js'
import { iotlbMessageTypes, vhostAccess, vhostMessageTypes } from '../uapi/vhost-types.js'
import type { MemoryRegion } from '../memory/memory-region.js'

/** What the device may do: read (`'ro'`), write (`'wo'`), both (`'rw'`). */
export type Access = 'ro' | 'wo' | 'rw'

/** A mapping to make: `size` bytes of `region` from `offset` on, at `iova`. All are multiples of the page size. */
export interface MappingRequest {
  readonly iova: bigint
  readonly region: MemoryRegion
  /** Bytes into the region; default 0. */
  readonly offset?: number
  /** Bytes; default: to the end of the region. */
  readonly size?: number
  /** Default `'rw'`. */
  readonly access?: Access
}

const perms: Readonly<Record<Access, number>> = {
  ro: vhostAccess.VHOST_ACCESS_RO,
  wo: vhostAccess.VHOST_ACCESS_WO,
  rw: vhostAccess.VHOST_ACCESS_RW,
}

export function accessOf(perm: number): Access {
  return perm === perms.ro ? 'ro' : perm === perms.wo ? 'wo' : 'rw'
}

/** One piece in flat numbers, in the order of IntervalTable's words: first, last and uaddr as halves (high, low), perm, object. */
export const PIECE_WORDS = 8

const scratch64 = new BigUint64Array(1)
const scratch32 = new Uint32Array(scratch64.buffer)
const TWO_32 = 0x1_0000_0000

/** Writes the halves of `value` at `words[at]` (high) and `words[at + 1]` (low). */
function halves(value: bigint, words: Uint32Array, at: number): void {
  scratch64[0] = value
  words[at] = scratch32[1] as number
  words[at + 1] = scratch32[0] as number
}

/** Adds a number of bytes below 2^53 to the halves at `from` and puts the sum at `to`; false when it passes 2^64-1. */
function add(words: Uint32Array, from: number, bytes: number, to: number): boolean {
  const low = (words[from + 1] as number) + (bytes % TWO_32)
  const high = (words[from] as number) + Math.floor(bytes / TWO_32) + (low >= TWO_32 ? 1 : 0)
  words[to] = high
  words[to + 1] = low
  return high < TWO_32
}

/** Checks one request and writes it as a piece; `object` is the caller's number for the region. Misuse throws TypeError or RangeError. */
export function writePiece(request: MappingRequest, pageSize: number, object: number, words: Uint32Array): void {
  const { iova, region, offset = 0, access = 'rw' } = request
  if (typeof region !== 'object' || region === null || typeof region.address !== 'bigint')
    throw typeError('region', 'a MemoryRegion', region)
  const size = request.size ?? region.length - offset
  if (typeof iova !== 'bigint') throw typeError('iova', 'a bigint', iova)
  if (iova < 0n || iova > 0xffff_ffff_ffff_ffffn) throw rangeError('iova', 'from 0 to 2^64-1', iova)
  if (typeof offset !== 'number') throw typeError('offset', 'a number', offset)
  if (typeof size !== 'number') throw typeError('size', 'a number', size)
  if (!Number.isInteger(offset) || offset < 0 || offset >= region.length)
    throw rangeError('offset', `an integer from 0 to ${region.length - 1}`, offset)
  if (!Number.isInteger(size) || size < 1 || size > region.length - offset) {
    throw rangeError('size', `an integer from 1 to ${region.length - offset}, the bytes that the region has`, size)
  }
  const perm = Object.hasOwn(perms, access) ? perms[access] : 0
  if (perm === 0) throw rangeError('access', "one of 'ro', 'wo', 'rw'", access)
  halves(iova, words, 0)
  if (((words[1] as number) | offset | size) % pageSize !== 0) throw alignment(iova, offset, size, pageSize)
  if (!add(words, 0, size - 1, 2)) throw rangeError('iova + size', 'at most 2^64', iova + BigInt(size))
  halves(region.address, words, 4)
  add(words, 4, offset, 4)
  words[6] = perm
  words[7] = object
}

function alignment(iova: bigint, offset: number, size: number, pageSize: number): RangeError {
  const [name, value] =
    iova % BigInt(pageSize) !== 0n
      ? ['iova', iova]
      : offset % pageSize !== 0
        ? ['offset', offset]
        : (['size', size] as const)
  return Object.assign(rangeError(name, `a multiple of the page size ${pageSize}`, value), {
    code: 'ERR_VDPA_ALIGNMENT',
  })
}

const RECORD_BYTES = 72
const RECORD_WORDS = RECORD_BYTES / 4
const isLittleEndian = new Uint8Array(Uint32Array.of(1).buffer)[0] === 1

/** A growing sequence of IOTLB records for one address space. Version 2 with the ASID where that was acknowledged, version 1 where v2 was not. */
export class RecordWriter {
  readonly #head: number
  readonly #asid: number
  #words: Uint32Array
  #count = 0

  constructor(version: 1 | 2, asid: number, capacity: number) {
    if (!isLittleEndian) throw new Error('IOTLB records are written for little-endian machines')
    this.#head = version === 2 ? vhostMessageTypes.VHOST_IOTLB_MSG_V2 : vhostMessageTypes.VHOST_IOTLB_MSG
    this.#asid = version === 2 ? asid : 0
    this.#words = new Uint32Array(capacity * RECORD_WORDS)
  }

  get count(): number {
    return this.#count
  }

  get bytes(): Uint8Array {
    return new Uint8Array(this.#words.buffer, 0, this.#count * RECORD_BYTES)
  }

  batchBegin(): void {
    this.#start(iotlbMessageTypes.VHOST_IOTLB_BATCH_BEGIN)
  }

  batchEnd(): void {
    this.#start(iotlbMessageTypes.VHOST_IOTLB_BATCH_END)
  }

  /** An update from a piece's words. */
  update(piece: Uint32Array): void {
    const at = this.#start(iotlbMessageTypes.VHOST_IOTLB_UPDATE, piece[6])
    this.#range(at, piece)
    this.#words[at + 6] = piece[5] as number
    this.#words[at + 7] = piece[4] as number
  }

  /** An invalidation of exactly a piece's range. */
  invalidate(piece: Uint32Array): void {
    this.#range(this.#start(iotlbMessageTypes.VHOST_IOTLB_INVALIDATE), piece)
  }

  #range(at: number, piece: Uint32Array): void {
    const [firstHigh, firstLow] = [piece[0] as number, piece[1] as number]
    // size = last - first + 1; a borrow and a carry, and never 2^64, because a region is shorter than 2^53.
    const low = (piece[3] as number) - firstLow + 1
    const borrow = low < 0 ? 1 : low >= TWO_32 ? -1 : 0
    this.#words[at + 2] = firstLow
    this.#words[at + 3] = firstHigh
    this.#words[at + 4] = low
    this.#words[at + 5] = (piece[2] as number) - firstHigh - borrow
  }

  #start(type: number, perm = 0): number {
    const at = this.#count * RECORD_WORDS
    if (at === this.#words.length) {
      const larger = new Uint32Array(Math.max(2 * this.#words.length, 8 * RECORD_WORDS))
      larger.set(this.#words)
      this.#words = larger
    }
    this.#count++
    this.#words[at] = this.#head
    this.#words[at + 1] = this.#asid
    this.#words[at + 8] = perm | (type << 8)
    return at
  }
}
