// A device that breaks down (spec section 2.1.2), or is taken away, under drivers that wait: everybody is told, by name, what came before is given first, and
// nobody listens any more afterwards.

import { afterEach, describe, expect, jest, test } from '@jest/globals'
import type { VdpaDevice } from '../../lib/device/vdpa-device.js'
import { BlockDriver } from '../../lib/drivers/block-driver.js'
import { NetDriver } from '../../lib/drivers/net-driver.js'
import { openDevice } from '../../lib/open.js'
import { blockDevice, Simulator } from '../../lib/simulator/index.js'
import { hearUncaught } from '../uncaught.js'
import { numbered, numberOf, path, run, type Running } from './support.js'

const broken = { code: 'ERR_VDPA_DEVICE_BROKEN', path }
const running: Pick<Running, 'device'>[] = []

afterEach(async () => {
  for (const { device } of running.splice(0)) await device.close()
})

async function begin(): Promise<Running> {
  const result = await run({
    size: 4,
    hasControl: true,
    features: ['VIRTIO_NET_F_MQ'],
    device: { queuePairs: 2 },
    pairs: 2,
  })
  running.push(result)
  return result
}

const turns = async (count: number) => {
  for (let turn = 0; turn < count; turn++) await new Promise((resolve) => setImmediate(resolve))
}

describe('a network device that sets NEEDS_RESET', () => {
  test('ends every wait for a frame, on every pair', async () => {
    const { simulator, driver } = await begin()
    const waits = [driver.nextFrame(), driver.nextFrame({ pair: 1 }), driver.frames().next(), driver.nextFrame()]
    simulator.faults.needsReset(path)
    for (const result of await Promise.allSettled(waits)) expect(result).toMatchObject({ reason: broken })
    await expect(driver.nextFrame()).rejects.toMatchObject(broken)
    await expect(driver.frames().next()).rejects.toMatchObject(broken)
  })

  test('ends every wait for room', async () => {
    const simulator = new Simulator({ scheduler: 'manual' })
    const { device, driver } = await run({ size: 4, simulator })
    running.push({ device })
    while (driver.send(numbered(0)));
    const waits = [driver.room(), driver.room()]
    simulator.faults.needsReset(path)
    simulator.drain()
    for (const result of await Promise.allSettled(waits)) expect(result).toMatchObject({ reason: broken })
    await expect(driver.room()).rejects.toMatchObject(broken)
    expect(() => driver.send(numbered(1))).toThrow(expect.objectContaining(broken))
    expect(() => driver.sendBatch([numbered(1)])).toThrow(expect.objectContaining(broken))
    expect(() => driver.sendInPlace(60, () => undefined)).toThrow(expect.objectContaining(broken))
  })

  test('is told to onFailure once, and without it is an uncaught exception; the other listeners are told all the same', async () => {
    const { simulator, driver } = await begin()
    const [first, second] = [jest.fn(), jest.fn()]
    const bug = new Error('a bug of the program')
    driver.onFrame(jest.fn(), 0, (failure) => {
      first(failure)
      throw bug
    })
    driver.onFrame(jest.fn(), 0)
    driver.onFrame(jest.fn(), 1, second)
    const waiting = driver.nextFrame({ pair: 1 }).catch((failure: unknown) => failure)
    const uncaught = hearUncaught()
    simulator.faults.needsReset(path)
    await turns(5)
    jest.restoreAllMocks()
    expect(uncaught).toEqual([bug, expect.objectContaining(broken)])
    expect(first).toHaveBeenCalledTimes(1)
    expect(second.mock.calls).toEqual([[expect.objectContaining(broken)]])
    expect(await waiting).toMatchObject(broken)
    const late = jest.fn()
    driver.onFrame(jest.fn(), 0, late)
    expect(late.mock.calls).toEqual([[expect.objectContaining(broken)]])
  })

  test('loses no frame that came before', async () => {
    const { simulator, driver } = await begin()
    const seen: number[] = []
    expect(driver.sendBatch([numbered(1), numbered(2), numbered(3)])).toBe(3)
    await turns(5)
    simulator.faults.needsReset(path)
    const waiting = driver.nextFrame()
    await turns(5)
    expect(numberOf(await waiting)).toBe(1)
    expect(driver.receive((frame) => seen.push(numberOf(frame)), 1)).toBe(1)
    expect(numberOf(await driver.nextFrame())).toBe(3)
    expect(seen).toEqual([2])
    expect(() => driver.receive(jest.fn())).toThrow(expect.objectContaining(broken))
    expect(() => driver.receiveParts(jest.fn())).toThrow(expect.objectContaining(broken))
  })

  test('ends control commands, those that wait for room too, and refuses later ones', async () => {
    const simulator = new Simulator({ scheduler: 'manual' })
    const { control, device } = await run({ hasControl: true, simulator })
    running.push({ device })
    if (control === undefined) throw new Error('no control queue')
    const commands = Array.from({ length: 40 }, () => control.sendRaw(1, 1, new Uint8Array(4000)))
    simulator.faults.needsReset(path)
    simulator.drain()
    for (const result of await Promise.allSettled(commands)) expect(result).toMatchObject({ reason: broken })
    await expect(control.sendRaw(1, 1)).rejects.toMatchObject(broken)
  })

  test('goes on after a reset with a new driver, and the old one hears of nothing more', async () => {
    const { simulator, device, driver } = await begin()
    simulator.faults.needsReset(path)
    await expect(driver.nextFrame()).rejects.toMatchObject(broken)
    await device.reset()
    await expect(driver.nextFrame()).rejects.toMatchObject({ code: 'ERR_VDPA_CLOSED' })
    await device.negotiate(['VIRTIO_NET_F_MAC'])
    const next = await NetDriver.start(device)
    await device.start()
    next.kickReceive()
    next.send(numbered(7))
    expect(numberOf(await next.nextFrame())).toBe(7)
  })

  test('that was reset by the program, again and again, has no listeners of drivers that ended', async () => {
    const { device } = await begin()
    for (let round = 0; round < 3; round++) {
      await device.reset()
      await device.negotiate(['VIRTIO_NET_F_MAC'])
      await NetDriver.start(device)
    }
    expect(device.events.listenerCount('needsReset')).toBe(1)
    await device.reset()
    expect(device.events.listenerCount('needsReset')).toBe(0)
  })
})

