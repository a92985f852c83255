// Where backends, models, memory and traces call the program.

import { Failures } from '../../../lib/base/failures.js'
import { RecordingBackend } from '../../../lib/backend/recording-backend.js'
import { replay } from '../../../lib/backend/replay.js'
import type { Backend } from '../../../lib/backend/backend.js'
import type { VdpaDevice } from '../../../lib/device/vdpa-device.js'
import { openDevice } from '../../../lib/open.js'
import { customDevice } from '../../../lib/simulator/index.js'
import type { SimulatedNetlinkSocket } from '../../../lib/simulator/management-socket.js'
import { encodeGeneric, encodeMessage, NETLINK_GENERIC } from '../../../lib/uapi/netlink.js'
import { NET, type SimulatedWorld } from '../../sweep/simulated-world.js'
import type { Place, Program } from '../place.js'

const CUSTOM = '/dev/vhost-vdpa-9'

/** From open to close, as a program would that goes on past refusals; throws what it met. */
async function life(world: SimulatedWorld, backend: Backend): Promise<void> {
  const failures = new Failures()
  const step = async (work: () => Promise<unknown>) => {
    await work().catch((failure: unknown) => failures.keep(failure))
  }
  await step(async () => (world.things.net = await openDevice(NET, { backend, expect: 'net' })))
  const device = world.things.net
  if (device !== undefined) {
    await step(() => device.negotiate([]))
    await step(() => device.createQueue(0, { addressSpace: device.addressSpace(0), size: 8 }))
    await step(() => device.start())
    await step(() => device.reset())
    await step(() => device.close())
  }
  failures.throwMet('a life met failures')
}

const lifeScene = (world: SimulatedWorld, backend: Backend) => ({
  act: () => life(world, backend),
  verbs: {
    reset: () => world.things.net?.reset(),
    'reset on the spot': () => world.things.net?.resetSync(),
    status: () => world.things.net?.status,
    'open another': () => backend.eventfd().close(),
    'close on the spot': () => world.things.net?.closeSync(),
  },
  closeDevice: () => world.things.net?.close(),
})

/** A device of the program's own kind with three chains in its queue. */
async function customScene(world: SimulatedWorld, program: Program) {
  const { simulator } = world
  simulator.add(customDevice({ path: CUSTOM, deviceId: 25, onKick: program }))
  const device: VdpaDevice = await openDevice(CUSTOM, { backend: world.backend })
  await device.negotiate([])
  const queue = await device.createQueue(0, { addressSpace: device.addressSpace(0), size: 8, bufferBytes: 64 })
  await device.start()
  for (let token = 0; token < 3; token++) {
    queue.ring.begin()
    queue.ring.pushAddress(queue.buffersIova, 1, false)
    queue.ring.commit(token)
  }
  queue.publish()
  const drain = () => simulator.drain()
  const verbs = {
    step: () => simulator.step(),
    drain,
    dump: () => simulator.dump(),
    publish: () => queue.publish(),
    suspend: () => device.suspendSync(),
    reset: () => device.resetSync(),
    'close on the spot': () => device.closeSync(),
  }
  return { act: drain, verbs, close: () => queue.close(), closeDevice: () => device.close(), end: () => device.close() }
}

