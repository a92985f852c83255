// IOTLB messages as the 72-byte records that are written to a vhost device, from flat numbers: a large guest is thousands of them, and a bigint
// a field would cost more than the system call. To read a record, or to write one from bigints, use the codecs vhostMsg and vhostMsgV2 of uapi/.

import { rangeError } from '../base/checks.js'
import { iotlbMessageTypes, vhostMessageTypes, vhostMsgV2 } from '../uapi/vhost-types.js'
import { EntryWord } from './entry-leaves.js'

/** Bytes of a record, of either version. The kernel answers 72 to every write that it takes. */
export const RECORD_BYTES = vhostMsgV2.size

// Where the fields lie in a record (struct vhost_msg_v2; version 1 has the same places and no asid). Checked against the codec by a test.
const ASID = 4
const IOVA = 8
const SIZE = 16
const UADDR = 24
const PERM = 32
const TYPE = 33

const TWO_32 = 0x1_0000_0000

/**
 * A growing sequence of records. Entries are 8 words, as IntervalTable reads them (EntryWord). Version 2 carries the ASID, which the kernel
 * heeds only when VHOST_BACKEND_F_IOTLB_ASID was acknowledged, and otherwise takes for 0 without a word; version 1 has none.
 */
export class MessageWriter {
  readonly #version: 1 | 2
  #bytes: Uint8Array
  #view: DataView
  #count = 0

  /** `capacity` records are made room for; more are taken. */
  constructor(version: 1 | 2, capacity = 16) {
    this.#version = version
    this.#bytes = new Uint8Array(Math.max(1, capacity) * RECORD_BYTES)
    this.#view = new DataView(this.#bytes.buffer)
  }

  /** Records written. */
  get count(): number {
    return this.#count
  }

  /** The records: `count` times RECORD_BYTES, not a copy. What is written later may lie elsewhere. */
  get bytes(): Uint8Array {
    return this.#bytes.subarray(0, this.#count * RECORD_BYTES)
  }

  /** Maps the entry (VHOST_IOTLB_UPDATE). RangeError for the whole 2^64, whose size is not a u64. */
  update(asid: number, entry: Uint32Array): void {
    const at = this.#start(iotlbMessageTypes.VHOST_IOTLB_UPDATE, asid)
    this.#range(at, entry)
    this.#u64(at + UADDR, entry[EntryWord.uaddrHigh] as number, entry[EntryWord.uaddrLow] as number)
    this.#bytes[at + PERM] = entry[EntryWord.perm] as number
  }

  /** Takes away the mapping that is exactly the entry's range (VHOST_IOTLB_INVALIDATE). RangeError for the whole 2^64. */
  invalidate(asid: number, entry: Uint32Array): void {
    this.#range(this.#start(iotlbMessageTypes.VHOST_IOTLB_INVALIDATE, asid), entry)
  }

  /** Until batchEnd() the device may put changes off, and takes no message of another address space (VHOST_IOTLB_BATCH_BEGIN). */
  batchBegin(asid: number): void {
    this.#start(iotlbMessageTypes.VHOST_IOTLB_BATCH_BEGIN, asid)
  }

  /** Has the device make the changes since batchBegin() (VHOST_IOTLB_BATCH_END). */
  batchEnd(asid: number): void {
    this.#start(iotlbMessageTypes.VHOST_IOTLB_BATCH_END, asid)
  }

  #range(at: number, entry: Uint32Array): void {
    const firstHigh = entry[EntryWord.firstHigh] as number
    const firstLow = entry[EntryWord.firstLow] as number
    // size = last - first + 1, with a borrow or a carry. It is 0 only for the whole space, where it is 2^64.
    const low = (entry[EntryWord.lastLow] as number) - firstLow + 1
    const high = (entry[EntryWord.lastHigh] as number) - firstHigh + Math.floor(low / TWO_32)
    if (high >= TWO_32) {
      this.#count--
      this.#bytes.fill(0, at, at + RECORD_BYTES)
      throw rangeError('size', 'below 2^64: one message cannot say it, two halves can', high * TWO_32)
    }
    this.#u64(at + IOVA, firstHigh, firstLow)
    this.#u64(at + SIZE, high, low)
  }

  /** Begins a record, all zeros as every byte behind the last one; returns where it is. */
  #start(type: number, asid: number): number {
    if (this.#version === 1 && asid !== 0) throw rangeError('asid', '0 in a version 1 message, which has none', asid)
    const at = this.#count * RECORD_BYTES
    if (at === this.#bytes.length) this.#grow()
    const { VHOST_IOTLB_MSG, VHOST_IOTLB_MSG_V2 } = vhostMessageTypes
    this.#view.setUint32(at, this.#version === 1 ? VHOST_IOTLB_MSG : VHOST_IOTLB_MSG_V2, true)
    this.#view.setUint32(at + ASID, asid, true)
    this.#bytes[at + TYPE] = type
    this.#count++
    return at
  }

  #u64(at: number, high: number, low: number): void {
    this.#view.setUint32(at, low, true)
    this.#view.setUint32(at + 4, high, true)
  }

  #grow(): void {
    const larger = new Uint8Array(this.#bytes.length * 2)
    larger.set(this.#bytes)
    this.#bytes = larger
    this.#view = new DataView(larger.buffer)
  }
}
