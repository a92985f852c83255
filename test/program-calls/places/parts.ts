// Where the parts that a program may put together itself call it: rings, control queues over a port of its own, handles, and devices of its own making.

import { Failures } from '../../../lib/base/failures.js'
import { ControlQueue, type ControlPort } from '../../../lib/control/control-queue.js'
import { MessageWriter } from '../../../lib/iotlb/message.js'
import { openDevice } from '../../../lib/open.js'
import { customDevice, type DeviceOps } from '../../../lib/simulator/index.js'
import type { RingFormat } from '../../../lib/virtqueue/virtqueue.js'
import { NET, type SimulatedWorld } from '../../sweep/simulated-world.js'
import { TestQueue } from '../../virtqueue/support.js'
import type { Place, Program, Scene } from '../place.js'

const OWN = '/dev/vhost-vdpa-9'

/** The tables of three chains are looked for. A lookup that throws leaves its chain where it is, for another try. */
function ringPlace(format: RingFormat): Place {
  return {
    name: `the lookup of tables by the device's side of a ${format} ring`,
    covers: ['DeviceRingOptions.translateTable'],
    heardBy: 'caller',
    whenThrown: 'leaves it',
    make: (_, program) => {
      const queue = new TestQueue({ format, size: 8, features: { indirect: true }, tables: 4 })
      const driver = queue.driver()
      const { translateTable } = queue
      queue.translateTable = (...where) => {
        program()
        return translateTable(...where)
      }
      const device = queue.device()
      for (let token = 0; token < 3; token++) {
        driver.begin()
        driver.pushAddress(4096n, 8, false)
        driver.pushAddress(8192n, 8, true)
        driver.commit(token)
      }
      driver.publish()
      const act = () => {
        const failures = new Failures()
        for (let served = 0; served < 3 && !device.isBroken;) {
          const isThere = failures.now(() => {
            if (!device.next()) throw new Error('a chain is lost')
          })
          if (!isThere) continue
          device.complete(device.chain.id, 8)
          served++
        }
        failures.throwMet('lookups failed')
      }
      const verbs: Scene['verbs'] = {
        publish: () => device.publish(),
        'enable kicks': () => device.enableKicks(),
        'disable kicks': () => device.disableKicks(),
        state: () => device.state(),
      }
      return Promise.resolve({ act, verbs, closeDevice: () => undefined })
    },
  }
}

/** A device whose every operation tells the program first. */
function ownOps(model: DeviceOps, program: Program): DeviceOps {
  return new Proxy(model, {
    get: (target, name) => {
      const value: unknown = Reflect.get(target, name, target)
      if (typeof value !== 'function') return value
      return (...given: unknown[]) => {
        program()
        return Reflect.apply(value, target, given) as unknown
      }
    },
  })
}

async function life(world: SimulatedWorld): Promise<void> {
  const failures = new Failures()
  const step = (work: () => Promise<unknown>) => work().catch((failure: unknown) => failures.keep(failure))
  const { backend, simulator } = world
  await step(async () => {
    const device = await openDevice(OWN, { backend })
    await step(() => device.negotiate([]))
    await step(async () => {
      const queue = await device.createQueue(0, { addressSpace: device.addressSpace(0), size: 8 })
      await device.start()
      queue.kick()
    })
    await step(() => Promise.resolve(simulator.drain()))
    await step(() => device.suspend())
    await step(() => device.reset())
    await step(() => device.close())
  })
  failures.throwMet('a life met failures')
}

export const partPlaces: readonly Place[] = [
  ringPlace('split'),
  ringPlace('packed'),
  {
    name: 'the operations of a device of the program',
    covers: ['DeviceOps'],
    heardBy: 'either',
    whenThrown: 'gives up',
    simulator: { scheduler: 'manual' },
    make: (world, program) => {
      let isMade = false
      const model = customDevice({ path: OWN, deviceId: 25, onKick: () => undefined })
      world.simulator.add(ownOps(model, () => (isMade ? program() : undefined)))
      const act = () => {
        isMade = true
        return life(world)
      }
      const verbs: Scene['verbs'] = {
        'open another': async () => (await openDevice(NET, { backend: world.backend })).close(),
        dump: () => world.simulator.dump(),
        drain: () => world.simulator.drain(),
        'break down': () => model.breakDown(),
      }
      return Promise.resolve({ act, verbs, closeDevice: () => undefined })
    },
  },
  {
    name: 'publish() of a port that a control queue speaks through',
    covers: ['ControlPort'],
    heardBy: 'caller',
    make: async (world, program) => {
      const device = (world.things.net = await openDevice(NET, { backend: world.backend, expect: 'net' }))
      await device.negotiate(['VIRTIO_NET_F_CTRL_VQ', 'VIRTIO_NET_F_CTRL_MAC_ADDR'])
      const queue = await device.createQueue('control', {
        addressSpace: device.addressSpace(0),
        bufferBytes: 8192,
      })
      await device.start()
      const port: ControlPort = {
        index: queue.index,
        ring: queue.ring,
        buffers: queue.buffers,
        buffersIova: queue.buffersIova,
        get isClosed() {
          return queue.isClosed
        },
        publish: () => {
          queue.publish()
          program()
        },
        onCall: (listener) => queue.onCall(listener),
        onClose: (listener) => queue.onClose(listener),
        close: () => queue.close(),
        [Symbol.asyncDispose]: () => queue[Symbol.asyncDispose](),
      }
      const control = new ControlQueue(port, NET, 50)
      const command = Uint8Array.of(1, 1, 2, 0, 0, 0, 0, 1)
      const act = async () => {
        const failures = new Failures()
        for (let count = 0; count < 3; count++)
          await control.command(command).catch((failure: unknown) => failures.keep(failure))
        failures.throwMet('commands failed')
      }
      const verbs: Scene['verbs'] = {
        command: () => control.command(command),
        dispose: () => control[Symbol.asyncDispose](),
        reset: () => device.reset(),
        'reset on the spot': () => device.resetSync(),
        'close on the spot': () => device.closeSync(),
      }
      return { act, verbs, close: () => control.close(), closeDevice: () => device.close() }
    },
  },
  {
    name: 'onProgress of writes to a handle',
    covers: ['WriteEachOptions.onProgress'],
    heardBy: 'caller',
    whenThrown: 'gives up',
    make: async (world, program) => {
      const device = (world.things.net = await openDevice(NET, { backend: world.backend, expect: 'net' }))
      const { handle } = device.transport
      // Messages that change nothing: each ends the batch that the one before begins.
      const messages = new MessageWriter(2, 400)
      for (let count = 0; count < 200; count++) {
        messages.batchBegin(0)
        messages.batchEnd(0)
      }
      const { bytes } = messages
      const act = async () => {
        const outcome = await handle.writeEachAsync(bytes, bytes.byteLength / 400, { onProgress: program })
        if ('failure' in outcome) throw outcome.failure
      }
      const verbs: Scene['verbs'] = {
        'write more': () => handle.writeEachAsync(bytes, bytes.byteLength / 400),
        'write on the spot': () => handle.writeEach(bytes, bytes.byteLength / 400),
        status: () => device.status,
        reset: () => device.reset(),
        'close on the spot': () => device.closeSync(),
      }
      return { act, verbs, closeDevice: () => device.close() }
    },
  },
]
