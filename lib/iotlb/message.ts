// IOTLB messages as the 72-byte records that are written to a vhost device, from flat numbers: a large guest is thousands of them, and a bigint
// a field would cost more than the system call. To read a record, or to write one from bigints, use the codecs vhostMsg and vhostMsgV2 of uapi/.

import { rangeError } from '../base/checks.js'
import { iotlbMessageTypes, vhostMessageTypes, vhostMsgV2 } from '../uapi/vhost-types.js'

/** Bytes of a record, of either version. The kernel answers 72 to every write that it takes. */
export const RECORD_BYTES = vhostMsgV2.size

// Where the fields lie in a record, in 32-bit words (struct vhost_msg_v2; version 1 has the same places and no asid). Checked against the codec by a test.
const RECORD_WORDS = RECORD_BYTES / 4
const HEAD = 0
const ASID = 1
const IOVA = 2
const SIZE = 4
const UADDR = 6
/** perm in the lowest byte, type in the next one. */
const PERM_AND_TYPE = 8

// An entry's words are named by number here, as EntryWord has them: this is the loop. Types where they stand in that word.
const UPDATE = iotlbMessageTypes.VHOST_IOTLB_UPDATE << 8
const INVALIDATE = iotlbMessageTypes.VHOST_IOTLB_INVALIDATE << 8
const BATCH_BEGIN = iotlbMessageTypes.VHOST_IOTLB_BATCH_BEGIN << 8
const BATCH_END = iotlbMessageTypes.VHOST_IOTLB_BATCH_END << 8

const LAST = 0xffff_ffff
const isBigEndian = new Uint8Array(Uint32Array.of(1).buffer)[0] !== 1

/** The entry's range as iova and size = last - first + 1. The size is 0 only for the whole space, where it is 2^64. Nothing here leaves 32 bits: no doubles. */
function putRange(words: Uint32Array, at: number, entry: Uint32Array): void {
  const firstHigh = entry[0] as number
  const firstLow = entry[1] as number
  const lastLow = entry[3] as number
  const low = (lastLow - firstLow + 1) | 0
  const isBelow = lastLow < firstLow
  const carry = low === 0 ? (isBelow ? 0 : 1) : isBelow ? -1 : 0
  const high = ((entry[2] as number) - firstHigh + carry) | 0
  if (high === 0 && low === 0)
    throw rangeError('size', 'below 2^64: one message cannot say it, two halves can', 2 ** 64)
  words[at + IOVA] = firstLow
  words[at + IOVA + 1] = firstHigh
  words[at + SIZE] = low
  words[at + SIZE + 1] = high
}

/**
 * A growing sequence of records. Entries are 8 words, as IntervalTable reads them (EntryWord). Version 2 carries the ASID, which the kernel
 * heeds only when VHOST_BACKEND_F_IOTLB_ASID was acknowledged, and otherwise takes for 0 without a word; version 1 has none.
 */
export class MessageWriter {
  readonly #head: number
  readonly #version: 1 | 2
  // Whole words, because a store a word is what a record costs. The words behind PERM_AND_TYPE stay 0.
  #words: Uint32Array
  #count = 0

  /** `capacity` records are made room for; more are taken. */
  constructor(version: 1 | 2, capacity = 16) {
    const { VHOST_IOTLB_MSG, VHOST_IOTLB_MSG_V2 } = vhostMessageTypes
    this.#version = version
    this.#head = version === 1 ? VHOST_IOTLB_MSG : VHOST_IOTLB_MSG_V2
    this.#words = new Uint32Array(Math.max(1, capacity) * RECORD_WORDS)
  }

  /** Records written. */
  get count(): number {
    return this.#count
  }

