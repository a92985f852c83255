// A small network driver: frames out of, and into, the queue pairs of an open device. Buffers are posted once and used again; in steady state
// nothing is allocated but the views that the caller is shown.

import { checkBytes, checkInteger } from '../base/checks.js'
import { CloseStack, type Closeable } from '../base/closeable.js'
import { vdpaError } from '../base/errors.js'
import type { AddressSpace } from '../device/address-space.js'
import type { DeviceQueue, NotifyBy } from '../device/device-queue.js'
import type { VdpaDevice } from '../device/vdpa-device.js'
import { netHeaderSize } from '../uapi/virtio-net.js'

export interface NetDriverOptions {
  /** The address space of the data queues' group; asid 0 by default. */
  readonly addressSpace?: AddressSpace
  /** Descriptors of each ring. */
  readonly size?: number
  /** Bytes of one buffer, header included: 2048 by default, enough for a frame of 1518. */
  readonly bufferBytes?: number
  readonly notifyBy?: NotifyBy
  /** Queue pairs to use; 1 by default. More need VIRTIO_NET_F_MQ, and the command VQ_PAIRS_SET. */
  readonly pairs?: number
}

/** What has gone through a driver so far. */
export interface NetCounters {
  readonly sentFrames: number
  readonly sentBytes: number
  readonly receivedFrames: number
  readonly receivedBytes: number
  /** Frames that did not fit into their buffer, or had no valid length. */
  readonly droppedFrames: number
}

const TWO_32 = 0x1_0000_0000

/** Buffers of one queue, in flat numbers: buffer i is at i × bufferBytes. */
class Buffers {
  readonly queue: DeviceQueue
  readonly bytes: Uint8Array
  readonly bufferBytes: number
  readonly #iovaHigh: number
  readonly #iovaLow: number

  constructor(queue: DeviceQueue, bufferBytes: number) {
    this.queue = queue
    this.bytes = queue.buffers.bytes()
    this.bufferBytes = bufferBytes
    this.#iovaHigh = Number(queue.buffersIova >> 32n)
    this.#iovaLow = Number(queue.buffersIova & 0xffff_ffffn)
  }

  /** Puts buffer `index` into the ring, `length` bytes of it. */
  add(index: number, length: number, deviceWrites: boolean): void {
    const { ring } = this.queue
    const low = this.#iovaLow + index * this.bufferBytes
    ring.begin()
    ring.push(this.#iovaHigh + (low >= TWO_32 ? 1 : 0), low >= TWO_32 ? low - TWO_32 : low, length, deviceWrites)
    ring.commit(index)
  }
}

/** One receive queue and one transmit queue. */
class QueuePair {
  readonly receive: Buffers
  readonly transmit: Buffers
  readonly freeTransmit: number[]

  constructor(receive: Buffers, transmit: Buffers) {
    this.receive = receive
    this.transmit = transmit
    this.freeTransmit = Array.from({ length: transmit.queue.ring.size }, (_, index) => index)
  }
}

export class NetDriver implements Closeable {
  /** Bytes of the header before each frame in a buffer (12, or 20 with HASH_REPORT). */
  readonly headerBytes: number
  readonly #path: string
  readonly #pairs: readonly QueuePair[]
  readonly #closing = new CloseStack()
  readonly #counters = { sentFrames: 0, sentBytes: 0, receivedFrames: 0, receivedBytes: 0, droppedFrames: 0 }

  private constructor(path: string, headerBytes: number, pairs: readonly QueuePair[]) {
    this.#path = path
    this.headerBytes = headerBytes
    this.#pairs = pairs
    for (const { receive, transmit } of pairs) {
      this.#closing.push(() => receive.queue.close())
      this.#closing.push(() => transmit.queue.close())
    }
  }

  /** Makes the data queues and posts every receive buffer, before device.start(). Queue 2n receives and queue 2n+1 transmits (spec section 5.1.2). */
  static async start(device: VdpaDevice<'net'>, options: NetDriverOptions = {}): Promise<NetDriver> {
    const { bufferBytes = 2048, pairs = 1, addressSpace = device.addressSpace(0) } = options
    checkInteger(bufferBytes, 'bufferBytes', 64, 0x1_0000)
    checkInteger(pairs, 'pairs', 1, Math.floor((device.queueCount ?? 2) / 2))
    const features = device.features
    if (features === undefined)
      throw vdpaError('ERR_VDPA_STATE', 'a driver needs negotiated features: call negotiate() first', {
        path: device.path,
      })
    const headerBytes = netHeaderSize(features.has('VIRTIO_NET_F_HASH_REPORT'))
    const made: DeviceQueue[] = []
    try {
      const queue = async (index: number) => {
        const size = options.size ?? Math.min(256, device.vring(index).maxSize)
        const result = await device.createQueue(index, {
          addressSpace,
          size,
          bufferBytes: size * bufferBytes,
          ...(options.notifyBy === undefined ? {} : { notifyBy: options.notifyBy }),
        })
        made.push(result)
        return new Buffers(result, bufferBytes)
      }
      const list: QueuePair[] = []
      for (let pair = 0; pair < pairs; pair++)
        list.push(new QueuePair(await queue(2 * pair), await queue(2 * pair + 1)))
      for (const { receive, transmit } of list) {
        for (let index = 0; index < receive.queue.ring.size; index++) receive.add(index, bufferBytes, true)
        receive.queue.ring.publish()
        transmit.queue.ring.disableCalls()
      }
      return new NetDriver(device.path, headerBytes, list)
    } catch (failure) {
      for (const queue of made.reverse()) await queue.close().catch(() => undefined)
      throw failure
    }
  }

