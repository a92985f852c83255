// The four hosts of a model, each with a driver on it, behind one face: what a suite needs to ask a model the same questions wherever it lives.

import type { Backend } from '../../../lib/backend/backend.js'
import type { DeviceQueue } from '../../../lib/device/device-queue.js'
import type { KernelBackend } from '../../../lib/kernel/kernel-backend.js'
import type { MemoryRegion } from '../../../lib/memory/memory-region.js'
import type { DeviceOps } from '../../../lib/models/device-ops.js'
import { openDevice } from '../../../lib/open.js'
import { serveVhostUser } from '../../../lib/serve.js'
import { Simulator } from '../../../lib/simulator/index.js'
import { vduseRequestTypes, vduseVqState } from '../../../lib/uapi/vduse.js'
import { featureNames, transportFeatureBits } from '../../../lib/uapi/virtio-features.js'
import { ChannelBackend } from '../../../lib/vfio-channel/channel-backend.js'
import { openFarEnd } from '../../../lib/vfio-channel/far-end.js'
import { TodayServer } from '../../../lib/vfio-channel/today-server.js'
import { hostVduse } from '../../../lib/vduse/host.js'
import type { DriverRing, RingFormat } from '../../../lib/virtqueue/virtqueue.js'
import { TemporaryFolder } from '../../native/support.js'
import { PretendedKernel } from '../../vduse/pretended-kernel.js'
import { FrontEnd, words } from '../../vhost-user/front-end.js'
import { until } from '../../until.js'

const SIZE = 1 << 20
const GUEST = 0x4000_0000n
const QUEUE_SIZE = 16
const PLATFORM = 1n << BigInt(transportFeatureBits.VIRTIO_F_ACCESS_PLATFORM)
const PACKED = 1n << BigInt(transportFeatureBits.VIRTIO_F_RING_PACKED)

export const pause = (milliseconds = 1) => new Promise<void>((resolve) => void setTimeout(resolve, milliseconds))

/** A queue as its driver has it. */
export interface ContractQueue {
  readonly ring: DriverRing
  kick(): void
  /** Interrupts since the last look. */
  interrupts(): number
}

/** A model in a host, and the driver's way to it. */
export interface Hosted {
  /** What the host lets a driver have. */
  readonly offered: bigint
  config(length: number): Promise<Uint8Array>
  /** From nothing to a running device with these queues. */
  begin(features: bigint, queues: readonly number[]): Promise<readonly ContractQueue[]>
  /** Bytes of memory that the device reaches, and where it does. */
  room(length: number): { readonly bytes: Uint8Array; readonly address: bigint }
  /** Where a queue stands, as VHOST_GET_VRING_BASE says it. The queue may be stopped from then on. */
  position(index: number): Promise<number>
  /** The driver goes; the device is as new for the next begin(). */
  leave(): Promise<void>
  close(): Promise<void>
}

/** One of the hosts. */
export interface Host {
  readonly name: string
  /** Why it cannot be tested here. */
  readonly missing?: string
  /** What it does not carry, by feature number, and why. */
  readonly lacks: ReadonlyMap<number, string>
  host(model: DeviceOps): Promise<Hosted>
}

/** Rooms in one piece of memory. */
function roomsIn(memory: MemoryRegion, base: bigint, first = 0): Hosted['room'] {
  let used = first
  return (length) => {
    const at = Math.ceil(used / 64) * 64
    used = at + length
    return { bytes: memory.view(at, length), address: base + BigInt(at) }
  }
}

/** Of what is asked of a device by openDevice(): by a simulator, or through a channel. */
async function overDevice(backend: Backend, path: string): Promise<Hosted> {
  const memory = backend.allocate(SIZE)
  let device = await openDevice(path, { backend })
  const queues = new Map<number, DeviceQueue>()
  const begin = async (features: bigint, wanted: readonly number[]): Promise<readonly ContractQueue[]> => {
    const names = Object.entries(featureNames(device.deviceId))
      .filter(([, number]) => ((features >> BigInt(number)) & 1n) !== 0n)
      .map(([name]) => name)
    await device.negotiate([], { optional: names as never })
    const space = device.addressSpace(0)
    await space.map([{ iova: GUEST, region: memory }])
    for (const index of wanted)
      queues.set(index, await device.createQueue(index, { addressSpace: space, size: QUEUE_SIZE }))
    await device.start()
    return wanted.map((index) => {
      const queue = queueOf(index)
      return { ring: queue.ring, kick: () => queue.kick(), interrupts: () => queue.takeCalls() }
    })
  }
  const queueOf = (index: number): DeviceQueue => {
    const queue = queues.get(index)
    if (queue === undefined) throw new Error(`queue ${index} was not set up`)
    return queue
  }
  return {
    offered: device.offeredFeatures.bits,
    config: (length) => Promise.resolve(device.config.read(0, length)),
    begin,
    room: roomsIn(memory, GUEST),
    position: async (index) => {
      if (device.state === 'running') await device.suspend()
      return device.transport.vringBase(index)
    },
    leave: async () => {
      await device.close()
      queues.clear()
      device = await openDevice(path, { backend })
    },
    close: async () => {
      await device.close()
      memory.close()
    },
  }
}

