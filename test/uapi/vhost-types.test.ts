// Structs and constants of vhost and of the devices' headers, pinned as literals, and bytes as the kernel reads them.

import { describe, expect, test } from '@jest/globals'
import * as types from '../../lib/uapi/vhost-types'
import { codecs, hex } from './support'

// Size, alignment, and each field's offset and size.
const layouts = {
  vhost_vring_state: [8, 4, { index: [0, 4], num: [4, 4] }],
  vhost_vring_file: [8, 4, { index: [0, 4], fd: [4, 4] }],
  vhost_vring_addr: [
    40,
    8,
    {
      index: [0, 4],
      flags: [4, 4],
      desc_user_addr: [8, 8],
      used_user_addr: [16, 8],
      avail_user_addr: [24, 8],
      log_guest_addr: [32, 8],
    },
  ],
  vhost_iotlb_msg: [32, 8, { iova: [0, 8], size: [8, 8], uaddr: [16, 8], perm: [24, 1], type: [25, 1] }],
  vhost_msg: [72, 8, { message: [0, 4], iova: [8, 8], size: [16, 8], uaddr: [24, 8], perm: [32, 1], type: [33, 1] }],
  vhost_msg_v2: [
    72,
    8,
    { message: [0, 4], asid: [4, 4], iova: [8, 8], size: [16, 8], uaddr: [24, 8], perm: [32, 1], type: [33, 1] },
  ],
  vhost_memory_region: [
    32,
    8,
    { guest_phys_addr: [0, 8], memory_size: [8, 8], userspace_addr: [16, 8], flags_padding: [24, 8] },
  ],
  vhost_memory: [8, 8, { nregions: [0, 4], padding: [4, 4] }],
  vhost_scsi_target: [232, 4, { abi_version: [0, 4], vhost_wwpn: [4, 224], vhost_tpgt: [228, 2], reserved: [230, 2] }],
  vhost_vdpa_config: [8, 4, { off: [0, 4], len: [4, 4] }],
  vhost_vdpa_iova_range: [16, 8, { first: [0, 8], last: [8, 8] }],
  vhost_worker_state: [4, 4, { worker_id: [0, 4] }],
  vhost_vring_worker: [8, 4, { index: [0, 4], worker_id: [4, 4] }],
  virtio_net_hdr_v1: [
    12,
    2,
    {
      flags: [0, 1],
      gso_type: [1, 1],
      hdr_len: [2, 2],
      gso_size: [4, 2],
      csum_start: [6, 2],
      csum_offset: [8, 2],
      num_buffers: [10, 2],
    },
  ],
  virtio_net_config: [
    24,
    1,
    {
      mac: [0, 6],
      status: [6, 2],
      max_virtqueue_pairs: [8, 2],
      mtu: [10, 2],
      speed: [12, 4],
      duplex: [16, 1],
      rss_max_key_size: [17, 1],
      rss_max_indirection_table_length: [18, 2],
      supported_hash_types: [20, 4],
    },
  ],
  virtio_net_hdr_v1_hash: [
    20,
    4,
    {
      flags: [0, 1],
      gso_type: [1, 1],
      hdr_len: [2, 2],
      gso_size: [4, 2],
      csum_start: [6, 2],
      csum_offset: [8, 2],
      num_buffers: [10, 2],
      hash_value: [12, 4],
      hash_report: [16, 2],
      padding: [18, 2],
    },
  ],
  virtio_blk_config: [
    96,
    1,
    {
      capacity: [0, 8],
      size_max: [8, 4],
      seg_max: [12, 4],
      cylinders: [16, 2],
      heads: [18, 1],
      sectors: [19, 1],
      blk_size: [20, 4],
      physical_block_exp: [24, 1],
      alignment_offset: [25, 1],
      min_io_size: [26, 2],
      opt_io_size: [28, 4],
      wce: [32, 1],
      unused: [33, 1],
      num_queues: [34, 2],
      max_discard_sectors: [36, 4],
      max_discard_seg: [40, 4],
      discard_sector_alignment: [44, 4],
      max_write_zeroes_sectors: [48, 4],
      max_write_zeroes_seg: [52, 4],
      write_zeroes_may_unmap: [56, 1],
      unused1_0: [57, 1],
      unused1_1: [58, 1],
      unused1_2: [59, 1],
      max_secure_erase_sectors: [60, 4],
      max_secure_erase_seg: [64, 4],
      secure_erase_sector_alignment: [68, 4],
      zone_sectors: [72, 4],
      max_open_zones: [76, 4],
      max_active_zones: [80, 4],
      max_append_sectors: [84, 4],
      write_granularity: [88, 4],
      model: [92, 1],
      unused2: [93, 3],
    },
  ],
  virtio_blk_zone_descriptor: [
    64,
    8,
    { z_cap: [0, 8], z_start: [8, 8], z_wp: [16, 8], z_type: [24, 1], z_state: [25, 1], reserved: [26, 38] },
  ],
  virtio_blk_zone_report: [64, 8, { nr_zones: [0, 8], reserved: [8, 56] }],
  virtio_blk_outhdr: [16, 8, { type: [0, 4], ioprio: [4, 4], sector: [8, 8] }],
  virtio_blk_discard_write_zeroes: [16, 8, { sector: [0, 8], num_sectors: [8, 4], flags: [12, 4] }],
  vhost_features_array: [8, 8, { count: [0, 8] }],
  nlmsghdr: [
    16,
    4,
    { nlmsg_len: [0, 4], nlmsg_type: [4, 2], nlmsg_flags: [6, 2], nlmsg_seq: [8, 4], nlmsg_pid: [12, 4] },
  ],
  genlmsghdr: [4, 2, { cmd: [0, 1], version: [1, 1], reserved: [2, 2] }],
  nlattr: [4, 2, { nla_len: [0, 2], nla_type: [2, 2] }],
  ifreq: [40, 8, { name: [0, 16], flags: [16, 2] }],
  __u8: [1, 1, { value: [0, 1] }],
  __u16: [2, 2, { value: [0, 2] }],
  __u32: [4, 4, { value: [0, 4] }],
  int: [4, 4, { value: [0, 4] }],
  __u64: [8, 8, { value: [0, 8] }],
} as const

