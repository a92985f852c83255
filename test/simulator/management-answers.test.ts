// What the pretended kernel tells of a device's configuration: as the kernel does, each fact only where the device offers the feature that gives it a meaning.

import { describe, expect, test } from '@jest/globals'
import { bit } from '../../lib/base/bits.js'
import type { DeviceOps } from '../../lib/models/device-ops.js'
import { configurationAnswer } from '../../lib/simulator/management-answers.js'
import { vdpaAttributes } from '../../lib/uapi/vdpa.js'
import { virtioBlkConfig } from '../../lib/uapi/virtio-blk.js'
import { blockFeatureBits, netFeatureBits } from '../../lib/uapi/virtio-features.js'
import { deviceIds } from '../../lib/uapi/virtio-ids.js'
import { virtioNetConfig } from '../../lib/uapi/virtio-net.js'

/** A device of a kind that offers features, whose configuration space has these bytes. */
function deviceOf(deviceId: number, features: bigint, config: Uint8Array): DeviceOps {
  const ops: Partial<DeviceOps> = {
    deviceId,
    configSize: config.length,
    readConfig: (offset, target) => target.set(config.subarray(offset, offset + target.length)),
    features: () => features,
    driverFeatures: () => 0n,
    status: () => 0,
  }
  return ops as DeviceOps
}

/** The facts beyond name, id and features, by their attributes' names: their bytes, and what they say as a number. */
function factsOf(ops: DeviceOps): Record<string, readonly [bytes: number, value: bigint]> {
  const answer = configurationAnswer({ name: 'one', parent: undefined, ops })
  const names = new Map<number, string>(Object.entries(vdpaAttributes).map(([name, type]) => [type, name]))
  const facts = (answer?.attributes ?? []).map(({ type, bytes }): [string, readonly [number, bigint]] => [
    names.get(type) ?? String(type),
    [bytes.length, BigInt(`0x${Buffer.from(bytes).reverse().toString('hex')}`)],
  ])
  return Object.fromEntries(facts.filter(([name]) => /_NET_|_BLK_/.test(name)))
}

describe('a network device', () => {
  const config = virtioNetConfig.encode({
    ...virtioNetConfig.decode(new Uint8Array(virtioNetConfig.size)),
    mac: Uint8Array.of(2, 0, 0, 0, 0, 1),
    status: 1,
    max_virtqueue_pairs: 4,
    mtu: 1500,
  })
  const queues = { VDPA_ATTR_DEV_NET_CFG_MAX_VQP: [2, 4n] }

  test.each([
    [[], {}],
    [['VIRTIO_NET_F_MTU'], { VDPA_ATTR_DEV_NET_CFG_MTU: [2, 1500n] }],
    [['VIRTIO_NET_F_MAC'], { VDPA_ATTR_DEV_NET_CFG_MACADDR: [6, 0x01_00_00_00_00_02n] }],
    [['VIRTIO_NET_F_STATUS'], { VDPA_ATTR_DEV_NET_STATUS: [2, 1n] }],
    [['VIRTIO_NET_F_MQ'], queues],
    [['VIRTIO_NET_F_RSS'], queues],
    [['VIRTIO_NET_F_MQ', 'VIRTIO_NET_F_RSS'], queues],
  ] as const)('that offers %j tells %j', (offered, facts) => {
    const features = offered.reduce((sum, name) => sum | bit(netFeatureBits[name]), 0n)
    expect(factsOf(deviceOf(deviceIds.net, features, config))).toEqual(facts)
  })

  test('tells zeroes where its configuration space ends before a field', () => {
    const features = bit(netFeatureBits.VIRTIO_NET_F_MTU) | bit(netFeatureBits.VIRTIO_NET_F_STATUS)
    expect(factsOf(deviceOf(deviceIds.net, features, config.subarray(0, 8)))).toEqual({
      VDPA_ATTR_DEV_NET_CFG_MTU: [2, 0n],
      VDPA_ATTR_DEV_NET_STATUS: [2, 1n],
    })
  })
})

