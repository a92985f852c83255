// A domain of a guest's IOMMU as what a device IOTLB asks: what the guest unmaps is gone from the device when the guest is told so, and what it maps has a queue go on.

import { afterEach, describe, expect, test } from '@jest/globals'
import { vdpaError } from '../../lib/base/errors.js'
import { runSync } from '../../lib/base/steps.js'
import { VirtioIommu } from '../../lib/iommu/virtio-iommu.js'
import { GuestMemory } from '../../lib/memory/guest-memory.js'
import type { MissFault } from '../../lib/misses/miss-faults.js'
import { MissServer } from '../../lib/misses/miss-server.js'
import type { MissVerdict } from '../../lib/misses/translator.js'
import { Simulator } from '../../lib/simulator/simulator.js'
import { attach, DEVERR, detach, map, OK, unmap } from '../iommu/support.js'
import { until } from '../until.js'
import { page, TestPort } from './support.js'

const servers: MissServer[] = []
afterEach(() => servers.splice(0).forEach((server) => server.close()))

function world(say: (verdict: MissVerdict) => MissVerdict | PromiseLike<MissVerdict> = (verdict) => verdict) {
  const simulator = new Simulator()
  const iotlb = simulator.demandIotlb()
  let asked = 0
  const region = simulator.allocate(0x1_0000)
  const memory = new GuestMemory([{ address: 0n, region }])
  const faults: MissFault[] = []
  const onFault = (fault: MissFault) => void faults.push(fault)
  const server: MissServer = new MissServer(
    iotlb,
    { translate: ({ iova, access }) => (asked++, say(iommu.translate(8, iova, access))) },
    { onFault, onEnd: () => undefined },
  )
  servers.push(server)
  const iommu = new VirtioIommu({ memory, endpoints: [{ id: 8, sink: server.sink }] })
  return { iotlb, server, iommu, faults, region, asked: () => asked }
}

describe('a device behind a guest’s IOMMU', () => {
  test('reaches what is mapped for as long as it is, and waits where nothing is', async () => {
    const { iotlb, iommu, faults, region } = world()
    region.view(0xa000, 1)[0] = 0x5a
    const early = iotlb.readMemory(0x1000n, 1)
    await until(() => faults.length === 1)
    expect(iommu.requestSync(attach)).toBe(OK)
    expect(iommu.requestSync(map)).toBe(OK)
    expect([...(await early)]).toEqual([0x5a])
    expect(iommu.requestSync(unmap)).toBe(OK)
    expect(iotlb.size).toBe(0)
    expect(region.holders).toEqual([])
    const late = iotlb.readMemory(0x1000n, 1)
    await until(() => faults.length === 2)
    expect(iotlb.waiting).toBe(1)
    // In another place of the guest's memory it leads there.
    region.view(0xb000, 1)[0] = 0x5b
    expect(iommu.requestSync({ ...map, physical: 0xb000n })).toBe(OK)
    expect([...(await late)]).toEqual([0x5b])
    expect(iommu.requestSync(detach)).toBe(OK)
    expect(iotlb.size).toBe(0)
  })

  test('has only those misses asked for again whose addresses are mapped', async () => {
    const { iotlb, iommu, faults, server } = world()
    iommu.requestSync(attach)
    const reads = [0x1000n, 0x5000n].map((iova) => iotlb.readMemory(iova, 1))
    await until(() => faults.length === 2)
    iommu.requestSync(map)
    await reads[0]
    expect(faults).toHaveLength(2)
    expect(server.unanswered).toMatchObject([{ iova: 0x5000n, attempt: 1 }])
    iotlb.end()
    await expect(reads[1]).rejects.toMatchObject({ code: 'EBADFD' })
  })
})

test('what is mapped while the translator is looking elsewhere is found after it', async () => {
  let find: () => void = () => undefined
  const found = new Promise<void>((resolve) => (find = resolve))
  const { iotlb, iommu, faults, asked } = world((verdict) => found.then(() => verdict))
  iommu.requestSync(attach)
  const early = iotlb.readMemory(0x1000n, 1)
  await until(() => asked() === 1)
  expect(iommu.requestSync(map)).toBe(OK)
  find()
  expect(await early).toHaveLength(1)
  expect(faults).toEqual([])
})

test('what a listener maps while it is told of misses that are asked for again is asked for again after them', async () => {
  const { iotlb, iommu, faults, server } = world()
  iommu.requestSync(attach)
  const reads = [0x1000n, 0x5000n].map((iova) => iotlb.readMemory(iova, 1))
  await until(() => faults.length === 2)
  const { push } = faults
  faults.push = (fault) => {
    if (fault.request?.iova === 0x5000n) iommu.requestSync({ ...map, last: 0x5fffn })
    return push.call(faults, fault)
  }
  expect(server.retry()).toBe(2)
  for (const read of reads) expect(await read).toHaveLength(1)
  expect(server.unanswered).toEqual([])
})

test('a device that refuses an invalidation has the request refused, and the domain is what it was', () => {
  const port = new TestPort()
  const server = new MissServer(port, { translate: ({ iova }) => page(iova) })
  servers.push(server)
  const simulator = new Simulator()
  const memory = new GuestMemory([{ address: 0n, region: simulator.allocate(0x1_0000) }])
  const failures: unknown[] = []
  const onFailure = (failure: unknown) => void failures.push(failure)
  const iommu = new VirtioIommu({ memory, endpoints: [{ id: 8, sink: server.sink }], onFailure })
  iommu.requestSync(attach)
  iommu.requestSync(map)
  port.refusal = vdpaError('ERR_VDPA_STATE', 'as EFAULT')
  expect(iommu.requestSync(unmap)).toBe(DEVERR)
  expect(failures).toHaveLength(1)
  expect(iommu.translate(8, 0x1000n, 'ro')).toBeDefined()
  port.refusal = undefined
  expect(iommu.requestSync(unmap)).toBe(OK)
  expect(port.written).toEqual(['invalidate 0x1000+0x1000 '])
})

test('the sink has a name and all addresses, in pages, and its verbs are those of one change', () => {
  const port = new TestPort()
  const server = new MissServer(port, { translate: ({ iova }) => page(iova) })
  servers.push(server)
  const { sink } = server
  expect(sink).toMatchObject({
    name: 'the IOTLB of /dev/vhost-net',
    range: { first: 0n, last: 2n ** 64n - 1n },
    pageSize: 4096,
  })
  runSync(sink.unmap({ first: 0x1000n, last: 0x1fffn }))
  runSync(sink.map(0x1000n, { region: new Simulator().allocate(4096), offset: 0, size: 4096 }, 'rw'))
  expect(port.written).toEqual(['invalidate 0x1000+0x1000 '])
  server.close()
  expect(() => runSync(sink.unmap({ first: 0x1000n, last: 0x1fffn }))).toThrow(
    expect.objectContaining({ code: 'ERR_VDPA_CLOSED' }),
  )
})
