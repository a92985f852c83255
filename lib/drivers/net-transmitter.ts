// One transmit queue: frames into free buffers, behind their headers, and the buffers back when the device has sent them. It does not wait.

import { checkBytes, checkInteger, rangeError, trueLength } from '../base/checks.js'
import { ETHERTYPE_AT, isVlanTag } from '../uapi/net-frame.js'
import type { FrameBuffers } from './frame-buffers.js'
import type { MutableNetCounters } from './net-counters.js'
import { isSegmented, type NetHeaders, type PacketHeader } from './net-header.js'
import type { SendLimits } from './net-sizes.js'

/** The sending half of a queue pair. */
export class NetTransmitter {
  readonly buffers: FrameBuffers
  /** The longest frame. */
  readonly frameBytesLast: number
  /** The longest that goes out as it is. */
  readonly #plainBytesLast: number
  /** The longest of those without a VLAN tag. */
  readonly #untaggedBytesLast: number
  readonly #headers: NetHeaders
  readonly #counters: MutableNetCounters
  // A stack of free buffers.
  readonly #free: Int32Array
  #freeCount = 0
  /** Buffers whose header is not all 0: it stays in the buffer from frame to frame. */
  readonly #hasHeader: Uint8Array

  /** `idle`: the buffers that are not in the ring. `isNew`: nothing was ever written to them. */
  constructor(
    buffers: FrameBuffers,
    headers: NetHeaders,
    counters: MutableNetCounters,
    { idle, isNew, limits }: { readonly idle: readonly number[]; readonly isNew: boolean; readonly limits: SendLimits },
  ) {
    this.buffers = buffers
    this.frameBytesLast = limits.frameBytesLast
    this.#plainBytesLast = limits.plainBytesLast
    this.#untaggedBytesLast = limits.untaggedBytesLast
    this.#headers = headers
    this.#counters = counters
    this.#free = new Int32Array(buffers.queue.ring.size)
    this.#hasHeader = new Uint8Array(buffers.queue.ring.size).fill(isNew ? 0 : 1)
    for (const index of idle.toReversed()) this.#free[this.#freeCount++] = index
  }

  /** Frames that can be taken now, without asking the device. */
  get freeCount(): number {
    return this.#freeCount
  }

  /** Takes back the buffers of frames that were sent; returns how many. */
  reclaim(): number {
    const { ring } = this.buffers.queue
    let count = 0
    const overlongCount = ring.overlongCount
    for (let index = ring.take(); index >= 0; index = ring.take(), count++) this.#free[this.#freeCount++] = index
    this.#counters.overlongLengths += ring.overlongCount - overlongCount
    return count
  }

  /** Checks a frame; see NetDriver.send(). `header` is what NetHeaders.take() gave. Returns its length, which is what counts and not what an array may say of itself. */
  check(frame: Uint8Array, header: PacketHeader | undefined): number {
    checkBytes(frame, 'frame')
    const length = trueLength(frame)
    this.checkLength(length, header)
    if (length > this.#untaggedBytesLast && (header === undefined || !isSegmented(header)))
      this.#checkTag(frame, length)
    return length
  }

  checkLength(length: number, header: PacketHeader | undefined): void {
    const last = header !== undefined && isSegmented(header) ? this.frameBytesLast : this.#plainBytesLast
    checkInteger(length, 'frame.byteLength', 1, last)
  }

  /** The four bytes more than the MTU allows are for a tag (spec section 5.1.4.2). */
  #checkTag(frame: Uint8Array, length: number): void {
    if (isVlanTag(frame, ETHERTYPE_AT)) return
    throw rangeError('frame.byteLength', `at most ${this.#untaggedBytesLast} without a VLAN tag`, length)
  }

  /** Puts a checked frame of `length` bytes in a buffer and in the ring, to be published; false when there is no buffer. */
  stage(frame: Uint8Array, length: number, header: PacketHeader | undefined): boolean {
    if (header !== undefined) this.#headers.checkSendable(header, length)
    if (header !== undefined && isSegmented(header)) this.#headers.checkHeaderLength(header, frame)
    const index = this.#begin(header)
    if (index < 0) return false
    this.buffers.bytes.set(frame, this.buffers.at(index) + this.#headers.size)
    this.#end(index, length)
    return true
  }

  /** The same for a frame of `length` bytes that `write` writes where it will be sent from. False as well when `write` closed the queue. */
  stageInPlace(length: number, write: (frame: Uint8Array) => void, header: PacketHeader | undefined): boolean {
    if (header !== undefined) this.#headers.checkSendable(header, length)
    const index = this.#begin(header)
    if (index < 0) return false
    const frame = this.buffers.view(index, this.#headers.size, length)
    // A copy: `write` may send another frame, and headers are all in one object.
    const segmented = header !== undefined && isSegmented(header) ? { ...header } : undefined
    try {
      write(frame)
      if (!this.buffers.queue.isClosed) this.#checkWritten(frame, length, segmented)
    } catch (failure) {
      this.#free[this.#freeCount++] = index
      throw failure
    }
    if (this.buffers.queue.isClosed) return false
    this.#end(index, length)
    return true
  }

  /** What can be told of a frame by its bytes alone. */
  #checkWritten(frame: Uint8Array, length: number, segmented: PacketHeader | undefined): void {
    if (segmented !== undefined) this.#headers.checkHeaderLength(segmented, frame)
    else if (length > this.#untaggedBytesLast) this.#checkTag(frame, length)
  }

  /** Takes a free buffer and writes its header. */
  #begin(header: PacketHeader | undefined): number {
    if (this.#freeCount === 0 && this.reclaim() === 0) {
      this.#counters.refusedFrames++
      return -1
    }
    const index = this.#free[--this.#freeCount] as number
    if (header !== undefined) {
      this.#headers.clear(this.buffers.memory, this.buffers.at(index))
      this.#headers.write(this.buffers.memory, this.buffers.at(index), header)
      this.#hasHeader[index] = 1
    } else if (this.#hasHeader[index] === 1) {
      this.#headers.clear(this.buffers.memory, this.buffers.at(index))
      this.#hasHeader[index] = 0
    }
    return index
  }

  #end(index: number, length: number): void {
    this.buffers.add(index, this.#headers.size + length, false)
    this.#counters.sentFrames++
    this.#counters.sentBytes += length
  }
}
