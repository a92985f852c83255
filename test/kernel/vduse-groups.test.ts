// Groups and address spaces of a VDUSE device: version 1 of the interface (Linux 7.0) has them, version 0 has one of each.

import { afterEach, describe, expect, it, jest } from '@jest/globals'
import { readdirSync } from 'node:fs'
import type { DeviceQueue } from '../../lib/device/device-queue'
import type { VdpaDevice } from '../../lib/device/vdpa-device'
import { KernelBackend } from '../../lib/kernel/kernel-backend'
import { openDevice } from '../../lib/open'
import { serveVduse, type ModelModule, type ServeVduseOptions } from '../../lib/serve'
import { codeOf } from '../conformance/rows/bench'
import { until } from '../until'
import { vduseLaw } from './vduse-law'

const hasGroups = () => vduseLaw()['api-version'] === 1
const model: ModelModule = { module: require.resolve('./two-groups'), export: 'twoGroups' }
const options = (name: string): ServeVduseOptions => ({ name, driver: 'vhost_vdpa', timeout: 60_000 })

// An emulated machine takes its time to start a thread.
jest.setTimeout(600_000)

afterEach(() => {
  expect(readdirSync('/dev/vduse')).toEqual(['control'])
})

/** Has the device give back some bytes, which lie at the same place of each queue's memory. */
async function echo(queue: DeviceQueue, value: number): Promise<number> {
  queue.buffers.bytes(0, 128).fill(0)
  queue.buffers.bytes(0, 16).fill(value)
  queue.ring.begin()
  queue.ring.pushAddress(queue.buffersIova, 16, false)
  queue.ring.pushAddress(queue.buffersIova + 64n, 16, true)
  queue.ring.commit(1)
  queue.publish()
  await until(() => queue.ring.take() >= 0)
  expect(queue.ring.usedLength).toBe(16)
  return queue.buffers.bytes(64, 16)[15] ?? -1
}

/** Runs it with a queue in each of its groups, each in an address space of its own where there are two. */
async function runInTwoSpaces(device: VdpaDevice) {
  await device.negotiate([])
  const spaces = [device.addressSpace(0), device.addressSpace(hasGroups() ? 1 : 0)]
  if (hasGroups()) device.groups.assign(1, 1)
  const queues: DeviceQueue[] = []
  for (const [index, addressSpace] of spaces.entries())
    queues.push(await device.createQueue(index, { addressSpace, size: 8, bufferBytes: 0x1000 }))
  await device.start()
  return { spaces, queues }
}

describe('a device of two groups', () => {
  it('is offered with them by version 1, and with one by version 0', async () => {
    await using server = await serveVduse(model, options('groups0'))
    expect(server.apiVersion).toBe(vduseLaw()['api-version'])
    await using device = await openDevice(server.node ?? '', { backend: new KernelBackend() })
    await device.negotiate([])
    expect([device.groups.count, device.addressSpaceCount]).toEqual(vduseLaw()['groups-and-spaces'])
  })

  it('reaches the same address in two memories, where it has two address spaces', async () => {
    await using server = await serveVduse(model, options('groups1'))
    await using device = await openDevice(server.node ?? '', { backend: new KernelBackend() })
    const { queues } = await runInTwoSpaces(device)
    const [one, other] = queues
    if (one === undefined || other === undefined) throw new Error('there are two queues')
    expect(one.buffersIova === other.buffersIova).toBe(hasGroups())
    for (let round = 1; round <= 20; round++)
      expect([await echo(one, round), await echo(other, 100 + round)]).toEqual([round, 100 + round])
    expect(server.refusals).toEqual([])
  })

  it('goes on while memory of either space comes and goes, one piece at a time', async () => {
    await using server = await serveVduse(model, options('groups3'))
    const backend = new KernelBackend()
    await using device = await openDevice(server.node ?? '', { backend })
    const { spaces, queues } = await runInTwoSpaces(device)
    using region = backend.allocate(0x1000)
    const size = BigInt(region.length)
    for (let round = 1; round <= 10; round++) {
      // What the server had mapped of the other memory goes with each change: it is reached again.
      for (const [index, queue] of queues.entries()) expect(await echo(queue, round + index)).toBe(round + index)
      const space = spaces[round % 2]
      await space?.map({ iova: 0x7000_0000n, region })
      for (const [index, queue] of queues.entries()) expect(await echo(queue, 50 + index)).toBe(50 + index)
      if (round % 3 === 0) space?.unmapSync({ iova: 0x7000_0000n, size })
      else await space?.unmap({ iova: 0x7000_0000n, size })
    }
    expect(server.refusals).toEqual([])
  })

  it('is spoken to by version 0 where that is asked for', async () => {
    await using server = await serveVduse(model, { ...options('groups2'), apiVersion: 0 })
    expect(server.apiVersion).toBe(0)
    await using device = await openDevice(server.node ?? '', { backend: new KernelBackend() })
    await device.negotiate([])
    const { transport } = device
    expect(codeOf(() => transport.vringGroup(1))).toBe(vduseLaw()['group-of-queue-at-version-0'])
    expect(codeOf(() => transport.setGroupAsid(0, 0))).toBe(vduseLaw()['move-of-group-at-version-0'])
    const queue = await device.createQueue(1, { addressSpace: device.addressSpace(0), size: 8, bufferBytes: 0x1000 })
    await device.start()
    expect(await echo(queue, 7)).toBe(7)
    expect(server.refusals).toEqual([])
  })
})
