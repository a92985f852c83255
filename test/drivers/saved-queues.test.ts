// Snapshots that nobody goes on with: given up, by name, with everybody who waits told and nothing left.

import { describe, expect, jest, test } from '@jest/globals'
import type { VdpaDevice } from '../../lib/device/vdpa-device.js'
import { BlockDriver } from '../../lib/drivers/block-driver.js'
import { NetDriver } from '../../lib/drivers/net-driver.js'
import { openDevice } from '../../lib/open.js'
import { blockDevice, Simulator } from '../../lib/simulator/index.js'
import { until } from '../until.js'
import { numbered, run } from './support.js'

const path = '/dev/vhost-vdpa-0'
const canceled = { code: 'ERR_VDPA_CANCELED', path }

/** A disk that answers nothing, saved with requests under way and others that wait for room. */
async function saved() {
  const simulator = new Simulator({ scheduler: 'manual' })
  simulator.add(blockDevice({ path, capacity: 64 }))
  const device: VdpaDevice<'block'> = await openDevice(path, { backend: simulator, expect: 'block' })
  await device.negotiate([])
  const driver = await BlockDriver.start(device, { slots: 2 })
  await device.start()
  const reads = [0, 1, 2, 3].map((sector) => driver.read(sector, 1).catch((failure: unknown) => failure))
  await device.suspend()
  const snapshot = await driver.save()
  return { simulator, device, driver, reads, snapshot }
}

describe('the snapshot of a disk', () => {
  test('that is given up rejects everything, and its memory is freed', async () => {
    const { device, driver, reads, snapshot } = await saved()
    const idle = driver.idle()
    BlockDriver.abandon({ ...snapshot })
    for (const read of reads) expect(await read).toMatchObject(canceled)
    await idle
    expect(snapshot.queues.map(({ memory }) => memory.isClosed)).toEqual([true])
    BlockDriver.abandon(snapshot)
    await device.reset()
    await device.negotiate([])
    await expect(BlockDriver.start(device, { restore: snapshot })).rejects.toMatchObject({ code: 'ERR_VDPA_STATE' })
    await device.close()
  })

  test('waits on when the device is closed, for another device or to be given up', async () => {
    const { device, driver, reads, snapshot } = await saved()
    const settled = jest.fn()
    for (const read of reads) void read.then(settled)
    await driver.close()
    await device.close()
    expect(settled).not.toHaveBeenCalled()
    BlockDriver.abandon(snapshot)
    for (const read of reads) expect(await read).toMatchObject(canceled)
    expect(snapshot.queues[0]?.memory.isClosed).toBe(true)
  })

  test('that was restored is not given up, until it is saved again', async () => {
    const { simulator, device, reads, snapshot } = await saved()
    await device.reset()
    await device.negotiate([])
    const next = await BlockDriver.start(device, { restore: snapshot })
    expect(() => BlockDriver.abandon(snapshot)).toThrow(expect.objectContaining({ code: 'ERR_VDPA_STATE' }))
    await device.start()
    await device.suspend()
    const again = await next.save()
    BlockDriver.abandon(again)
    for (const read of reads) expect(await read).toMatchObject(canceled)
    simulator.drain()
    await device.close()
  })

  test('is restored once, however many ask for it at the same time', async () => {
    const { simulator, device, reads, snapshot } = await saved()
    const other = '/dev/vhost-vdpa-1'
    simulator.add(blockDevice({ path: other, capacity: 64 }))
    const second = await openDevice(other, { backend: simulator, expect: 'block' })
    await device.reset()
    for (const one of [device, second]) await one.negotiate([])
    const both = [device, second].map((one) => BlockDriver.start(one, { restore: snapshot }))
    const [won, lost] = await Promise.allSettled(both)
    expect([won?.status, lost]).toMatchObject(['fulfilled', { status: 'rejected', reason: { code: 'ERR_VDPA_STATE' } }])
    await device.start()
    const answers = Promise.all(reads)
    const settled = jest.fn()
    void answers.then(settled)
    await until(() => {
      simulator.drain()
      return settled.mock.calls.length > 0
    })
    for (const answer of await answers) expect(answer).toBeInstanceOf(Uint8Array)
    for (const one of [device, second]) await one.close()
    expect(simulator.descriptors).toEqual([])
  })

  test('whose callbacks throw is given up all the same, and the error comes last', async () => {
    const simulator = new Simulator({ scheduler: 'manual' })
    simulator.add(blockDevice({ path, capacity: 64 }))
    const device: VdpaDevice<'block'> = await openDevice(path, { backend: simulator, expect: 'block' })
    await device.negotiate([])
    const driver = await BlockDriver.start(device)
    await device.start()
    const [queue] = driver.queues
    const bug = new Error('a bug of the program')
    const told = jest.fn((slot: number, status: number) => {
      if (slot === 0) throw bug
      return status
    })
    for (const sector of [0, 1]) queue?.read(queue.acquire(), sector, 512, told)
    await device.suspend()
    const snapshot = await driver.save()
    expect(() => BlockDriver.abandon(snapshot)).toThrow(bug)
    expect(told.mock.calls).toEqual([
      [0, -1],
      [1, -1],
    ])
    expect(snapshot.queues[0]?.memory.isClosed).toBe(true)
    await device.close()
  })

  test('whose memory the device keeps is told so, and its memory freed later', async () => {
    const simulator = new Simulator({ scheduler: 'manual' })
    simulator.add(blockDevice({ path, capacity: 64 }))
    const device: VdpaDevice<'block'> = await openDevice(path, { backend: simulator, expect: 'block' })
    await device.negotiate([])
    const driver = await BlockDriver.start(device)
    await device.start()
    const read = driver.read(0, 1).catch((failure: unknown) => failure)
    await device.suspend()
    simulator.faults.fail({ request: 'write', with: 'EIO', times: 10 })
    const snapshot = await driver.save()
    expect(() => BlockDriver.abandon(snapshot)).toThrow(expect.objectContaining({ code: 'ERR_VDPA_MEMORY_HELD' }))
    expect(await read).toMatchObject(canceled)
    simulator.faults.clear()
    await device.close()
    BlockDriver.abandon(snapshot)
    expect(snapshot.queues[0]?.memory.isClosed).toBe(true)
  })
})

