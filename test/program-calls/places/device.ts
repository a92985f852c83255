// Where an open device calls the program: events, interrupts, the end of queues, progress, and tables of memory that it follows.

import { Failures } from '../../../lib/base/failures.js'
import type { DeviceQueue } from '../../../lib/device/device-queue.js'
import type { VdpaDevice } from '../../../lib/device/vdpa-device.js'
import { GuestMemory } from '../../../lib/memory/guest-memory.js'
import { openDevice } from '../../../lib/open.js'
import { NET, type SimulatedWorld } from '../../sweep/simulated-world.js'
import { turns, type Place, type Program, type Scene } from '../place.js'

const PAGE = 4096

async function opened(world: SimulatedWorld): Promise<VdpaDevice<'net'>> {
  return (world.things.net = await openDevice(NET, { backend: world.backend, expect: 'net' }))
}

async function withQueue(world: SimulatedWorld): Promise<{ device: VdpaDevice<'net'>; queue: DeviceQueue }> {
  const device = await opened(world)
  await device.negotiate([])
  const queue = await device.createQueue(0, { addressSpace: device.addressSpace(0), size: 8, bufferBytes: 64 })
  return { device, queue }
}

function deviceVerbs(device: VdpaDevice<'net'>): Scene['verbs'] {
  return {
    negotiate: () => device.negotiate([]),
    'negotiate on the spot': () => device.negotiateSync([]),
    createQueue: () => device.createQueue(1, { addressSpace: device.addressSpace(0), size: 8 }),
    start: () => device.start(),
    'start on the spot': () => device.startSync(),
    suspend: () => device.suspend(),
    resume: () => device.resume(),
    reset: () => device.reset(),
    'reset on the spot': () => device.resetSync(),
    'close on the spot': () => device.closeSync(),
    setConfigCall: () => device.setConfigCall(null),
    'another listener': () => void device.events.once('config', () => undefined),
    'no listeners': () => void device.events.removeAllListeners(),
    isolation: () => device.groups.isolation(0),
    config: () => device.config.net(),
    status: () => device.status,
  }
}

function spaceVerbs(world: SimulatedWorld, device: VdpaDevice<'net'>): Scene['verbs'] {
  const space = device.addressSpace(0)
  const far = 1n << 30n
  return {
    map: () => space.map({ iova: far, region: world.memory }),
    'map on the spot': () => space.mapSync({ iova: far, region: world.memory }),
    mapRegion: () => space.mapRegion(world.memory),
    unmapAll: () => space.unmapAll(),
    'unmapAll on the spot': () => space.unmapAllSync(),
    unmapRegion: () => space.unmapRegion(world.memory),
    follow: () => space.follow(new GuestMemory([{ address: far, region: world.memory }])),
    ...deviceVerbs(device),
  }
}

function queueScene(device: VdpaDevice<'net'>, queue: DeviceQueue, act: Scene['act']): Scene {
  const verbs: Scene['verbs'] = {
    publish: () => queue.publish(),
    kick: () => queue.kick(),
    takeCalls: () => queue.takeCalls(),
    'another onClose': () => void queue.onClose(() => undefined),
    'save the queue': () => queue.save().then(({ memory }) => void device.events.once('close', () => memory.close())),
    'close the queue on the spot': () => queue.closeSync(),
    'dispose of the queue': () => queue[Symbol.asyncDispose](),
    ...deviceVerbs(device),
  }
  return { act, verbs, close: () => queue.close(), closeDevice: () => device.close() }
}

/** A listener for the event, three times, and what has it told. */
function eventPlace(
  event: 'config' | 'needsReset' | 'close',
  tell: (world: SimulatedWorld, device: VdpaDevice) => unknown,
): Place {
  return {
    name: `listeners of '${event}'`,
    covers: [],
    heardBy: 'uncaught',
    make: async (world, program) => {
      const { device } = await withQueue(world)
      await device.start()
      for (let count = 0; count < 3; count++) device.events.on(event, () => program())
      const act = async () => {
        await tell(world, device)
        await turns()
      }
      return { act, verbs: deviceVerbs(device), closeDevice: () => device.close() }
    },
  }
}

