// A guest with a network device: its rings, buffers and frames lie in its memory. It numbers its frames, and books which of them come back.

import type { Backend, Eventfd } from '../../lib/backend/backend.js'
import type { VdpaDevice } from '../../lib/device/vdpa-device.js'
import { GuestMemory } from '../../lib/memory/guest-memory.js'
import type { MemoryRegion } from '../../lib/memory/memory-region.js'
import { RingMemory } from '../../lib/memory/ring-memory.js'
import { openDevice } from '../../lib/open.js'
import { ShadowQueue, type GuestDataRing, type ShadowQueueOptions } from '../../lib/shadow/shadow-queue.js'
import { extraNetFeatures, networkDevice, Simulator, type NetworkDevice } from '../../lib/simulator/index.js'
import type { NetworkDeviceOptions } from '../../lib/models/network-options.js'
import type { transportFeatureBits } from '../../lib/uapi/virtio-features.js'
import { createDriverRing } from '../../lib/virtqueue/create.js'
import { areaSizes } from '../../lib/virtqueue/layout.js'
import type { DriverRing } from '../../lib/virtqueue/virtqueue.js'

export const path = '/dev/vhost-vdpa-0'
export const BASE = 0x1000_0000
export const MEMORY_BYTES = 0x10_0000
export const SIZE = 64
const QUEUE_BYTES = 0x8000
const BUFFERS_AT = 0x4_0000
const SLOT = 0x800
export const HEADER = 12
const NUMBER_AT = HEADER + 14
export const FRAME_BYTES = 78

type Feature = keyof typeof transportFeatureBits
/** How a guest's rings may be. */
export const kinds: readonly (readonly [name: string, features: readonly Feature[]])[] = [
  ['split', []],
  ['packed', ['VIRTIO_F_RING_PACKED']],
  ['split, EVENT_IDX, indirect', ['VIRTIO_F_RING_EVENT_IDX', 'VIRTIO_F_RING_INDIRECT_DESC']],
  [
    'packed, EVENT_IDX, indirect, IN_ORDER',
    ['VIRTIO_F_RING_PACKED', 'VIRTIO_F_RING_EVENT_IDX', 'VIRTIO_F_RING_INDIRECT_DESC', 'VIRTIO_F_IN_ORDER'],
  ],
  ['split, IN_ORDER', ['VIRTIO_F_IN_ORDER']],
]

export const turn = () => new Promise<void>((resolve) => setImmediate(resolve))

/** The guest. */
export class NetGuest {
  readonly region: MemoryRegion
  readonly memory: GuestMemory
  readonly rings: readonly DriverRing[]
  readonly kicks: readonly Eventfd[]
  readonly calls: readonly Eventfd[]
  /** Numbers of frames, in the order in which they came. */
  readonly received: number[] = []
  /** Guest addresses of the receive buffers that came back since somebody emptied it, and how much was written. */
  readonly written: { address: number; length: number }[] = []
  sent = 0
  #free = Array.from({ length: SIZE / 2 }, (_, token) => token)

  constructor(backend: Pick<Backend, 'allocate' | 'eventfd'>, kind: readonly Feature[] = [], base = BASE) {
    this.region = backend.allocate(MEMORY_BYTES)
    this.memory = new GuestMemory([{ address: BigInt(base), region: this.region }])
    this.base = base
    this.rings = [0, 1].map((index) => this.#makeRing(index, kind))
    this.kicks = [0, 1].map(() => backend.eventfd())
    this.calls = [0, 1].map(() => backend.eventfd())
    this.#postAll()
  }

  readonly base: number

  ring(index: number): DriverRing {
    return this.rings[index] as DriverRing
  }

  /** What the guest tells of a queue. */
  queue(index: number): GuestDataRing {
    const format = this.ring(index).format
    const sizes = areaSizes(format, SIZE)
    const at = index * QUEUE_BYTES
    const address = (offset: number) => BigInt(this.base + at + offset)
    return {
      memory: this.memory,
      size: SIZE,
      addresses: {
        descriptor: address(0),
        driver: address(sizes.descriptor),
        device: address(0x1000 + (sizes.descriptor >= 0x1000 ? 0x1000 : 0)),
      },
      kick: this.kicks[index] as Eventfd,
      call: this.calls[index] as Eventfd,
    }
  }

  bytes(offset: number, length: number): Uint8Array {
    return this.region.view(offset, length)
  }

  /** Sends a frame to everybody, numbered; false when the guest has no buffer for it now. */
  send(): boolean {
    // One that comes when there is no receive buffer is dropped by the device.
    if (this.sent - this.received.length >= SIZE / 2) return false
    const slot = this.#free.pop()
    if (slot === undefined) return false
    const at = BUFFERS_AT + (SIZE / 2 + slot) * SLOT
    const frame = this.bytes(at, FRAME_BYTES)
    frame.fill(0)
    frame.fill(0xff, HEADER, HEADER + 6)
    new DataView(frame.buffer, frame.byteOffset).setUint32(NUMBER_AT, this.sent, true)
    const ring = this.ring(1)
    ring.begin()
    ring.pushAddress(BigInt(this.base + at), HEADER, false)
    ring.pushAddress(BigInt(this.base + at + HEADER), FRAME_BYTES - HEADER, false)
    ring.commit(slot)
    this.sent++
    if (ring.publish()) this.kicks[1]?.signal()
    return true
  }

  /** Takes what came, and posts the buffers again. */
  collect(): void {
    const [receive, transmit] = [this.ring(0), this.ring(1)]
    for (let slot = transmit.take(); slot >= 0; slot = transmit.take()) this.#free.push(slot)
    for (let slot = receive.take(); slot >= 0; slot = receive.take()) {
      const at = BUFFERS_AT + slot * SLOT
      const bytes = this.bytes(at, SLOT)
      this.received.push(new DataView(bytes.buffer, bytes.byteOffset).getUint32(NUMBER_AT, true))
      this.written.push({ address: this.base + at, length: receive.usedLength })
      this.#post(slot)
    }
    if (receive.publish()) this.kicks[0]?.signal()
  }

  close(): void {
    for (const eventfd of [...this.kicks, ...this.calls]) eventfd.close()
    this.region.close({ unmap: true })
  }

  /** Begins the receive ring anew, as after a reset of its device. */
  beginAnew(): void {
    this.ring(0).reset()
    this.#postAll()
  }

  #postAll(): void {
    for (let slot = 0; slot < SIZE / 2; slot++) this.#post(slot)
    this.ring(0).publish()
  }

