// Mappings of an IOMMU that its sink has no more, or has against its will: unmapped by somebody else, or left behind by a change that could not be taken back. What the sink
// says that it has is believed, and the next change mends the rest. IOMMU_SEED says from which seed on.

import { expect, test } from '@jest/globals'
import type { ErrnoName } from '../../lib/uapi/errno.js'
import { VirtioIommu } from '../../lib/iommu/virtio-iommu.js'
import { GuestMemory } from '../../lib/memory/guest-memory.js'
import { openDevice } from '../../lib/open.js'
import { networkDevice, Simulator } from '../../lib/simulator/index.js'
import { dice } from './oracle.js'
import { attach, DEVERR, detach, map, OK, two, unmap } from './support.js'

const PAGE = 0x1000n
const PAGES = 16
const SEEDS = 60
const firstSeed = Number(process.env['IOMMU_SEED'] ?? 1)
const errnos: readonly ErrnoName[] = ['EFAULT', 'ENOMEM', 'EIO', 'EINTR']

/** Two address spaces of a device, an endpoint each, over memory of two regions. */
async function scene(bypass = false) {
  const simulator = new Simulator()
  const path = simulator.add(networkDevice())
  const device = await openDevice(path, { backend: simulator, expect: 'net' })
  const claim = async () => {
    await device.negotiate(['VIRTIO_NET_F_CTRL_VQ'])
    device.groups.assign(1, 1)
  }
  await claim()
  const regions = [simulator.allocate(PAGES * 4096), simulator.allocate(4096)] as const
  const memory = new GuestMemory([
    { address: 0n, region: regions[0] },
    { address: 0x1000_0000n, region: regions[1] },
  ])
  const spaces = [device.addressSpace(0), device.addressSpace(1)] as const
  const failures: unknown[] = []
  const endpoints = spaces.map(({ sink }, id) => ({ id, sink }))
  const iommu = new VirtioIommu({ memory, endpoints, bypass, onFailure: (failure) => failures.push(failure) })
  const sizes = () => spaces.map(({ size }) => size)
  const end = async () => {
    await iommu.close()
    expect(sizes()).toEqual([0, 0])
    await device.close()
    for (const region of regions) region.close()
  }
  return { simulator, path, device, claim, regions, spaces, iommu, failures, sizes, end }
}

const requestOf = (page: number, physical: bigint) => ({
  ...map,
  first: BigInt(page) * PAGE,
  last: BigInt(page + 1) * PAGE - 1n,
  physical,
})

test('what the program unmaps beside it can be unmapped by the guest, mapped again by refresh(), and is gone after close()', async () => {
  const { iommu, regions, spaces, failures, sizes, end } = await scene()
  const second = requestOf(5, 0x1000_0000n)
  for (const endpoint of [0, 1]) iommu.requestSync({ ...attach, endpoint })
  for (const request of [requestOf(1, 0n), second]) expect(iommu.requestSync(request)).toBe(OK)
  await spaces[0].unmapRegion(regions[1])
  expect(sizes()).toEqual([1, 2])
  expect(await iommu.refresh()).toBe(true)
  expect(sizes()).toEqual([2, 2])
  await spaces[1].unmapAll()
  expect(iommu.requestSync({ ...unmap, first: second.first, last: second.last })).toBe(OK)
  expect(sizes()).toEqual([1, 0])
  expect(iommu.refreshSync()).toBe(true)
  expect(sizes()).toEqual([1, 1])
  await spaces[0].unmapAll()
  expect(failures).toEqual([])
  await end()
})

test('a program has what it mapped itself where the guest wanted to map the same', async () => {
  const { iommu, regions, spaces, sizes, end } = await scene()
  iommu.requestSync({ ...attach, endpoint: 0 })
  await spaces[0].map({ iova: 0x1000n, region: regions[1], size: 4096 })
  expect(iommu.requestSync(requestOf(1, 0x1000_0000n))).not.toBe(OK)
  expect(iommu.requestSync(requestOf(2, 0n))).toBe(OK)
  expect(sizes()).toEqual([2, 0])
  await iommu.reset()
  expect(sizes()).toEqual([1, 0])
  await spaces[0].unmapAll()
  await end()
})