describe('a block device', () => {
  const config = virtioBlkConfig.encode({
    ...virtioBlkConfig.decode(new Uint8Array(virtioBlkConfig.size)),
    capacity: 1n << 40n,
    size_max: 2,
    seg_max: 3,
    blk_size: 4096,
    physical_block_exp: 5,
    alignment_offset: 6,
    min_io_size: 7,
    opt_io_size: 8,
    num_queues: 9,
    max_discard_sectors: 10,
    max_discard_seg: 11,
    discard_sector_alignment: 12,
    max_write_zeroes_sectors: 13,
    max_write_zeroes_seg: 14,
  })
  const always = {
    VDPA_ATTR_DEV_BLK_CFG_CAPACITY: [8, 1n << 40n],
    VDPA_ATTR_DEV_BLK_READ_ONLY: [1, 0n],
    VDPA_ATTR_DEV_BLK_FLUSH: [1, 0n],
  }

  test.each([
    [[], {}],
    [['VIRTIO_BLK_F_SIZE_MAX'], { VDPA_ATTR_DEV_BLK_CFG_SIZE_MAX: [4, 2n] }],
    [['VIRTIO_BLK_F_SEG_MAX'], { VDPA_ATTR_DEV_BLK_CFG_SEG_MAX: [4, 3n] }],
    [['VIRTIO_BLK_F_BLK_SIZE'], { VDPA_ATTR_DEV_BLK_CFG_BLK_SIZE: [4, 4096n] }],
    [['VIRTIO_BLK_F_MQ'], { VDPA_ATTR_DEV_BLK_CFG_NUM_QUEUES: [2, 9n] }],
    [
      ['VIRTIO_BLK_F_TOPOLOGY'],
      {
        VDPA_ATTR_DEV_BLK_CFG_PHY_BLK_EXP: [1, 5n],
        VDPA_ATTR_DEV_BLK_CFG_ALIGN_OFFSET: [1, 6n],
        VDPA_ATTR_DEV_BLK_CFG_MIN_IO_SIZE: [2, 7n],
        VDPA_ATTR_DEV_BLK_CFG_OPT_IO_SIZE: [4, 8n],
      },
    ],
    [
      ['VIRTIO_BLK_F_DISCARD'],
      {
        VDPA_ATTR_DEV_BLK_CFG_MAX_DISCARD_SEC: [4, 10n],
        VDPA_ATTR_DEV_BLK_CFG_MAX_DISCARD_SEG: [4, 11n],
        VDPA_ATTR_DEV_BLK_CFG_DISCARD_SEC_ALIGN: [4, 12n],
      },
    ],
    [
      ['VIRTIO_BLK_F_WRITE_ZEROES'],
      { VDPA_ATTR_DEV_BLK_CFG_MAX_WRITE_ZEROES_SEC: [4, 13n], VDPA_ATTR_DEV_BLK_CFG_MAX_WRITE_ZEROES_SEG: [4, 14n] },
    ],
    [['VIRTIO_BLK_F_RO'], { VDPA_ATTR_DEV_BLK_READ_ONLY: [1, 1n] }],
    [['VIRTIO_BLK_F_FLUSH'], { VDPA_ATTR_DEV_BLK_FLUSH: [1, 1n] }],
  ] as const)('that offers %j tells its capacity, whether it writes and flushes, and %j', (offered, facts) => {
    const features = offered.reduce((sum, name) => sum | bit(blockFeatureBits[name]), 0n)
    expect(factsOf(deviceOf(deviceIds.block, features, config))).toEqual({ ...always, ...facts })
  })
})

test('of other kinds nothing is told', () => {
  expect(
    configurationAnswer({ name: 'one', parent: undefined, ops: deviceOf(4, 0n, new Uint8Array(8)) }),
  ).toBeUndefined()
})