export const backendPlaces: readonly Place[] = [
  {
    name: 'onKick of a device of the program',
    covers: ['CustomDeviceOptions.onKick'],
    heardBy: 'caller',
    simulator: { scheduler: 'manual' },
    make: (world, program) => customScene(world, program),
  },
  {
    name: 'the listeners of eventfds, by drain()',
    covers: ['Eventfd.onSignal(listener)'],
    heardBy: 'caller',
    simulator: { scheduler: 'manual' },
    make: (world, program) => {
      const { simulator } = world
      const eventfds = [0, 1, 2].map(() => simulator.eventfd())
      for (const eventfd of eventfds) {
        eventfd.onSignal(program)
        eventfd.signal()
      }
      const close = () => {
        for (const eventfd of eventfds) eventfd.close()
      }
      const act = () => simulator.drain()
      const verbs = {
        signal: () => eventfds[2]?.signal(),
        take: () => eventfds[2]?.take(),
        drain: act,
        step: () => simulator.step(),
        'open and close another': () => simulator.eventfd().close(),
      }
      return Promise.resolve({ act, verbs, closeDevice: close, end: close })
    },
  },
  {
    name: 'the listeners of netlink sockets, by drain()',
    covers: ['NetlinkSocket.onReadable(listener)'],
    heardBy: 'caller',
    simulator: { scheduler: 'manual' },
    make: (world, program) => {
      const { simulator } = world
      const sockets = [0, 1, 2].map(() => simulator.netlink(NETLINK_GENERIC))
      const ask = (socket: SimulatedNetlinkSocket) => {
        const payload = encodeGeneric({ command: 3, attributes: [] })
        socket.send(encodeMessage({ type: NETLINK_GENERIC, flags: 5, sequence: 1, payload }))
      }
      for (const socket of sockets)
        socket.onReadable(() => {
          while (socket.receive() !== undefined);
          program()
        })
      const close = async () => {
        for (const socket of sockets) await socket.close()
      }
      const act = () => {
        for (const socket of sockets) ask(socket)
        simulator.drain()
      }
      const [, , last] = sockets as [SimulatedNetlinkSocket, SimulatedNetlinkSocket, SimulatedNetlinkSocket]
      const verbs = {
        send: () => ask(last),
        receive: () => last.receive(),
        'listen again': () => last.onReadable(program),
        drain: () => simulator.drain(),
        'open and close another': () => simulator.netlink(NETLINK_GENERIC).close(),
      }
      return Promise.resolve({ act, verbs, close: () => last.close(), closeDevice: close, end: close })
    },
  },
  {
    name: 'onEvent of a RecordingBackend',
    covers: ['RecordingOptions.onEvent'],
    heardBy: 'uncaught',
    make: (world, program) =>
      Promise.resolve(lifeScene(world, new RecordingBackend(world.backend, { onEvent: program }))),
  },
  {
    name: '`when` of a planted fault',
    covers: ['CallMatch.when', 'FailOptions.when', 'ShortenOptions.when'],
    heardBy: 'caller',
    whenThrown: 'gives up',
    make: (world, program) => {
      // An ending that is refused is refused for good; only what begins something is meant.
      const when = ({ op }: { readonly op: string }) => {
        if (op === 'open' || op === 'eventfd' || op === 'allocate') program()
        return false
      }
      world.backend.fail({ with: 'EIO', when })
      return Promise.resolve(lifeScene(world, world.backend))
    },
  },
  {
    name: '`settle` of a replay',
    covers: ['ReplayOptions.settle'],
    heardBy: 'caller',
    whenThrown: 'gives up',
    make: (world, program) => {
      const recording = new RecordingBackend(world.simulator)
      const eventfd = recording.eventfd()
      for (let count = 0; count < 3; count++) {
        eventfd.signal()
        eventfd.take()
      }
      eventfd.close()
      const { trace } = recording
      return Promise.resolve({
        act: () => replay(trace, world.backend, { settle: program }),
        verbs: { 'replay inside': () => replay(trace, world.backend), clear: () => recording.clear() },
        closeDevice: () => undefined,
      })
    },
  },
  {
    name: 'holders of memory that are to let go',
    covers: ['MemoryHolder'],
    heardBy: 'caller',
    make: (world, program) => {
      const region = world.simulator.allocate(4096)
      const holds = [0, 1, 2].map((at) => {
        const holder = {
          describe: () => `holder ${at}`,
          letGo: () => {
            holds[at]?.close()
            program()
          },
        }
        return region.hold(holder)
      })
      const verbs = {
        'hold again': () => region.hold('another').close(),
        'close the region': () => region.close(),
        'close and unmap': () => region.close({ unmap: true }),
        holders: () => region.holders,
      }
      const act = () => region.close({ unmap: true })
      return Promise.resolve({ act, verbs, closeDevice: () => undefined, end: () => region.close() })
    },
  },
]
