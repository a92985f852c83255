// An address space as a feeder sees it.

import { expect, test } from '@jest/globals'
import { runAsync, runSync } from '../../lib/base/steps.js'
import { openDevice } from '../../lib/open.js'
import { networkDevice, Simulator } from '../../lib/simulator/index.js'
import { refusalOf } from '../conformance/support.js'

const NET = '/dev/vhost-vdpa-0'

async function scene() {
  const simulator = new Simulator()
  simulator.add(networkDevice({ path: NET }))
  const device = await openDevice(NET, { backend: simulator })
  const space = device.addressSpace(0)
  const region = simulator.allocate(0x1_0000)
  const slice = (offset: number, size = 4096) => ({ region, offset, size })
  const mapped = () => space.snapshot().map(({ iova, size, access }) => [iova, size, access])
  return { simulator, device, space, sink: space.sink, region, slice, mapped }
}

test('says what it is, and is one object', async () => {
  const { space, sink, device } = await scene()
  expect(sink).toMatchObject({ name: `asid 0 of ${NET}`, range: device.iovaRange, pageSize: 4096 })
  expect(space.sink).toBe(sink)
})

test('maps and unmaps on the calling thread, and off it', async () => {
  const { sink, slice, mapped } = await scene()
  runSync(sink.map(0x1000n, slice(0), 'ro'))
  await runAsync(sink.map(0x2000n, slice(4096), 'rw'))
  expect(mapped()).toEqual([
    [0x1000n, 4096n, 'ro'],
    [0x2000n, 4096n, 'rw'],
  ])
  runSync(sink.unmap({ first: 0x1000n, last: 0x1fffn }))
  await runAsync(sink.unmap({ first: 0x2000n, last: 0x2fffn }))
  expect(mapped()).toEqual([])
})

test('a batch puts something else in the place of what goes', async () => {
  const { sink, slice, mapped } = await scene()
  runSync(sink.map(0x1000n, slice(0, 8192), 'rw'))
  const gone = { verb: 'unmap', range: { first: 0x1000n, last: 0x2fffn } } as const
  const come = { verb: 'map', iova: 0x2000n, slice: slice(0, 8192), access: 'wo' } as const
  runSync(sink.batch([come, gone]))
  expect(mapped()).toEqual([[0x2000n, 8192n, 'wo']])
})

test('a batch that cannot be changes nothing', async () => {
  const { sink, slice, mapped, region } = await scene()
  runSync(sink.map(0x1000n, slice(0), 'rw'))
  const before = mapped()
  const gone = { verb: 'unmap', range: { first: 0x1000n, last: 0x1fffn } } as const
  const come = { verb: 'map', iova: 0x1000n, slice: slice(0), access: 'rw' } as const
  const all = (...changes: Parameters<typeof sink.batch>[0]) => refusalOf(() => runSync(sink.batch(changes)))
  expect(await all(come)).toMatchObject({ code: 'ERR_VDPA_OVERLAP' })
  expect(await all(gone, come, come)).toMatchObject({ code: 'ERR_VDPA_OVERLAP' })
  expect(await all(gone, gone)).toMatchObject({ code: 'ERR_VDPA_NOT_MAPPED' })
  expect(await all(gone, { ...gone, range: { first: 0x1000n, last: 0x2fffn } })).toMatchObject({
    code: 'ERR_VDPA_NOT_MAPPED',
  })
  expect(() => runSync(sink.batch([gone, { ...come, iova: 0x1001n }]))).toThrow(RangeError)
  expect(mapped()).toEqual(before)
  expect(() => region.close()).toThrow(expect.objectContaining({ code: 'ERR_VDPA_MEMORY_HELD' }))
  runSync(sink.batch([gone]))
  region.close()
})

test('comes in the order of the device, and is refused once it closes', async () => {
  const { device, space, sink, region, slice, mapped } = await scene()
  const before = space.map({ iova: 0x1000n, region, size: 4096 })
  const changes = [{ verb: 'unmap', range: { first: 0x1000n, last: 0x1fffn } } as const]
  const batch = runAsync(sink.batch(changes))
  changes.length = 0
  expect(await refusalOf(() => runSync(sink.map(0x3000n, slice(0), 'rw')))).toMatchObject({ code: 'ERR_VDPA_STATE' })
  await Promise.all([before, batch])
  expect(mapped()).toEqual([])
  await device.close()
  expect(await refusalOf(() => runAsync(sink.map(0x3000n, slice(0), 'rw')))).toMatchObject({ code: 'ERR_VDPA_CLOSED' })
})

test('what may still be mapped behind another mapping is there, and is unmapped by its own name', async () => {
  const { simulator, device, space, sink, region, slice, mapped } = await scene()
  runSync(sink.map(0x5000n, slice(0), 'rw'))
  simulator.faults.shortWrite({ length: 1, nth: 4 })
  simulator.faults.fail({ request: 'write', with: 'EFAULT', nth: 5, times: 4 })
  const gone = { verb: 'unmap', range: { first: 0x5000n, last: 0x5fffn } } as const
  const come = { verb: 'map', iova: 0x4000n, slice: slice(0, 0x4000), access: 'rw' } as const
  expect(await refusalOf(() => runSync(sink.batch([gone, come])))).toMatchObject({ code: 'EIO' })
  simulator.faults.clear()
  expect(space.mappings.map(({ iova }) => iova)).toEqual([0x4000n, 0x5000n])
  expect([sink.has?.(0x5000n, slice(0), 'rw'), sink.has?.(0x4000n, come.slice, 'rw')]).toEqual([true, true])
  expect([sink.has?.(0x5000n, slice(4096), 'rw'), sink.has?.(0x5000n, slice(0), 'ro')]).toEqual([false, false])
  space.unmapRegionSync(region)
  expect(mapped()).toEqual([])
  region.close()
  await device.close()
})