describe('a device that was taken away', () => {
  test('ends every wait when it says so', async () => {
    const { simulator, device, driver } = await begin()
    const waiting = driver.nextFrame().catch((failure: unknown) => failure)
    simulator.faults.fail({ request: 'VHOST_VDPA_GET_STATUS', with: 'ENODEV' })
    simulator.faults.changeConfig(path, 0, Uint8Array.of(2))
    expect(await waiting).toMatchObject(broken)
    expect(device.state).toBe('lost')
  })
})

describe('a device that does not tell', () => {
  const deaf: readonly [string, (running: Running) => void][] = [
    [
      'whose interrupt somebody else has',
      ({ device, simulator }) => {
        device.setConfigCall(simulator.eventfd())
      },
    ],
  ]

  test.each(deaf)('%s is asked when somebody begins to wait', async (_, deafen) => {
    const made = await begin()
    const { simulator, driver, control } = made
    deafen(made)
    simulator.faults.needsReset(path)
    await turns(5)
    await expect(driver.nextFrame()).rejects.toMatchObject(broken)
    await expect(driver.room()).rejects.toMatchObject(broken)
    await expect(control?.sendRaw(1, 1)).rejects.toMatchObject(broken)
    const failed = jest.fn()
    driver.onFrame(jest.fn(), 1, failed)
    expect(failed).toHaveBeenCalledTimes(1)
  })

  test('because the kernel is older than the request: drivers start, and ask', async () => {
    const simulator = new Simulator()
    simulator.faults.fail({ request: 'VHOST_VDPA_SET_CONFIG_CALL', with: 'ENOTTY', times: 100 })
    const { driver, control, device } = await run({ hasControl: true, simulator })
    running.push({ device })
    simulator.faults.needsReset(path)
    await turns(5)
    await expect(control?.sendRaw(1, 1)).rejects.toMatchObject(broken)
    await expect(driver.nextFrame()).rejects.toMatchObject(broken)
  })
})

describe('a disk', () => {
  async function disk(simulator: Simulator): Promise<VdpaDevice<'block'>> {
    simulator.add(blockDevice({ path, capacity: 64 }))
    const device = await openDevice(path, { backend: simulator, expect: 'block' })
    running.push({ device } as unknown as Running)
    return device
  }

  test('that was reset by the program, again and again, has no listeners of drivers that ended', async () => {
    const device = await disk(new Simulator())
    for (let round = 0; round < 3; round++) {
      await device.negotiate([])
      await BlockDriver.start(device)
      await device.reset()
    }
    expect([device.events.listenerCount('needsReset'), device.events.listenerCount('config')]).toEqual([0, 0])
  })

  test('that does not tell is asked with each request', async () => {
    const simulator = new Simulator()
    simulator.faults.fail({ request: 'VHOST_VDPA_SET_CONFIG_CALL', with: 'ENOTTY', times: 100 })
    const device = await disk(simulator)
    await device.negotiate([])
    const driver = await BlockDriver.start(device)
    await device.start()
    expect(await driver.read(0, 1)).toHaveLength(512)
    simulator.faults.needsReset(path)
    await turns(5)
    await expect(driver.read(0, 1)).rejects.toMatchObject(broken)
  })
})