describe('structs', () => {
  test('have these layouts, and there are no others', () => {
    // Those of VDUSE are pinned in a file of their own.
    const others = codecs.filter(({ name }) => !name.startsWith('vduse_'))
    const ours = others.map(({ name, size, align, fields }) => [
      name,
      [size, align, Object.fromEntries(fields.map((field) => [field.name, [field.offset, field.size]]))],
    ])
    expect(Object.fromEntries(ours)).toEqual(layouts)
  })

  test('are the bytes that the kernel reads', () => {
    expect(types.vhostVringState.encode({ index: 1, num: 0x8000_0002 })).toEqual(hex('01000000 02000080'))
    expect(types.vhostVringFile.encode({ index: 2, fd: types.VHOST_FILE_UNBIND })).toEqual(hex('02000000 ffffffff'))
    expect(
      types.vhostVringAddr.encode({
        index: 3,
        flags: 1 << types.VHOST_VRING_F_LOG,
        desc_user_addr: 0x1000n,
        used_user_addr: 0x2000n,
        avail_user_addr: 0x3000n,
        log_guest_addr: 0xffff_ffff_ffff_fffen,
      }),
    ).toEqual(hex('03000000 01000000 0010000000000000 0020000000000000 0030000000000000 feffffffffffffff'))
    expect(types.vhostVdpaIovaRange.decode(hex('0010000000000000 ffffffffffffff7f'))).toEqual({
      first: 0x1000n,
      last: 0x7fff_ffff_ffff_ffffn,
    })
    expect(types.vhostVdpaConfig.encode({ off: 6, len: 2 })).toEqual(hex('06000000 02000000'))
  })

  test('an IOTLB message of either version is 72 bytes, with zeroes where nothing is', () => {
    const message = {
      iova: 0x1122_3344_5566_7788n,
      size: 0x1000n,
      uaddr: 0x7f00_0000_0000n,
      perm: types.vhostAccess.VHOST_ACCESS_RW,
      type: types.iotlbMessageTypes.VHOST_IOTLB_UPDATE,
    }
    const body = `8877665544332211 0010000000000000 00000000007f0000 03 02 ${'00'.repeat(38)}`
    expect(types.vhostMsgV2.encode({ message: 2, asid: 5, ...message })).toEqual(hex(`02000000 05000000 ${body}`))
    expect(types.vhostMsg.encode({ message: 1, ...message })).toEqual(hex(`01000000 00000000 ${body}`))
    expect(types.vhostIotlbMsg.encode(message)).toEqual(hex(body).slice(0, 32))
  })
})

describe('constants', () => {
  test('of records and messages', () => {
    expect(types.vhostMessageTypes).toEqual({ VHOST_IOTLB_MSG: 1, VHOST_IOTLB_MSG_V2: 2 })
    expect(types.iotlbMessageTypes).toEqual({
      VHOST_IOTLB_MISS: 1,
      VHOST_IOTLB_UPDATE: 2,
      VHOST_IOTLB_INVALIDATE: 3,
      VHOST_IOTLB_ACCESS_FAIL: 4,
      VHOST_IOTLB_BATCH_BEGIN: 5,
      VHOST_IOTLB_BATCH_END: 6,
    })
    expect(types.vhostAccess).toEqual({ VHOST_ACCESS_RO: 1, VHOST_ACCESS_WO: 2, VHOST_ACCESS_RW: 3 })
  })

  test('of backend features: bit numbers, from 1 on', () => {
    expect(types.backendFeatureBits).toEqual({
      VHOST_BACKEND_F_IOTLB_MSG_V2: 1,
      VHOST_BACKEND_F_IOTLB_BATCH: 2,
      VHOST_BACKEND_F_IOTLB_ASID: 3,
      VHOST_BACKEND_F_SUSPEND: 4,
      VHOST_BACKEND_F_RESUME: 5,
      VHOST_BACKEND_F_ENABLE_AFTER_DRIVER_OK: 6,
      VHOST_BACKEND_F_DESC_ASID: 7,
      VHOST_BACKEND_F_IOTLB_PERSIST: 8,
    })
  })

  test('of the rest', () => {
    expect(types.vhostFeatureBits).toEqual({ VHOST_F_LOG_ALL: 26, VHOST_NET_F_VIRTIO_NET_HDR: 27 })
    expect(types.vringByteOrders).toEqual({ VHOST_VRING_LITTLE_ENDIAN: 0, VHOST_VRING_BIG_ENDIAN: 1 })
    expect(types.forkOwnerModes).toEqual({ VHOST_FORK_OWNER_KTHREAD: 0, VHOST_FORK_OWNER_TASK: 1 })
    expect(types.VHOST_PAGE_SIZE).toBe(4096)
    expect([types.VHOST_VRING_F_LOG, types.VHOST_FILE_UNBIND, types.VHOST_SCSI_ABI_VERSION]).toEqual([0, -1, 1])
  })
})
