// The structs and constants of <linux/vhost_types.h>, in the header's own words. Requests are in vhost.ts.

import { bytes, s32, scalar, struct, u16, u32, u64, u8 } from './struct.js'

/** A virtqueue and a number of it: size, base, enable flag, group ... */
export const vhostVringState = struct('vhost_vring_state', { index: u32, num: u32 })

/** A virtqueue and an eventfd of it; `fd` -1 (VHOST_FILE_UNBIND) takes the eventfd away. */
export const vhostVringFile = struct('vhost_vring_file', { index: u32, fd: s32 })

/** Where a virtqueue's three areas lie. On vhost-vdpa the addresses are IOVAs. */
export const vhostVringAddr = struct('vhost_vring_addr', {
  index: u32,
  flags: u32,
  desc_user_addr: u64,
  used_user_addr: u64,
  avail_user_addr: u64,
  log_guest_addr: u64,
})

/** A worker thread of a vhost device, by the number the kernel gave it. */
export const vhostWorkerState = struct('vhost_worker_state', { worker_id: u32 })
/** Which worker serves a virtqueue. */
export const vhostVringWorker = struct('vhost_vring_worker', { index: u32, worker_id: u32 })

/** One IOTLB message; travels inside vhost_msg or vhost_msg_v2. */
export const vhostIotlbMsg = struct('vhost_iotlb_msg', { iova: u64, size: u64, uaddr: u64, perm: u8, type: u8 })

const iotlbInUnion = { at: { iova: 8, size: 16, uaddr: 24, perm: 32, type: 33 }, size: 72 }

/** The record of 72 bytes that is written to the device: `message` is the record's own type, `type` the IOTLB message's. Version 1 has no ASID. */
export const vhostMsg = struct(
  'vhost_msg',
  { message: s32, iova: u64, size: u64, uaddr: u64, perm: u8, type: u8 },
  iotlbInUnion,
)

/** The same with an address space (since Linux 5.19; the word was reserved before). */
export const vhostMsgV2 = struct(
  'vhost_msg_v2',
  { message: u32, asid: u32, iova: u64, size: u64, uaddr: u64, perm: u8, type: u8 },
  iotlbInUnion,
)

/** One entry of a memory table. */
export const vhostMemoryRegion = struct('vhost_memory_region', {
  guest_phys_addr: u64,
  memory_size: u64,
  userspace_addr: u64,
  flags_padding: u64,
})

/** The head of a memory table; `nregions` of vhost_memory_region follow. */
export const vhostMemory = struct('vhost_memory', { nregions: u32, padding: u32 }, { align: 8 })

/** The endpoint of a vhost-scsi device. */
export const vhostScsiTarget = struct('vhost_scsi_target', {
  abi_version: s32,
  vhost_wwpn: bytes(224),
  vhost_tpgt: u16,
  reserved: u16,
})

/** The head of a configuration access; `len` bytes follow. */
export const vhostVdpaConfig = struct('vhost_vdpa_config', { off: u32, len: u32 })

/** The IOVAs a device can reach, both included. */
export const vhostVdpaIovaRange = struct('vhost_vdpa_iova_range', { first: u64, last: u64 })

/** The head of a list of feature words; `count` of __u64 follow. For feature bits past 63. */
export const vhostFeaturesArray = struct('vhost_features_array', { count: u64 })

/** An argument that is one number of 8 bits, as `{ value }`; below, the other widths. */
export const u8Value = scalar('__u8', u8)
/** An argument that is one number of 16 bits, as `{ value }`. */
export const u16Value = scalar('__u16', u16)
/** An argument that is one number of 32 bits, as `{ value }`. */
export const u32Value = scalar('__u32', u32)
/** An argument that is one `int`, as `{ value }`: a file descriptor, -1 for none. */
export const s32Value = scalar('int', s32)
/** An argument that is one number of 64 bits, as `{ value }`: a word of feature bits. */
export const u64Value = scalar('__u64', u64)

/** What a record written to, or read from, a vhost device is. */
export const vhostMessageTypes = { VHOST_IOTLB_MSG: 1, VHOST_IOTLB_MSG_V2: 2 } as const

/** What an IOTLB message asks for or reports: the `type` within a record. */
export const iotlbMessageTypes = {
  VHOST_IOTLB_MISS: 1,
  VHOST_IOTLB_UPDATE: 2,
  VHOST_IOTLB_INVALIDATE: 3,
  VHOST_IOTLB_ACCESS_FAIL: 4,
  VHOST_IOTLB_BATCH_BEGIN: 5,
  VHOST_IOTLB_BATCH_END: 6,
} as const

/** What the device may do with the memory of a mapping. */
export const vhostAccess = { VHOST_ACCESS_RO: 1, VHOST_ACCESS_WO: 2, VHOST_ACCESS_RW: 3 } as const

/**
 * Backend feature bits: numbers, not masks. The kernels that have them: MSG_V2 since 4.19, BATCH 5.9, ASID 5.19, SUSPEND 6.0, RESUME 6.3,
 * ENABLE_AFTER_DRIVER_OK 6.6, DESC_ASID and IOTLB_PERSIST 6.7.
 */
export const backendFeatureBits = {
  VHOST_BACKEND_F_IOTLB_MSG_V2: 1,
  VHOST_BACKEND_F_IOTLB_BATCH: 2,
  VHOST_BACKEND_F_IOTLB_ASID: 3,
  VHOST_BACKEND_F_SUSPEND: 4,
  VHOST_BACKEND_F_RESUME: 5,
  VHOST_BACKEND_F_ENABLE_AFTER_DRIVER_OK: 6,
  VHOST_BACKEND_F_DESC_ASID: 7,
  VHOST_BACKEND_F_IOTLB_PERSIST: 8,
} as const

/** The name of a backend feature. */
export type BackendFeature = keyof typeof backendFeatureBits

/** Feature bits of vhost itself (numbers). */
export const vhostFeatureBits = { VHOST_F_LOG_ALL: 26, VHOST_NET_F_VIRTIO_NET_HDR: 27 } as const

/** The byte orders of VHOST_SET_VRING_ENDIAN. */
export const vringByteOrders = { VHOST_VRING_LITTLE_ENDIAN: 0, VHOST_VRING_BIG_ENDIAN: 1 } as const

/** What the threads of a vhost device are (VHOST_SET_FORK_FROM_OWNER): threads of the kernel, or tasks forked from the owner. */
export const forkOwnerModes = { VHOST_FORK_OWNER_KTHREAD: 0, VHOST_FORK_OWNER_TASK: 1 } as const

/** The flag of vhost_vring_addr that says the log address is valid (a bit number). */
export const VHOST_VRING_F_LOG = 0
/** The fd that takes an eventfd away. */
export const VHOST_FILE_UNBIND = -1
/** What VHOST_SCSI_GET_ABI_VERSION answers. */
export const VHOST_SCSI_ABI_VERSION = 1
/** What addresses and sizes of a memory table must be multiples of, in bytes. */
export const VHOST_PAGE_SIZE = 0x1000
