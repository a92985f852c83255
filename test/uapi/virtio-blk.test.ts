// The block device's words, pinned; and configurations of every length.

import { describe, expect, test } from '@jest/globals'
import * as blk from '../../lib/uapi/virtio-blk'
import { hex } from './support'

test('request types, statuses and sizes are those of section 5.2.6', () => {
  expect(blk.blockRequestTypes).toEqual({
    VIRTIO_BLK_T_IN: 0,
    VIRTIO_BLK_T_OUT: 1,
    VIRTIO_BLK_T_FLUSH: 4,
    VIRTIO_BLK_T_GET_ID: 8,
    VIRTIO_BLK_T_GET_LIFETIME: 10,
    VIRTIO_BLK_T_DISCARD: 11,
    VIRTIO_BLK_T_WRITE_ZEROES: 13,
    VIRTIO_BLK_T_SECURE_ERASE: 14,
    VIRTIO_BLK_T_ZONE_APPEND: 15,
    VIRTIO_BLK_T_ZONE_REPORT: 16,
    VIRTIO_BLK_T_ZONE_OPEN: 18,
    VIRTIO_BLK_T_ZONE_CLOSE: 20,
    VIRTIO_BLK_T_ZONE_FINISH: 22,
    VIRTIO_BLK_T_ZONE_RESET: 24,
    VIRTIO_BLK_T_ZONE_RESET_ALL: 26,
  })
  expect(blk.blockStatus).toEqual({
    VIRTIO_BLK_S_OK: 0,
    VIRTIO_BLK_S_IOERR: 1,
    VIRTIO_BLK_S_UNSUPP: 2,
    VIRTIO_BLK_S_ZONE_INVALID_CMD: 3,
    VIRTIO_BLK_S_ZONE_UNALIGNED_WP: 4,
    VIRTIO_BLK_S_ZONE_OPEN_RESOURCE: 5,
    VIRTIO_BLK_S_ZONE_ACTIVE_RESOURCE: 6,
  })
  expect([blk.SECTOR_BYTES, blk.BLOCK_ID_BYTES, blk.VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP]).toEqual([512, 20, 1])
})

test('zones have these models, types and states', () => {
  expect(blk.blockZoneModels).toEqual({ VIRTIO_BLK_Z_NONE: 0, VIRTIO_BLK_Z_HM: 1, VIRTIO_BLK_Z_HA: 2 })
  expect(blk.blockZoneTypes).toEqual({ VIRTIO_BLK_ZT_CONV: 1, VIRTIO_BLK_ZT_SWR: 2, VIRTIO_BLK_ZT_SWP: 3 })
  expect(blk.blockZoneStates).toEqual({
    VIRTIO_BLK_ZS_NOT_WP: 0,
    VIRTIO_BLK_ZS_EMPTY: 1,
    VIRTIO_BLK_ZS_IOPEN: 2,
    VIRTIO_BLK_ZS_EOPEN: 3,
    VIRTIO_BLK_ZS_CLOSED: 4,
    VIRTIO_BLK_ZS_RDONLY: 13,
    VIRTIO_BLK_ZS_FULL: 14,
    VIRTIO_BLK_ZS_OFFLINE: 15,
  })
})

test('the head of a request, and a range of a discard', () => {
  expect(blk.virtioBlkOutHdr.encode({ type: 1, ioprio: 0, sector: 0x1_0000_0001n })).toEqual(
    hex('01000000 00000000 0100000001000000'),
  )
  expect(blk.virtioBlkDiscardWriteZeroes.encode({ sector: 8n, num_sectors: 16, flags: 1 })).toEqual(
    hex('0800000000000000 10000000 01000000'),
  )
})

describe('a configuration', () => {
  const config = hex(
    '0020000000000000 00100000 7e000000 1000 3f 20 00020000 03 01 0800 00040000 01 00 0400 ' +
      'ffff3f00 0a000000 08000000 00ff0f00 0b000000 01 000000 ' +
      '00100000 02000000 10000000 00000800 0e000000 0c000000 00080000 00100000 01 000000',
  )
  const decoded = {
    capacity: 0x2000n,
    sizeMax: 0x1000,
    segMax: 126,
    blockSize: 512,
    topology: { physicalBlockExp: 3, alignmentOffset: 1, minIoSize: 8, optIoSize: 1024 },
    writeCache: true,
    numQueues: 4,
    discard: { maxSectors: 0x3f_ffff, maxSegments: 10, sectorAlignment: 8 },
    writeZeroes: { maxSectors: 0xf_ff00, maxSegments: 11, mayUnmap: true },
    secureErase: { maxSectors: 0x1000, maxSegments: 2, sectorAlignment: 16 },
    zoned: {
      model: 1,
      zoneSectors: 0x8_0000,
      maxOpenZones: 14,
      maxActiveZones: 12,
      maxAppendSectors: 0x800,
      writeGranularity: 0x1000,
    },
  }
  const noErase = { maxSectors: 0, maxSegments: 0, sectorAlignment: 0 }
  const noZones = {
    model: 0,
    zoneSectors: 0,
    maxOpenZones: 0,
    maxActiveZones: 0,
    maxAppendSectors: 0,
    writeGranularity: 0,
  }

  test('is read field by field', () => {
    expect(config.length).toBe(96)
    expect(blk.decodeBlockConfig(config)).toEqual(decoded)
  })

  test('may be longer, as newer devices have it', () => {
    expect(blk.decodeBlockConfig(Uint8Array.of(...config, 1, 2, 3, 4))).toEqual(decoded)
  })

  test('reads as 0 past its end', () => {
    expect(blk.decodeBlockConfig(config.subarray(0, 8))).toEqual({
      capacity: 0x2000n,
      sizeMax: 0,
      segMax: 0,
      blockSize: 0,
      topology: { physicalBlockExp: 0, alignmentOffset: 0, minIoSize: 0, optIoSize: 0 },
      writeCache: false,
      numQueues: 0,
      discard: { maxSectors: 0, maxSegments: 0, sectorAlignment: 0 },
      writeZeroes: { maxSectors: 0, maxSegments: 0, mayUnmap: false },
      secureErase: noErase,
      zoned: noZones,
    })
    // The lengths that devices have: up to write-zeroes, and up to secure erase.
    expect(blk.decodeBlockConfig(config.subarray(0, 60))).toEqual({ ...decoded, secureErase: noErase, zoned: noZones })
    expect(blk.decodeBlockConfig(config.subarray(0, 72))).toEqual({ ...decoded, zoned: noZones })
    expect(blk.decodeBlockConfig(config.subarray(0, 36)).discard).toEqual({
      maxSectors: 0,
      maxSegments: 0,
      sectorAlignment: 0,
    })
    expect(blk.decodeBlockConfig(new Uint8Array(0)).capacity).toBe(0n)
  })

  test('is bytes', () => {
    expect(() => blk.decodeBlockConfig([1] as unknown as Uint8Array)).toThrow(
      'a block configuration must be a Uint8Array (got a Array)',
    )
  })
})
