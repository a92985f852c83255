// A block queue's callbacks, at every place where the driver calls the program: they throw first, in the middle and last, call each verb, close the driver
// and the device. The books are finished each time, and everybody is told once.

import { afterEach, describe, expect, jest, test } from '@jest/globals'
import { DeviceQueue } from '../../lib/device/device-queue.js'
import type { VdpaDevice } from '../../lib/device/vdpa-device.js'
import { BlockDriver, type BlockDriverOptions } from '../../lib/drivers/block-driver.js'
import { BLOCK_NO_STATUS } from '../../lib/drivers/block-errors.js'
import type { BlockQueue } from '../../lib/drivers/block-queue.js'
import { openDevice } from '../../lib/open.js'
import { blockDevice, Simulator } from '../../lib/simulator/index.js'
import { hearUncaught } from '../uncaught.js'

const path = '/dev/vhost-vdpa-0'
const COUNT = 3

interface Setting {
  readonly simulator: Simulator
  readonly device: VdpaDevice<'block'>
  readonly driver: BlockDriver
  readonly queue: BlockQueue
}

async function begin(options: BlockDriverOptions = {}): Promise<Setting> {
  const simulator = new Simulator({ scheduler: 'manual' })
  simulator.add(blockDevice({ path, capacity: 64 }))
  const device = await openDevice(path, { backend: simulator, expect: 'block' })
  await device.negotiate([], { optional: ['VIRTIO_BLK_F_FLUSH'] })
  const driver = await BlockDriver.start(device, options)
  await device.start()
  const [queue] = driver.queues
  if (queue === undefined) throw new Error('there is no queue')
  return { simulator, device, driver, queue }
}

const turn = () => new Promise((resolve) => setImmediate(resolve))

/** Sends COUNT reads; `at` of them calls `program` from its callback. Returns what was told, by request. */
function send(queue: BlockQueue, at: number, program: (slot: number) => void): number[][] {
  const told: number[][] = []
  for (let index = 0; index < COUNT; index++) {
    const statuses: number[] = []
    told.push(statuses)
    queue.read(queue.acquire(), index, 512, (slot, status) => {
      statuses.push(status)
      if (index === at) program(slot)
    })
  }
  queue.publish()
  return told
}

const boom = () => {
  throw new Error('a bug of the program')
}

afterEach(() => {
  jest.restoreAllMocks()
})

describe.each([0, 1, COUNT - 1])('callback %i', (at) => {
  test('throws in poll(): the others are called, what they sent is published, then it is thrown', async () => {
    const { simulator, device, queue } = await begin({ completions: 'poll' })
    const followUp = jest.fn()
    let called = 0
    const done = (slot: number) => {
      if (called++ === at) boom()
      queue.read(slot, 9, 512, followUp)
    }
    for (let index = 0; index < COUNT; index++) queue.read(queue.acquire(), index, 512, done)
    queue.publish()
    simulator.drain()
    expect(() => queue.poll()).toThrow('a bug of the program')
    expect(queue.inFlight).toBe(COUNT - 1)
    simulator.drain()
    expect(queue.poll()).toBe(COUNT - 1)
    expect(followUp).toHaveBeenCalledTimes(COUNT - 1)
    await device.close()
  })

  test("throws at an interrupt: 'uncaughtException' gets it, the others are called", async () => {
    const { simulator, device, queue } = await begin()
    const uncaught: unknown[] = []
    jest.spyOn(process, 'nextTick').mockImplementation((call: unknown) => {
      try {
        ;(call as () => void)()
      } catch (failure) {
        uncaught.push(failure)
      }
    })
    const told = send(queue, at, boom)
    simulator.drain()
    jest.restoreAllMocks()
    await turn()
    expect(told).toEqual([[0], [0], [0]])
    expect(queue.inFlight).toBe(0)
    expect(uncaught).toMatchObject([{ message: 'a bug of the program' }])
    await device.close()
  })

  test('throws when the driver ends: everybody is told first', async () => {
    const { device, driver, queue } = await begin()
    const told = send(queue, at, boom)
    const closed = driver.close().catch((failure: unknown) => failure)
    expect(told).toEqual([[BLOCK_NO_STATUS], [BLOCK_NO_STATUS], [BLOCK_NO_STATUS]])
    expect(await closed).toMatchObject({ message: 'a bug of the program' })
    expect(driver.isClosed).toBe(true)
    await device.close()
  })

  test.each([
    ['poll()', (queue: BlockQueue) => queue.poll()],
    ['publish()', (queue: BlockQueue) => queue.publish()],
    ['acquire()', (queue: BlockQueue) => queue.release(queue.acquire())],
    ['release()', (queue: BlockQueue, slot: number) => queue.release(slot)],
    ['read()', (queue: BlockQueue, slot: number) => queue.read(slot, 5, 512, () => undefined)],
    ['flush()', (queue: BlockQueue, slot: number) => queue.flush(slot, () => undefined)],
  ])('calls %s', async (_, verb: (queue: BlockQueue, slot: number) => unknown) => {
    const { simulator, device, driver, queue } = await begin()
    const told = send(queue, at, (slot) => verb(queue, slot))
    simulator.drain()
    await turn()
    simulator.drain()
    await turn()
    expect(told).toEqual([[0], [0], [0]])
    expect(queue.inFlight).toBe(0)
    const read = driver.read(1, 1)
    await turn()
    simulator.drain()
    expect(await read).toHaveLength(512)
    await device.close()
  })

  test.each(['driver', 'device'] as const)('closes the %s: each request is told once', async (what) => {
    const setting = await begin()
    const { simulator, device, queue } = setting
    let closed: Promise<unknown> = Promise.resolve()
    const told = send(queue, at, () => {
      closed = setting[what].close().catch((failure: unknown) => failure)
    })
    simulator.drain()
    await turn()
    simulator.drain()
    expect(await closed).toBe(undefined)
    await device.close()
    expect(told.map((statuses) => statuses.length)).toEqual([1, 1, 1])
    expect(told.slice(0, at + 1)).toEqual(new Array(at + 1).fill([0]))
    expect(() => queue.poll()).toThrow()
  })
})

