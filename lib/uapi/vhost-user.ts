// The vocabulary of vhost-user: a VMM's device in another process, told by messages over a UNIX socket what ioctls tell the kernel. Numbers are in the
// order of the host's bytes, of which only little-endian is known here.

import { bytes, struct, u16, u32, u64 } from './struct.js'

/** Requests of the front end (the VMM), by name. */
export const vhostUserRequests = {
  GET_FEATURES: 1,
  SET_FEATURES: 2,
  SET_OWNER: 3,
  RESET_OWNER: 4,
  SET_MEM_TABLE: 5,
  SET_LOG_BASE: 6,
  SET_LOG_FD: 7,
  SET_VRING_NUM: 8,
  SET_VRING_ADDR: 9,
  SET_VRING_BASE: 10,
  GET_VRING_BASE: 11,
  SET_VRING_KICK: 12,
  SET_VRING_CALL: 13,
  SET_VRING_ERR: 14,
  GET_PROTOCOL_FEATURES: 15,
  SET_PROTOCOL_FEATURES: 16,
  GET_QUEUE_NUM: 17,
  SET_VRING_ENABLE: 18,
  SEND_RARP: 19,
  NET_SET_MTU: 20,
  SET_BACKEND_REQ_FD: 21,
  IOTLB_MSG: 22,
  SET_VRING_ENDIAN: 23,
  GET_CONFIG: 24,
  SET_CONFIG: 25,
  POSTCOPY_ADVISE: 28,
  POSTCOPY_LISTEN: 29,
  POSTCOPY_END: 30,
  GET_INFLIGHT_FD: 31,
  SET_INFLIGHT_FD: 32,
  GPU_SET_SOCKET: 33,
  RESET_DEVICE: 34,
  VRING_KICK: 35,
  GET_MAX_MEM_SLOTS: 36,
  ADD_MEM_REG: 37,
  REM_MEM_REG: 38,
  SET_STATUS: 39,
  GET_STATUS: 40,
  GET_SHARED_OBJECT: 41,
  SET_DEVICE_STATE_FD: 42,
  CHECK_DEVICE_STATE: 43,
  GET_SHMEM_CONFIG: 44,
} as const

/** The name of a request of the front end. */
export type VhostUserRequest = keyof typeof vhostUserRequests

/** Requests of the back end (the device), on the socket of SET_BACKEND_REQ_FD. */
export const vhostUserBackendRequests = { CONFIG_CHANGE: 2, VRING_CALL: 4, VRING_ERR: 5 } as const

/** Bits of the protocol's own features. */
export const vhostUserProtocolBits = {
  MQ: 0,
  LOG_SHMFD: 1,
  RARP: 2,
  REPLY_ACK: 3,
  MTU: 4,
  BACKEND_REQ: 5,
  CROSS_ENDIAN: 6,
  CRYPTO_SESSION: 7,
  PAGEFAULT: 8,
  CONFIG: 9,
  BACKEND_SEND_FD: 10,
  HOST_NOTIFIER: 11,
  INFLIGHT_SHMFD: 12,
  RESET_DEVICE: 13,
  INBAND_NOTIFICATIONS: 14,
  CONFIGURE_MEM_SLOTS: 15,
  STATUS: 16,
  XEN_MMAP: 17,
  SHARED_OBJECT: 18,
  DEVICE_STATE: 19,
  SHMEM: 20,
} as const

/** VIRTIO feature bits that belong to vhost-user and not to the device. */
export const vhostUserFeatureBits = { VHOST_F_LOG_ALL: 26, VHOST_USER_F_PROTOCOL_FEATURES: 30 } as const

/** Bits of a header's `flags`; bits 0 and 1 are the version. */
export const vhostUserFlags = { VERSION: 1, VERSION_MASK: 3, REPLY: 4, NEED_REPLY: 8, ALL: 15 } as const

/** In the word of SET_VRING_KICK, SET_VRING_CALL and SET_VRING_ERR: no descriptor follows. */
export const VHOST_USER_VRING_NO_FD = 0x100

/** What precedes each payload. */
export const vhostUserHeader = struct('vhost_user_header', { request: u32, flags: u32, size: u32 })
/** One region of a memory table. */
export const vhostUserRegion = struct('vhost_user_region', {
  guest_phys_addr: u64,
  memory_size: u64,
  userspace_addr: u64,
  mmap_offset: u64,
})
/** The head of a memory table. */
export const vhostUserMemoryHead = struct('vhost_user_memory', { nregions: u32, padding: u32 })
/** ADD_MEM_REG and REM_MEM_REG: 8 bytes of padding, and the region. */
export const vhostUserSingleRegion = struct('vhost_user_mem_reg', { padding: u64, region: bytes(32) })
/** An index and a number. */
export const vhostUserVringState = struct('vhost_vring_state', { index: u32, num: u32 })
/** Where the areas of a ring lie, as user addresses of the front end: used before available, and a guest-physical address for the log. */
export const vhostUserVringAddr = struct('vhost_vring_addr', {
  index: u32,
  flags: u32,
  desc_user_addr: u64,
  used_user_addr: u64,
  avail_user_addr: u64,
  log_guest_addr: u64,
})
/** SET_LOG_BASE. */
export const vhostUserLog = struct('vhost_user_log', { mmap_size: u64, mmap_offset: u64 })
/** SET_DEVICE_STATE_FD: direction 0 saves and 1 loads; phase 0 is the only one, a device whose queues have stopped. */
export const vhostUserStateTransfer = struct('vhost_user_transfer_device_state', { direction: u32, phase: u32 })
/** In the answers about a device's state: no descriptor of the back end's follows. */
export const VHOST_USER_STATE_NO_FD = 0x100
/** The head of GET_CONFIG and SET_CONFIG. */
export const vhostUserConfigHead = struct('vhost_user_config', { offset: u32, size: u32, flags: u32 })
/** GET_INFLIGHT_FD and SET_INFLIGHT_FD. */
export const vhostUserInflight = struct(
  'vhost_user_inflight',
  { mmap_size: u64, mmap_offset: u64, num_queues: u16, queue_size: u16 },
  { packed: true },
)
/** The head of a split queue's part of the inflight file. */
export const vhostUserInflightSplit = struct('inflight_split_region', {
  features: u64,
  version: u16,
  desc_num: u16,
  last_batch_head: u16,
  used_idx: u16,
})
