// Address spaces as one suite for every device of every backend: each cause behind the kernel's EFAULT has its own code and sentence, a change that fails
// leaves nothing, a table of guest memory is followed by its difference, and memory that is mapped stays.

import { afterEach, beforeEach, describe, expect, test } from '@jest/globals'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { RecordingBackend } from '../../lib/backend/recording-backend.js'
import type { AddressSpace } from '../../lib/device/address-space.js'
import type { VdpaDevice } from '../../lib/device/vdpa-device.js'
import { GuestMemory } from '../../lib/memory/guest-memory.js'
import type { MemoryRegion } from '../../lib/memory/memory-region.js'
import { openDevice, openDeviceSync } from '../../lib/open.js'
import { Simulator } from '../../lib/simulator/index.js'
import { iotlbMessageTypes, vhostMsgV2 } from '../../lib/uapi/vhost-types.js'
import type { ControlPlaneTarget } from './control-plane.js'
import { taken } from '../write-outcome.js'

const page = 4096
const code = (name: string) => expect.objectContaining({ code: name })

/** An IOTLB message by hand, past everything that an address space knows. */
function message(type: keyof typeof iotlbMessageTypes, asid: number, iova = 0n, size = 0n, region?: MemoryRegion) {
  const uaddr = region?.address ?? 0n
  const perm = region === undefined ? 0 : 3
  return vhostMsgV2.encode({ message: 2, asid, iova, size, uaddr, perm, type: iotlbMessageTypes[type] })
}