/** Listeners for the end of a queue, and what ends it. */
function endPlace(
  what: string,
  heardBy: Place['heardBy'],
  end: (device: VdpaDevice, queue: DeviceQueue) => unknown,
): Place {
  return {
    name: `listeners for the end of a queue, by ${what}`,
    covers: ['DeviceQueue.onClose(listener)'],
    heardBy,
    make: async (world, program) => {
      const { device, queue } = await withQueue(world)
      for (let count = 0; count < 3; count++) queue.onClose(() => program())
      return queueScene(device, queue, () => end(device, queue))
    },
  }
}

/** So many mappings of a page that progress is told several times. */
const manyMappings = (world: SimulatedWorld) =>
  Array.from({ length: 200 }, (_, at) => ({ iova: BigInt(at) * 8192n, region: world.memory, offset: 0, size: PAGE }))

/** A table of the program's own: how it is told of changes, and what it throws, is the test's. */
class OwnTable {
  readonly #listeners = new Set<() => void>()
  readonly #pieces: { address: bigint; region: SimulatedWorld['memory']; offset: number; size: number }[] = []
  readonly #onPieces: Program
  readonly #onStop: Program

  constructor(calls: { onPieces?: Program; onStop?: Program }) {
    this.#onPieces = calls.onPieces ?? (() => undefined)
    this.#onStop = calls.onStop ?? (() => undefined)
  }