  get isClosed(): boolean {
    return this.#closing.isClosed
  }

  get counters(): NetCounters {
    return { ...this.#counters }
  }

  /** Tells the device of the receive buffers; called once after device.start(), because a kick before DRIVER_OK may be lost. */
  kickReceive(): void {
    for (const { receive } of this.#pairs) receive.queue.kick()
  }

  /** Sends one frame (without header). False when the transmit queue is full: try again after the device has taken some. RangeError for an empty or too long frame. */
  send(frame: Uint8Array, pair = 0): boolean {
    checkBytes(frame, 'frame')
    const { transmit, freeTransmit } = this.#pair(pair)
    checkInteger(frame.byteLength, 'frame.byteLength', 1, transmit.bufferBytes - this.headerBytes)
    if (freeTransmit.length === 0) this.reclaim(pair)
    const index = freeTransmit.pop()
    if (index === undefined) return false
    const at = index * transmit.bufferBytes
    transmit.bytes.fill(0, at, at + this.headerBytes)
    transmit.bytes.set(frame, at + this.headerBytes)
    transmit.add(index, this.headerBytes + frame.byteLength, false)
    this.#counters.sentFrames++
    this.#counters.sentBytes += frame.byteLength
    transmit.queue.publish()
    return true
  }

  /** Takes back the buffers of frames that were sent; returns how many. */
  reclaim(pair = 0): number {
    const { transmit, freeTransmit } = this.#pair(pair)
    let count = 0
    for (let index = transmit.queue.ring.take(); index >= 0; index = transmit.queue.ring.take(), count++)
      freeTransmit.push(index)
    return count
  }

  /** Calls `handler` for each frame that has come, at most `budget` of them; the view is valid during the call only. Returns how many came. */
  receive(handler: (frame: Uint8Array) => void, budget = Number.MAX_SAFE_INTEGER, pair = 0): number {
    const { receive } = this.#pair(pair)
    const { ring } = receive.queue
    let count = 0
    while (count < budget) {
      const index = ring.take()
      if (index < 0) break
      const length = ring.usedLength - this.headerBytes
      const at = index * receive.bufferBytes + this.headerBytes
      if (length > 0) {
        count++
        this.#counters.receivedFrames++
        this.#counters.receivedBytes += length
      } else this.#counters.droppedFrames++
      try {
        if (length > 0) handler(receive.bytes.subarray(at, at + length))
      } finally {
        receive.add(index, receive.bufferBytes, true)
      }
    }
    if (count > 0) receive.queue.publish()
    return count
  }

  /** Calls `handler` for each frame as interrupts tell of them, until the returned function is called. Keeps the process alive meanwhile. */
  onFrame(handler: (frame: Uint8Array) => void, pair = 0): () => void {
    const { receive } = this.#pair(pair)
    const serve = () => {
      do this.receive(handler, Number.MAX_SAFE_INTEGER, pair)
      while (!this.isClosed && !receive.queue.ring.enableCalls())
    }
    const subscription = receive.queue.onCall(serve).ref()
    serve()
    return () => subscription.close()
  }

  /** Resolves with a copy of the next frame. Rejects with the signal's reason when it aborts. */
  nextFrame(options: { readonly signal?: AbortSignal; readonly pair?: number } = {}): Promise<Uint8Array> {
    const { signal, pair = 0 } = options
    return new Promise((resolve, reject) => {
      signal?.throwIfAborted()
      const { receive } = this.#pair(pair)
      const end = () => {
        subscription.close()
        signal?.removeEventListener('abort', onAbort)
      }
      const onAbort = () => {
        end()
        reject(signal?.reason as Error)
      }
      const serve = () => {
        do {
          let frame: Uint8Array | undefined
          this.receive((view) => (frame = view.slice()), 1, pair)
          if (frame === undefined) continue
          end()
          resolve(frame)
          return
        } while (!receive.queue.ring.enableCalls())
      }
      const subscription = receive.queue.onCall(serve).ref()
      signal?.addEventListener('abort', onAbort)
      serve()
    })
  }

  /** Closes the data queues; VdpaDevice.close() and reset() do it as well. The device must be stopped. */
  close(): Promise<void> {
    return this.#closing.close()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  #pair(index: number): QueuePair {
    if (this.isClosed) throw vdpaError('ERR_VDPA_CLOSED', 'the network driver is closed', { path: this.#path })
    const pair = this.#pairs[index]
    if (pair === undefined) {
      checkInteger(index, 'pair', 0, this.#pairs.length - 1)
      throw vdpaError('ERR_VDPA_STATE', `there is no pair ${index}`, { path: this.#path })
    }
    return pair
  }
}
