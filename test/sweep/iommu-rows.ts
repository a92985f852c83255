// The verbs of a guest's IOMMU whose endpoint is an address space of the device.

import { VirtioIommu } from '../../lib/iommu/virtio-iommu.js'
import { GuestMemory } from '../../lib/memory/guest-memory.js'
import { negotiated, sync, the, type Act, type Row } from './steps.js'
import type { SweepWorld } from './world.js'

const attach = { kind: 'attach', domain: 1, endpoint: 8, flags: 0, isMalformed: false } as const
const map = { kind: 'map', domain: 1, first: 0x10_0000n, last: 0x10_1fffn, physical: 0x1000n, flags: 3 } as const
const unmap = { kind: 'unmap', domain: 1, first: 0x10_0000n, last: 0x10_1fffn } as const

const make: Act = sync((world) => {
  const memory = new GuestMemory([{ address: 0n, region: world.memory }])
  const endpoints = [{ id: 8, sink: the(world, 'net').addressSpace(0).sink }]
  // What a sink refuses is a status, and told to nobody here.
  world.things.iommu = new VirtioIommu({ memory, endpoints, onFailure: () => undefined })
})
const iommu = (world: SweepWorld) => the(world, 'iommu')
const mapIt: Act = sync((world) => {
  iommu(world).requestSync(attach)
  iommu(world).requestSync(map)
})
const made = [...negotiated, make]
const mapped = [...made, mapIt]

/** ATTACH of domain 1 and endpoint 8, and MAP of the same as above, as a driver writes them. */
const attachBytes = Uint8Array.of(1, 0, 0, 0, 1, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
const mapBytes = new Uint8Array(36)
mapBytes.set([3, 0, 0, 0, 1])
mapBytes.set([0, 0, 0x10, 0, 0, 0, 0, 0, 0xff, 0x1f, 0x10], 8)
mapBytes.set([0, 0x10], 24)
mapBytes.set([3], 32)

export const iommuRows: readonly Row[] = [
  {
    verb: 'VirtioIommu.request()',
    before: made,
    act: async (world) => {
      await iommu(world).request(attach)
      await iommu(world).request(map)
      await iommu(world).request(unmap)
    },
  },
  {
    verb: 'VirtioIommu.requestSync()',
    before: made,
    act: sync((world) => {
      for (const request of [attach, map, unmap]) iommu(world).requestSync(request)
    }),
  },
  {
    verb: 'VirtioIommu.answer()',
    before: made,
    act: async (world) => {
      for (const bytes of [attachBytes, mapBytes]) await iommu(world).answer(bytes, 4)
    },
  },
  {
    verb: 'VirtioIommu.answerSync()',
    before: made,
    act: sync((world) => {
      for (const bytes of [attachBytes, mapBytes]) iommu(world).answerSync(bytes, 4)
    }),
  },
  {
    verb: 'VirtioIommu.setBypass()',
    before: made,
    act: async (world) => {
      for (const isBypassed of [true, false]) await iommu(world).setBypass(isBypassed)
    },
  },
  {
    verb: 'VirtioIommu.setBypassSync()',
    before: made,
    act: sync((world) => {
      for (const isBypassed of [true, false]) iommu(world).setBypassSync(isBypassed)
    }),
  },
  {
    verb: 'VirtioIommu.refresh()',
    before: [...mapped, sync((world) => the(world, 'net').addressSpace(0).unmapAllSync())],
    act: (world) => iommu(world).refresh(),
  },
  { verb: 'VirtioIommu.refreshSync()', before: mapped, act: sync((world) => iommu(world).refreshSync()) },
  { verb: 'VirtioIommu.reset()', before: mapped, act: (world) => iommu(world).reset() },
  { verb: 'VirtioIommu.resetSync()', before: mapped, act: sync((world) => iommu(world).resetSync()) },
  { verb: 'VirtioIommu.close()', before: mapped, act: (world) => iommu(world).close() },
]
