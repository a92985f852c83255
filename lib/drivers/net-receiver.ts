// One receive queue: frames out of its buffers, merged where they came in several, and the buffers back into the ring. Sections are those of virtio 1.2.

import { ProgramCalls } from '../base/program-calls.js'
import { ringBroken, rule } from '../virtqueue/broken.js'
import type { FrameBuffers } from './frame-buffers.js'
import type { MutableNetCounters } from './net-counters.js'
import type { NetHeaders, ReceivedHeader } from './net-header.js'
import { LONGEST_FRAME_BYTES } from './net-sizes.js'

const NOTHING = -1
const DROPPED = -2
/** Is shown each frame. Both are valid during the call only. */
export type FrameHandler = (frame: Uint8Array, header: ReceivedHeader) => void

/** Is shown each frame in the pieces in which it came. All are valid during the call only. */
export type FramePartsHandler = (parts: readonly Uint8Array[], header: ReceivedHeader) => void

/** The receiving half of a queue pair. */
export class NetReceiver {
  readonly buffers: FrameBuffers
  readonly #headers: NetHeaders
  readonly #counters: MutableNetCounters
  // The buffers of the frame in hand, and how many bytes the device wrote to each.
  readonly #taken: Int32Array
  readonly #written: Float64Array
  // Those of the frame in hand lie from #first up to #end; below are those of the calls from whose handlers this one comes.
  #first = 0
  #end = 0
  // Where a frame of several buffers is joined; grows to the longest seen.
  #joined = new Uint8Array(0)
  #failure: string | undefined
  // Lengths that the ring has cut so far.
  #overlongCount = 0
  // Buffers that the device may see and was not told of, how many are told of at once, and whether it wants to be told.
  #untold = 0
  readonly #tellAt: number
  #isTellingWanted = false
  readonly #longestBytes: number

  /** `asksByPosition`: the device says at which buffer it wants to be told (VIRTIO_F_RING_EVENT_IDX). */
  constructor(buffers: FrameBuffers, headers: NetHeaders, counters: MutableNetCounters, asksByPosition: boolean) {
    this.buffers = buffers
    this.#headers = headers
    this.#counters = counters
    this.#taken = new Int32Array(buffers.queue.ring.size)
    this.#written = new Float64Array(buffers.queue.ring.size)
    // A quarter of the ring at once, as a notification may cost more than a frame. A device that looks only when it is told keeps three quarters, which must do
    // for the longest frame. One that asks by position asks when it has none left, and is told then.
    const rest = buffers.queue.ring.size - (buffers.queue.ring.size >>> 2)
    const isEnough = !headers.isMergeable || rest * buffers.bufferBytes >= headers.size + LONGEST_FRAME_BYTES
    this.#longestBytes = Math.max(buffers.bufferBytes, LONGEST_FRAME_BYTES)
    this.#tellAt = isEnough && !asksByPosition ? Math.max(1, buffers.queue.ring.size >>> 2) : 1
  }

  /** Puts buffers that are not in the ring there. */
  post(indexes: readonly number[]): void {
    for (const index of indexes) this.buffers.add(index, this.buffers.bufferBytes, true)
    this.buffers.queue.ring.publish()
  }

  /** Gives each frame that has come to `handler`, at most `budget` of them, and posts the buffers again. Returns how many were given. */
  receive(handler: FrameHandler, budget: number): number {
    return this.#each(budget, (frameBytes, header) => handler(this.#frame(frameBytes), header))
  }

  /** The same without a copy: a frame that came in several buffers is given as several views. */
  receiveParts(handler: FramePartsHandler, budget: number): number {
    return this.#each(budget, (_frameBytes, header) => handler(this.#parts(), header))
  }

