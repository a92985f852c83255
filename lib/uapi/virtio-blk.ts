// The block device's words (spec section 5.2): configuration space, request header, request types and statuses.

import { checkBytes } from '../base/checks.js'
import { bytes, struct, u16, u32, u64, u8 } from './struct.js'

/** Bytes a sector: the unit of every sector number here, whatever the device's block size. */
export const SECTOR_BYTES = 512
/** Bytes of a GET_ID answer; shorter ids end with NUL. */
export const BLOCK_ID_BYTES = 20

/**
 * The configuration space: 96 bytes, of which a device may have the first 60, the first 72 (with secure erase; Linux 6.1) or all (with zones; 6.3): use
 * decodeBlockConfig. Which fields mean something depends on the features offered.
 */
export const virtioBlkConfig = struct(
  'virtio_blk_config',
  {
    capacity: u64,
    size_max: u32,
    seg_max: u32,
    cylinders: u16,
    heads: u8,
    sectors: u8,
    blk_size: u32,
    physical_block_exp: u8,
    alignment_offset: u8,
    min_io_size: u16,
    opt_io_size: u32,
    wce: u8,
    unused: u8,
    num_queues: u16,
    max_discard_sectors: u32,
    max_discard_seg: u32,
    discard_sector_alignment: u32,
    max_write_zeroes_sectors: u32,
    max_write_zeroes_seg: u32,
    write_zeroes_may_unmap: u8,
    unused1_0: u8,
    unused1_1: u8,
    unused1_2: u8,
    max_secure_erase_sectors: u32,
    max_secure_erase_seg: u32,
    secure_erase_sector_alignment: u32,
    zone_sectors: u32,
    max_open_zones: u32,
    max_active_zones: u32,
    max_append_sectors: u32,
    write_granularity: u32,
    model: u8,
    unused2: bytes(3),
  },
  { packed: true },
)

/** The device-readable head of every request. */
export const virtioBlkOutHdr = struct('virtio_blk_outhdr', { type: u32, ioprio: u32, sector: u64 })

/** One range of a discard or write-zeroes request. */
export const virtioBlkDiscardWriteZeroes = struct('virtio_blk_discard_write_zeroes', {
  sector: u64,
  num_sectors: u32,
  flags: u32,
})

/** What a request asks for: the `type` of its head. */
export const blockRequestTypes = {
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
} as const

/** The bit of `flags` that lets a write-zeroes request give the sectors back. */
export const VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP = 1

/** The last byte of every request, written by the device. */
export const blockStatus = {
  VIRTIO_BLK_S_OK: 0,
  VIRTIO_BLK_S_IOERR: 1,
  VIRTIO_BLK_S_UNSUPP: 2,
  VIRTIO_BLK_S_ZONE_INVALID_CMD: 3,
  VIRTIO_BLK_S_ZONE_UNALIGNED_WP: 4,
  VIRTIO_BLK_S_ZONE_OPEN_RESOURCE: 5,
  VIRTIO_BLK_S_ZONE_ACTIVE_RESOURCE: 6,
} as const

/** The configuration's `model`: no zones, zones that the host must manage, zones that it may. */
export const blockZoneModels = { VIRTIO_BLK_Z_NONE: 0, VIRTIO_BLK_Z_HM: 1, VIRTIO_BLK_Z_HA: 2 } as const
/** A zone's `z_type`. */
export const blockZoneTypes = { VIRTIO_BLK_ZT_CONV: 1, VIRTIO_BLK_ZT_SWR: 2, VIRTIO_BLK_ZT_SWP: 3 } as const
/** A zone's `z_state`. */
export const blockZoneStates = {
  VIRTIO_BLK_ZS_NOT_WP: 0,
  VIRTIO_BLK_ZS_EMPTY: 1,
  VIRTIO_BLK_ZS_IOPEN: 2,
  VIRTIO_BLK_ZS_EOPEN: 3,
  VIRTIO_BLK_ZS_CLOSED: 4,
  VIRTIO_BLK_ZS_RDONLY: 13,
  VIRTIO_BLK_ZS_FULL: 14,
  VIRTIO_BLK_ZS_OFFLINE: 15,
} as const

/** One zone of a report. */
export const virtioBlkZoneDescriptor = struct('virtio_blk_zone_descriptor', {
  z_cap: u64,
  z_start: u64,
  z_wp: u64,
  z_type: u8,
  z_state: u8,
  reserved: bytes(38),
})

