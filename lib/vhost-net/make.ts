// The making of a vhost-net device, step by step: each puts on the stack what undoes it. What it is for is vhost-net.ts.

import { bit } from '../base/bits.js'
import type { CloseStack } from '../base/closeable.js'
import { vdpaError } from '../base/errors.js'
import type { Backend } from '../backend/backend.js'
import { FrameBuffers, frameBufferStride } from '../drivers/frame-buffers.js'
import { newNetCounters, type NetCounters } from '../drivers/net-counters.js'
import { NetHeaders } from '../drivers/net-header.js'
import { NetReceiver } from '../drivers/net-receiver.js'
import { NetTransmitter } from '../drivers/net-transmitter.js'
import { QueueWaiters } from '../drivers/queue-waiters.js'
import type { RecordVersion } from '../misses/message.js'
import { MissServer, type MissServerOptions } from '../misses/miss-server.js'
import { missPort, type MissPort } from '../misses/port.js'
import { RegionTranslator } from '../misses/region-translator.js'
import { VhostChardevTransport } from '../transport/vhost-chardev.js'
import { backendFeatureBits } from '../uapi/vhost-types.js'
import { transportFeatureBits } from '../uapi/virtio-features.js'
import type { VhostNetWish } from './options.js'
import { openTap } from './tap.js'
import { queueBytes, VhostNetQueue, type QueueShape } from './vhost-net-queue.js'

/** Frames through one queue, and who waits for it. */
interface Half<T> {
  readonly frames: T
  readonly waiters: QueueWaiters
}

/** What a vhost-net device is made of. */
export interface VhostNetParts {
  readonly path: string
  readonly misses: MissServer
  readonly receive: Half<NetReceiver>
  readonly transmit: Half<NetTransmitter>
  readonly counters: NetCounters
  readonly errors: { count: number }
}

const HEADER_BYTES = 12
/** Where the memory of queue n begins for the device: no address is 0, and there is room between them. */
const queueIova = (index: number) => BigInt(index + 1) << 32n

const { VIRTIO_F_VERSION_1, VIRTIO_F_ACCESS_PLATFORM } = transportFeatureBits
const { VHOST_BACKEND_F_IOTLB_MSG_V2 } = backendFeatureBits

/** All of it. When it fails, the stack has what there is to undo. */
export async function makeParts(
  backend: Backend,
  tap: number | Uint8Array,
  wish: VhostNetWish,
  stack: CloseStack,
): Promise<VhostNetParts> {
  const { path, bufferBytes } = wish
  const tapFd = typeof tap === 'number' ? tap : await openOwnTap(backend, tap, stack)
  const errors = { count: 0 }
  const error = backend.eventfd()
  stack.push(() => error.close())
  error.onSignal((count) => (errors.count += count))
  const own = new RegionTranslator([], wish.granule)
  const [receive, transmit] = [0, 1].map((index) => {
    const queue = makeQueue(backend, shapeOf(wish, index), path, stack)
    own.add({ iova: queue.iova, region: queue.memory })
    return queue
  }) as [VhostNetQueue, VhostNetQueue]
  const halves = framesThrough([receive, transmit], path, bufferBytes)
  const handle = await backend.openAsync(path)
  const forget = stack.push(() => handle.close())
  const transport = new VhostChardevTransport(handle)
  const misses = new MissServer(portUntil(stack, missPort(handle, backend)), wish.translator?.(own) ?? own, {
    ...missOptions(wish, [halves.receive.waiters, halves.transmit.waiters]),
    version: negotiate(transport),
    usedRings: [receive.usedRing, transmit.usedRing],
  })
  // It keeps the memory that the device has translations of, and is closed behind it.
  forget()
  stack.push(() => misses.close())
  stack.push(() => handle.close())
  for (const queue of [receive, transmit]) {
    // The device writes to the used ring when it begins, and is refused (EFAULT) where it would have to ask for it.
    setUp(transport, queue, error.fd)
    await misses.prefetch(queue.usedRing)
    transport.setNetBackend(queue.index, tapFd)
    stack.push(() => transport.setNetBackendAsync(queue.index, -1))
  }
  receive.kick()
  return { path, misses, errors, ...halves }
}

async function openOwnTap(backend: Backend, name: Uint8Array, stack: CloseStack): Promise<number> {
  const handle = await openTap(backend, name, HEADER_BYTES)
  stack.push(() => handle.close())
  return handle.fd
}

