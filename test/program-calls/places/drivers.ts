// Where the drivers call the program: frames, failures, and completions of requests.

import { ProgramCalls } from '../../../lib/base/program-calls.js'
import { NetControlQueue } from '../../../lib/control/net-control-queue.js'
import { BlockDriver, type BlockDriverOptions } from '../../../lib/drivers/block-driver.js'
import type { BlockQueue } from '../../../lib/drivers/block-queue.js'
import { NetDriver } from '../../../lib/drivers/net-driver.js'
import { openDevice } from '../../../lib/open.js'
import { BLOCK, NET, type SimulatedWorld } from '../../sweep/simulated-world.js'
import { turns, type Place, type Program, type Scene } from '../place.js'

const frame = new Uint8Array(60)

async function runningDriver(world: SimulatedWorld) {
  const device = (world.things.net = await openDevice(NET, { backend: world.backend, expect: 'net' }))
  await device.negotiate(['VIRTIO_NET_F_CTRL_VQ', 'VIRTIO_NET_F_MQ'])
  device.groups.assign(1, 1)
  const control = await NetControlQueue.start(device, device.addressSpace(1), { timeout: 50 })
  const driver = await NetDriver.start(device, { pairs: 2, size: 16 })
  await device.start()
  // The short time is for what a suspended device never answers.
  await driver.usePairs(control, 2, { timeout: 60_000 })
  return { device, driver, control }
}

type Running = Awaited<ReturnType<typeof runningDriver>>

function netScene({ device, driver, control }: Running, act: Scene['act']): Scene {
  return {
    act,
    verbs: {
      receive: () => driver.receive(() => undefined),
      receiveParts: () => driver.receiveParts(() => undefined),
      onFrame: () => driver.onFrame(() => undefined)(),
      send: () => driver.send(frame),
      sendInPlace: () => driver.sendInPlace(60, () => undefined),
      sendBatch: () => driver.sendBatch([frame, frame]),
      reclaim: () => driver.reclaim(),
      room: () => driver.room(),
      kickReceive: () => driver.kickReceive(),
      usePairs: () => driver.usePairs(control, 1),
      save: () => driver.save(),
      dispose: () => driver[Symbol.asyncDispose](),
      suspend: () => device.suspend(),
      'suspend on the spot': () => device.suspendSync(),
      'suspend, save': () => {
        const saved = [device.suspend(), driver.save().then(({ queues }) => void freeLater(device, queues))]
        return Promise.all(saved)
      },
      reset: () => device.reset(),
      'reset on the spot': () => device.resetSync(),
      'close on the spot': () => device.closeSync(),
    },
    close: () => driver.close(),
    closeDevice: () => device.close(),
  }
}

/** What was saved belongs to the program, which frees it when the device is closed. */
function freeLater(device: Running['device'], queues: readonly { readonly memory: { close(): void } }[]): void {
  device.events.once('close', () => {
    for (const { memory } of queues) memory.close()
  })
}

async function arrived(driver: NetDriver): Promise<void> {
  driver.sendBatch([frame, frame, frame, frame])
  await turns()
}

async function diskOf(world: SimulatedWorld, options: BlockDriverOptions = {}) {
  const device = (world.things.block = await openDevice(BLOCK, { backend: world.backend, expect: 'block' }))
  await device.negotiate([], { optional: ['VIRTIO_BLK_F_FLUSH'] })
  const driver = await BlockDriver.start(device, { size: 16, ...options })
  await device.start()
  const [queue] = driver.queues
  if (queue === undefined) throw new Error('there is no queue')
  return { device, driver, queue }
}

type Disk = Awaited<ReturnType<typeof diskOf>>

/** Three requests that tell the program of their end. */
function send(queue: BlockQueue, program: Program): void {
  for (let sector = 0; sector < 3; sector++) queue.read(queue.acquire(), sector, 512, program)
  queue.publish()
}

