// A guest with a control queue in its memory, and a shadow between it and a simulated device.

import { ShadowControlQueue, type ShadowOptions } from '../../lib/control/shadow-queue.js'
import type { GuestControlRing } from '../../lib/control/guest-ring.js'
import type { AuditEvent } from '../../lib/control/shadow-policy.js'
import { GuestMemory } from '../../lib/memory/guest-memory.js'
import type { MemoryRegion } from '../../lib/memory/memory-region.js'
import { RingMemory } from '../../lib/memory/ring-memory.js'
import { openDevice } from '../../lib/open.js'
import type { VdpaDevice } from '../../lib/device/vdpa-device.js'
import { extraNetFeatures, networkDevice, Simulator, type NetworkDevice } from '../../lib/simulator/index.js'
import { netFeatureBits, transportFeatureBits } from '../../lib/uapi/virtio-features.js'
import { netCommands, type NetCommand, type NetCommandName } from '../../lib/uapi/virtio-net-commands.js'
import { createDriverRing } from '../../lib/virtqueue/create.js'
import { areaSizes } from '../../lib/virtqueue/layout.js'
import type { DriverRing, RingState } from '../../lib/virtqueue/virtqueue.js'
import type { AddressSpace } from '../../lib/device/address-space.js'
import type { Backend, Eventfd } from '../../lib/backend/backend.js'

export const path = '/dev/vhost-vdpa-0'
export const BASE = 0x1_0000_0000n
export const MEMORY_BYTES = 0x20_000
const SIZE = 32
const AREA = 0x1000
/** Where a command of a token lies, and its acknowledgement. */
const SLOT_AT = 0x8000
const SLOT = 0x1000
const ACK_AT = 0xf00

export const deviceBits = [
  ...extraNetFeatures.filter((number) => number < 24),
  netFeatureBits.VIRTIO_NET_F_CTRL_VQ,
  netFeatureBits.VIRTIO_NET_F_MQ,
  netFeatureBits.VIRTIO_NET_F_CTRL_MAC_ADDR,
  netFeatureBits.VIRTIO_NET_F_DEVICE_STATS,
]
export const guestFeatures = deviceBits.reduce((word, number) => word | (1n << BigInt(number)), 0n)

/** How a guest's ring may be. */
export const kinds: readonly (readonly [name: string, features: readonly (keyof typeof transportFeatureBits)[]])[] = [
  ['split', []],
  ['packed', ['VIRTIO_F_RING_PACKED']],
  ['split, EVENT_IDX, indirect', ['VIRTIO_F_RING_EVENT_IDX', 'VIRTIO_F_RING_INDIRECT_DESC']],
  [
    'packed, EVENT_IDX, indirect, IN_ORDER',
    ['VIRTIO_F_RING_PACKED', 'VIRTIO_F_RING_EVENT_IDX', 'VIRTIO_F_RING_INDIRECT_DESC', 'VIRTIO_F_IN_ORDER'],
  ],
  ['split, IN_ORDER', ['VIRTIO_F_IN_ORDER']],
]

/** The device, its program's side, and what it heard. */
export interface World {
  readonly simulator: Simulator
  readonly model: NetworkDevice
  readonly device: VdpaDevice<'net'>
  readonly space: AddressSpace
  readonly audited: AuditEvent[]
  readonly broken: unknown[]
}

export async function makeWorld(): Promise<World> {
  const simulator = new Simulator()
  const model = networkDevice({ path, mac: '02:00:00:00:00:0a', queuePairs: 2, moreFeatures: deviceBits })
  simulator.add(model)
  const device = await openDevice(path, { backend: simulator, expect: 'net' })
  await device.negotiate(deviceBits.filter((number) => number !== netFeatureBits.VIRTIO_NET_F_GUEST_ANNOUNCE))
  device.groups.assign(1, 1)
  return { simulator, model, device, space: device.addressSpace(1), audited: [], broken: [] }
}

export async function startShadow(
  world: World,
  options: Partial<ShadowOptions<AddressSpace>> = {},
): Promise<ShadowControlQueue<AddressSpace>> {
  const shadow = await ShadowControlQueue.start(world.device, {
    space: world.space,
    onAudit: (event) => world.audited.push(event),
    onBroken: (failure) => world.broken.push(failure),
    ...options,
  })
  await world.device.start()
  return shadow
}

export const turn = () => new Promise<void>((resolve) => setImmediate(resolve))