const everything: ReadonlyMap<number, string> = new Map()

const simulator: Host = {
  name: 'the simulator',
  lacks: everything,
  host: (model) => {
    const backend = new Simulator()
    return overDevice(backend, backend.add(model))
  },
}

const channel: Host = {
  name: 'the vhost-vfio channel',
  lacks: everything,
  host: (model) => {
    const far = new Simulator()
    const path = far.add(model)
    const connect = () => ({ region: new TodayServer(openFarEnd(far, path)) })
    return overDevice(new ChannelBackend(new Simulator(), connect), path)
  },
}

/** The kernel's side of VDUSE is pretended: what it asks is what Linux asks, and the lab has the real one. */
const vduse: Host = {
  name: 'VDUSE',
  lacks: new Map([[17, 'VDUSE carries no control queue: serve the device by vhost-user to have one']]),
  host: async (model) => {
    const kernel = new PretendedKernel()
    const host = await hostVduse(model, kernel.backend, { name: 'd0' })
    const device = kernel.device('d0')
    const memory = kernel.simulator.allocate(SIZE)
    return {
      offered: device.features,
      config: (length) => Promise.resolve(device.config.slice(0, length)),
      begin: async (features, wanted) => {
        device.map(GUEST, memory)
        const format: RingFormat = (features & PACKED) === 0n ? 'split' : 'packed'
        const rings = wanted.map((index) => device.setUp(index, memory, GUEST, { format, at: index * 0x4000 }))
        if (!device.begin(features | PLATFORM)) throw new Error('the device does not start')
        await pause()
        return rings.map((ring, at) => {
          const index = wanted[at] ?? 0
          return {
            ring,
            kick: () => device.kick(index),
            interrupts: () => {
              const { interrupts } = device.queue(index)
              device.queue(index).interrupts = 0
              return interrupts
            },
          }
        })
      },
      room: roomsIn(memory, GUEST, 0x1_0000),
      position: (index) => {
        const words = { last_avail_counter: 0, last_avail_idx: 0, last_used_counter: 0, last_used_idx: 0 }
        const answer = device.ask(vduseRequestTypes.VDUSE_GET_VQ_STATE, vduseVqState.encode({ index, ...words }))
        const state = vduseVqState.decode(answer ?? new Uint8Array(0))
        if ((device.driverFeatures & PACKED) === 0n) return Promise.resolve(state.last_avail_counter)
        const available = state.last_avail_idx | (state.last_avail_counter << 15)
        const used = state.last_used_idx | (state.last_used_counter << 15)
        return Promise.resolve(available + used * 0x1_0000)
      },
      leave: async () => {
        device.setStatus(0)
        device.unmap(GUEST)
        await pause()
      },
      close: async () => {
        await host.close()
        memory.close()
      },
    }
  },
}

/** A front end of our own at a real socket; guests that are real are in test/guests. */
function vhostUser(backend: KernelBackend | undefined, missing: string): Host {
  return {
    name: 'vhost-user',
    ...(backend === undefined && { missing }),
    lacks: new Map(),
    host: async (model) => {
      if (backend === undefined) throw new Error(missing)
      const folder = new TemporaryFolder()
      const server = serveVhostUser(model, { socket: folder.file('socket') })
      let front = new FrontEnd(backend, server.path)
      // One front end asks what there is; another one begins.
      front.send('SET_OWNER')
      const offered = (await front.ask('GET_FEATURES')).value & ~(1n << 30n) & ~(1n << 26n)
      return {
        offered,
        config: async (length) => {
          front.send('SET_PROTOCOL_FEATURES', words((await front.ask('GET_PROTOCOL_FEATURES')).value))
          const { payload } = await front.ask(
            'GET_CONFIG',
            new Uint8Array([...words(0, length, 0), ...new Uint8Array(length)]),
          )
          return payload.slice(12)
        },
        begin: async (features, wanted) => {
          await front.begin(offered & ~features)
          const format: RingFormat = (features & PACKED) === 0n ? 'split' : 'packed'
          return wanted.map((index) => {
            const { ring, kick, call } = front.queue(index, { format, size: QUEUE_SIZE })
            return { ring, kick: () => kick.signal(), interrupts: () => call.take() }
          })
        },
        room: (length) => {
          const { bytes, guest } = front.room(length)
          return { bytes, address: guest }
        },
        position: async (index) =>
          new DataView((await front.ask('GET_VRING_BASE', words(index, 0))).payload.buffer).getUint32(4, true),
        leave: async () => {
          front.close()
          await until(() => server.frontEnds === 0)
          front = new FrontEnd(backend, server.path)
        },
        close: async () => {
          front.close()
          await until(() => server.frontEnds === 0)
          server.close()
          folder[Symbol.dispose]()
        },
      }
    },
  }
}

/** All four; `backend` is the kernel's, and `missing` why there is none. */
export function hosts(backend: KernelBackend | undefined, missing: string): readonly Host[] {
  return [simulator, channel, vduse, vhostUser(backend, missing)]
}
