// A disk's data path, as one suite for every backend: what was written is read again, with interrupts, and survives a stop in the middle of traffic.

import { afterEach, beforeEach, describe, expect, test } from '@jest/globals'
import type { Backend } from '../../lib/backend/backend.js'
import type { VdpaDevice } from '../../lib/device/vdpa-device.js'
import { BlockDriver, type BlockDriverOptions } from '../../lib/drivers/block-driver.js'
import { openDevice } from '../../lib/open.js'
import { SECTOR_BYTES } from '../../lib/uapi/virtio-blk.js'
import type { BlockFeature } from '../../lib/uapi/virtio-features.js'

/** Where the suite runs, and what the disk there is. */
export interface BlockTarget {
  readonly name: string
  readonly backend: () => Backend
  readonly path: () => string
  /** Sectors; all of it is written over. */
  readonly capacity: number
  readonly queues: number
  /** Ring features to negotiate. */
  readonly ringFeatures: readonly BlockFeature[]
  /** What it answers to GET_ID; undefined when nothing is promised. */
  readonly id?: string
  /** Whether it stops at suspend(). */
  readonly canSuspend: boolean
  /** Bytes of the disk as its owner sees them, after a flush. */
  readonly image?: () => Uint8Array
}

const blockFeatures: readonly BlockFeature[] = [
  'VIRTIO_BLK_F_SIZE_MAX',
  'VIRTIO_BLK_F_SEG_MAX',
  'VIRTIO_BLK_F_BLK_SIZE',
  'VIRTIO_BLK_F_TOPOLOGY',
  'VIRTIO_BLK_F_FLUSH',
  'VIRTIO_BLK_F_MQ',
  'VIRTIO_BLK_F_DISCARD',
  'VIRTIO_BLK_F_WRITE_ZEROES',
]

// Constants of this module: under jest a global is slow to reach.
const { imul } = Math
const SECTOR_WORDS = SECTOR_BYTES / 4

/** Sectors that each say where they lie and in which generation they were written: its number first, then a word that it makes, and its complement last. */
export function pattern(sector: number, sectors: number, generation: number): Uint8Array {
  const words = new Uint32Array(sectors * SECTOR_WORDS)
  for (let at = 0; at < sectors; at++) {
    const first = at * SECTOR_WORDS
    words.fill(imul(sector + at, 0x9e37_79b1) ^ (generation << 24), first, first + SECTOR_WORDS)
    words[first] = sector + at
    words[first + SECTOR_WORDS - 1] = ~(sector + at)
  }
  return new Uint8Array(words.buffer)
}

/** As toEqual for many bytes, and fast. */
export function expectBytes(actual: Uint8Array, expected: Uint8Array): void {
  expect(actual.byteLength).toBe(expected.byteLength)
  const isSame = Buffer.compare(actual, expected) === 0
  const at = isSame ? -1 : actual.findIndex((byte, index) => byte !== expected[index])
  expect({ firstDifference: at }).toEqual({ firstDifference: -1 })
}

