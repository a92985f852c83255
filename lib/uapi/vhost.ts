// THE table of requests of <linux/vhost.h>: one row a request, from which encoders, the simulator's dispatch, traces and tests are made.

import { checkInteger, checkOneOf } from '../base/checks.js'
import type { StructCodec } from './struct.js'
import {
  s32Value,
  u16Value,
  u32Value,
  u64Value,
  u8Value,
  vhostFeaturesArray,
  vhostMemory,
  vhostScsiTarget,
  vhostVdpaConfig,
  vhostVdpaIovaRange,
  vhostVringAddr,
  vhostVringFile,
  vhostVringState,
  vhostVringWorker,
  vhostWorkerState,
} from './vhost-types.js'

/** Which way the argument travels, seen from the program. */
export type RequestDirection = 'none' | 'read' | 'write' | 'readwrite'
/** `'sleeps'`: may sleep long in the kernel, and has an asynchronous form above. */
export type RequestLane = 'plain' | 'sleeps'
/** Which of the vhost devices answer the request: all, or one kind. */
export type RequestFamily = 'vhost' | 'vdpa' | 'net' | 'scsi' | 'vsock'

/** One row of the table. */
export interface VhostRequest<T extends object = object> {
  /** The kernel's name: `'VHOST_VDPA_SUSPEND'`. */
  readonly name: string
  /** The number that ioctl(2) takes, 0..2^32-1. */
  readonly number: number
  /** The low byte of it, as the header writes it. */
  readonly nr: number
  /** As the number says it. Some requests of the header that answer in their argument are declared `'write'` all the same. */
  readonly direction: RequestDirection
  /** The codec of the argument; of its head where bytes follow (`flexible`); undefined where there is none. */
  readonly argument: StructCodec<T> | undefined
  /** Bytes of the argument, 0 where there is none. */
  readonly size: number
  /** True where an array follows the head that `argument` describes. */
  readonly flexible: boolean
  /** Where the head says how many elements follow it, and their size; undefined where none do. */
  readonly tail: VhostTail | undefined
  /** Whether it may sleep long in the kernel. */
  readonly lane: RequestLane
  /** The kind of vhost device that answers it. */
  readonly family: RequestFamily
  /** The first kernel that knows the request; distributions carry some of them back to older ones. */
  readonly since: string
}

/** The array after the head of an argument. */
export interface VhostTail {
  /** Where in the head its length is, in bytes. */
  readonly countOffset: number
  /** Bytes of that field: 4 or 8. */
  readonly countSize: 4 | 8
  /** Bytes of an element. */
  readonly elementSize: number
}

const directionBits: Readonly<Record<RequestDirection, number>> = { none: 0, write: 1, read: 2, readwrite: 3 }

/** `_IOC(direction, type, nr, size)` of <asm-generic/ioctl.h>, unsigned: direction in bits 30 and 31, size in bytes in 16 to 29, type in 8 to 15. */
export function ioctlNumber(direction: RequestDirection, type: number, nr: number, size: number): number {
  checkOneOf(direction, 'direction', Object.keys(directionBits) as RequestDirection[])
  for (const [name, value, last] of [
    ['type', type, 0xff],
    ['nr', nr, 0xff],
    ['size', size, 0x3fff],
  ] as const)
    checkInteger(value, name, 0, last)
  return directionBits[direction] * 2 ** 30 + size * 2 ** 16 + type * 2 ** 8 + nr
}

/** The ioctl type of all of them. */
export const VHOST_VIRTIO = 0xaf

type Row<T extends object> = Omit<VhostRequest<T>, 'name'>
type Extra = Partial<Pick<VhostRequest, 'lane' | 'tail'>>

function row<T extends object>(
  direction: RequestDirection,
  nr: number,
  argument: StructCodec<T> | undefined,
  [family, since]: readonly [RequestFamily, string],
  { lane = 'plain', tail }: Extra = {},
): Row<T> {
  const size = argument?.size ?? 0
  return {
    number: ioctlNumber(direction, VHOST_VIRTIO, nr, size),
    nr,
    direction,
    argument,
    size,
    flexible: tail !== undefined,
    tail,
    lane,
    family,
    since,
  }
}

