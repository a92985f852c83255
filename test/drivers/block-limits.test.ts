// Limits as numbers, and as what a device with odd limits is asked: no block is cut in two where the limits allow it, read-only is read-only whoever
// negotiates it, and the write cache is what the device says now.

import { describe, expect, test } from '@jest/globals'
import fc from 'fast-check'
import { bit } from '../../lib/base/bits.js'
import { BlockDriver, type BlockDriverOptions } from '../../lib/drivers/block-driver.js'
import { nextRange } from '../../lib/drivers/block-limits.js'
import { openDevice } from '../../lib/open.js'
import { blockDevice, customDevice, Simulator } from '../../lib/simulator/index.js'
import { virtioBlkConfig } from '../../lib/uapi/virtio-blk.js'
import { blockFeatureBits, type BlockFeature } from '../../lib/uapi/virtio-features.js'
import { deviceIds } from '../../lib/uapi/virtio-ids.js'

const path = '/dev/vhost-vdpa-0'

interface Asked {
  readonly sector: number
  readonly sectors: number
}

const features: readonly BlockFeature[] = [
  'VIRTIO_BLK_F_SIZE_MAX',
  'VIRTIO_BLK_F_SEG_MAX',
  'VIRTIO_BLK_F_BLK_SIZE',
  'VIRTIO_BLK_F_DISCARD',
  'VIRTIO_BLK_F_WRITE_ZEROES',
]

/** A disk that writes down what it is asked for, and says OK. */
async function witness(
  config: {
    size_max?: number
    seg_max?: number
    blk_size?: number
    max_discard_sectors?: number
    discard_sector_alignment?: number
  },
  options: BlockDriverOptions = {},
) {
  const asked: Asked[] = []
  const bytes = new Uint8Array(virtioBlkConfig.size)
  virtioBlkConfig.encodeInto(
    { ...virtioBlkConfig.decode(bytes), capacity: 10_000n, size_max: 65536, seg_max: 32, ...config },
    bytes,
  )
  const simulator = new Simulator()
  simulator.add(
    customDevice({
      path,
      deviceId: deviceIds.block,
      config: bytes,
      features: features.reduce(
        (word, name) => word | bit(blockFeatureBits[name as keyof typeof blockFeatureBits]),
        bit(32) | bit(33),
      ),
      onKick(chain) {
        const head = new Uint8Array(32)
        const length = chain.read(head, 0, 32)
        const view = new DataView(head.buffer)
        const isRange = view.getUint32(0, true) >= 11
        asked.push(
          isRange && length === 32
            ? { sector: Number(view.getBigUint64(16, true)), sectors: view.getUint32(24, true) }
            : { sector: Number(view.getBigUint64(8, true)), sectors: (chain.writableLength - 1) / 512 },
        )
        const answer = new Uint8Array(chain.writableLength)
        chain.write(answer, 0, answer.length)
        return true
      },
    }),
  )
  const device = await openDevice(path, { backend: simulator, expect: 'block' })
  await device.negotiate(features)
  const driver = await BlockDriver.start(device, options)
  await device.start()
  return { asked, device, driver }
}

describe('ranges', () => {
  test.each([
    [{ size_max: 10_000, seg_max: 1, blk_size: 4096 }, {}],
    [{ size_max: 5120, seg_max: 2, blk_size: 4096 }, {}],
    [{ blk_size: 4096 }, { slotBytes: 10_240 }],
    [{ blk_size: 1536 }, {}],
    [{ blk_size: 32_768 }, {}],
  ])('whole blocks stay whole with %j and %j', async (config, options) => {
    const { asked, device, driver } = await witness(config, options)
    const block = config.blk_size / 512
    await driver.read(block, 8 * block)
    expect(asked.every(({ sector, sectors }) => sector % block === 0 && sectors % block === 0)).toBe(true)
    expect(asked.reduce((sum, { sectors }) => sum + sectors, 0)).toBe(8 * block)
    await device.close()
  })

  test('a block that no request can hold is cut', async () => {
    const { asked, device, driver } = await witness({ size_max: 1024, seg_max: 1, blk_size: 4096 })
    expect(await driver.read(8, 8)).toHaveLength(4096)
    expect(asked).toHaveLength(4)
    await device.close()
  })

  test('a discard is cut at its alignment, and at blocks', async () => {
    const { asked, device, driver } = await witness({
      max_discard_sectors: 100,
      discard_sector_alignment: 12,
      blk_size: 4096,
    })
    await driver.discard(8, 400)
    expect(asked.map(({ sector }) => sector)).toEqual([8, 96, 192, 288, 384])
    expect(asked.reduce((sum, { sectors }) => sum + sectors, 0)).toBe(400)
    await device.close()
  })

  test('a discard whose alignment is out of reach is cut at blocks', async () => {
    const { asked, device, driver } = await witness({
      max_discard_sectors: 100,
      discard_sector_alignment: 512,
      blk_size: 4096,
    })
    await driver.discard(8, 320)
    expect(asked).toEqual([
      { sector: 8, sectors: 96 },
      { sector: 104, sectors: 96 },
      { sector: 200, sectors: 96 },
      { sector: 296, sectors: 32 },
    ])
    // Within reach of the next multiple of 512 again.
    asked.length = 0
    await driver.discard(480, 100)
    await driver.discard(480, 104)
    expect(asked.map(({ sector }) => sector)).toEqual([480, 480, 512])
    await device.close()
  })

  test('pieces fit, follow one another, and begin at a multiple where one is within reach', () => {
    fc.assert(
      fc.property(
        fc.nat(10_000),
        fc.integer({ min: 1, max: 10_000 }),
        fc.integer({ min: 1, max: 200 }),
        fc.integer({ min: 1, max: 64 }),
        (sector, sectors, maxSectors, alignment) => {
          for (let at = sector, left = sectors; left > 0;) {
            const count = nextRange(at, left, { maxSectors, alignment })
            expect(count).toBeGreaterThan(0)
            expect(count).toBeLessThanOrEqual(Math.min(left, maxSectors))
            if (count < left && alignment <= maxSectors) expect((at + count) % alignment).toBe(0)
            at += count
            left -= count
          }
        },
      ),
    )
  })
})