describe('the snapshot of a network driver', () => {
  test('is given up, once, and not where it was restored', async () => {
    const { device, driver } = await run({ size: 4 })
    driver.send(numbered(1))
    await device.suspend()
    const snapshot = await driver.save()
    await device.reset()
    await device.negotiate(['VIRTIO_NET_F_MAC'])
    const next = await NetDriver.start(device, { restore: snapshot })
    expect(() => NetDriver.abandon(snapshot)).toThrow(expect.objectContaining({ code: 'ERR_VDPA_STATE' }))
    await expect(NetDriver.start(device, { restore: snapshot })).rejects.toMatchObject({ code: 'ERR_VDPA_STATE' })
    await device.start()
    await device.suspend()
    const again = await next.save()
    NetDriver.abandon(again)
    expect(again.queues.map(({ memory }) => memory.isClosed)).toEqual([true, true])
    NetDriver.abandon(again)
    await device.close()
  })
})

test.each([undefined, null, 5, {}, { queues: [] }, { queues: [{}] }, { queues: [{ memory: { close: 1 } }] }])(
  '%j is no snapshot',
  async (none) => {
    const type = { code: 'ERR_INVALID_ARG_TYPE' }
    for (const driver of [BlockDriver, NetDriver])
      expect(() => driver.abandon(none as never)).toThrow(expect.objectContaining(type))
    const { device } = await run({ size: 4 })
    await device.reset()
    await device.negotiate(['VIRTIO_NET_F_MAC'])
    if (none !== undefined)
      await expect(NetDriver.start(device, { restore: none as never })).rejects.toMatchObject(type)
    await device.close()
  },
)
