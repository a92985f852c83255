// The control plane's law, as one suite for every device of every backend, whatever its kind: who may do what, in which order, and what is said otherwise.

import { openSync } from 'node:fs'
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals'
import type { Backend } from '../../lib/backend/backend.js'
import type { VdpaDevice } from '../../lib/device/vdpa-device.js'
import type { MemoryRegion } from '../../lib/memory/memory-region.js'
import { openDevice } from '../../lib/open.js'
import { Simulator } from '../../lib/simulator/index.js'
import { VhostVdpaTransport } from '../../lib/transport/vhost-vdpa.js'
import { taken } from '../write-outcome.js'

/** A device, and what is known of it. */
export interface ControlPlaneTarget {
  readonly name: string
  readonly backend: () => Backend
  readonly path: () => string
  readonly deviceId: number
  readonly queues: number
  readonly groups: number
  readonly addressSpaces: number
  readonly configSize: number
  /** Whether the parent driver pins what is mapped (a device behind an IOMMU), so that RLIMIT_MEMLOCK binds. */
  readonly doesPin: boolean
  /** Whether there are addresses that the device does not reach. */
  readonly hasWindow: boolean
  /** Why nobody can pass a descriptor of the node. Absent: one can. */
  readonly passesNothing?: string
}

const code = (name: string) => expect.objectContaining({ code: name })

