// A driver of one simulated device for the tests of models: features, memory and running queues in one call.

import type { MemoryRegion } from '../../lib/memory/memory-region.js'
import type { ModelDevice } from '../../lib/models/model-device.js'
import { transportFeatureBits } from '../../lib/uapi/virtio-features.js'
import { Simulator, type SimulatorOptions } from '../../lib/simulator/simulator.js'
import { Client, makeQueue, send, type TestQueue } from '../simulator/support.js'

export interface Driven {
  readonly simulator: Simulator
  readonly client: Client
  readonly memory: MemoryRegion
  readonly bytes: Uint8Array
  readonly queues: readonly TestQueue[]
  /** Adds a chain, lets the device work, and returns what the device wrote, or undefined when it did not use the chain. */
  exchange(queue: number, segments: Segments): number | undefined
}

export type Segments = readonly (readonly [iova: bigint, length: number, writable: boolean])[]

export interface DriveOptions {
  readonly simulator?: Simulator
  readonly options?: SimulatorOptions
  readonly size?: number
  /** The features to accept; default: all that are offered. */
  readonly features?: bigint
  /** Bytes of memory, mapped in ASID 0 from IOVA 0: rings first (32 KiB each), buffers behind them. */
  readonly memory?: number
}

const RING_BYTES = 0x8000

/** Brings a device up with all its queues in address space 0. */
export function drive(
  device: ModelDevice,
  { simulator, options, size = 64, features, memory }: DriveOptions = {},
): Driven {
  const host = simulator ?? new Simulator({ scheduler: 'manual', ...options })
  const client = new Client(host, host.add(device)).owner()
  client.set('VHOST_SET_BACKEND_FEATURES', client.get('VHOST_GET_BACKEND_FEATURES'))
  client.set('VHOST_VDPA_SET_STATUS', 3)
  const accepted = features ?? client.get('VHOST_GET_FEATURES')
  client.set('VHOST_SET_FEATURES', accepted)
  client.set('VHOST_VDPA_SET_STATUS', 11)
  const has = (bit: number) => (accepted & (1n << BigInt(bit))) !== 0n
  const region = host.allocate(memory ?? device.queueCount * RING_BYTES + 0x4_0000)
  client.map(0, 0n, region)
  const queues = Array.from({ length: device.queueCount }, (_, index) =>
    makeQueue(client, index, region, [0n, index * RING_BYTES], {
      size,
      format: has(transportFeatureBits.VIRTIO_F_RING_PACKED) ? 'packed' : 'split',
      features: {
        eventIdx: has(transportFeatureBits.VIRTIO_F_RING_EVENT_IDX),
        inOrder: has(transportFeatureBits.VIRTIO_F_IN_ORDER),
      },
    }),
  )
  client.set('VHOST_VDPA_SET_STATUS', 15)
  return {
    simulator: host,
    client,
    memory: region,
    bytes: new Uint8Array(region.buffer),
    queues,
    exchange(index, segments) {
      const queue = queues[index]
      if (queue === undefined) throw new Error(`no queue ${index}`)
      send(queue, segments, 1)
      host.drain()
      return queue.ring.take() < 0 ? undefined : queue.ring.usedLength
    },
  }
}