/** The head of a zone report; `nr_zones` descriptors follow. */
export const virtioBlkZoneReport = struct('virtio_blk_zone_report', { nr_zones: u64, reserved: bytes(56) })

/** A block configuration in whole words. */
export interface BlockConfig {
  /** In sectors of 512 bytes, whatever `blockSize` is. */
  readonly capacity: bigint
  /** Bytes of the longest data segment; means something with VIRTIO_BLK_F_SIZE_MAX. */
  readonly sizeMax: number
  /** Data segments that one request may have; means something with VIRTIO_BLK_F_SEG_MAX. */
  readonly segMax: number
  /** Bytes of the block that is best for the device; means something with VIRTIO_BLK_F_BLK_SIZE. Sectors stay 512 bytes. */
  readonly blockSize: number
  /** Means something with VIRTIO_BLK_F_TOPOLOGY. `physicalBlockExp`: 2^n blocks are a physical block; the others are counted in blocks of `blockSize`. */
  readonly topology: {
    readonly physicalBlockExp: number
    readonly alignmentOffset: number
    readonly minIoSize: number
    readonly optIoSize: number
  }
  /** True: write-back, data is safe after a flush. False: write-through. Means something with VIRTIO_BLK_F_CONFIG_WCE. */
  readonly writeCache: boolean
  /** Request queues; means something with VIRTIO_BLK_F_MQ, without which there is one. */
  readonly numQueues: number
  /** Limits of a discard request, in sectors of 512 bytes and ranges; mean something with VIRTIO_BLK_F_DISCARD. */
  readonly discard: { readonly maxSectors: number; readonly maxSegments: number; readonly sectorAlignment: number }
  /**
   * Limits of a write-zeroes request, in sectors of 512 bytes and ranges; mean something with VIRTIO_BLK_F_WRITE_ZEROES. `mayUnmap`: the device may give
   * sectors back.
   */
  readonly writeZeroes: { readonly maxSectors: number; readonly maxSegments: number; readonly mayUnmap: boolean }
  /** Limits of a secure erase, in sectors of 512 bytes and ranges; mean something with VIRTIO_BLK_F_SECURE_ERASE. */
  readonly secureErase: { readonly maxSectors: number; readonly maxSegments: number; readonly sectorAlignment: number }
  /** Zones, in sectors of 512 bytes; `writeGranularity` in bytes; `model` is one of `blockZoneModels`. */
  readonly zoned: {
    readonly model: number
    readonly zoneSectors: number
    readonly maxOpenZones: number
    readonly maxActiveZones: number
    readonly maxAppendSectors: number
    readonly writeGranularity: number
  }
}

/** Reads a configuration of any length; what is past its end reads as 0. */
export function decodeBlockConfig(config: Uint8Array): BlockConfig {
  checkBytes(config, 'a block configuration')
  const full = new Uint8Array(virtioBlkConfig.size)
  full.set(config.subarray(0, full.length))
  const value = virtioBlkConfig.decode(full)
  return {
    capacity: value.capacity,
    sizeMax: value.size_max,
    segMax: value.seg_max,
    blockSize: value.blk_size,
    topology: {
      physicalBlockExp: value.physical_block_exp,
      alignmentOffset: value.alignment_offset,
      minIoSize: value.min_io_size,
      optIoSize: value.opt_io_size,
    },
    writeCache: value.wce !== 0,
    numQueues: value.num_queues,
    discard: {
      maxSectors: value.max_discard_sectors,
      maxSegments: value.max_discard_seg,
      sectorAlignment: value.discard_sector_alignment,
    },
    writeZeroes: {
      maxSectors: value.max_write_zeroes_sectors,
      maxSegments: value.max_write_zeroes_seg,
      mayUnmap: value.write_zeroes_may_unmap !== 0,
    },
    secureErase: {
      maxSectors: value.max_secure_erase_sectors,
      maxSegments: value.max_secure_erase_seg,
      sectorAlignment: value.secure_erase_sector_alignment,
    },
    zoned: {
      model: value.model,
      zoneSectors: value.zone_sectors,
      maxOpenZones: value.max_open_zones,
      maxActiveZones: value.max_active_zones,
      maxAppendSectors: value.max_append_sectors,
      writeGranularity: value.write_granularity,
    },
  }
}
