// An IOMMU over its virtqueues, driven as a guest's driver does; behind it the address spaces of a simulated network device.

import { describe, expect, test } from '@jest/globals'
import { FaultyBackend } from '../../lib/backend/faulty-backend.js'
import { isVdpaError } from '../../lib/base/errors.js'
import type { VdpaDevice } from '../../lib/device/vdpa-device.js'
import { iommuDevice, type IommuDeviceOptions } from '../../lib/iommu/iommu-device.js'
import type { VirtioIommuOptions } from '../../lib/iommu/iommu-options.js'
import { VirtioIommu } from '../../lib/iommu/virtio-iommu.js'
import { GuestMemory } from '../../lib/memory/guest-memory.js'
import { openDevice } from '../../lib/open.js'
import { networkDevice, Simulator } from '../../lib/simulator/index.js'
import { drive } from '../models/support.js'
import { GuestDriver } from './guest-driver.js'
import { DEVERR, ListSink, makeIommu, NOENT, OK, RANGE } from './support.js'
import { until } from '../until.js'

const NET = '/dev/vhost-vdpa-0'
const IOMMU = '/dev/vhost-vdpa-1'

/** A network device with its groups in address spaces of their own: endpoint 16 is its traffic, 17 its control queue. */
async function scene(options: Partial<VirtioIommuOptions> = {}, served: IommuDeviceOptions = {}) {
  const simulator = new Simulator()
  simulator.add(networkDevice({ path: NET }))
  const faulty = new FaultyBackend(simulator)
  const net = await openDevice(NET, { backend: faulty, expect: 'net' })
  await net.negotiate(['VIRTIO_NET_F_CTRL_VQ'])
  net.groups.assign(1, 1)
  const region = simulator.allocate(0x10_0000)
  const memory = new GuestMemory([{ address: 0x4000_0000n, region }])
  const failures: unknown[] = []
  const iommu = new VirtioIommu({
    memory,
    endpoints: [
      { id: 16, sink: net.addressSpace(0).sink },
      { id: 17, sink: net.addressSpace(1).sink, reserved: [{ first: 0xfee0_0000n, last: 0xfeef_ffffn, kind: 'msi' }] },
    ],
    onFailure: (failure) => failures.push(failure),
    ...options,
  })
  const device = iommuDevice(iommu, { path: IOMMU, ...served })
  simulator.add(device)
  const guest = await GuestDriver.start(simulator, IOMMU)
  const end = async () => {
    await guest.device.close()
    await iommu.close()
    await net.close()
    region.close()
  }
  return { simulator, faulty, net, iommu, device, guest, region, memory, failures, end }
}

function mapped(net: VdpaDevice<'net'>, asid: number): string[] {
  return net
    .addressSpace(asid)
    .snapshot()
    .map(({ iova, size, access }) => `${iova.toString(16)}+${size.toString(16)} ${access}`)
}