  add(address: bigint, region: SimulatedWorld['memory']): void {
    this.#pieces.push({ address, region, offset: 0, size: PAGE })
    for (const listener of this.#listeners) listener()
  }

  pieces() {
    this.#onPieces()
    return this.#pieces
  }

  onChange(listener: () => void): () => void {
    this.#listeners.add(listener)
    return () => {
      this.#listeners.delete(listener)
      this.#onStop()
    }
  }
}

export const devicePlaces: readonly Place[] = [
  eventPlace('config', (world) => world.netModel.changeConfig?.(6, Uint8Array.of(0))),
  eventPlace('needsReset', (world) => world.netModel.breakDown?.()),
  eventPlace('close', (_, device) => device.close()),
  endPlace('its close()', 'caller', (_, queue) => queue.close()),
  endPlace('closeSync()', 'caller', (_, queue) => queue.closeSync()),
  endPlace('reset()', 'caller', (device) => device.reset()),
  endPlace('close() of its device', 'caller', (device) => device.close()),
  endPlace('closeSync() of its device', 'caller', (device) => device.closeSync()),
  endPlace('save()', 'uncaught', async (device, queue) => {
    const { memory } = await queue.save()
    device.events.once('close', () => memory.close())
  }),
  {
    name: 'the listener of a queue for interrupts',
    covers: ['DeviceQueue.onCall(listener)'],
    heardBy: 'caller',
    simulator: { scheduler: 'manual' },
    make: async (world, program) => {
      const { device, queue } = await withQueue(world)
      await device.start()
      queue.onCall(program)
      const { callFd } = queue
      return queueScene(device, queue, () => {
        const failures = new Failures()
        for (let count = 0; count < 3 && !queue.isClosed; count++) {
          using call = world.simulator.eventfd(callFd)
          call.signal()
          failures.now(() => world.simulator.drain())
        }
        failures.throwMet('drain() threw')
      })
    },
  },
  {
    name: 'onProgress of map()',
    covers: ['ChangeOptions.onProgress'],
    heardBy: 'caller',
    whenThrown: 'gives up',
    make: async (world, program) => {
      const device = await opened(world)
      const act = () => device.addressSpace(0).map(manyMappings(world), { onProgress: program })
      return { act, verbs: spaceVerbs(world, device), closeDevice: () => device.close() }
    },
  },
  {
    name: 'onProgress of unmapAll()',
    covers: ['ChangeOptions.onProgress'],
    heardBy: 'caller',
    whenThrown: 'gives up',
    make: async (world, program) => {
      const device = await opened(world)
      await device.addressSpace(0).map(manyMappings(world))
      const act = () => device.addressSpace(0).unmapAll({ onProgress: program })
      return { act, verbs: spaceVerbs(world, device), closeDevice: () => device.close() }
    },
  },
  {
    name: 'onProgress of follow()',
    covers: ['FollowOptions.onProgress'],
    heardBy: 'caller',
    whenThrown: 'gives up',
    make: async (world, program) => {
      const device = await opened(world)
      const table = new OwnTable({})
      for (let at = 0n; at < 200n; at++) table.add(at * 8192n, world.memory)
      const act = () => device.addressSpace(0).follow(table, { onProgress: program })
      return { act, verbs: spaceVerbs(world, device), closeDevice: () => device.close() }
    },
  },
  {
    name: 'onError of a follower',
    covers: ['FollowOptions.onError'],
    heardBy: 'uncaught',
    make: async (world, program) => {
      const device = await opened(world)
      const table = new GuestMemory()
      const follower = await device.addressSpace(0).follow(table, { onError: program })
      const act = async () => {
        for (let at = 0; at < 3 && !follower.isClosed; at++) {
          const fault = world.backend.fail({ with: 'EFAULT', when: ({ op }) => op.startsWith('write') })
          table.add({ address: BigInt(at * PAGE), region: world.memory, offset: at * PAGE, size: PAGE })
          await follower.settled().catch(() => undefined)
          await turns(3)
          fault.close()
        }
      }
      const verbs = { settled: () => follower.settled(), ...spaceVerbs(world, device) }
      return { act, verbs, close: () => follower.close(), closeDevice: () => device.close() }
    },
  },
  {
    name: 'the pieces of a table that is followed',
    covers: ['ChangingMemoryTable'],
    heardBy: 'caller',
    make: async (world, program) => {
      const device = await opened(world)
      const table = new OwnTable({ onPieces: program })
      let isBegun = false
      const space = device.addressSpace(0)
      const quiet = new OwnTable({ onPieces: () => (isBegun ? program() : undefined) })
      const follower = await space.follow(quiet)
      const act = async () => {
        isBegun = true
        const failures = new Failures()
        for (let at = 0n; at < 3n && !follower.isClosed; at++) {
          quiet.add(at * 8192n, world.memory)
          await follower.settled().catch((failure: unknown) => failures.keep(failure))
        }
        failures.throwMet('changes failed')
      }
      const verbs = { 'map the table': () => space.map(table), ...spaceVerbs(world, device) }
      return { act, verbs, close: () => follower.close(), closeDevice: () => device.close() }
    },
  },
  ...(['its close()', 'close() of its device'] as const).map((what): Place => ({
    name: `what a table gives to stop listening, by ${what}`,
    covers: ['ChangingMemoryTable'],
    heardBy: 'either',
    make: async (world, program) => {
      const device = await opened(world)
      const space = device.addressSpace(0)
      const tables = [0n, 1n, 2n].map(() => new OwnTable({ onStop: program }))
      const followers = await Promise.all(tables.map((table) => space.follow(table)))
      for (const [at, table] of tables.entries()) table.add(BigInt(at) * 8192n, world.memory)
      await Promise.all(followers.map((follower) => follower.settled()))
      const act = async () => {
        if (what === 'close() of its device') return device.close()
        const failures = new Failures()
        for (const follower of followers) await follower.close().catch((failure: unknown) => failures.keep(failure))
        failures.throwMet('followers failed')
      }
      const close = () => Promise.all(followers.map((follower) => follower.close()))
      return { act, verbs: spaceVerbs(world, device), close, closeDevice: () => device.close() }
    },
  })),
  {
    name: 'listeners of a GuestMemory',
    covers: ['GuestMemory.onChange(listener)'],
    heardBy: 'caller',
    make: async (world, program) => {
      const device = await opened(world)
      const table = new GuestMemory()
      for (let count = 0; count < 3; count++) table.onChange(() => program())
      const follower = await device.addressSpace(0).follow(table)
      const act = () => void table.add({ address: 0n, region: world.memory })
      let address = 1n << 32n
      const verbs = {
        add: () => table.add({ address: (address += 1n << 20n), region: world.memory }),
        remove: () => table.remove(0n),
        'another listener': () => void table.onChange(() => undefined),
        settled: () => follower.settled(),
        ...spaceVerbs(world, device),
      }
      return { act, verbs, close: () => follower.close(), closeDevice: () => device.close() }
    },
  },
]
