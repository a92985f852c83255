// A driver by hand for the simulator's tests: requests as bytes, messages as records, rings over a region. Nothing of the layers above.

import type { Backend, Eventfd, Handle } from '../../lib/backend/backend.js'
import { RingMemory } from '../../lib/memory/ring-memory.js'
import type { MemoryRegion } from '../../lib/memory/memory-region.js'
import { requests, type RequestName } from '../../lib/uapi/vhost.js'
import { vhostMsg, vhostMsgV2, vhostVringAddr } from '../../lib/uapi/vhost-types.js'
import { createDriverRing } from '../../lib/virtqueue/create.js'
import { areaSizes } from '../../lib/virtqueue/layout.js'
import type { DriverRing, RingFeatures, RingFormat } from '../../lib/virtqueue/virtqueue.js'

export const VERSION_AND_PLATFORM = (1n << 32n) | (1n << 33n)
export const MAC = '00:11:22:33:44:55'

/** The result of an action, or the code of what it threw. */
export function codeOf(action: () => unknown): unknown {
  try {
    return action()
  } catch (error) {
    return (error as { code?: string }).code ?? String(error)
  }
}

export class Client {
  readonly handle: Handle
  readonly backend: Backend

  constructor(backend: Backend, path = '/dev/vhost-vdpa-0') {
    this.backend = backend
    this.handle = backend.open(path)
  }

  call(name: RequestName, bytes: Uint8Array | 0 = 0): number {
    return this.handle.ioctl(requests[name].number, bytes)
  }

  owner(): this {
    this.call('VHOST_SET_OWNER')
    return this
  }

  get(name: RequestName): bigint {
    const { size } = requests[name]
    const bytes = new Uint8Array(8)
    this.call(name, bytes.subarray(0, size))
    return new DataView(bytes.buffer).getBigUint64(0, true)
  }

  set(name: RequestName, value: bigint | number): number {
    const bytes = new Uint8Array(8)
    new DataView(bytes.buffer).setBigUint64(0, BigInt(value), true)
    return this.call(name, bytes.subarray(0, requests[name].size))
  }

  /** A request about a queue or group; returns the second word afterwards. */
  vring(name: RequestName, index: number, num = 0): number {
    const view = new DataView(new ArrayBuffer(8))
    view.setUint32(0, index, true)
    view.setInt32(4, num | 0, true)
    this.call(name, new Uint8Array(view.buffer))
    return view.getUint32(4, true)
  }

  address(index: number, descriptor: bigint, driver: bigint, device: bigint, flags = 0): number {
    const bytes = vhostVringAddr.encode({
      index,
      flags,
      desc_user_addr: descriptor,
      avail_user_addr: driver,
      used_user_addr: device,
      log_guest_addr: 0n,
    })
    return this.call('VHOST_SET_VRING_ADDR', bytes)
  }

  config(offset: number, length: number): Uint8Array {
    const bytes = new Uint8Array(8 + length)
    const view = new DataView(bytes.buffer)
    view.setUint32(0, offset, true)
    view.setUint32(4, length, true)
    this.call('VHOST_VDPA_GET_CONFIG', bytes)
    return bytes.slice(8)
  }

  message(type: number, { asid = 0, iova = 0n, size = 0n, uaddr = 0n, perm = 3 } = {}): number {
    return this.handle.write(vhostMsgV2.encode({ message: 2, asid, iova, size, uaddr, perm, type }))
  }

  messageV1(type: number, { iova = 0n, size = 0n, uaddr = 0n, perm = 3 } = {}): number {
    return this.handle.write(vhostMsg.encode({ message: 1, iova, size, uaddr, perm, type }))
  }

  map(asid: number, iova: bigint, region: MemoryRegion, perm = 3): number {
    return this.message(2, { asid, iova, size: BigInt(region.length), uaddr: region.address, perm })
  }
}

export interface TestQueue {
  readonly ring: DriverRing
  readonly kick: Eventfd
  readonly call: Eventfd
}

/** Puts a ring at `offset` of the region mapped at `iova`, and tells the device; all areas take at most 16 KiB with 256 descriptors. */
export function makeQueue(
  client: Client,
  index: number,
  region: MemoryRegion,
  [iova, offset]: readonly [iova: bigint, offset: number],
  options: { readonly format?: RingFormat; readonly size?: number; readonly features?: RingFeatures } = {},
): TestQueue {
  const { format = 'split', size = 256, features = {} } = options
  const sizes = areaSizes(format, size)
  const driverAt = offset + sizes.descriptor
  const deviceAt = Math.ceil((driverAt + sizes.driver) / 16) * 16
  const ring = createDriverRing({
    format,
    size,
    features,
    areas: {
      descriptor: new RingMemory(region.buffer, offset, sizes.descriptor),
      driver: new RingMemory(region.buffer, driverAt, sizes.driver),
      device: new RingMemory(region.buffer, deviceAt, sizes.device),
    },
  })
  const [kick, call] = [client.backend.eventfd(), client.backend.eventfd()]
  client.vring('VHOST_SET_VRING_NUM', index, size)
  client.address(index, iova + BigInt(offset), iova + BigInt(driverAt), iova + BigInt(deviceAt))
  client.vring('VHOST_SET_VRING_BASE', index, format === 'packed' ? 0x8000_8000 : 0)
  client.vring('VHOST_SET_VRING_CALL', index, call.fd)
  client.vring('VHOST_SET_VRING_KICK', index, kick.fd)
  client.vring('VHOST_VDPA_SET_VRING_ENABLE', index, 1)
  return { ring, kick, call }
}

/** Adds a chain of one or more segments, publishes it and kicks. */
export function send(
  queue: TestQueue,
  segments: readonly (readonly [iova: bigint, length: number, writable: boolean])[],
  token = 0,
): void {
  queue.ring.begin()
  for (const [iova, length, writable] of segments) queue.ring.pushAddress(iova, length, writable)
  queue.ring.commit(token)
  if (queue.ring.publish()) queue.kick.signal()
}
