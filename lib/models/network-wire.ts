// What came over a wire and waits for the receiving device's turn: frames as bytes, with the words about them that a header carries. No ring, no guest
// memory: how the receiver places them is its own business.

import { virtioNetHdrV1 } from '../uapi/virtio-net.js'

/** The part of a header that both ends have, whatever they negotiated. */
const HEADER_BYTES = virtioNetHdrV1.size
/** Frames and bytes that wait at most. The sender pauses then. */
const FRAMES_LAST = 512
const BYTES_LAST = 4 * 1024 * 1024

interface Slot {
  bytes: Uint8Array
  length: number
  pair: number
}

/** Frames in the order in which they came. In the steady state nothing is allocated. */
export class Inbox {
  readonly #slots: Slot[] = []
  #head = 0
  #length = 0
  #bytes = 0

  /** Frames that wait. */
  get length(): number {
    return this.#length
  }

  /** Whether the sender is to wait. */
  get isFull(): boolean {
    return this.#length >= FRAMES_LAST || this.#bytes >= BYTES_LAST
  }

  /** Adds what is in `source`: a header of `headerBytes`, of which the first 12 matter, and a frame; `length` is that of both. */
  push(pair: number, source: Uint8Array, headerBytes: number, length: number): void {
    const index = (this.#head + this.#length) % FRAMES_LAST
    const kept = HEADER_BYTES + length - headerBytes
    const slot = (this.#slots[index] ??= { bytes: new Uint8Array(0), length: 0, pair: 0 })
    if (slot.bytes.length < kept) slot.bytes = new Uint8Array(kept)
    slot.bytes.set(source.subarray(0, HEADER_BYTES))
    slot.bytes.set(source.subarray(headerBytes, length), HEADER_BYTES)
    slot.length = kept
    slot.pair = pair
    this.#length++
    this.#bytes += kept
  }

  /** The queue pair that the oldest frame was sent on; -1 when there is none. */
  get pair(): number {
    return this.#length === 0 ? -1 : (this.#slots[this.#head]?.pair ?? 0)
  }

  /** Takes the oldest frame to `target`, behind a header of `headerBytes` as the receiver has them; returns the length of both, 0 when there is none. */
  take(target: Uint8Array, headerBytes: number): number {
    const slot = this.#slots[this.#head]
    if (slot === undefined || this.#length === 0) return 0
    this.#head = (this.#head + 1) % FRAMES_LAST
    this.#length--
    this.#bytes -= slot.length
    target.set(slot.bytes.subarray(0, HEADER_BYTES))
    target.fill(0, HEADER_BYTES, headerBytes)
    target.set(slot.bytes.subarray(HEADER_BYTES, slot.length), headerBytes)
    return headerBytes + slot.length - HEADER_BYTES
  }

  /** Forgets all frames; returns how many there were. */
  clear(): number {
    const count = this.#length
    this.#length = this.#bytes = 0
    return count
  }
}
