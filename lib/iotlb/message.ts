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

const TWO_32 = 0x1_0000_0000
const isBigEndian = new Uint8Array(Uint32Array.of(1).buffer)[0] !== 1

function littleEndian(word: number): number {
  if (!isBigEndian) return word
  return ((word & 0xff) << 24) | ((word & 0xff00) << 8) | ((word >>> 8) & 0xff00) | (word >>> 24)
}

/** The entry's range as iova and size = last - first + 1. The size is 0 only for the whole space, where it is 2^64. */
function putRange(words: Uint32Array, at: number, entry: Uint32Array): void {
  const firstHigh = entry[0] as number
  const firstLow = entry[1] as number
  const low = (entry[3] as number) - firstLow + 1
  const carry = low < 0 ? -1 : low >= TWO_32 ? 1 : 0
  const high = (entry[2] as number) - firstHigh + carry
  if (high >= TWO_32) throw rangeError('size', 'below 2^64: one message cannot say it, two halves can', high * TWO_32)
  words[at + IOVA] = littleEndian(firstLow)
  words[at + IOVA + 1] = littleEndian(firstHigh)
  words[at + SIZE] = littleEndian(low)
  words[at + SIZE + 1] = littleEndian(high)
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
    this.#head = littleEndian(version === 1 ? VHOST_IOTLB_MSG : VHOST_IOTLB_MSG_V2)
    this.#words = new Uint32Array(Math.max(1, capacity) * RECORD_WORDS)
  }

  /** Records written. */
  get count(): number {
    return this.#count
  }

  /** The records: `count` times RECORD_BYTES, not a copy. What is written later may lie elsewhere. */
  get bytes(): Uint8Array {
    return new Uint8Array(this.#words.buffer, 0, this.#count * RECORD_BYTES)
  }

  /** Maps the entry (VHOST_IOTLB_UPDATE). RangeError for the whole 2^64, whose size is not a u64. */
  update(asid: number, entry: Uint32Array): void {
    const at = this.#start(asid)
    const words = this.#words
    putRange(words, at, entry)
    words[at + UADDR] = littleEndian(entry[5] as number)
    words[at + UADDR + 1] = littleEndian(entry[4] as number)
    words[at + PERM_AND_TYPE] = littleEndian((entry[6] as number) | UPDATE)
    this.#count++
  }

  /** Takes away the mapping that is exactly the entry's range (VHOST_IOTLB_INVALIDATE). RangeError for the whole 2^64. */
  invalidate(asid: number, entry: Uint32Array): void {
    const at = this.#start(asid)
    const words = this.#words
    putRange(words, at, entry)
    words[at + UADDR] = 0
    words[at + UADDR + 1] = 0
    words[at + PERM_AND_TYPE] = littleEndian(INVALIDATE)
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
    this.#words[at + PERM_AND_TYPE] = littleEndian(type)
    this.#count++
  }

  /** Begins a record and returns where it is; it counts once it is whole. */
  #start(asid: number): number {
    if (this.#version === 1 && asid !== 0) throw rangeError('asid', '0 in a version 1 message, which has none', asid)
    const at = this.#count * RECORD_WORDS
    if (at === this.#words.length) this.#grow()
    this.#words[at + HEAD] = this.#head
    this.#words[at + ASID] = littleEndian(asid)
    return at
  }

  #grow(): void {
    const larger = new Uint32Array(this.#words.length * 2)
    larger.set(this.#words)
    this.#words = larger
  }
}
