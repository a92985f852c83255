// What newer kernels ask of who serves a VDUSE device: to stand still (Linux 7.3), and to begin a queue that is enabled late, which older ones do not tell.

import { afterEach, describe, expect, it, jest } from '@jest/globals'
import { readdirSync } from 'node:fs'
import { BlockDriver } from '../../lib/drivers/block-driver'
import { KernelBackend } from '../../lib/kernel/kernel-backend'
import { moveDevice } from '../../lib/move/move'
import { openDevice } from '../../lib/open'
import { serveVduse, type ModelModule, type ServeVduseOptions } from '../../lib/serve'
import { until } from '../until'
import { vduseLaw } from './vduse-law'
import { pattern, sumOf } from './vduse-support'

const backend = new KernelBackend()
const options = (name: string): ServeVduseOptions => ({ name, driver: 'vhost_vdpa', timeout: 60_000 })
const opened = (node: string | undefined) => openDevice(node ?? '', { backend, expect: 'block' })

// An emulated machine takes its time to start a thread.
jest.setTimeout(600_000)

afterEach(() => {
  expect(readdirSync('/dev/vduse')).toEqual(['control'])
})

/** A disk made on a thread of its own: Linux 7.3 asks it when a queue is enabled, for which this thread waits. */
const disk: ModelModule = {
  module: require.resolve('../../lib/models/block'),
  export: 'blockDevice',
  argument: { capacity: 0x1000 },
}

describe('a VDUSE device', () => {
  it('can be suspended where the kernel asks its server, and tells where its queue stands then', async () => {
    await using server = await serveVduse(disk, options('still0'))
    await using device = await opened(server.node)
    expect(device.backendFeatures.has('VHOST_BACKEND_F_SUSPEND')).toBe(vduseLaw().suspends)
    await device.negotiate([])
    await using driver = await BlockDriver.start(device, { size: 16 })
    await device.start()
    await driver.write(0, pattern(4096, 1))
    if (vduseLaw().suspends) {
      await device.suspend()
      // Each request was one chain.
      expect(device.vring(0).state()).toMatchObject({ available: 1 })
    } else await expect(device.suspend()).rejects.toMatchObject({ code: 'ERR_VDPA_NOT_SUPPORTED' })
    expect(server.refusals).toEqual([])
  })

  it('passes a driver to another one in the middle of its work, as one that was suspended where it can be', async () => {
    await using one = await serveVduse(disk, options('still1'))
    await using other = await serveVduse(disk, options('still2'))
    await using source = await opened(one.node)
    await using target = await opened(other.node)
    await source.negotiate([])
    const driver = await BlockDriver.start(source, { size: 16 })
    await source.start()
    const writes = Array.from({ length: 60 }, (_, at) => driver.write(8 * at, pattern(4096, at)))
    await Promise.race(writes)
    const moved = await moveDevice(source, target, { driver })
    expect([moved.isMoved, moved.failure]).toEqual([true, undefined])
    expect(moved.report.lost.length).toBe(vduseLaw().suspends ? 0 : 1)
    await Promise.all(writes)
    // The last of them had no room in the ring before.
    expect(sumOf(await moved.driver.read(8 * 59, 8))).toBe(sumOf(pattern(4096, 59)))
    expect([one.refusals, other.refusals]).toEqual([[], []])
  })

  it('serves a queue that is enabled when it runs already', async () => {
    const model: ModelModule = { ...disk, argument: { capacity: 64, content: pattern(4096, 9), queues: 2 } }
    await using server = await serveVduse(model, options('still3'))
    await using device = await opened(server.node)
    await device.negotiate(['VIRTIO_BLK_F_MQ'])
    const addressSpace = device.addressSpace(0)
    const queues = []
    for (const index of [0, 1])
      queues.push(await device.createQueue(index, { addressSpace, size: 8, bufferBytes: 0x2000 }))
    const late = queues[1]
    if (late === undefined) throw new Error('there are two queues')
    device.vring(1).disable()
    await device.start()
    late.buffers.bytes(0, 16).fill(0)
    late.ring.begin()
    late.ring.pushAddress(late.buffersIova, 16, false)
    late.ring.pushAddress(late.buffersIova + 0x1000n, 513, true)
    late.ring.commit(1)
    late.publish()
    // The kernel lets a running device have it, whatever the backend features say.
    device.transport.setVringEnable(1, true)
    await until(() => late.ring.take() >= 0)
    expect(sumOf(late.buffers.bytes(0x1000, 512))).toBe(sumOf(pattern(4096, 9).subarray(0, 512)))
    expect(server.refusals).toEqual([])
  })
})