function shapeOf({ size, bufferBytes }: VhostNetWish, index: number): QueueShape {
  return { index, size, bufferBytes: size * frameBufferStride(bufferBytes), iova: queueIova(index) }
}

function makeQueue(backend: Backend, shape: QueueShape, path: string, stack: CloseStack): VhostNetQueue {
  const memory = backend.allocate(queueBytes(shape), { name: `queue ${shape.index} of ${path}` })
  const forget = stack.push(() => memory.close())
  const queue = new VhostNetQueue(backend, memory, shape)
  forget()
  stack.push(() => queue.close())
  return queue
}

/** A port to which nothing is said once the device is being closed: an answer that comes then is nobody's. */
function portUntil(stack: Pick<CloseStack, 'isClosed'>, port: MissPort): MissPort {
  return {
    path: port.path,
    read: () => (stack.isClosed ? undefined : port.read()),
    write: (record) => {
      if (!stack.isClosed) port.write(record)
    },
    onReadable: (listener) => (stack.isClosed ? { [Symbol.dispose]: () => undefined } : port.onReadable(listener)),
    ...(port.reaches !== undefined && { reaches: port.reaches.bind(port) }),
  }
}

/** When the port ends, nothing comes through the queues any more: who waits is told before the program is. */
function missOptions(
  { onFault, onEnd, timeoutMs, maxInFlight }: VhostNetWish,
  waiters: readonly QueueWaiters[],
): MissServerOptions {
  return {
    ...(onFault !== undefined && { onFault }),
    ...(timeoutMs !== undefined && { timeoutMs }),
    ...(maxInFlight !== undefined && { maxInFlight }),
    onEnd: (failure) => {
      for (const some of waiters) some.breakOff(failure as Error)
      if (onEnd === undefined) throw failure
      onEnd(failure)
    },
  }
}

/** Claims the device and takes what is needed of it; returns how its misses are written. ERR_VDPA_FEATURES without what it cannot do without. */
function negotiate(transport: VhostChardevTransport): RecordVersion {
  transport.setOwner()
  const needed = bit(VIRTIO_F_VERSION_1) | bit(VIRTIO_F_ACCESS_PLATFORM)
  if ((transport.features() & needed) !== needed)
    throw vdpaError('ERR_VDPA_FEATURES', 'it does not offer VIRTIO_F_VERSION_1 and VIRTIO_F_ACCESS_PLATFORM', {
      path: transport.handle.path,
    })
  // Before the features: with those there is an IOTLB, whose misses are written so.
  const hasVersion2 = (transport.backendFeatures() & bit(VHOST_BACKEND_F_IOTLB_MSG_V2)) !== 0n
  if (hasVersion2) transport.setBackendFeatures(bit(VHOST_BACKEND_F_IOTLB_MSG_V2))
  transport.setFeatures(needed)
  transport.setMemTable([])
  return hasVersion2 ? 2 : 1
}

function setUp(transport: VhostChardevTransport, queue: VhostNetQueue, errorFd: number): void {
  const { index } = queue
  transport.setVringNum(index, queue.ring.size)
  transport.setVringBase(index, 0)
  transport.setVringAddr(index, queue.addresses)
  transport.setVringKick(index, queue.kickEvents.fd)
  transport.setVringCall(index, queue.callEvents.fd)
  transport.setVringErr(index, errorFd)
}

function framesThrough(
  [receive, transmit]: readonly [VhostNetQueue, VhostNetQueue],
  path: string,
  bufferBytes: number,
): Pick<VhostNetParts, 'receive' | 'transmit' | 'counters'> {
  const headers = new NetHeaders(() => false)
  const counters = newNetCounters()
  const receiver = new NetReceiver(new FrameBuffers(receive, bufferBytes), headers, counters, false)
  const buffers = new FrameBuffers(transmit, bufferBytes)
  const frameBytesLast = bufferBytes - HEADER_BYTES
  const limits = { frameBytesLast, plainBytesLast: frameBytesLast, untaggedBytesLast: frameBytesLast }
  const transmitter = new NetTransmitter(buffers, headers, counters, { idle: buffers.idle(), isNew: true, limits })
  receiver.post(receiver.buffers.idle())
  return {
    receive: { frames: receiver, waiters: new QueueWaiters(receive, path) },
    transmit: { frames: transmitter, waiters: new QueueWaiters(transmit, path) },
    counters,
  }
}
