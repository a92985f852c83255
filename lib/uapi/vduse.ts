// VDUSE in the kernel's words (<linux/vduse.h>): vDPA devices whose other side is a program. Requests of the control node and of a device's, and what is read
// from the latter and written to it.

import { bytes, struct, u16, u32, u64, u8, s32, type StructCodec } from './struct.js'
import { u32Value, u64Value } from './vhost-types.js'
import { ioctlNumber, type RequestDirection, type VhostTail } from './vhost.js'

/** The ioctl type of all of them. */
export const VDUSE_BASE = 0x81
/** Bytes of a device's name, its end included. */
export const VDUSE_NAME_MAX = 256

/** What a device is made with: 336 bytes, behind which `config_size` bytes of the configuration follow. `ngroups` and `nas` are 0 under API version 0. */
export const vduseDevConfig = struct('vduse_dev_config', {
  name: bytes(VDUSE_NAME_MAX),
  vendor_id: u32,
  device_id: u32,
  features: u64,
  vq_num: u32,
  vq_align: u32,
  ngroups: u32,
  nas: u32,
  reserved: bytes(44),
  config_size: u32,
})

/** The argument of DESTROY_DEV. */
export const vduseName = struct('vduse_name', { name: bytes(VDUSE_NAME_MAX) })

/** A piece of the device's address space: bytes [start, last], which are at `offset` of the file that the request returns. 32 bytes. */
export const vduseIotlbEntry = struct('vduse_iotlb_entry', { offset: u64, start: u64, last: u64, perm: u8 })

/** The same of one address space: 80 bytes. Since Linux 7.0. */
export const vduseIotlbEntryV2 = struct(
  'vduse_iotlb_entry_v2',
  { offset: u64, start: u64, last: u64, perm: u8, padding: bytes(7), asid: u32, reserved: bytes(44) },
  { size: 80 },
)

/** What of a piece may be done: `perm` of the two above. */
export const vduseAccess = { VDUSE_ACCESS_RO: 1, VDUSE_ACCESS_WO: 2, VDUSE_ACCESS_RW: 3 } as const

/** Bytes of the configuration: 8 bytes, behind which `length` bytes follow. */
export const vduseConfigData = struct('vduse_config_data', { offset: u32, length: u32 })

/** A queue to be set up: 32 bytes. `group` is 0 under API version 0. */
export const vduseVqConfig = struct('vduse_vq_config', {
  index: u32,
  max_size: u16,
  reserved1: u16,
  group: u32,
  reserved2: bytes(20),
})

/** What the driver told a queue: 48 bytes. The four words are a position: for split rings the first is the available index, and the others mean nothing. */
export const vduseVqInfo = struct('vduse_vq_info', {
  index: u32,
  num: u32,
  desc_addr: u64,
  driver_addr: u64,
  device_addr: u64,
  last_avail_counter: u16,
  last_avail_idx: u16,
  last_used_counter: u16,
  last_used_idx: u16,
  ready: u8,
})

/** The eventfd of a queue's kicks; -1 takes it away. */
export const vduseVqEventfd = struct('vduse_vq_eventfd', { index: u32, fd: s32 })
/** No eventfd. */
export const VDUSE_EVENTFD_DEASSIGN = -1

/** Memory in the place of the kernel's own for bounce buffers: 48 bytes. `asid` is 0 under API version 0. */
export const vduseIovaUmem = struct('vduse_iova_umem', {
  uaddr: u64,
  iova: u64,
  size: u64,
  asid: u32,
  reserved: bytes(20),
})
/** What an address space has at [start, last]: 48 bytes. */
export const vduseIovaInfo = struct('vduse_iova_info', {
  start: u64,
  last: u64,
  capability: u64,
  asid: u32,
  reserved: bytes(20),
})

/** What a program may ask to be asked for (VDUSE_SET_FEATURES), by bit number. Since Linux 7.3. */
export const vduseFeatureBits = { VDUSE_F_QUEUE_READY: 0, VDUSE_F_SUSPEND: 1 } as const

/** What the kernel asks of the program: `type` of a request that is read. */
export const vduseRequestTypes = {
  VDUSE_GET_VQ_STATE: 0,
  VDUSE_SET_STATUS: 1,
  VDUSE_UPDATE_IOTLB: 2,
  /** Since Linux 7.0. */
  VDUSE_SET_VQ_GROUP_ASID: 3,
  /** Since Linux 7.3. */
  VDUSE_SET_VQ_READY: 4,
  /** Since Linux 7.3. */
  VDUSE_SUSPEND: 5,
} as const

/** How a request is answered. */
export const vduseResults = { VDUSE_REQ_RESULT_OK: 0, VDUSE_REQ_RESULT_FAILED: 1 } as const

/** What is read from a device's node: 152 bytes, of which what the type says is at byte 24. */
export const vduseDevRequest = struct(
  'vduse_dev_request',
  { type: u32, request_id: u32, reserved: bytes(16), payload: bytes(128) },
  { align: 8 },
)
/** What is written to it: 152 bytes. */
export const vduseDevResponse = struct('vduse_dev_response', {
  request_id: u32,
  result: u32,
  reserved: bytes(16),
  payload: bytes(128),
})