describe('a device that could not be told', () => {
  test('promises are rejected with the reason, and their slots come back when the device gives them back', async () => {
    const { simulator, device, driver, queue } = await begin({ slots: 2 })
    const target = new Uint8Array(512).fill(7)
    const lost = driver.readInto(0, target)
    expect(queue.inFlight).toBe(1)
    jest.spyOn(DeviceQueue.prototype, 'kick').mockImplementationOnce(() => {
      throw new Error('no kick')
    })
    await expect(lost).rejects.toThrow('no kick')
    expect(queue.inFlight).toBe(1)
    const next = driver.read(1, 1)
    await turn()
    simulator.drain()
    expect(await next).toHaveLength(512)
    expect(queue.inFlight).toBe(0)
    // The late answer is nobody's: the buffer is the caller's again.
    expect(target).toEqual(new Uint8Array(512).fill(7))
    await device.close()
  })
})

describe('a promise that was given up', () => {
  test('a late answer writes nothing into its buffer', async () => {
    const { simulator, device, driver, queue } = await begin()
    const controller = new AbortController()
    const target = new Uint8Array(1024).fill(7)
    const given = driver.readInto(0, target, { signal: controller.signal })
    await turn()
    controller.abort()
    await expect(given).rejects.toMatchObject({ code: 'ERR_VDPA_CANCELED' })
    simulator.drain()
    await turn()
    expect(queue.counters).toMatchObject({ answers: 1, failures: 0 })
    expect(target).toEqual(new Uint8Array(1024).fill(7))
    await device.close()
  })
})

test('a callback that throws when close() tells it keeps nothing from being ended, and is what close() throws', async () => {
  const simulator = new Simulator({ scheduler: 'manual' })
  const disk = blockDevice({ path, capacity: 64, queues: 2 })
  simulator.add(disk)
  const device = await openDevice(path, { backend: simulator, expect: 'block' })
  await device.negotiate(['VIRTIO_BLK_F_MQ'])
  const driver = await BlockDriver.start(device, { queues: 2 })
  await device.start()
  const told: number[] = []
  for (const queue of driver.queues) {
    queue.read(queue.acquire(), 0, 512, (_, status) => {
      told.push(status)
      boom()
    })
    queue.publish()
  }
  await expect(driver.close()).rejects.toMatchObject({ errors: [{ message: 'a bug of the program' }, {}] })
  expect(told).toEqual([BLOCK_NO_STATUS, BLOCK_NO_STATUS])
  expect([disk.status(), device.state, device.addressSpace(0).size, driver.isClosed]).toEqual([0, 'claimed', 0, true])
  await device.close()
})

test('a callback that throws while promises look for their answers is heard, and they go on looking', async () => {
  const { simulator, device, driver, queue } = await begin({ completions: 'poll' })
  queue.read(queue.acquire(), 0, 512, boom)
  queue.publish()
  const reading = driver.read(1, 1)
  // One answer a look: the callback throws before the promise has its own.
  const uncaught = hearUncaught()
  const poll = queue.poll.bind(queue)
  queue.poll = () => poll(1)
  await turn()
  simulator.drain()
  expect(await reading).toHaveLength(512)
  expect([queue.counters.answers, uncaught]).toMatchObject([2, [{ message: 'a bug of the program' }]])
  await device.close()
})

test.each([undefined, null, 5])('%p is no callback, and costs no slot', async (done) => {
  const { simulator, device, queue } = await begin({ completions: 'poll' })
  const slot = queue.acquire()
  for (const verb of ['read', 'write'] as const)
    expect(() => queue[verb](slot, 0, 512, done as never)).toThrow('done must be a function')
  expect(() => queue.flush(slot, done as never)).toThrow('done must be a function')
  queue.release(slot)
  simulator.drain()
  expect(queue.counters.requests).toBe(0)
  await device.close()
})
