// DMA through the mappings of an address space: the right bytes whatever the alignment, never one without permission, and what batches and resets show.

import { describe, expect, test } from '@jest/globals'
import * as fc from 'fast-check'
import { networkDevice } from '../../lib/simulator/index.js'
import { dmaAccess } from '../../lib/models/device-ops.js'
import { DeviceDma } from '../../lib/simulator/address-space.js'
import { ProcessMemory } from '../../lib/simulator/process-memory.js'
import { Simulator } from '../../lib/simulator/simulator.js'
import type { Profile } from '../../lib/simulator/profiles.js'
import { Client } from './support.js'

const BYTES = 8192

function pattern(length: number): Uint8Array {
  return Uint8Array.from({ length }, (_, index) => (index * 31 + (index >>> 8)) & 0xff)
}

/** Three mappings side by side, from three regions; the middle one may only be read, the last only written. */
function start() {
  const memory = new ProcessMemory()
  const dma = new DeviceDma(memory, { pinsMemory: false, imitatesPassthrough: false })
  const { tracked } = dma.need(0)
  const regions = [0, 1, 2].map((index) => {
    const region = memory.allocate(BYTES)
    region.windowAt(0).bytes.set(pattern(BYTES).map((byte) => byte ^ (index * 85)))
    const first = index * BYTES
    tracked.insert([7, first], [7, first + BYTES - 1], region, 0, [3, 1, 2][index] ?? 0)
    return region
  })
  dma.publish(0)
  return { dma, regions }
}

describe('copying', () => {
  test('gives the bytes of the regions, across their edges, at any alignment', () => {
    const { dma, regions } = start()
    const all = Uint8Array.from(regions.flatMap((region) => [...region.windowAt(0).bytes]))
    const place = fc.integer({ min: 0, max: 2 * BYTES })
    const length = fc.oneof(fc.integer({ min: 0, max: 200 }), fc.integer({ min: 700, max: 5000 }))
    fc.assert(
      fc.property(place, length, fc.integer({ min: 0, max: 9 }), (at, wanted, offset) => {
        const count = Math.min(wanted, 2 * BYTES - at)
        const target = new Uint8Array(count + offset + 4)
        expect(dma.read(0, 7, at, target, offset, count)).toBe(true)
        expect(Buffer.compare(target.subarray(offset, offset + count), all.subarray(at, at + count))).toBe(0)
        expect([...target.subarray(0, offset), ...target.subarray(offset + count)].every((byte) => byte === 0)).toBe(
          true,
        )
      }),
      { numRuns: 300 },
    )
  })

  test('puts bytes where they belong, and nowhere else', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 0, max: BYTES - 1 }),
        fc.integer({ min: 0, max: 1000 }),
        fc.integer({ min: 0, max: 9 }),
        (at, wanted, offset) => {
          const { dma, regions } = start()
          const count = Math.min(wanted, BYTES - at)
          const expected = Uint8Array.from(regions[2]?.windowAt(0).bytes ?? [])
          const source = new Uint8Array(offset + count).fill(0xee, offset)
          expected.fill(0xee, at, at + count)
          expect(dma.write(0, 7, 2 * BYTES + at, source, offset, count)).toBe(true)
          expect(Buffer.compare(regions[2]?.windowAt(0).bytes ?? new Uint8Array(0), expected)).toBe(0)
        },
      ),
      { numRuns: 100 },
    )
  })

  test('is refused where a byte of it is not mapped or not permitted', () => {
    const { dma } = start()
    const bytes = new Uint8Array(64)
    expect(dma.read(0, 7, BYTES - 32, bytes, 0, 64)).toBe(true)
    expect(dma.write(0, 7, BYTES - 32, bytes, 0, 64)).toBe(false)
    expect(dma.read(0, 7, 2 * BYTES - 1, bytes, 0, 2)).toBe(false)
    expect(dma.write(0, 7, 3 * BYTES - 1, bytes, 0, 2)).toBe(false)
    expect(dma.read(0, 6, 0, bytes, 0, 1)).toBe(false)
    expect(dma.read(1, 7, 0, bytes, 0, 1)).toBe(false)
  })

  test('goes from one half of an address to the next', () => {
    const memory = new ProcessMemory()
    const dma = new DeviceDma(memory, { pinsMemory: false, imitatesPassthrough: false })
    const region = memory.allocate(BYTES)
    region.windowAt(0).bytes.set(pattern(BYTES))
    const { tracked } = dma.need(0)
    tracked.insert([0, 0xffff_f000], [0, 0xffff_ffff], region, 0, 3)
    tracked.insert([1, 0], [1, 4095], region, 4096, 3)
    dma.publish(0)
    const target = new Uint8Array(100)
    expect(dma.read(0, 0, 0xffff_ffe0, target, 0, 100)).toBe(true)
    expect(target).toEqual(pattern(BYTES).subarray(4096 - 32, 4096 + 68))
    expect(dma.locate(0, 0, 0xffff_ffe0, 100, dmaAccess.READ)).toMatchObject({ offset: 4096 - 32 })
  })
})

describe('locating', () => {
  test('needs one piece of one region, and permission for all of it', () => {
    const { dma, regions } = start()
    expect(dma.locate(0, 7, 16, BYTES - 16, dmaAccess.READ)).toEqual({
      memory: regions[0]?.windowAt(0).ringMemory,
      offset: 16,
    })
    expect(dma.locate(0, 7, 16, BYTES, dmaAccess.READ)).toBeUndefined()
    expect(dma.locate(0, 7, BYTES, 16, dmaAccess.READ)).toBeDefined()
    expect(dma.locate(0, 7, BYTES, 16, dmaAccess.WRITE)).toBeUndefined()
  })
})

describe('a region that was closed', () => {
  test('is not reached any more, and a ring in it is named', () => {
    const { dma, regions } = start()
    regions[0]?.close()
    expect(dma.read(0, 7, 0, new Uint8Array(4), 0, 4)).toBe(false)
    expect(() => dma.locate(0, 7, 0, 4, dmaAccess.READ)).toThrow('was freed under a ring')
  })
})

describe('what the device sees', () => {
  const seen = (profile: Profile) => {
    const simulator = new Simulator({ scheduler: 'manual', profile })
    const path = simulator.add(networkDevice())
    const client = new Client(simulator, path).owner()
    const region = simulator.allocate(4096)
    const isBehind = () => simulator.dump(path).addressSpaces[0]?.isBehind
    return { client, region, isBehind }
  }

  test('is cleared by a reset, unless mappings were to persist', () => {
    for (const [features, expected] of [
      [0xen, true],
      [0x10en, false],
    ] as const) {
      const { client, region, isBehind } = seen('strict')
      client.set('VHOST_SET_BACKEND_FEATURES', features)
      client.map(0, 0n, region)
      client.set('VHOST_VDPA_SET_STATUS', 0)
      expect(isBehind()).toBe(expected)
    }
  })
})