test('a disk that offers RO is read-only, negotiated or not, and is not asked to write', async () => {
  const simulator = new Simulator()
  simulator.add(blockDevice({ path, isReadOnly: true, capacity: 8 }))
  await using device = await openDevice(path, { backend: simulator, expect: 'block' })
  await device.negotiate([])
  const driver = await BlockDriver.start(device)
  await device.start()
  expect(driver.limits.isReadOnly).toBe(true)
  await expect(driver.write(0, new Uint8Array(512))).rejects.toMatchObject({ code: 'ERR_VDPA_NOT_SUPPORTED' })
  expect(driver.queues[0]?.counters.requests).toBe(0)
})

describe('the write cache', () => {
  async function withCache(more: readonly number[], wish: readonly BlockFeature[]) {
    const simulator = new Simulator()
    simulator.add(blockDevice({ path, capacity: 8, moreFeatures: more }))
    const device = await openDevice(path, { backend: simulator, expect: 'block' })
    await device.negotiate(wish)
    const driver = await BlockDriver.start(device)
    await device.start()
    return { device, driver }
  }

  test('is switched, read back, and followed when somebody else switches it', async () => {
    const { device, driver } = await withCache(
      [blockFeatureBits.VIRTIO_BLK_F_CONFIG_WCE],
      ['VIRTIO_BLK_F_FLUSH', 'VIRTIO_BLK_F_CONFIG_WCE'],
    )
    for (const isOn of [true, false, true]) {
      await driver.setWriteCache(isOn)
      expect(driver.limits.hasWriteCache).toBe(isOn)
      expect(device.config.block().writeCache).toBe(isOn)
    }
    device.config.write(32, Uint8Array.of(0))
    expect(driver.limits.hasWriteCache).toBe(false)
    await expect(driver.setWriteCache(1 as never)).rejects.toThrow(TypeError)
    await device.close()
    expect(driver.limits.hasWriteCache).toBe(false)
    await expect(driver.setWriteCache(true)).rejects.toMatchObject({ code: 'ERR_VDPA_CLOSED' })
  })

  test('that cannot be switched is refused by name', async () => {
    const { device, driver } = await withCache([], ['VIRTIO_BLK_F_FLUSH'])
    expect(driver.limits.hasWriteCache).toBe(undefined)
    await expect(driver.setWriteCache(true)).rejects.toMatchObject({ code: 'ERR_VDPA_NOT_SUPPORTED' })
    await device.close()
  })

  test('that cannot be flushed is off, stays off, and may be switched off', async () => {
    const { device, driver } = await withCache([blockFeatureBits.VIRTIO_BLK_F_CONFIG_WCE], ['VIRTIO_BLK_F_CONFIG_WCE'])
    expect(driver.limits).toMatchObject({ hasWriteCache: false, canFlush: false })
    await expect(driver.setWriteCache(true)).rejects.toMatchObject({
      code: 'ERR_VDPA_NOT_SUPPORTED',
      message: expect.stringContaining('VIRTIO_BLK_F_FLUSH was not negotiated') as unknown,
    })
    expect(device.config.block().writeCache).toBe(false)
    // A device that does not heed its law.
    device.config.write(32, Uint8Array.of(1))
    expect(driver.limits.hasWriteCache).toBe(true)
    await driver.setWriteCache(false)
    expect(driver.limits.hasWriteCache).toBe(false)
    await device.close()
  })

  test('that stays what it was is told', async () => {
    const { device, driver } = await withCache(
      [blockFeatureBits.VIRTIO_BLK_F_CONFIG_WCE],
      ['VIRTIO_BLK_F_FLUSH', 'VIRTIO_BLK_F_CONFIG_WCE'],
    )
    const isOn = driver.limits.hasWriteCache === true
    device.config.write = () => undefined
    await expect(driver.setWriteCache(!isOn)).rejects.toMatchObject({ code: 'ERR_VDPA_REFUSED' })
    await device.close()
  })
})