export function describeBlock(target: BlockTarget): void {
  describe(`the disk of ${target.name}`, () => {
    let device: VdpaDevice<'block'>

    const negotiate = () => device.negotiate(target.ringFeatures, { optional: blockFeatures })
    const begin = async (options: BlockDriverOptions = {}): Promise<BlockDriver> => {
      await negotiate()
      const driver = await BlockDriver.start(device, options)
      await device.start()
      return driver
    }

    beforeEach(async () => {
      device = await openDevice(target.path(), { backend: target.backend(), expect: 'block' })
    })

    afterEach(() => device.close())

    test('it says what it is', async () => {
      const driver = await begin({ queues: target.queues })
      expect(driver.capacity).toBe(target.capacity)
      expect(driver.limits).toMatchObject({ isReadOnly: false, canFlush: true, maxQueues: target.queues })
      const id = await driver.getId()
      expect(target.id ?? id).toBe(id)
    })

    test('the whole disk is written, flushed, and read again', async () => {
      const driver = await begin({ queues: target.queues })
      const step = 1024
      const parts = Array.from({ length: Math.ceil(target.capacity / step) }, (_, index) => index * step)
      await Promise.all(
        parts.map((sector) => driver.write(sector, pattern(sector, Math.min(step, target.capacity - sector), 1))),
      )
      await driver.flush()
      if (target.image !== undefined) expectBytes(target.image(), pattern(0, target.capacity, 1))
      for (const sector of parts) {
        const sectors = Math.min(step, target.capacity - sector)
        expectBytes(await driver.read(sector, sectors), pattern(sector, sectors, 1))
      }
      const used = driver.queues.map(({ counters }) => counters.answers > 0)
      expect(used).toEqual(new Array(target.queues).fill(true))
    })

    test('zeroes and discards', async () => {
      const driver = await begin()
      await driver.write(64, pattern(64, 64, 2))
      await driver.writeZeroes(72, 16)
      const expected = pattern(64, 64, 2).fill(0, 8 * SECTOR_BYTES, 24 * SECTOR_BYTES)
      expectBytes(await driver.read(64, 64), expected)
      // What discarded sectors hold is the device's affair; the others keep what they had.
      await driver.discard(96, 16)
      expectBytes((await driver.read(64, 64)).subarray(0, 32 * SECTOR_BYTES), expected.subarray(0, 32 * SECTOR_BYTES))
      expectBytes((await driver.read(112, 16)).subarray(), expected.subarray(48 * SECTOR_BYTES))
    })

    test('requests of one sector at the first and the last, and none outside', async () => {
      const driver = await begin({ slots: 1 })
      const last = target.capacity - 1
      await Promise.all([driver.write(0, pattern(0, 1, 3)), driver.write(last, pattern(last, 1, 3))])
      expectBytes(await driver.read(0, 1), pattern(0, 1, 3))
      expectBytes(await driver.read(last, 1), pattern(last, 1, 3))
      await expect(driver.read(last, 2)).rejects.toThrow(RangeError)
      await expect(driver.read(target.capacity, 1)).rejects.toThrow(RangeError)
      await expect(driver.write(0, new Uint8Array(100))).rejects.toThrow(RangeError)
    })

    test('polled, without an interrupt', async () => {
      const driver = await begin({ completions: 'poll' })
      await driver.write(8, pattern(8, 100, 4))
      expectBytes(await driver.read(8, 100), pattern(8, 100, 4))
    })

    test('many under way in the hot form, answered by interrupts', async () => {
      const driver = await begin()
      await driver.write(0, pattern(0, 1024, 5))
      const [queue] = driver.queues
      if (queue === undefined) throw new Error('there is no queue')
      const total = 500
      let [sent, wrong] = [0, 0]
      await new Promise<void>((resolve) => {
        let answered = 0
        const sectors = new Int32Array(queue.slots)
        const send = (slot: number) => {
          const sector = (Math.imul(sent++, 7919) & 127) * 8
          sectors[slot] = sector
          if (!queue.read(slot, sector, 4096, done)) throw new Error('the ring is full')
        }
        const done = (slot: number, status: number) => {
          const sector = sectors[slot] ?? 0
          if (status !== 0 || Buffer.compare(queue.data(slot).subarray(0, 4096), pattern(sector, 8, 5)) !== 0) wrong++
          if (++answered === total) resolve()
          if (sent < total) send(slot)
          else queue.release(slot)
        }
        for (let index = 0; index < 16; index++) send(queue.acquire())
        queue.publish()
      })
      expect({ wrong, inFlight: queue.inFlight }).toEqual({ wrong: 0, inFlight: 0 })
    })

    test('closing rejects what is under way, once, and leaves nothing', async () => {
      const driver = await begin({ slots: 4 })
      const outcomes = Array.from({ length: 50 }, (_, index) =>
        driver.read(index * 8, 64).then(
          () => 'read',
          (failure: { code?: string }) => failure.code,
        ),
      )
      await driver.close()
      const codes = await Promise.all(outcomes)
      expect(codes.filter((code) => code !== 'read' && code !== 'ERR_VDPA_CANCELED')).toEqual([])
      expect(codes).toContain('ERR_VDPA_CANCELED')
      expect(device.status).toBe(0)
      expect(device.addressSpace(0).size).toBe(0)
      await expect(driver.read(0, 1)).rejects.toMatchObject({ code: 'ERR_VDPA_CLOSED' })
    })

    test('a reset behind its back rejects what is under way', async () => {
      const driver = await begin()
      const outcome = driver.read(0, 4096).then(
        () => 'read',
        (failure: { code?: string }) => failure.code,
      )
      await device.reset()
      expect(await outcome).toBe('ERR_VDPA_CANCELED')
      await expect(driver.read(0, 1)).rejects.toMatchObject({ code: 'ERR_VDPA_STATE' })
      await driver.close()
    })

    const whenSuspend = target.canSuspend ? test : test.skip
    const reason = target.canSuspend ? '' : ' (skipped: the device cannot be suspended)'
    whenSuspend(`stopped in the middle of traffic, reset, restored: nothing lost, nothing twice${reason}`, async () => {
      let driver = await begin({ slots: 32, slotBytes: 4096 })
      await driver.write(0, pattern(0, 8192, 6))
      const settled = new Int32Array(600)
      const traffic = Array.from(settled, async (_, index) => {
        const sector = (Math.imul(index, 61) % 512) * 8
        try {
          if (index % 3 === 0) await driver.write(9000 + index * 8, pattern(9000 + index * 8, 8, 7))
          else expectBytes(await driver.read(sector, 8), pattern(sector, 8, 6))
        } finally {
          settled[index] = (settled[index] ?? 0) + 1
        }
      })
      const all = Promise.all(traffic)
      let cuts = 0
      for (let round = 0; round < 4; round++) {
        await device.suspend()
        const isInTheMiddle = driver.queues.some(({ inFlight }) => inFlight > 0)
        if (isInTheMiddle) cuts++
        const snapshot = await driver.save()
        await device.reset()
        await negotiate()
        driver = await BlockDriver.start(device, { restore: snapshot })
        await device.start()
        await new Promise((resolve) => setTimeout(resolve, 1))
      }
      await all
      expect(cuts).toBeGreaterThan(0)
      expect(settled.every((count) => count === 1)).toBe(true)
      for (let index = 0; index < 600; index += 3)
        expectBytes(await driver.read(9000 + index * 8, 8), pattern(9000 + index * 8, 8, 7))
    })

    whenSuspend(`suspended and resumed in place: what waited goes on${reason}`, async () => {
      const driver = await begin({ slots: 32, slotBytes: 4096 })
      await driver.write(0, pattern(0, 512, 8))
      const reads = Array.from({ length: 200 }, (_, index) => driver.read((index % 64) * 8, 8))
      await device.suspend()
      const late = driver.read(0, 8)
      await device.resume()
      for (const [index, bytes] of (await Promise.all(reads)).entries())
        expectBytes(bytes, pattern((index % 64) * 8, 8, 8))
      expectBytes(await late, pattern(0, 8, 8))
    })
  })
}
