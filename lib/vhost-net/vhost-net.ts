// A vhost-net device in front of a tap device, driven from this process: frames in and out, over rings whose memory the device is given as it misses it.

import { checkFunction, checkObject } from '../base/checks.js'
import { CloseStack, type Closeable } from '../base/closeable.js'
import { vdpaError } from '../base/errors.js'
import type { Backend } from '../backend/backend.js'
import { checkBudget } from '../drivers/driver-queues.js'
import type { NetCounters } from '../drivers/net-counters.js'
import type { FrameHandler } from '../drivers/net-receiver.js'
import type { MissServer } from '../misses/miss-server.js'
import { makeParts, type VhostNetParts } from './make.js'
import { checkedTap, checkedWish, type TapTarget, type VhostNetOptions } from './options.js'

/** Ends a wait. */
export interface VhostNetWaitOptions {
  /** Ends it with ERR_VDPA_CANCELED. */
  readonly signal?: AbortSignal
}

/** Frames through `/dev/vhost-net` to a tap device, and from it. Every verb of a closed one throws ERR_VDPA_CLOSED, and who waits meanwhile is told ERR_VDPA_CANCELED. */
export class VhostNet implements Closeable {
  /** The node. */
  readonly path: string
  /** Who answers the device's misses: its counters, its faults, and invalidations. It is closed with the device. */
  readonly misses: MissServer
  readonly #parts: VhostNetParts
  readonly #stack: CloseStack

  private constructor(parts: VhostNetParts, stack: CloseStack) {
    this.#parts = parts
    this.#stack = stack
    this.path = parts.path
    this.misses = parts.misses
  }

  /** openVhostNet() on a backend. */
  static async open(backend: Backend, tap: TapTarget, options: VhostNetOptions = {}): Promise<VhostNet> {
    const wish = checkedWish(options)
    const target = checkedTap(tap)
    const stack = new CloseStack()
    try {
      return new VhostNet(await makeParts(backend, target, wish, stack), stack)
    } catch (failure) {
      await stack.close().catch((met: unknown) => {
        const sentence = `${wish.path} was not opened, nor all of it undone`
        throw new AggregateError([failure, met], sentence, { cause: met })
      })
      throw failure
    }
  }

  /** True from close() on. */
  get isClosed(): boolean {
    return this.#stack.isClosed
  }

  /** What has gone through so far. */
  get counters(): NetCounters {
    return { ...this.#parts.counters }
  }

  /** Times that the device stopped a queue because of its ring, or because a translation did not allow what it was about to do. It goes on at the next kick(). */
  get queueErrors(): number {
    return this.#parts.errors.count
  }

  /** Sends one frame. False when the queue is full: try again after room(). RangeError for an empty or too long one. */
  send(frame: Uint8Array): boolean {
    this.#checkOpen()
    const { frames } = this.#parts.transmit
    const length = frames.check(frame, undefined)
    if (!frames.stage(frame, length, undefined)) return false
    frames.buffers.queue.publish()
    return true
  }

  /** Takes back the buffers of frames that were sent; returns how many. send() does it when it needs one. */
  reclaim(): number {
    this.#checkOpen()
    return this.#parts.transmit.frames.reclaim()
  }

  /** Resolves when a frame can be sent, with how many can. ERR_VDPA_CANCELED when `signal` aborts or the device is closed. */
  async room(options: VhostNetWaitOptions = {}): Promise<number> {
    checkObject(options, 'options')
    this.#checkOpen()
    const { frames, waiters } = this.#parts.transmit
    return waiters.until(() => {
      frames.reclaim()
      return frames.freeCount > 0 ? frames.freeCount : undefined
    }, options.signal)
  }

  /** Calls `handler` for each frame that has come, at most `budget` of them; returns how many came. What it is shown is valid during the call only. ERR_VDPA_RING_BROKEN. */
  receive(handler: FrameHandler, budget = Number.MAX_SAFE_INTEGER): number {
    checkFunction(handler, 'handler')
    checkBudget(budget)
    this.#checkOpen()
    return this.#parts.receive.frames.receive(handler, budget)
  }

  /** Resolves with a copy of the next frame. ERR_VDPA_CANCELED when `signal` aborts or the device is closed; ERR_VDPA_RING_BROKEN. */
  async nextFrame(options: VhostNetWaitOptions = {}): Promise<Uint8Array> {
    checkObject(options, 'options')
    this.#checkOpen()
    const { frames, waiters } = this.#parts.receive
    return waiters.until(() => {
      let frame: Uint8Array | undefined
      frames.receive((view) => (frame = view.slice()), 1)
      return frame
    }, options.signal)
  }

  /** Has the device look at both queues again, as after a queue error that was mended. */
  kick(): void {
    this.#checkOpen()
    const { receive, transmit } = this.#parts
    for (const { frames } of [receive, transmit]) frames.buffers.queue.kick()
  }

  /** Stops the queues, closes node and tap, and frees the memory. Goes on past failures, and tells of all of them. */
  close(): Promise<void> {
    return this.#stack.close()
  }

  /** close(). */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  #checkOpen(): void {
    if (this.isClosed) throw vdpaError('ERR_VDPA_CLOSED', 'the device is closed', { path: this.path })
  }
}