  /** The records as vDPA takes them, little-endian: `count` times RECORD_BYTES, not a copy where that is the processor's order. What is written later may lie elsewhere. */
  get bytes(): Uint8Array {
    const words = isBigEndian ? swapped(this.#words) : this.#words
    return new Uint8Array(words.buffer, 0, this.#count * RECORD_BYTES)
  }

  /** Maps the entry (VHOST_IOTLB_UPDATE). RangeError for the whole 2^64, whose size is not a u64. */
  update(asid: number, entry: Uint32Array): void {
    const at = this.#start(asid)
    const words = this.#words
    putRange(words, at, entry)
    words[at + UADDR] = entry[5] as number
    words[at + UADDR + 1] = entry[4] as number
    words[at + PERM_AND_TYPE] = (entry[6] as number) | UPDATE
    this.#count++
  }

  /** Takes away the mapping that is exactly the entry's range (VHOST_IOTLB_INVALIDATE). RangeError for the whole 2^64. */
  invalidate(asid: number, entry: Uint32Array): void {
    const at = this.#start(asid)
    const words = this.#words
    putRange(words, at, entry)
    words[at + UADDR] = 0
    words[at + UADDR + 1] = 0
    words[at + PERM_AND_TYPE] = INVALIDATE
    this.#count++
  }

  /** Until batchEnd() the device may put changes off, and takes no message of another address space (VHOST_IOTLB_BATCH_BEGIN). */
  batchBegin(asid: number): void {
    this.#batchEdge(asid, BATCH_BEGIN)
  }

  /** Has the device make the changes since batchBegin() (VHOST_IOTLB_BATCH_END). */
  batchEnd(asid: number): void {
    this.#batchEdge(asid, BATCH_END)
  }

  /** The type of the record at `index`: VHOST_IOTLB_*. */
  type(index: number): number {
    return (this.#words[index * RECORD_WORDS + PERM_AND_TYPE] as number) >>> 8
  }

  /** The address space of the record at `index`. */
  asid(index: number): number {
    return this.#words[index * RECORD_WORDS + ASID] as number
  }

  /** Puts the range of the record at `index`, an update or an invalidation, into the first four words of `entry`. */
  readRange(index: number, entry: Uint32Array): void {
    const words = this.#words
    const at = index * RECORD_WORDS
    const firstLow = words[at + IOVA] as number
    const firstHigh = words[at + IOVA + 1] as number
    const sum = firstLow + (words[at + SIZE] as number) - 1
    entry[0] = firstHigh
    entry[1] = firstLow
    entry[2] = firstHigh + (words[at + SIZE + 1] as number) + (sum < 0 ? -1 : sum > LAST ? 1 : 0)
    entry[3] = sum
  }

  /** Begins anew, in the memory that is there. */
  clear(): void {
    this.#count = 0
  }

  /** Takes the record at `index` out. */
  drop(index: number): void {
    this.#words.copyWithin(index * RECORD_WORDS, (index + 1) * RECORD_WORDS, this.#count * RECORD_WORDS)
    this.#count--
  }

  #batchEdge(asid: number, type: number): void {
    const at = this.#start(asid)
    this.#words.fill(0, at + IOVA, at + PERM_AND_TYPE)
    this.#words[at + PERM_AND_TYPE] = type
    this.#count++
  }

  /** Begins a record and returns where it is; it counts once it is whole. */
  #start(asid: number): number {
    if (asid !== 0 && this.#version === 1) throw rangeError('asid', '0 in a version 1 message, which has none', asid)
    const at = this.#count * RECORD_WORDS
    if (at === this.#words.length) this.#grow()
    this.#words[at + HEAD] = this.#head
    this.#words[at + ASID] = asid
    return at
  }

  #grow(): void {
    const larger = new Uint32Array(this.#words.length * 2)
    larger.set(this.#words)
    this.#words = larger
  }
}

function swapped(words: Uint32Array): Uint32Array {
  const bytes = Buffer.from(Uint32Array.from(words).buffer).swap32()
  return new Uint32Array(bytes.buffer, bytes.byteOffset, words.length)
}