export function describeAddressSpace(target: ControlPlaneTarget): void {
  const testTwo = target.addressSpaces > 1 ? test : test.skip
  const one = target.addressSpaces > 1 ? '' : ' (skipped: this device has one address space)'
  const testPins = target.doesPin ? test : test.skip
  const noPin = target.doesPin ? '' : ' (skipped: this parent driver pins nothing)'
  const testWindow = target.hasWindow ? test : test.skip
  const noWindow = target.hasWindow ? '' : ' (skipped: this device reaches every address)'

  describe(`the address spaces of ${target.name}`, () => {
    let backend: RecordingBackend
    let device: VdpaDevice
    let space: AddressSpace
    let memory: MemoryRegion

    beforeEach(async () => {
      backend = new RecordingBackend(target.backend())
      device = await openDevice(target.path(), { backend })
      space = device.addressSpace(0)
      memory = backend.allocate(64 * page)
    })

    afterEach(async () => {
      await device.close()
      memory.close()
    })

    const pieces = (count: number, first = 0x10_0000) =>
      Array.from({ length: count }, (_, index) => ({
        iova: BigInt(first + 2 * index * page),
        region: memory,
        offset: index * page,
        size: page,
      }))

    /** Messages that were sent since the last call, by type. */
    function sent(): string[] {
      const bytes = backend.trace.events.flatMap((event) =>
        event.op === 'writeEach' && typeof event.bytes === 'string' ? [event.bytes] : [],
      )
      backend.clear()
      // The type is byte 33 of each record of 72. An address of this process stands there by name: `{m0+0x0}`.
      const plain = bytes.map((text) => text.replace(/\{\w+\+0x[0-9a-f]+\}/g, '0'.repeat(16)))
      return plain.flatMap((hex) =>
        Array.from({ length: hex.length / 144 }, (_, at) => {
          const type = parseInt(hex.slice(at * 144 + 66, at * 144 + 68), 16)
          return Object.entries(iotlbMessageTypes).find(([, value]) => value === type)?.[0] ?? `type ${type}`
        }),
      )
    }

    describe('refuse, each cause by its name', () => {
      test('what overlaps, and say with which mapping', () => {
        space.mapSync({ iova: 0x10_0000n, region: memory })
        expect(() => space.mapSync({ iova: 0x11_0000n, region: memory, size: page })).toThrow(
          /^ERR_VDPA_OVERLAP: .*\[0x110000, 0x110fff\] overlaps the mapping \[0x100000, 0x13ffff\] of asid 0$/,
        )
      })

      test('an address space that there is not', () => {
        expect(() => device.addressSpace(target.addressSpaces)).toThrow(code('ERR_VDPA_ASID'))
      })

      testTwo(`an address space that messages cannot name${one}`, async () => {
        await device.close()
        device = openDeviceSync(target.path(), { backend, backendFeatures: ['VHOST_BACKEND_F_IOTLB_MSG_V2'] })
        expect(() => device.addressSpace(1).mapSync({ iova: 0n, region: memory })).toThrow(
          code('ERR_VDPA_NOT_SUPPORTED'),
        )
        device.addressSpace(0).mapSync({ iova: 0x10_0000n, region: memory })
      })

      testTwo(`a change while another address space has a batch open${one}`, () => {
        taken(device.transport.writeIotlb(message('VHOST_IOTLB_BATCH_BEGIN', 1)))
        expect(() => space.mapSync(pieces(1))).toThrow(code('ERR_VDPA_BATCH'))
        expect(() => space.mapSync(pieces(3))).toThrow(code('ERR_VDPA_BATCH'))
        expect(space.size).toBe(0)
        taken(device.transport.writeIotlb(message('VHOST_IOTLB_BATCH_END', 1)))
        space.mapSync(pieces(3))
      })

      test('more mappings than an IOTLB has entries, before the first is sent', () => {
        const limit = backend.iotlbEntryLimit ?? 2048
        const many = Array.from({ length: limit + 1 }, (_, index) => ({
          iova: BigInt(index + 1) * 0x2000n,
          region: memory,
          size: page,
        }))
        backend.clear()
        expect(() => space.mapSync(many)).toThrow(code('ERR_VDPA_ENTRY_LIMIT'))
        expect(sent()).toEqual([])
      })

      testPins(`memory past RLIMIT_MEMLOCK: after the first mapping, before the kernel is asked${noPin}`, () => {
        const limit = backend.memlock().limit
        if (limit === undefined) throw new Error('the lab runs with a limit of locked memory')
        using large = backend.allocate(Number(limit) + page)
        space.mapSync({ iova: 0x10_0000n, region: memory })
        const tooMuch = expect.objectContaining({
          code: 'ERR_VDPA_MEMLOCK',
          hint: expect.stringMatching(/ulimit -l \d+/),
        })
        // The first time it is found out, by two pages, whether the parent pins.
        expect(() => space.mapSync({ iova: 0x1000_0000n, region: large })).toThrow(tooMuch)
        backend.clear()
        expect(() => space.mapSync({ iova: 0x1000_0000n, region: large })).toThrow(tooMuch)
        expect(sent()).toEqual([])
        expect(space.size).toBe(1)
      })

      testPins(`a first map of several pieces that together pass RLIMIT_MEMLOCK, also while others pin${noPin}`, () => {
        const limit = backend.memlock().limit
        if (limit === undefined) throw new Error('the lab runs with a limit of locked memory')
        const half = Math.ceil(Number(limit) / 2 / page) * page
        using large = backend.allocate(2 * half + 2 * page)
        const two = [
          { address: 0x1000_0000n, region: large, size: half + page },
          { address: 0x2000_0000n, region: large, offset: half + page, size: half + page },
        ]
        const needed = (2n * BigInt(half + page) + 1023n) / 1024n
        const tooMuch = expect.objectContaining({
          code: 'ERR_VDPA_MEMLOCK',
          message: expect.stringContaining('[0x20000000, '),
          hint: expect.stringContaining(`ulimit -l ${needed}`),
        })
        expect(() => space.mapSync(two.map(({ address, ...piece }) => ({ iova: address, ...piece })))).toThrow(tooMuch)
        expect(() => space.mapSync(new GuestMemory(two))).toThrow(tooMuch)
        expect(space.size).toBe(0)
        expect(backend.memlock().pinned).toBe(0n)
      })

      testWindow(`what the device does not reach${noWindow}`, () => {
        expect(() => space.mapSync({ iova: device.iovaRange.last + 1n - 0x1000n, region: memory })).toThrow(
          code('ERR_VDPA_IOVA_RANGE'),
        )
      })

      test('memory that is not shared', () => {
        for (const region of [Buffer.alloc(page), new ArrayBuffer(page), new SharedArrayBuffer(page)])
          expect(() => space.mapSync({ iova: 0n, region: region as never })).toThrow(code('ERR_VDPA_NOT_SHARED'))
      })

      test("memory of another backend, which has bytes of its own at the same address or is no memory of the device's at all", () => {
        const other = new Simulator()
        const foreign = other.allocate(page)
        for (const region of [foreign, new RecordingBackend(other).allocate(page)])
          expect(() =>
            space.mapSync([
              { iova: 0n, region: memory, size: page },
              { iova: 0x10_0000n, region },
            ]),
          ).toThrow(code('ERR_VDPA_NOT_SHARED'))
        expect(space.size).toBe(0)
        expect(foreign.holders).toEqual([])
      })

      test('what only the kernel knows to be occupied, and say which piece it was', () => {
        taken(device.transport.writeIotlb(message('VHOST_IOTLB_UPDATE', 0, 0x10_4000n, 0x1000n, memory)))
        expect(() => space.mapSync(pieces(5))).toThrow(
          expect.objectContaining({
            code: 'ERR_VDPA_REFUSED',
            message: expect.stringContaining('[0x104000, 0x104fff] in asid 0'),
            cause: code('EFAULT'),
          }),
        )
      })

      test('an unmapping that is not exact, and say what is there', () => {
        space.mapSync({ iova: 0x10_0000n, region: memory })
        expect(() => space.unmapSync({ iova: 0x10_0000n, size: 0x1000n })).toThrow(
          /^ERR_VDPA_NOT_MAPPED: .*the mapping there is \[0x100000, 0x13ffff\]$/,
        )
      })
    })

    describe('change whole or not at all', () => {
      test.each([1, 2, 5, 20])('when the kernel refuses piece %i of 20', async (nth) => {
        const occupied = BigInt(0x10_0000 + 2 * (nth - 1) * page)
        taken(device.transport.writeIotlb(message('VHOST_IOTLB_UPDATE', 0, occupied, 0x1000n, memory)))
        await expect(space.map(pieces(20))).rejects.toMatchObject({ code: 'ERR_VDPA_REFUSED' })
        expect(space.size).toBe(0)
        taken(device.transport.writeIotlb(message('VHOST_IOTLB_INVALIDATE', 0, occupied, 0x1000n)))
        // Were anything left, this would overlap it.
        await space.map(pieces(20))
        await space.unmapAll()
      })

      test('when the caller gives up', async () => {
        const controller = new AbortController()
        const change = space.map(pieces(60), { signal: controller.signal, onProgress: () => controller.abort() })
        await change.catch((failure: unknown) => expect(failure).toMatchObject({ code: 'ERR_VDPA_CANCELED' }))
        expect([0, 60]).toContain(space.size)
        await space.unmapAll()
        await space.map(pieces(60))
      })

      test('and tell how far they are, in mappings and bytes', async () => {
        const seen: unknown[] = []
        await space.map(pieces(40), { onProgress: (progress) => seen.push(progress) })
        expect(seen.at(-1)).toEqual({ entries: 40, totalEntries: 40, bytes: 40 * page, totalBytes: 40 * page })
      })
    })

    describe('follow a table of guest memory', () => {
      test('by the difference, in one batch', async () => {
        const guest = new GuestMemory([
          { address: 0x10_0000n, region: memory, size: 8 * page },
          { address: 0x20_0000n, region: memory, offset: 8 * page, size: 8 * page },
        ])
        const follower = await space.follow(guest)
        expect(sent()).toEqual([
          'VHOST_IOTLB_BATCH_BEGIN',
          'VHOST_IOTLB_UPDATE',
          'VHOST_IOTLB_UPDATE',
          'VHOST_IOTLB_BATCH_END',
        ])
        guest.add({ address: 0x30_0000n, region: memory, offset: 16 * page, size: page })
        await follower.settled()
        expect(sent()).toEqual(['VHOST_IOTLB_UPDATE'])
        guest.remove(0x10_0000n)
        guest.add({ address: 0x10_0000n, region: memory, size: 4 * page })
        guest.remove(0x30_0000n)
        await follower.settled()
        expect(sent()).toEqual([
          'VHOST_IOTLB_BATCH_BEGIN',
          'VHOST_IOTLB_INVALIDATE',
          'VHOST_IOTLB_INVALIDATE',
          'VHOST_IOTLB_UPDATE',
          'VHOST_IOTLB_BATCH_END',
        ])
        expect(space.snapshot().map(({ iova, size }) => [iova, size])).toEqual([
          [0x10_0000n, 0x4000n],
          [0x20_0000n, 0x8000n],
        ])
        await follower.close()
        expect(space.size).toBe(0)
      })

      test('and map what could not be mapped at the next change', async () => {
        const guest = new GuestMemory([{ address: 0x10_0000n, region: memory, size: page }])
        const follower = await space.follow(guest)
        space.mapSync({ iova: 0x20_0000n, region: memory, size: page })
        guest.add({ address: 0x20_0000n, region: memory, size: page })
        await expect(follower.settled()).rejects.toMatchObject({ code: 'ERR_VDPA_OVERLAP' })
        expect(space.size).toBe(2)
        space.unmapSync({ iova: 0x20_0000n, size: 0x1000n })
        guest.add({ address: 0x30_0000n, region: memory, size: page })
        await follower.settled()
        expect(space.mappings.map(({ iova }) => iova)).toEqual([0x10_0000n, 0x20_0000n, 0x30_0000n])
        await follower.close()
      })
    })

    describe('keep memory that is mapped', () => {
      test('from being freed, and name the mappings', () => {
        space.mapSync(pieces(3))
        expect(() => memory.close()).toThrow(
          expect.objectContaining({
            code: 'ERR_VDPA_MEMORY_HELD',
            message: expect.stringContaining(
              `${device.path} asid 0 [0x100000, 0x100fff], [0x102000, 0x102fff] and 1 more`,
            ),
          }),
        )
        space.unmapAllSync()
        expect(memory.holders).toEqual([])
      })

      test('until it is closed with its mappings', () => {
        const other = backend.allocate(page)
        space.mapSync([...pieces(3), { iova: 0x80_0000n, region: other }])
        memory.close({ unmap: true })
        expect(memory.isClosed).toBe(true)
        expect(space.mappings.map(({ region }) => region)).toEqual([other])
        other.close({ unmap: true })
        expect(space.size).toBe(0)
        memory = backend.allocate(64 * page)
      })

      test('when the program has forgotten it and the garbage is collected', async () => {
        setFlagsFromString('--expose-gc')
        const collect = runInNewContext('gc') as () => void
        const map = () => {
          const forgotten = backend.allocate(page)
          new Uint8Array(forgotten.buffer).fill(7)
          space.mapSync({ iova: 0x40_0000n, region: forgotten })
        }
        map()
        for (let round = 0; round < 5; round++) {
          collect()
          await new Promise((resolve) => setImmediate(resolve))
        }
        const found = space.lookup(0x40_0010n)
        expect(found?.offset).toBe(0x10)
        expect(new Uint8Array(found?.region.buffer ?? new ArrayBuffer(0))[0x10]).toBe(7)
        // The kernel still has it: the same place is occupied for everybody.
        const update = message('VHOST_IOTLB_UPDATE', 0, 0x40_0000n, 0x1000n, memory)
        expect(() => taken(device.transport.writeIotlb(update))).toThrow(code('EFAULT'))
        found?.region.close({ unmap: true })
        expect(space.size).toBe(0)
      })
    })

    test('choose addresses away from what is mapped and reserved', async () => {
      const first = await space.mapRegion(memory)
      using other = backend.allocate(16 * page)
      space.reserve(first - 0x10_0000n, 0x10_0000n)
      const second = space.mapRegionSync(other, { align: 0x1_0000n })
      expect(second % 0x1_0000n).toBe(0n)
      expect(second + 0x1_0000n).toBeLessThanOrEqual(first - 0x10_0000n)
      expect(space.lookup(second)).toMatchObject({ region: other, offset: 0 })
      space.unreserve(first - 0x10_0000n, 0x10_0000n)
      space.unmapAllSync()
    })
  })
}