/** The guest: memory in two regions, a ring in the first, commands in both. */
export class Guest {
  readonly regions: readonly MemoryRegion[]
  readonly memory: GuestMemory
  readonly ring: DriverRing
  readonly kick: Eventfd
  readonly call: Eventfd
  readonly features: bigint
  readonly #free = Array.from({ length: 8 }, (_, token) => token)
  readonly #waits = new Map<number, (answer: { ack: number; used: number; answer: Uint8Array }) => void>()
  interrupts = 0
  /** It spoils its own ring, and does not mind. */
  isHostile = false

  constructor(
    world: { readonly simulator: Pick<Backend, 'allocate' | 'eventfd'> },
    kind: readonly (keyof typeof transportFeatureBits)[] = [],
  ) {
    const { simulator } = world
    this.regions = [0, 1].map(() => simulator.allocate(MEMORY_BYTES / 2))
    this.memory = new GuestMemory(
      this.regions.map((region, index) => ({ address: BASE + BigInt((index * MEMORY_BYTES) / 2), region })),
    )
    this.features = kind.reduce((word, name) => word | (1n << BigInt(transportFeatureBits[name])), guestFeatures)
    const format = kind.includes('VIRTIO_F_RING_PACKED') ? 'packed' : 'split'
    const sizes = areaSizes(format, SIZE)
    const [first] = this.regions
    const area = (index: number, length: number) => new RingMemory((first as MemoryRegion).buffer, index * AREA, length)
    const isIndirect = kind.includes('VIRTIO_F_RING_INDIRECT_DESC')
    this.ring = createDriverRing({
      format,
      size: SIZE,
      areas: { descriptor: area(0, sizes.descriptor), driver: area(1, sizes.driver), device: area(2, sizes.device) },
      features: {
        eventIdx: kind.includes('VIRTIO_F_RING_EVENT_IDX'),
        indirect: isIndirect,
        inOrder: kind.includes('VIRTIO_F_IN_ORDER'),
      },
      ...(isIndirect && {
        indirect: { memory: area(3, SIZE * 16 * 4), iova: BASE + BigInt(3 * AREA), tableSize: 4 },
      }),
    })
    this.kick = simulator.eventfd()
    this.call = simulator.eventfd()
    this.call.onSignal(() => {
      this.interrupts++
      try {
        this.collect()
      } catch (failure) {
        if (!this.isHostile) throw failure
      }
    })
  }

  /** What the guest tells of its queue. */
  queue(state?: RingState): GuestControlRing {
    const at = (index: number) => BASE + BigInt(index * AREA)
    return {
      memory: this.memory,
      features: this.features,
      size: SIZE,
      addresses: { descriptor: at(0), driver: at(1), device: at(2) },
      kick: this.kick,
      call: this.call,
      ...(state !== undefined && { state }),
    }
  }

  /** Bytes of the guest by offset. */
  bytes(offset: number, length: number): Uint8Array {
    const half = MEMORY_BYTES / 2
    const region = this.regions[Math.floor(offset / half)] as MemoryRegion
    return region.view(offset % half, length)
  }

  command(name: NetCommandName, value: unknown, room = 1) {
    const entry = netCommands[name] as unknown as NetCommand<unknown, unknown>
    return this.send(Uint8Array.of(entry.class, entry.command, ...entry.encode(value)), room)
  }

  /** Sends bytes as they are: two descriptors for them, one for what comes back. */
  async send(bytes: Uint8Array, room = 1): Promise<{ ack: number; used: number; answer: Uint8Array }> {
    while (this.#free.length === 0) await turn()
    const token = this.#free.pop() as number
    const at = SLOT_AT + token * SLOT
    this.bytes(at, bytes.length).set(bytes)
    this.bytes(at + ACK_AT, Math.max(room, 1)).fill(0xee)
    this.ring.begin()
    const head = Math.min(2, bytes.length)
    if (head > 0) this.ring.pushAddress(BASE + BigInt(at), head, false)
    if (bytes.length > head) this.ring.pushAddress(BASE + BigInt(at + head), bytes.length - head, false)
    if (room > 0) this.ring.pushAddress(BASE + BigInt(at + ACK_AT), room, true)
    this.ring.commit(token)
    return new Promise((resolve) => {
      this.#waits.set(token, resolve)
      if (this.ring.publish()) this.kick.signal()
    })
  }

  collect(): void {
    do {
      for (let token = this.ring.take(); token >= 0; token = this.ring.take()) {
        const written = this.bytes(SLOT_AT + token * SLOT + ACK_AT, Math.max(this.ring.usedLength, 1))
        this.#free.push(token)
        this.#waits.get(token)?.({ ack: written[0] ?? 0xee, used: this.ring.usedLength, answer: written.slice(1) })
      }
    } while (!this.ring.enableCalls())
  }

  /** The offset of a slot's bytes, for guests that change their mind. */
  slotOf(token: number): number {
    return SLOT_AT + token * SLOT
  }
}