  #post(slot: number): void {
    const ring = this.ring(0)
    ring.begin()
    ring.pushAddress(BigInt(this.base + BUFFERS_AT + slot * SLOT), SLOT, true)
    ring.commit(slot)
  }

  #makeRing(index: number, kind: readonly Feature[]): DriverRing {
    const format = kind.includes('VIRTIO_F_RING_PACKED') ? 'packed' : 'split'
    const sizes = areaSizes(format, SIZE)
    const at = index * QUEUE_BYTES
    const area = (offset: number, length: number) => new RingMemory(this.region.buffer, at + offset, length)
    const isIndirect = kind.includes('VIRTIO_F_RING_INDIRECT_DESC')
    return createDriverRing({
      format,
      size: SIZE,
      areas: {
        descriptor: area(0, sizes.descriptor),
        driver: area(sizes.descriptor, sizes.driver),
        device: area(0x1000 + (sizes.descriptor >= 0x1000 ? 0x1000 : 0), sizes.device),
      },
      features: {
        eventIdx: kind.includes('VIRTIO_F_RING_EVENT_IDX'),
        indirect: isIndirect,
        inOrder: kind.includes('VIRTIO_F_IN_ORDER'),
      },
      ...(isIndirect && {
        indirect: { memory: area(0x3000, SIZE * 16 * 4), iova: BigInt(this.base + at + 0x3000), tableSize: 4 },
      }),
    })
  }
}

/** A simulated device with a guest before it. */
export interface NetWorld {
  readonly simulator: Simulator
  readonly model: NetworkDevice
  readonly device: VdpaDevice<'net'>
  readonly guest: NetGuest
  readonly shadows: readonly ShadowQueue[]
  readonly broken: unknown[]
}

export async function makeNetWorld(
  kind: readonly Feature[] = [],
  device: NetworkDeviceOptions = {},
  options: (world: Omit<NetWorld, 'shadows'>, index: number) => Partial<ShadowQueueOptions> = () => ({}),
  around: (simulator: Simulator) => Backend = (simulator) => simulator,
): Promise<NetWorld> {
  const simulator = new Simulator()
  const model = networkDevice({ path, mac: '02:00:00:00:00:0a', moreFeatures: extraNetFeatures, ...device })
  simulator.add(model)
  const opened = await openDevice(path, { backend: around(simulator), expect: 'net' })
  await opened.negotiate([...kind, 'VIRTIO_NET_F_CTRL_VQ', 'VIRTIO_NET_F_CTRL_MAC_ADDR'])
  const guest = new NetGuest(simulator, kind)
  const broken: unknown[] = []
  const world = { simulator, model, device: opened, guest, broken }
  const shadows = [0, 1].map(
    (index) =>
      new ShadowQueue(opened, {
        index,
        guest: guest.queue(index),
        space: opened.addressSpace(0),
        onBroken: (failure) => broken.push(failure),
        ...options(world, index),
      }),
  )
  return { ...world, shadows }
}

/** Lets everything run until so many frames have come, or nothing comes any more. */
export async function settle(guest: NetGuest, frames = guest.sent): Promise<void> {
  for (let idle = 0, seen = guest.received.length; guest.received.length < frames && idle < 200; idle++) {
    await turn()
    guest.collect()
    if (guest.received.length > seen) idle = 0
    seen = guest.received.length
  }
}

/** Sends so many frames, as buffers come back. */
export async function sendFrames(guest: NetGuest, count: number): Promise<void> {
  for (let sent = 0, idle = 0; sent < count && idle < 500; idle++) {
    while (sent < count && guest.send()) [sent, idle] = [sent + 1, 0]
    guest.collect()
    await turn()
  }
}

export const upTo = (count: number) => Array.from({ length: count }, (_, number) => number)
