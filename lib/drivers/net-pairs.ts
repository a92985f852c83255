// The queue pairs of a network driver, made on a device or made again from what was saved. What they carry is in net-receiver.ts and net-transmitter.ts.

import type { Steps } from '../base/steps.js'
import type { AddressSpace } from '../device/address-space.js'
import type { DeviceQueue, DeviceQueueOptions, NotifyBy, QueueSnapshot } from '../device/device-queue.js'
import type { VdpaDevice } from '../device/vdpa-device.js'
import { makeQueues } from './driver-queues.js'
import { FrameBuffers, frameBufferStride } from './frame-buffers.js'
import type { MutableNetCounters } from './net-counters.js'
import type { NetHeaders } from './net-header.js'
import { NetReceiver } from './net-receiver.js'
import type { SendLimits } from './net-sizes.js'
import { NetTransmitter } from './net-transmitter.js'
import { QueueWaiters } from './queue-waiters.js'

/** One receive queue and one transmit queue, and who waits for either. */
export interface QueuePair {
  /** The receive queue, and the transmit queue. */
  readonly queues: readonly [DeviceQueue, DeviceQueue]
  readonly receiver: NetReceiver
  readonly received: QueueWaiters
  readonly transmitter: NetTransmitter
  readonly sent: QueueWaiters
}

/** What pairs are made of. */
export interface PairOptions {
  readonly pairs: number
  readonly bufferBytes: number
  readonly limits: SendLimits
  readonly headers: NetHeaders
  readonly counters: MutableNetCounters
  /** VIRTIO_F_RING_EVENT_IDX. */
  readonly asksByPosition: boolean
  readonly addressSpace?: AddressSpace
  readonly size?: number
  readonly notifyBy?: NotifyBy
  readonly isLate?: boolean
  readonly restore?: { readonly queues: readonly QueueSnapshot[] }
}

/** Makes the queues, posts every idle receive buffer, and what `finish` makes of them, as part of a procedure of the device. Closes what it made when it fails. */
export function makePairs<T>(
  device: VdpaDevice<'net'>,
  options: PairOptions,
  finish: (pairs: readonly QueuePair[]) => T,
): Steps<T> {
  const pairsOf = (made: readonly DeviceQueue[]) => {
    const result: QueuePair[] = []
    for (let pair = 0; pair < options.pairs; pair++) {
      const [receive, transmit] = [made[2 * pair], made[2 * pair + 1]]
      if (receive !== undefined && transmit !== undefined) result.push(pairOf(device.path, receive, transmit, options))
    }
    return finish(result)
  }
  return makeQueues(device, 2 * options.pairs, (index) => queueOptions(device, index, options), pairsOf)
}

function queueOptions(device: VdpaDevice<'net'>, index: number, options: PairOptions): DeviceQueueOptions {
  const restore = options.restore?.queues[index]
  const size = restore?.ring.size ?? options.size ?? device.vring(index).defaultSize
  return {
    addressSpace: options.addressSpace ?? device.addressSpace(0),
    owner: 'a NetDriver',
    size,
    bufferBytes: size * frameBufferStride(options.bufferBytes),
    ...(options.notifyBy === undefined ? {} : { notifyBy: options.notifyBy }),
    ...(options.isLate === undefined ? {} : { isLate: options.isLate }),
    ...(restore === undefined ? {} : { restore }),
  }
}

function pairOf(path: string, receive: DeviceQueue, transmit: DeviceQueue, options: PairOptions): QueuePair {
  const { bufferBytes, headers, counters } = options
  const receiver = new NetReceiver(new FrameBuffers(receive, bufferBytes), headers, counters, options.asksByPosition)
  receiver.post(receiver.buffers.idle())
  const buffers = new FrameBuffers(transmit, bufferBytes)
  const idle = buffers.idle()
  const transmitter = new NetTransmitter(buffers, headers, counters, {
    idle,
    isNew: options.restore === undefined,
    limits: options.limits,
  })
  return {
    queues: [receive, transmit],
    receiver,
    received: new QueueWaiters(receive, path),
    transmitter,
    sent: new QueueWaiters(transmit, path),
  }
}