const vhost = (since: string) => ['vhost', since] as const
const vdpa = (since: string) => ['vdpa', since] as const
const sleeps = { lane: 'sleeps' } as const

// Counted in bytes by vhost_vdpa_config.len, in regions by vhost_memory.nregions, in words by vhost_features_array.count.
const configTail: VhostTail = { countOffset: 4, countSize: 4, elementSize: 1 }
const memoryTail: VhostTail = { countOffset: 0, countSize: 4, elementSize: 32 }
const featuresTail: VhostTail = { countOffset: 0, countSize: 8, elementSize: 8 }

const rows = {
  VHOST_GET_FEATURES: row('read', 0x00, u64Value, vhost('2.6.34')),
  VHOST_SET_FEATURES: row('write', 0x00, u64Value, vhost('2.6.34')),
  VHOST_SET_OWNER: row('none', 0x01, undefined, vhost('2.6.34')),
  VHOST_RESET_OWNER: row('none', 0x02, undefined, vhost('2.6.34')),
  VHOST_SET_MEM_TABLE: row('write', 0x03, vhostMemory, vhost('2.6.34'), { tail: memoryTail }),
  VHOST_SET_LOG_BASE: row('write', 0x04, u64Value, vhost('2.6.34')),
  VHOST_SET_LOG_FD: row('write', 0x07, s32Value, vhost('2.6.34')),
  VHOST_NEW_WORKER: row('read', 0x08, vhostWorkerState, vhost('6.5')),
  VHOST_FREE_WORKER: row('write', 0x09, vhostWorkerState, vhost('6.5')),
  VHOST_SET_VRING_NUM: row('write', 0x10, vhostVringState, vhost('2.6.34')),
  VHOST_SET_VRING_ADDR: row('write', 0x11, vhostVringAddr, vhost('2.6.34')),
  VHOST_SET_VRING_BASE: row('write', 0x12, vhostVringState, vhost('2.6.34')),
  VHOST_GET_VRING_BASE: row('readwrite', 0x12, vhostVringState, vhost('2.6.34')),
  VHOST_SET_VRING_ENDIAN: row('write', 0x13, vhostVringState, vhost('4.2')),
  VHOST_GET_VRING_ENDIAN: row('write', 0x14, vhostVringState, vhost('4.2')),
  VHOST_ATTACH_VRING_WORKER: row('write', 0x15, vhostVringWorker, vhost('6.5')),
  VHOST_GET_VRING_WORKER: row('readwrite', 0x16, vhostVringWorker, vhost('6.5')),
  VHOST_SET_VRING_KICK: row('write', 0x20, vhostVringFile, vhost('2.6.34')),
  VHOST_SET_VRING_CALL: row('write', 0x21, vhostVringFile, vhost('2.6.34')),
  VHOST_SET_VRING_ERR: row('write', 0x22, vhostVringFile, vhost('2.6.34')),
  VHOST_SET_VRING_BUSYLOOP_TIMEOUT: row('write', 0x23, vhostVringState, vhost('4.6')),
  VHOST_GET_VRING_BUSYLOOP_TIMEOUT: row('write', 0x24, vhostVringState, vhost('4.6')),
  VHOST_SET_BACKEND_FEATURES: row('write', 0x25, u64Value, vhost('4.19')),
  VHOST_GET_BACKEND_FEATURES: row('read', 0x26, u64Value, vhost('4.19')),
  VHOST_NET_SET_BACKEND: row('write', 0x30, vhostVringFile, ['net', '2.6.34']),
  VHOST_SCSI_SET_ENDPOINT: row('write', 0x40, vhostScsiTarget, ['scsi', '3.6']),
  VHOST_SCSI_CLEAR_ENDPOINT: row('write', 0x41, vhostScsiTarget, ['scsi', '3.6']),
  VHOST_SCSI_GET_ABI_VERSION: row('write', 0x42, s32Value, ['scsi', '3.6']),
  VHOST_SCSI_SET_EVENTS_MISSED: row('write', 0x43, u32Value, ['scsi', '3.10']),
  VHOST_SCSI_GET_EVENTS_MISSED: row('write', 0x44, u32Value, ['scsi', '3.10']),
  VHOST_VSOCK_SET_GUEST_CID: row('write', 0x60, u64Value, ['vsock', '4.8']),
  VHOST_VSOCK_SET_RUNNING: row('write', 0x61, s32Value, ['vsock', '4.8']),
  VHOST_VDPA_GET_DEVICE_ID: row('read', 0x70, u32Value, vdpa('5.7')),
  VHOST_VDPA_GET_STATUS: row('read', 0x71, u8Value, vdpa('5.7')),
  VHOST_VDPA_SET_STATUS: row('write', 0x72, u8Value, vdpa('5.7'), sleeps),
  VHOST_VDPA_GET_CONFIG: row('read', 0x73, vhostVdpaConfig, vdpa('5.7'), { tail: configTail }),
  VHOST_VDPA_SET_CONFIG: row('write', 0x74, vhostVdpaConfig, vdpa('5.7'), { tail: configTail }),
  VHOST_VDPA_SET_VRING_ENABLE: row('write', 0x75, vhostVringState, vdpa('5.7')),
  VHOST_VDPA_GET_VRING_NUM: row('read', 0x76, u16Value, vdpa('5.7')),
  VHOST_VDPA_SET_CONFIG_CALL: row('write', 0x77, s32Value, vdpa('5.8')),
  VHOST_VDPA_GET_IOVA_RANGE: row('read', 0x78, vhostVdpaIovaRange, vdpa('5.10')),
  VHOST_VDPA_GET_CONFIG_SIZE: row('read', 0x79, u32Value, vdpa('5.18')),
  VHOST_VDPA_GET_AS_NUM: row('read', 0x7a, u32Value, vdpa('5.19')),
  VHOST_VDPA_GET_VRING_GROUP: row('readwrite', 0x7b, vhostVringState, vdpa('5.19')),
  VHOST_VDPA_SET_GROUP_ASID: row('write', 0x7c, vhostVringState, vdpa('5.19')),
  VHOST_VDPA_SUSPEND: row('none', 0x7d, undefined, vdpa('6.0'), sleeps),
  VHOST_VDPA_RESUME: row('none', 0x7e, undefined, vdpa('6.3'), sleeps),
  VHOST_VDPA_GET_VRING_DESC_GROUP: row('readwrite', 0x7f, vhostVringState, vdpa('6.7')),
  VHOST_VDPA_GET_VQS_COUNT: row('read', 0x80, u32Value, vdpa('5.18')),
  VHOST_VDPA_GET_GROUP_NUM: row('read', 0x81, u32Value, vdpa('5.19')),
  VHOST_VDPA_GET_VRING_SIZE: row('readwrite', 0x82, vhostVringState, vdpa('6.9')),
  VHOST_GET_FEATURES_ARRAY: row('read', 0x83, vhostFeaturesArray, ['net', '6.17'], { tail: featuresTail }),
  VHOST_SET_FEATURES_ARRAY: row('write', 0x83, vhostFeaturesArray, ['net', '6.17'], { tail: featuresTail }),
  VHOST_SET_FORK_FROM_OWNER: row('write', 0x84, u8Value, vhost('6.17')),
  VHOST_GET_FORK_FROM_OWNER: row('read', 0x85, u8Value, vhost('6.17')),
}

/** The kernel's name of a request. */
export type RequestName = keyof typeof rows

type Requests = { readonly [K in RequestName]: (typeof rows)[K] & { readonly name: K } }

/** Every request of <linux/vhost.h>, by the kernel's name. */
export const requests: Requests = Object.freeze(
  Object.fromEntries(Object.entries(rows).map(([name, request]) => [name, Object.freeze({ name, ...request })])),
) as unknown as Requests

const byNumber: ReadonlyMap<number, VhostRequest> = new Map(
  Object.values(requests as Record<string, unknown>).map((request) => [
    (request as VhostRequest).number,
    request as VhostRequest,
  ]),
)

/** The row of an ioctl number, or undefined when vhost has no such request. */
export function requestByNumber(number: number): (VhostRequest & { readonly name: RequestName }) | undefined {
  return byNumber.get(number) as (VhostRequest & { readonly name: RequestName }) | undefined
}
