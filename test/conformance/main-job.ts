// The main job, as one suite for every backend: a network device's control queue in an address space of its own, proved and not claimed.

import { afterEach, beforeEach, describe, expect, test } from '@jest/globals'
import type { Backend } from '../../lib/backend/backend.js'
import { NetControlQueue } from '../../lib/control/net-control-queue.js'
import type { AddressSpace } from '../../lib/device/address-space.js'
import type { VdpaDevice } from '../../lib/device/vdpa-device.js'
import { NetDriver } from '../../lib/drivers/net-driver.js'
import type { MemoryRegion } from '../../lib/memory/memory-region.js'
import { openDevice } from '../../lib/open.js'
import { netAck } from '../../lib/uapi/virtio-net.js'
import { statusNames } from '../../lib/uapi/virtio-status.js'
import { frameTo, macCommand, sendCommand } from './support.js'

/** Where the suite runs, and what the device there is. */
export interface MainJobTarget {
  readonly name: string
  readonly backend: () => Backend
  readonly path: () => string
  /** Whether a sent frame comes back, filtered by MAC. */
  readonly isLoopback: boolean
  /** Whether the device has virtqueue groups. */
  readonly hasGroups: boolean
  /** Whether it stops at suspend(). */
  readonly canSuspend: boolean
}

// No byte of these is zero: Linux 6.12's vdpa_sim_net compares addresses only up to the first zero byte (a row of its own below).
const newMac = '02:11:22:33:44:01'
const otherMac = '02:11:22:33:44:99'

