// Linux's own virtio_iommu driver on our device: it finds the endpoints that the firmware names, attaches them, and maps and unmaps the memory of their drivers.

import { expect, it, jest } from '@jest/globals'
import { iommuDevice } from '../../lib/iommu/iommu-device'
import { VirtioIommu } from '../../lib/iommu/virtio-iommu'
import { KernelBackend } from '../../lib/kernel/kernel-backend'
import { GuestMemory } from '../../lib/memory/guest-memory'
import { serveVhostUser } from '../../lib/serve'
import { TemporaryFolder } from '../native/support'
import { describeGuest, Guest } from './guest'
import { until } from '../until'

const ENDPOINTS = [0x20, 0x28] as const
const MEMORY_BYTES = 192 << 20

/** What the guest's kernel says of its two devices, and then one of them loses its driver. */
const script = `
for slot in 4 5; do say group$slot $(readlink /sys/bus/pci/devices/0000:00:0$slot.0/iommu_group | sed 's,.*/,,'); done
say driver $(readlink /sys/bus/virtio/devices/virtio0/driver | sed 's,.*/,,')
say mapped
sleep 3
echo 0000:00:04.0 > /sys/bus/pci/drivers/virtio-pci/unbind
say unbound $?
sleep 3`

/** The bytes behind every answer: a status and three that are reserved. */
const TAIL_BYTES = 4
const nameOf = (type = 0) => ['', 'attach', 'detach', 'map', 'unmap', 'probe'][type] ?? `type ${type}`

describeGuest(
  'a guest whose IOMMU is ours',
  () => {
    it('has its driver probe, attach, map and unmap, and each request is answered OK', async () => {
      using folder = new TemporaryFolder()
      const region = new KernelBackend().allocate(MEMORY_BYTES)
      const memory = new GuestMemory([{ address: 0n, region }])
      const failures: unknown[] = []
      const reserved = [{ first: 0xfee0_0000n, last: 0xfeef_ffffn, kind: 'msi' as const }]
      const endpoints = ENDPOINTS.map((id) => ({ id, reserved }))
      const iommu = new VirtioIommu({ memory, endpoints, onFailure: (failure) => failures.push(failure) })
      const single = jest.spyOn(iommu, 'answerSync')
      const together = jest.spyOn(iommu, 'changeTogetherSync')
      const device = iommuDevice(iommu, { sync: true })
      using server = serveVhostUser(device, { socket: folder.file('iommu') })
      await using guest = new Guest(script, [`${server.path}:23`], 'iommu')
      await guest.saying('mapped')
      expect(ENDPOINTS.map((id) => iommu.domainOf(id))).toEqual([0, 1])
      const before = iommu.size
      // A ring and a buffer of each device at least.
      expect(before).toBeGreaterThanOrEqual(4)
      expect(await guest.saying('unbound')).toBe('0')
      // Its ring goes with its driver, which gathers what it unmaps and sends it later. The buffer that waited in it is left mapped by virtio_rng.
      await until(() => iommu.size < before)
      const said = await guest.end()
      expect(said).toContain('driver virtio_iommu')
      expect(said.filter((line) => /^group[45] [01]$/.test(line))).toHaveLength(2)
      const kinds = new Set<string>(together.mock.calls.flat(2).map(({ kind }) => kind))
      for (const [request] of single.mock.calls) kinds.add(nameOf(request[0]))
      expect(kinds).toEqual(new Set(['probe', 'attach', 'map', 'unmap']))
      const tails = single.mock.results.map(({ value }) => (value as Uint8Array).at(-TAIL_BYTES))
      const statuses = [...tails, ...together.mock.results.flatMap(({ value }) => value as number[])]
      expect(statuses.every((status) => status === 0)).toBe(true)
      expect([failures, server.refusals, device.violations]).toEqual([[], [], []])
      region.close()
    }, 300_000)
  },
  ['iommu'],
)