function diskScene({ device, driver, queue }: Disk, act: Scene['act']): Scene {
  return {
    act,
    verbs: {
      'acquire, read': () => {
        const slot = queue.acquire()
        if (slot >= 0 && !queue.read(slot, 3, 512, () => undefined)) queue.release(slot)
      },
      'acquire, release': () => {
        const slot = queue.acquire()
        if (slot >= 0) queue.release(slot)
      },
      publish: () => queue.publish(),
      poll: () => queue.poll(),
      'driver.read': () => driver.read(0, 8),
      'driver.write': () => driver.write(0, new Uint8Array(512)),
      'driver.flush': () => driver.flush(),
      'driver.idle': () => driver.idle(),
      'driver.save': () => driver.save(),
      suspend: () => device.suspend(),
      reset: () => device.reset(),
      'reset on the spot': () => device.resetSync(),
      'close on the spot': () => device.closeSync(),
    },
    close: () => driver.close(),
    closeDevice: () => device.close(),
  }
}

export const driverPlaces: readonly Place[] = [
  {
    name: 'the handler of NetDriver.receive()',
    covers: ['NetDriver.receive(handler)'],
    heardBy: 'caller',
    make: async (world, program) => {
      const running = await runningDriver(world)
      await arrived(running.driver)
      return netScene(running, () => running.driver.receive(program))
    },
  },
  {
    name: 'the handler of NetDriver.receiveParts()',
    covers: ['NetDriver.receiveParts(handler)'],
    heardBy: 'caller',
    make: async (world, program) => {
      const running = await runningDriver(world)
      await arrived(running.driver)
      return netScene(running, () => running.driver.receiveParts(program))
    },
  },
  {
    name: 'the handler of NetDriver.onFrame()',
    covers: ['NetDriver.onFrame(handler)'],
    heardBy: 'uncaught',
    make: async (world, program) => {
      const running = await runningDriver(world)
      return netScene(running, () => {
        running.driver.onFrame(program)
        return arrived(running.driver)
      })
    },
  },
  {
    name: 'onFailure of NetDriver.onFrame()',
    covers: ['NetDriver.onFrame(onFailure)'],
    heardBy: 'uncaught',
    make: async (world, program) => {
      const running = await runningDriver(world)
      const bug = () => {
        throw new Error('a bug of the handler')
      }
      return netScene(running, async () => {
        for (let round = 0; round < 3 && !running.driver.isClosed && running.device.isRunning; round++) {
          running.driver.onFrame(bug, 0, program)
          await arrived(running.driver)
        }
      })
    },
  },
  {
    name: 'the writer of NetDriver.sendInPlace()',
    covers: ['NetDriver.sendInPlace(write)'],
    heardBy: 'caller',
    make: async (world, program) => {
      const running = await runningDriver(world)
      return netScene(running, () => {
        const calls = new ProgramCalls()
        for (let count = 0; count < 3; count++) calls.call(() => running.driver.sendInPlace(60, program))
        calls.throwKept()
      })
    },
  },
  {
    name: 'the callback of a block request, by poll()',
    covers: ['BlockQueue.read(done)'],
    heardBy: 'caller',
    make: async (world, program) => {
      const disk = await diskOf(world, { completions: 'poll' })
      return diskScene(disk, async () => {
        send(disk.queue, program)
        await turns()
        disk.queue.poll()
      })
    },
  },
  {
    name: 'the callback of a block request, by interrupt',
    covers: ['BlockQueue.read(done)'],
    heardBy: 'uncaught',
    make: async (world, program) => {
      const disk = await diskOf(world)
      return diskScene(disk, async () => {
        send(disk.queue, program)
        await turns()
      })
    },
  },
  ...(['close the driver', 'reset the device', 'close the device'] as const).map((what): Place => ({
    name: `the callback of a block request that is under way when we ${what}`,
    covers: ['BlockQueue.read(done)'],
    heardBy: 'either',
    make: async (world, program) => {
      const disk = await diskOf(world)
      return diskScene(disk, async () => {
        send(disk.queue, program)
        await {
          'close the driver': disk.driver,
          'reset the device': { close: () => disk.device.reset() },
          'close the device': disk.device,
        }[what].close()
      })
    },
  })),
]