export function describeMainJob(target: MainJobTarget): void {
  describe(`the main job on ${target.name}`, () => {
    let backend: Backend
    let device: VdpaDevice<'net'>
    const regions: MemoryRegion[] = []

    const allocate = (bytes: number) => {
      const region = backend.allocate(bytes)
      regions.push(region)
      return region
    }
    const negotiate = () => device.negotiate(['VIRTIO_NET_F_MAC', 'VIRTIO_NET_F_CTRL_VQ', 'VIRTIO_NET_F_CTRL_MAC_ADDR'])
    const controlIndex = () => device.controlQueueIndex ?? -1

    /** Negotiates and puts the control queue's group into asid 1, where that is possible. */
    const isolate = async (): Promise<{ guest: AddressSpace; own: AddressSpace }> => {
      await negotiate()
      const guest = device.addressSpace(0)
      const verdict = device.groups.isolation(controlIndex())
      if (!verdict.isolated) return { guest, own: guest }
      device.groups.assign(verdict.group, 1)
      return { guest, own: device.addressSpace(1) }
    }

    beforeEach(async () => {
      backend = target.backend()
      device = await openDevice(target.path(), { backend, expect: 'net' })
    })

    afterEach(async () => {
      await device.close()
      for (const region of regions.splice(0)) region.close()
    })

    test('what the device offers is read before anything is set', () => {
      expect(device.deviceId).toBe(1)
      expect(device.kind).toBe('net')
      expect(device.queueCount).toBeGreaterThanOrEqual(3)
      expect(device.maxQueueSize).toBe(256)
      expect(device.offeredFeatures.has('VIRTIO_F_VERSION_1')).toBe(true)
      expect(device.backendFeatures.has('VHOST_BACKEND_F_IOTLB_ASID')).toBe(true)
      expect(device.iovaRange.first).toBe(0n)
      expect(device.groups.count).toBe(target.hasGroups ? 2 : 1)
      expect(device.addressSpaceCount).toBe(target.hasGroups ? 2 : 1)
      expect(device.status).toBe(0)
    })

    test('the verdict on isolation has its reason', async () => {
      await negotiate()
      const verdict = device.groups.isolation(controlIndex())
      if (target.hasGroups) expect(verdict).toEqual({ isolated: true, group: 1 })
      else
        expect(verdict).toMatchObject({
          isolated: false,
          reason: expect.stringContaining('no virtqueue groups'),
        })
    })

    test('from open to the new MAC, a frame there and back, and close', async () => {
      const { guest, own } = await isolate()
      const memory = allocate(0x20_0000)
      await guest.map([
        { iova: 0x10_0000n, region: memory, size: 0x10_0000 },
        { iova: 0x8000_0000n, region: memory, offset: 0x10_0000 },
      ])
      const driver = await NetDriver.start(device)
      const control = await NetControlQueue.start(device, own)
      await device.start()
      driver.kickReceive()
      expect(statusNames(device.status)).toEqual(['ACKNOWLEDGE', 'DRIVER', 'FEATURES_OK', 'DRIVER_OK'])

      await control.setMacAddress(newMac)
      expect(device.config.net().mac).toBe(newMac)

      const frame = frameTo(newMac)
      expect(driver.send(frame)).toBe(true)
      if (target.isLoopback) {
        expect(driver.send(frameTo(otherMac))).toBe(true)
        expect(driver.send(frameTo('ff:ff:ff:ff:ff:ff'))).toBe(true)
        const first = await driver.nextFrame({ signal: AbortSignal.timeout(5000) })
        expect(first.subarray(0, frame.length)).toEqual(frame)
        const second = await driver.nextFrame({ signal: AbortSignal.timeout(5000) })
        expect([...second.subarray(0, 6)]).toEqual([0xff, 0xff, 0xff, 0xff, 0xff, 0xff])
      }
      await device.reset()
      expect(device.status).toBe(0)
      await guest.unmapAll()
      memory.close()
      expect(memory.isClosed).toBe(true)
    })

    test('a command whose feature is missing is not sent, one that is sent all the same is refused by the device', async () => {
      const { own } = await isolate()
      const control = await NetControlQueue.start(device, own, { timeout: 60_000 })
      await device.start()
      await expect(control.send('VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET', 0x7fff)).rejects.toMatchObject({
        code: 'ERR_VDPA_NOT_SUPPORTED',
        request: 'VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET',
      })
      const { ack } = await control.sendRaw(4, 0, Uint8Array.of(0xff, 0x7f))
      expect(ack).toBe(netAck.VIRTIO_NET_ERR)
      await control.setMacAddress(newMac)
    })

    test('a device is claimed once, and is free again after close', async () => {
      await expect(openDevice(target.path(), { backend })).rejects.toMatchObject({ code: 'EBUSY', syscall: 'open' })
      await device.close()
      await device.close()
      expect(() => device.status).toThrow(expect.objectContaining({ code: 'ERR_VDPA_CLOSED' }))
      device = await openDevice(target.path(), { backend, expect: 'net' })
      expect(device.status).toBe(0)
    })

    test('the wrong kind of device leaves nothing open', async () => {
      await device.close()
      await expect(openDevice(target.path(), { backend, expect: 'block' })).rejects.toMatchObject({
        code: 'ERR_VDPA_WRONG_DEVICE',
        message: expect.stringContaining('a net device (id 1)'),
      })
      device = await openDevice(target.path(), { backend, expect: 'net' })
    })

    test('a feature that is not offered is named, and nothing is half negotiated', async () => {
      await expect(device.negotiate(['VIRTIO_NET_F_STANDBY'])).rejects.toMatchObject({
        code: 'ERR_VDPA_FEATURES',
        message: expect.stringContaining('VIRTIO_NET_F_STANDBY'),
      })
      expect(device.status).toBe(0)
      expect(device.features).toBeUndefined()
    })

    test('memory that is mapped cannot be freed', async () => {
      const memory = allocate(0x1000)
      await device.addressSpace(0).map({ iova: 0x1000n, region: memory })
      expect(() => memory.close()).toThrow(
        expect.objectContaining({
          code: 'ERR_VDPA_MEMORY_HELD',
          message: expect.stringContaining('asid 0'),
        }),
      )
      await device.addressSpace(0).unmapAll()
      memory.close()
    })

    test('every bad mapping has its own sentence, and nothing is mapped by it', async () => {
      const space = device.addressSpace(0)
      const memory = allocate(0x4000)
      await space.map({ iova: 0x1000n, region: memory, size: 0x2000 })
      const cases: [object, object][] = [
        [
          { iova: 0x2000n, region: memory },
          {
            code: 'ERR_VDPA_OVERLAP',
            message: expect.stringContaining('[0x2000, 0x5fff] overlaps the mapping [0x1000, 0x2fff] of asid 0'),
          },
        ],
        [{ iova: 0x10_0800n, region: memory }, { code: 'ERR_VDPA_ALIGNMENT' }],
        [{ iova: 0x10_0000n, region: memory, size: 0x800 }, { code: 'ERR_VDPA_ALIGNMENT' }],
        [{ iova: 0x10_0000n, region: memory, size: 0x5000 }, { code: 'ERR_OUT_OF_RANGE' }],
        [{ iova: 0x10_0000n, region: memory, size: 0 }, { code: 'ERR_OUT_OF_RANGE' }],
        [{ iova: 0x10_0000n, region: memory, size: NaN }, { code: 'ERR_OUT_OF_RANGE' }],
        [{ iova: 0x10_0000, region: memory }, { code: 'ERR_INVALID_ARG_TYPE' }],
        [{ iova: -0x1000n, region: memory }, { code: 'ERR_OUT_OF_RANGE' }],
        [{ iova: 0xffff_ffff_ffff_f000n, region: memory }, { code: 'ERR_OUT_OF_RANGE' }],
        [{ iova: 0x10_0000n, region: null }, { code: 'ERR_INVALID_ARG_TYPE' }],
        [{ iova: 0x10_0000n, region: memory, access: 'x' }, { code: 'ERR_OUT_OF_RANGE' }],
      ]
      for (const [request, expected] of cases) {
        const good = { iova: 0x20_0000n, region: memory }
        await expect(space.map([good, request as typeof good])).rejects.toMatchObject(expected)
        expect(space.size).toBe(1)
      }
      await expect(space.unmap({ iova: 0x1000n, size: 0x1000n })).rejects.toMatchObject({ code: 'ERR_VDPA_NOT_MAPPED' })
      await space.unmap({ iova: 0x1000n, size: 0x2000n })
      expect(space.mappings).toEqual([])
      await space.map({ iova: 0x1000n, region: memory })
      await space.unmapAll()
    })

    test('indexes past the last are refused by name', async () => {
      await negotiate()
      expect(() => device.addressSpace(99)).toThrow(expect.objectContaining({ code: 'ERR_VDPA_ASID' }))
      expect(() => device.vring(99)).toThrow(RangeError)
      expect(() => device.groups.assign(99, 0)).toThrow(RangeError)
      expect(() => device.groups.assign(0, 99)).toThrow(expect.objectContaining({ code: 'ERR_VDPA_ASID' }))
      expect(() => device.config.read(0, 0x10000)).toThrow(RangeError)
    })

    const whenGroups = target.hasGroups ? test : test.skip
    const reason = target.hasGroups ? '' : ' (skipped: the device has no virtqueue groups)'

    whenGroups(
      `the same IOVA in both address spaces is different memory, and the command is read from the queue's own${reason}`,
      async () => {
        const { guest, own } = await isolate()
        const iova = 0x4000_0000n
        const queue = await device.createQueue(controlIndex(), {
          addressSpace: own,
          iova,
          size: 8,
          bufferBytes: 0x1000,
        })
        const decoy = allocate(Number(own.mappings[0]?.size ?? 0n))
        const at = Number(queue.buffersIova - iova)
        new Uint8Array(decoy.buffer).set(macCommand(otherMac), at)
        await guest.map({ iova, region: decoy })
        await device.start()
        expect(guest.lookup(iova)?.region).not.toBe(own.lookup(iova)?.region)

        queue.buffers.bytes().set(macCommand(newMac))
        expect(await sendCommand(queue, queue.buffersIova)).toBe(0)
        expect(device.config.net().mac).toBe(newMac)
      },
    )

    whenGroups(
      `a control descriptor that points into the guest's memory gets no acknowledgement${reason}`,
      async () => {
        const { guest, own } = await isolate()
        const queue = await device.createQueue(controlIndex(), { addressSpace: own, size: 8, bufferBytes: 0x1000 })
        const guestMemory = allocate(0x1000)
        new Uint8Array(guestMemory.buffer).set(macCommand(otherMac))
        const guestIova = 0x1234_5000n
        await guest.map({ iova: guestIova, region: guestMemory })
        await device.start()
        const before = device.config.net().mac
        expect(await sendCommand(queue, guestIova, 300)).toBeUndefined()
        expect(queue.takeCalls()).toBe(0)
        expect(device.config.net().mac).toBe(before)
      },
    )

    const whenSuspend = target.canSuspend ? test : test.skip
    whenSuspend(
      `a ring's state is told while suspended, and not while running${target.canSuspend ? '' : ' (skipped: the device cannot be suspended)'}`,
      async () => {
        const { own } = await isolate()
        const control = await NetControlQueue.start(device, own)
        await device.start()
        await control.setMacAddress(newMac)
        const vring = device.vring(controlIndex())
        expect(() => vring.state()).toThrow(expect.objectContaining({ code: 'ERR_VDPA_STATE' }))
        await device.suspend()
        expect(vring.state()).toEqual({ available: 1, used: 1 })
        await device.resume()
        await control.setMacAddress(otherMac)
        expect(device.config.net().mac).toBe(otherMac)
      },
    )
  })
}