export function describeControlPlane(target: ControlPlaneTarget): void {
  describe(`the control plane on ${target.name}`, () => {
    let backend: Backend
    let device: VdpaDevice
    const regions: MemoryRegion[] = []

    const allocate = (bytes: number) => {
      const region = backend.allocate(bytes)
      regions.push(region)
      return region
    }
    const negotiate = () => device.negotiate([])

    beforeEach(async () => {
      backend = target.backend()
      device = await openDevice(target.path(), { backend })
    })

    afterEach(async () => {
      await device.close()
      for (const region of regions.splice(0)) region.close()
    })

    test('it says what it is', () => {
      const { deviceId, queueCount, addressSpaceCount } = device
      expect({
        deviceId,
        queueCount,
        addressSpaceCount,
        groups: device.groups.count,
        configSize: device.config.size,
      }).toEqual({
        deviceId: target.deviceId,
        queueCount: target.queues,
        addressSpaceCount: target.addressSpaces,
        groups: target.groups,
        configSize: target.configSize,
      })
      expect(device.config.read()).toHaveLength(target.configSize)
      expect(device.config.read(target.configSize - 1, 1)).toHaveLength(1)
    })

    test('without an owner, vring requests and IOTLB messages are refused', async () => {
      await device.close()
      const handle = backend.open(target.path())
      try {
        const transport = new VhostVdpaTransport(handle)
        expect(transport.deviceId()).toBe(target.deviceId)
        expect(() => transport.setVringNum(0, 2)).toThrow(code('EPERM'))
        expect(() => transport.vringBase(0)).toThrow(code('EPERM'))
        expect(() => transport.vringGroup(0)).toThrow(code('EPERM'))
        expect(() => transport.setGroupAsid(0, 0)).toThrow(code('EPERM'))
        const update = new Uint8Array(72)
        update.set([2, 0, 0, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0, 0, 0x10])
        update.set([3, 2], 32)
        expect(() => taken(transport.writeIotlb(update))).toThrow(code('EFAULT'))
        transport.setOwner()
        expect(() => transport.setOwner()).toThrow(
          expect.objectContaining({ code: 'EBUSY', request: 'VHOST_SET_OWNER', path: target.path() }),
        )
        transport.setVringNum(0, 2)
      } finally {
        await handle.close()
      }
    })

    const passing = target.passesNothing
    const passed = 'a descriptor that was passed opens the device as well'
    const testPassing = passing === undefined ? test : test.skip
    testPassing(passing === undefined ? passed : `${passed} (skipped: ${passing})`, async () => {
      await device.close()
      // What a manager does: it opens the node and hands the descriptor on. No object of ours may own it, which would close the number when it is collected.
      const fd = backend instanceof Simulator ? backend.openDescriptor(target.path()) : openSync(target.path(), 'r+')
      device = await openDevice({ fd, path: target.path() }, { backend })
      expect(device.deviceId).toBe(target.deviceId)
    })

    test('features are negotiated once, read back, and gone after a reset', async () => {
      const features = await negotiate()
      expect(features.has('VIRTIO_F_VERSION_1')).toBe(true)
      expect(features.has('VIRTIO_F_ACCESS_PLATFORM')).toBe(true)
      await expect(negotiate()).rejects.toThrow(code('ERR_VDPA_STATE'))
      expect(() => device.transport.setFeatures(features.bits)).toThrow(code('EBUSY'))
      await device.reset()
      expect(device.features).toBeUndefined()
      await negotiate()
    })

    test('a status bit cannot be taken away but by a reset', async () => {
      await negotiate()
      expect(() => device.transport.setStatus(1)).toThrow(
        expect.objectContaining({ code: 'EINVAL', request: 'VHOST_VDPA_SET_STATUS' }),
      )
      expect(device.status).toBe(0x0b)
    })

    test('backend features: an unknown bit is refused by the kernel, one not offered by us', async () => {
      expect(() => device.transport.setBackendFeatures(1n << 40n)).toThrow(code('EOPNOTSUPP'))
      expect(() => device.transport.setBackendFeatures(1n << 7n)).toThrow()
      await device.close()
      await expect(
        openDevice(target.path(), { backend, backendFeatures: ['VHOST_BACKEND_F_DESC_ASID'] }),
      ).rejects.toThrow(code('ERR_VDPA_FEATURES'))
      device = await openDevice(target.path(), { backend, backendFeatures: ['VHOST_BACKEND_F_IOTLB_MSG_V2'] })
      expect(device.backendFeatures.names).toEqual(['VHOST_BACKEND_F_IOTLB_MSG_V2'])
    })

    test('configuration accesses outside the space are refused by us and by the kernel', () => {
      expect(() => device.config.read(0, target.configSize + 1)).toThrow(RangeError)
      expect(() => device.config.read(0, 0)).toThrow(RangeError)
      expect(() => device.transport.readConfig(0, target.configSize + 1)).toThrow(code('EINVAL'))
      expect(() => device.transport.readConfig(target.configSize + 8, 1)).toThrow(code('EINVAL'))
      expect(() => device.transport.readConfig(0, 0)).toThrow(code('EINVAL'))
    })

    test('a ring is set up before start, and what is wrong with it is said', async () => {
      expect(() => device.vring(0).enable()).toThrow(code('ERR_VDPA_STATE'))
      await negotiate()
      const vring = device.vring(0)
      const addresses = { descriptor: 0x10000n, driver: 0x11000n, device: 0x12000n }
      expect(() => vring.setUp({ size: 3, addresses })).toThrow(RangeError)
      expect(() => vring.setUp({ size: 512, addresses })).toThrow(RangeError)
      expect(() => vring.setUp({ size: 0, addresses })).toThrow(RangeError)
      expect(() => vring.setUp({ size: 4, addresses: { ...addresses, descriptor: 0x10008n } })).toThrow(RangeError)
      expect(() => vring.setUp({ size: 4, addresses: { ...addresses, driver: 0x10000n } })).toThrow(RangeError)
      expect(() => device.transport.setVringNum(0, 3)).toThrow(code('EINVAL'))
      expect(() => device.transport.setVringNum(0, 0)).toThrow(code('EINVAL'))
      expect(() => device.transport.setVringNum(target.queues, 4)).toThrow(code('ENOBUFS'))
      expect(() => device.transport.setVringAddr(0, addresses, 2)).toThrow(code('EOPNOTSUPP'))
      expect(() => device.transport.setVringAddr(0, { ...addresses, device: 0x12002n })).toThrow(code('EINVAL'))
      expect(() => device.transport.setVringKick(0, 0x7fff_0000)).toThrow(code('EBADF'))
      vring.setUp({ size: 4, addresses, kick: null, call: null, err: null })
      using kick = backend.eventfd()
      vring.setKick(kick)
      vring.setKick(null)
      expect(vring.size).toBe(4)
    })

    test('an index past the last queue is ENOBUFS, for a group as well', () => {
      expect(() => device.transport.vringBase(target.queues)).toThrow(code('ENOBUFS'))
      expect(() => device.transport.setGroupAsid(target.queues, 0)).toThrow(code('ENOBUFS'))
    })

    test('mappings survive a reset, and can be made again after unmapping', async () => {
      const space = device.addressSpace(0)
      const memory = allocate(0x4000)
      await negotiate()
      await space.map({ iova: 0x10_0000n, region: memory })
      await device.reset()
      await expect(space.map({ iova: 0x10_0000n, region: memory })).rejects.toThrow(code('ERR_VDPA_OVERLAP'))
      await space.unmapAll()
      await space.map({ iova: 0x10_0000n, region: memory })
      expect(space.size).toBe(1)
    })

    test('5,000 changes leave nothing behind', () => {
      const space = device.addressSpace(0)
      const memory = allocate(0x1000)
      for (let round = 0; round < 250; round++) {
        const pieces = Array.from({ length: 10 }, (_, index) => ({
          iova: BigInt(0x10_0000 + 0x2000 * index),
          region: memory,
        }))
        space.mapSync(pieces)
        space.unmapAllSync()
      }
      expect(space.size).toBe(0)
      expect(memory.holders).toEqual([])
    })

    test('the IOTLB has room for its entries and no more, and the error says so', () => {
      const space = device.addressSpace(0)
      const memory = allocate(0x1000)
      const many = (count: number) =>
        Array.from({ length: count }, (_, index) => ({ iova: BigInt(index + 16) * 0x2000n, region: memory }))
      expect(() => space.mapSync(many(2049))).toThrow(code('ERR_VDPA_ENTRY_LIMIT'))
      expect(space.size).toBe(0)
      space.mapSync(many(2000))
      space.unmapAllSync()
    })

    const whenPinned = target.doesPin ? test : test.skip
    whenPinned(
      `memory past RLIMIT_MEMLOCK is explained with numbers${target.doesPin ? '' : ' (skipped: this parent driver pins nothing)'}`,
      () => {
        const { limit } = backend.memlock()
        expect(limit).toBeDefined()
        const space = device.addressSpace(0)
        const large = allocate(Number(limit ?? 0n) + 0x10_0000)
        expect(() => space.mapSync({ iova: 0x100_0000n, region: large })).toThrow(
          expect.objectContaining({ code: 'ERR_VDPA_MEMLOCK', hint: expect.stringContaining('ulimit -l') }),
        )
        expect(space.size).toBe(0)
        expect(backend.memlock().pinned).toBe(0n)
        space.mapSync({ iova: 0x100_0000n, region: large, size: 0x10_0000 })
        space.unmapAllSync()
      },
    )

    test('after close every verb says so', async () => {
      const space = device.addressSpace(0)
      const vring = device.vring(0)
      await Promise.all([device.close(), device.close()])
      expect(device.isClosed).toBe(true)
      expect(() => device.status).toThrow(code('ERR_VDPA_CLOSED'))
      expect(() => device.fd).toThrow(code('ERR_VDPA_CLOSED'))
      expect(() => vring.enable()).toThrow(code('ERR_VDPA_CLOSED'))
      expect(() => device.config.read()).toThrow(code('ERR_VDPA_CLOSED'))
      await expect(device.negotiate([])).rejects.toThrow(code('ERR_VDPA_CLOSED'))
      await expect(space.map([])).rejects.toThrow(code('ERR_VDPA_CLOSED'))
      await expect(device.reset()).rejects.toThrow(code('ERR_VDPA_CLOSED'))
    })
  })
}