test('a sink that throws when it is asked what it has refuses, and others are asked', async () => {
  const bug = new Error('a bug of the program')
  const { iommu, a, b, failures, region } = two()
  for (const endpoint of [8, 9]) iommu.requestSync({ ...attach, endpoint })
  iommu.requestSync(map)
  const has = () => {
    throw bug
  }
  const sink = Object.assign(a, { has })
  expect(iommu.refreshSync()).toBe(false)
  sink.refuseAfter = 0
  expect(iommu.requestSync(unmap)).toBe(DEVERR)
  expect(failures).toEqual([bug, bug])
  Reflect.deleteProperty(sink, 'has')
  expect(iommu.requestSync(unmap)).toBe(OK)
  expect([a.held, b.held]).toEqual([[], []])
  await iommu.close()
  region.close()
})

test.each(Array.from({ length: SEEDS }, (_, index) => firstSeed + index))(
  'changes that are refused, as are their ways back, are mended (seed %i)',
  async (seed) => {
    const roll = dice(seed)
    const { simulator, path, device, claim, spaces, iommu, end } = await scene(roll(2) === 1)
    const someone = () => ({ domain: roll(3), endpoint: roll(2) })
    const act = async (): Promise<unknown> => {
      const page = roll(PAGES)
      const range = { domain: roll(3), first: BigInt(page) * PAGE, last: BigInt(page + 1 + roll(3)) * PAGE - 1n }
      const kind = roll(14)
      if (kind < 2) return iommu.request({ ...attach, ...someone(), flags: roll(8) === 0 ? 1 : 0 })
      if (kind < 3) return iommu.request({ ...detach, ...someone() })
      if (kind < 7) return iommu.request({ ...map, ...range, physical: BigInt(roll(13)) * PAGE, flags: roll(4) })
      if (kind < 9) return iommu.request({ ...unmap, ...range })
      if (kind < 10) return simulator.faults.shortWrite({ length: roll(3), nth: 1 + roll(4) })
      if (kind < 11) return roll(4) === 0 && iommu.reset()
      if (kind < 12) return roll(3) === 0 && iommu.setBypass(roll(2) === 1)
      if (kind < 13) return roll(6) === 0 && device.reset().then(claim)
      const refused = errnos[roll(errnos.length)] ?? 'EIO'
      return simulator.faults.fail({ request: 'write', with: refused, nth: 1 + roll(6), times: 1 + roll(3) })
    }
    const under: Promise<unknown>[] = []
    for (let count = 0; count < 120; count++) {
      // A device that could not be claimed again is claimed at the end.
      under.push(act().catch(() => undefined))
      if (roll(4) === 0) await Promise.all(under.splice(0))
    }
    await Promise.all(under)
    simulator.faults.clear()
    await device.reset()
    expect(await iommu.refresh()).toBe(true)
    const found: string[] = []
    for (const [endpoint, space] of spaces.entries()) {
      const has = simulator.dump(path).addressSpaces.find(({ asid }) => asid === endpoint)?.mappings.length ?? 0
      // Where nobody knows whether a message was taken, what may be mapped counts as mapped.
      expect(has).toBeLessThanOrEqual(space.size)
      for (let page = 0; page < PAGES + 4; page++) {
        const iova = BigInt(page) * PAGE
        const wanted = iommu.translate(endpoint, iova, 'ro') ?? iommu.translate(endpoint, iova, 'wo')
        const mapped = space.lookup(iova)
        if (wanted?.offset !== mapped?.offset || wanted?.access !== mapped?.mapping.access)
          found.push(`${endpoint} 0x${iova.toString(16)}`)
      }
    }
    expect(found).toEqual([])
    await end()
  },
)