/** The payload of GET_VQ_STATE, both ways; for split rings the first word is the available index. */
export const vduseVqState = struct('vduse_vq_state', {
  index: u32,
  last_avail_counter: u16,
  last_avail_idx: u16,
  last_used_counter: u16,
  last_used_idx: u16,
})
/** The payload of SET_STATUS. */
export const vduseDevStatus = struct('vduse_dev_status', { status: u8 })
/** The payload of UPDATE_IOTLB: what is no longer as it was. `asid` is 0 under API version 0. */
export const vduseIovaRange = struct('vduse_iova_range', { start: u64, last: u64, asid: u32, padding: u32 })
/** The payload of SET_VQ_GROUP_ASID. */
export const vduseVqGroupAsid = struct('vduse_vq_group_asid', { group: u32, asid: u32 })
/** The payload of SET_VQ_READY. */
export const vduseVqReady = struct('vduse_vq_ready', { num: u32, ready: u32 })

/** One row of the table. */
export interface VduseRequest<T extends object = object> {
  /** The kernel's name: `'VDUSE_CREATE_DEV'`. */
  readonly name: string
  /** The number that ioctl(2) takes, 0..2^32-1. */
  readonly number: number
  /** Which way the argument travels, seen from the program, as the number says it. */
  readonly direction: RequestDirection
  /** The codec of the argument; of its head where bytes follow; undefined where there is none. */
  readonly argument: StructCodec<T> | undefined
  /** Where the head says how many bytes follow it; undefined where none do. */
  readonly tail: VhostTail | undefined
  /** The node that answers it: `/dev/vduse/control`, or a device's. */
  readonly node: 'control' | 'device'
  /** The first kernel that knows the request. */
  readonly since: string
}

type Row<T extends object> = Omit<VduseRequest<T>, 'name'>
type Place = readonly [node: 'control' | 'device', since: string]

function row<T extends object>(
  direction: RequestDirection,
  nr: number,
  argument: StructCodec<T> | undefined,
  [node, since]: Place,
  tail?: VhostTail,
): Row<T> {
  const number = ioctlNumber(direction, VDUSE_BASE, nr, argument?.size ?? 0)
  return { number, direction, argument, tail, node, since }
}

const control = (since: string): Place => ['control', since]
const device = (since: string): Place => ['device', since]

const rows = {
  VDUSE_GET_API_VERSION: row('read', 0x00, u64Value, control('5.15')),
  VDUSE_SET_API_VERSION: row('write', 0x01, u64Value, control('5.15')),
  VDUSE_CREATE_DEV: row('write', 0x02, vduseDevConfig, control('5.15'), {
    countOffset: 332,
    countSize: 4,
    elementSize: 1,
  }),
  VDUSE_DESTROY_DEV: row('write', 0x03, vduseName, control('5.15')),
  VDUSE_GET_FEATURES: row('read', 0x04, u64Value, control('7.3')),
  VDUSE_SET_FEATURES: row('write', 0x05, u64Value, control('7.3')),
  VDUSE_IOTLB_GET_FD: row('readwrite', 0x10, vduseIotlbEntry, device('5.15')),
  VDUSE_DEV_GET_FEATURES: row('read', 0x11, u64Value, device('5.15')),
  VDUSE_DEV_SET_CONFIG: row('write', 0x12, vduseConfigData, device('5.15'), {
    countOffset: 4,
    countSize: 4,
    elementSize: 1,
  }),
  VDUSE_DEV_INJECT_CONFIG_IRQ: row('none', 0x13, undefined, device('5.15')),
  VDUSE_VQ_SETUP: row('write', 0x14, vduseVqConfig, device('5.15')),
  VDUSE_VQ_GET_INFO: row('readwrite', 0x15, vduseVqInfo, device('5.15')),
  VDUSE_VQ_SETUP_KICKFD: row('write', 0x16, vduseVqEventfd, device('5.15')),
  VDUSE_VQ_INJECT_IRQ: row('write', 0x17, u32Value, device('5.15')),
  VDUSE_IOTLB_REG_UMEM: row('write', 0x18, vduseIovaUmem, device('6.0')),
  VDUSE_IOTLB_DEREG_UMEM: row('write', 0x19, vduseIovaUmem, device('6.0')),
  VDUSE_IOTLB_GET_INFO: row('readwrite', 0x1a, vduseIovaInfo, device('6.0')),
  VDUSE_IOTLB_GET_FD2: row('readwrite', 0x1b, vduseIotlbEntryV2, device('7.0')),
} as const

/** The kernel's name of a request. */
export type VduseRequestName = keyof typeof rows

/** All requests by the kernel's names. */
export const vduseRequests: { readonly [K in VduseRequestName]: (typeof rows)[K] & { readonly name: K } } =
  Object.fromEntries(Object.entries(rows).map(([name, row]) => [name, { ...row, name }])) as never