  /**
   * The handler may call receive() again: the frames in hand are a stack, and each call takes those that come next. It may close the queue: the frames that
   * were not given yet are gone with it. What it throws is thrown when the others were given.
   */
  #each(budget: number, give: (frameBytes: number, header: ReceivedHeader) => void): number {
    if (this.#failure !== undefined) throw ringBroken(this.#failure)
    const { queue } = this.buffers
    const outer = this.#first
    const first = (this.#first = this.#end)
    const header = first === 0 ? this.#headers.received : { ...this.#headers.received }
    const calls = new ProgramCalls()
    let given = 0
    try {
      while (given < budget && !queue.isClosed) {
        const frameBytes = this.#take()
        if (frameBytes === NOTHING) break
        if (frameBytes !== DROPPED) {
          given++
          if (first > 0) Object.assign(header, this.#headers.received)
          try {
            give(frameBytes, header)
          } catch (failure) {
            calls.keep(failure)
          }
        }
        this.#post()
      }
      if (this.#untold > 0 && !queue.isClosed) this.#publish()
    } catch (failure) {
      calls.keep(failure)
    } finally {
      this.#first = outer
      this.#end = first
    }
    calls.throwKept()
    return given
  }

  /** Takes the buffers of the next frame: its bytes, DROPPED when it is none to give, NOTHING when none has come. */
  #take(): number {
    const { ring } = this.buffers.queue
    const index = ring.take()
    if (index < 0) return NOTHING
    const headerBytes = this.#headers.size
    this.#taken[this.#first] = index
    this.#written[this.#first] = ring.usedLength
    this.#end = this.#first + 1
    const counters = this.#counters
    if (ring.usedLength < headerBytes) {
      // Not even a header: what else would have come with it cannot be told.
      counters.droppedFrames++
      return DROPPED
    }
    this.#headers.read(this.buffers.memory, this.buffers.at(index))
    let frameBytes = ring.usedLength - headerBytes
    if (this.#headers.received.numBuffers !== 1) frameBytes += this.#takeRest(this.#headers.received.numBuffers)
    if (ring.overlongCount !== this.#overlongCount) return this.#dropOverlong(ring.overlongCount)
    if (frameBytes === 0) {
      counters.droppedFrames++
      return DROPPED
    }
    // A longer one than there can be is not held for the device, however many buffers it says.
    if (frameBytes > this.#longestBytes || !this.#headers.isReceivable(frameBytes)) {
      counters.invalidFrames++
      return DROPPED
    }
    counters.receivedFrames++
    counters.receivedBytes += frameBytes
    return frameBytes
  }

  /** A frame that is longer than what it came in is not whole. */
  #dropOverlong(overlongCount: number): number {
    this.#counters.overlongLengths += overlongCount - this.#overlongCount
    this.#counters.droppedFrames++
    this.#overlongCount = overlongCount
    return DROPPED
  }

  /** Takes the other buffers of a frame that says it has `count`; returns their bytes. Section 5.1.6.4: so many are in the used ring by then. */
  #takeRest(count: number): number {
    const { ring } = this.buffers.queue
    const section = '5.1.6.4'
    if (count === 0) this.#break('a received frame says that it came in 0 buffers', section)
    if (count > ring.size)
      this.#break(`a received frame says that it came in ${count} of ${ring.size} buffers`, section)
    let bytes = 0
    for (let at = 1; at < count; at++) {
      const index = ring.take()
      if (index < 0) this.#break(`a received frame says that it came in ${count} buffers, and ${at} were used`, section)
      this.#taken[this.#end] = index
      this.#written[this.#end++] = ring.usedLength
      bytes += ring.usedLength
    }
    return bytes
  }

  /** The frame in hand in one piece: where it lies, or joined. */
  #frame(frameBytes: number): Uint8Array {
    const { size } = this.#headers
    const first = this.#first
    if (this.#end === first + 1) return this.buffers.view(this.#taken[first] as number, size, frameBytes)
    // A frame that an outer call shows lies in the memory that is kept.
    let joined = this.#joined
    if (first > 0 || joined.byteLength < frameBytes) joined = new Uint8Array(frameBytes)
    if (first === 0) this.#joined = joined
    let at = 0
    for (let part = first; part < this.#end; part++) {
      const view = this.#part(part)
      joined.set(view, at)
      at += view.byteLength
    }
    return joined.subarray(0, frameBytes)
  }

  #parts(): Uint8Array[] {
    const parts: Uint8Array[] = []
    for (let part = this.#first; part < this.#end; part++) {
      const view = this.#part(part)
      if (view.byteLength > 0) parts.push(view)
    }
    return parts
  }

  #part(part: number): Uint8Array {
    const offset = part === this.#first ? this.#headers.size : 0
    return this.buffers.view(this.#taken[part] as number, offset, (this.#written[part] as number) - offset)
  }

  /** Puts the buffers of the frame in hand back into the ring. */
  #post(): void {
    const { queue, bufferBytes } = this.buffers
    const first = this.#first
    if (!queue.isClosed) {
      for (let part = first; part < this.#end; part++) this.buffers.add(this.#taken[part] as number, bufferBytes, true)
      this.#untold += this.#end - first
    }
    this.#end = first
  }

  /** Shows the device the buffers that were put back, and tells it of them where it asked for that and they are many enough. */
  #publish(): void {
    const { queue } = this.buffers
    if (queue.ring.publish()) this.#isTellingWanted = true
    if (this.#untold < this.#tellAt) return
    // What was not told, because that failed, is told the next time.
    if (this.#isTellingWanted) queue.kick()
    this.#isTellingWanted = false
    this.#untold = 0
  }

  #break(what: string, section: string): never {
    this.#failure = rule(what, section)
    this.#counters.droppedFrames++
    throw ringBroken(this.#failure)
  }
}