describe.each([false, true])('a driver over rings, requests carried out on the thread of the device: %p', (sync) => {
  test('maps into the address space of its endpoint', async () => {
    const { net, guest, end } = await scene({}, { sync })
    expect(await guest.attach(1, 16)).toBe(OK)
    expect(await guest.map(1, 0x1000n, 0x2fffn, 0x4000_0000n)).toBe(OK)
    expect(await guest.map(1, 0x4000n, 0x4fffn, 0x4000_8000n, 1)).toBe(OK)
    expect([mapped(net, 0), mapped(net, 1)]).toEqual([['1000+2000 rw', '4000+1000 ro'], []])
    expect(await guest.attach(1, 17)).toBe(OK)
    expect(mapped(net, 1)).toEqual(mapped(net, 0))
    expect(await guest.unmap(1, 0x1000n, 0x1fffn)).toBe(RANGE)
    expect(await guest.unmap(1, 0x1000n, 0x2fffn)).toBe(OK)
    expect([mapped(net, 0), mapped(net, 1)]).toEqual([['4000+1000 ro'], ['4000+1000 ro']])
    expect(await guest.detach(1, 16)).toBe(OK)
    expect([mapped(net, 0), mapped(net, 1)]).toEqual([[], ['4000+1000 ro']])
    expect(await guest.map(2, 0n, 0xfffn, 0x4000_0000n)).toBe(NOENT)
    expect(await guest.ask(Uint8Array.of(9, 0, 0, 0))).toBe(-1)
    await guest.device.reset()
    await until(() => mapped(net, 1).length === 0)
    await end()
  })

  test('a mapping that the kernel refuses in one address space is in none', async () => {
    const { net, guest, faulty, failures, end } = await scene({}, { sync })
    await guest.attach(1, 16)
    await guest.attach(1, 17)
    for (let nth = 1; nth <= 2; nth++) {
      const fault = faulty.fail({ with: 'EIO', nth, when: ({ op }) => op === 'write' || op === 'writeEach' })
      expect(await guest.map(1, 0x1000n, 0x1fffn, 0x4000_0000n)).toBe(DEVERR)
      fault.close()
      expect([mapped(net, 0), mapped(net, 1), failures.length]).toEqual([[], [], nth])
      expect(isVdpaError(failures[0])).toBe(true)
    }
    expect(await guest.map(1, 0x1000n, 0x1fffn, 0x4000_0000n)).toBe(OK)
    expect(mapped(net, 1)).toEqual(['1000+1000 rw'])
    await end()
  })

  test('properties, bypass in the configuration, and a reset that keeps it', async () => {
    const { net, guest, device, iommu, end } = await scene({}, { sync })
    const properties = await guest.probe(17)
    expect(
      Buffer.from(properties as Uint8Array)
        .toString('hex')
        .slice(0, 48),
    ).toBe('01001400010000000000e0fe00000000ffffeffe00000000')
    expect(await guest.probe(18)).toBe(NOENT)
    guest.device.config.write(36, Uint8Array.of(1))
    await until(() => mapped(net, 1).length > 0)
    expect(mapped(net, 0)).toEqual(['40000000+100000 rw'])
    guest.device.config.write(36, Uint8Array.of(2))
    expect(device.config[36]).toBe(1)
    expect(await guest.attach(1, 16)).toBe(OK)
    expect([mapped(net, 0), mapped(net, 1)]).toEqual([[], ['40000000+100000 rw']])
    await guest.device.reset()
    await until(() => mapped(net, 0).length > 0)
    expect([iommu.domainOf(16), device.config[36]]).toEqual([undefined, 1])
    await end()
  })

  test('faults are on the event queue, and dropped where there is no buffer', async () => {
    const { guest, iommu, device, end } = await scene({}, { sync })
    expect(iommu.translate(16, 0x5000n, 'wo')).toBeUndefined()
    await guest.attach(1, 16)
    await guest.map(1, 0x1000n, 0x1fffn, 0x4000_0000n, 1)
    expect(iommu.translate(16, 0x1000n, 'ro')).toMatchObject({ offset: 0 })
    expect(iommu.translate(16, 0x1008n, 'wo')).toBeUndefined()
    await until(() => guest.takeFaults().length === 2)
    expect(guest.faults).toEqual([
      { reason: 1, flags: 0x102, endpoint: 16, address: 0x5000n },
      { reason: 2, flags: 0x102, endpoint: 16, address: 0x1008n },
    ])
    for (let more = 0; more < 300; more++) iommu.translate(17, 0n, 'ro')
    await until(() => device.counters.droppedFaults + device.counters.faults === 302)
    expect(device.counters.droppedFaults).toBeGreaterThan(290)
    guest.takeFaults()
    iommu.reportFault({ reason: 0, endpoint: 17, access: 'rw', address: undefined })
    await until(() => guest.takeFaults().some(({ reason }) => reason === 0))
    expect(guest.faults.at(-1)).toEqual({ reason: 0, flags: 3, endpoint: 17, address: 0n })
    await end()
  })

  test('a fault is not put into a buffer that is too short for it, nor cut', async () => {
    const { guest, iommu, device, end } = await scene({}, { sync })
    const fault = { reason: 0, endpoint: 17, access: 'ro', address: 0x1000n } as const
    guest.faultBufferBytes = 20
    const count = () => device.counters.faults + device.counters.droppedFaults
    // Those of the first buffers are whole, and the buffers behind them are short.
    while (guest.emptyReports.length === 0) {
      const before = count()
      iommu.reportFault(fault)
      await until(() => count() > before)
      guest.takeFaults()
    }
    expect(guest.emptyReports).toEqual([0])
    expect(device.counters).toMatchObject({ faults: guest.faults.length, droppedFaults: 1 })
    expect(guest.faults.every(({ address }) => address === 0x1000n)).toBe(true)
    await end()
  })
})

test('a request that sleeps while its device is suspended is carried out once, and answered after', async () => {
  const { guest, net, simulator, end } = await scene()
  await guest.attach(1, 16)
  simulator.faults.delay({ request: 'write', path: NET, turns: 50 })
  const answer = guest.map(1, 0x1000n, 0x1fffn, 0x4000_0000n)
  await guest.device.suspend()
  await guest.device.resume()
  expect(await answer).toBe(OK)
  expect(mapped(net, 0)).toEqual(['1000+1000 rw'])
  await end()
})

test('mappings of a domain and of the program live beside each other, and do not overlap', async () => {
  const { guest, net, region, failures, end } = await scene()
  await net.addressSpace(0).map({ iova: 0x1000n, region, size: 4096 })
  await guest.attach(1, 16)
  expect(await guest.map(1, 0x1000n, 0x1fffn, 0x4000_0000n)).toBe(DEVERR)
  expect(failures).toEqual([expect.objectContaining({ code: 'ERR_VDPA_OVERLAP' })])
  expect(await guest.map(1, 0x2000n, 0x2fffn, 0x4000_0000n)).toBe(OK)
  await guest.detach(1, 16)
  expect(mapped(net, 0)).toEqual(['1000+1000 rw'])
  await end()
})

test('draft 0.4 has one queue, and its bypass is a feature', () => {
  const sink = new ListSink()
  const { iommu } = makeIommu([{ id: 8, sink }], { profile: '0.4', bypass: true })
  const device = iommuDevice(iommu, { sync: true })
  expect([device.queueCount, device.configSize]).toEqual([1, 32])
  const driven = drive(device)
  driven.bytes.set(Buffer.from('01000000010000000800000000000000', 'hex'), 0x1_0000)
  const used = driven.exchange(0, [
    [0x1_0000n, 16, false],
    [0x1_1000n, 4, true],
  ])
  expect([used, driven.bytes[0x1_1000], iommu.domainOf(8)]).toEqual([4, OK, 1])
})

test('what is no IOMMU is refused', () => {
  expect(() => iommuDevice({} as VirtioIommu)).toThrow(/^iommu must be a VirtioIommu/)
})
