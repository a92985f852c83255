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
    VIRTIO_BLK_T_DISCARD: 11,
    VIRTIO_BLK_T_WRITE_ZEROES: 13,
    VIRTIO_BLK_T_SECURE_ERASE: 14,
  })
  expect(blk.blockStatus).toEqual({ VIRTIO_BLK_S_OK: 0, VIRTIO_BLK_S_IOERR: 1, VIRTIO_BLK_S_UNSUPP: 2 })
  expect([blk.SECTOR_BYTES, blk.BLOCK_ID_BYTES, blk.VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP]).toEqual([512, 20, 1])
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
      'ffff3f00 0a000000 08000000 00ff0f00 0b000000 01 000000',
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
  }

  test('is read field by field', () => {
    expect(config.length).toBe(60)
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
    })
    expect(blk.decodeBlockConfig(config.subarray(0, 36)).discard).toEqual({
      maxSectors: 0,
      maxSegments: 0,
      sectorAlignment: 0,
    })
    expect(blk.decodeBlockConfig(new Uint8Array(0)).capacity).toBe(0n)
  })
})
