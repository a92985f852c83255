// The table of requests, pinned: a swapped number, direction or size fails here without a compiler.

import { describe, expect, test } from '@jest/globals'
import { ioctlNumber, requestByNumber, requests, VHOST_VIRTIO, type VhostRequest } from '../../lib/uapi/vhost'

// As the compiler computes them from the header of Linux 6.12 (the pair 0x83: 6.17) on x86-64 and arm64.
const numbers = {
  VHOST_GET_FEATURES: 0x8008_af00,
  VHOST_SET_FEATURES: 0x4008_af00,
  VHOST_SET_OWNER: 0x0000_af01,
  VHOST_RESET_OWNER: 0x0000_af02,
  VHOST_SET_MEM_TABLE: 0x4008_af03,
  VHOST_SET_LOG_BASE: 0x4008_af04,
  VHOST_SET_LOG_FD: 0x4004_af07,
  VHOST_NEW_WORKER: 0x8004_af08,
  VHOST_FREE_WORKER: 0x4004_af09,
  VHOST_SET_VRING_NUM: 0x4008_af10,
  VHOST_SET_VRING_ADDR: 0x4028_af11,
  VHOST_SET_VRING_BASE: 0x4008_af12,
  VHOST_GET_VRING_BASE: 0xc008_af12,
  VHOST_SET_VRING_ENDIAN: 0x4008_af13,
  VHOST_GET_VRING_ENDIAN: 0x4008_af14,
  VHOST_ATTACH_VRING_WORKER: 0x4008_af15,
  VHOST_GET_VRING_WORKER: 0xc008_af16,
  VHOST_SET_VRING_KICK: 0x4008_af20,
  VHOST_SET_VRING_CALL: 0x4008_af21,
  VHOST_SET_VRING_ERR: 0x4008_af22,
  VHOST_SET_VRING_BUSYLOOP_TIMEOUT: 0x4008_af23,
  VHOST_GET_VRING_BUSYLOOP_TIMEOUT: 0x4008_af24,
  VHOST_SET_BACKEND_FEATURES: 0x4008_af25,
  VHOST_GET_BACKEND_FEATURES: 0x8008_af26,
  VHOST_NET_SET_BACKEND: 0x4008_af30,
  VHOST_SCSI_SET_ENDPOINT: 0x40e8_af40,
  VHOST_SCSI_CLEAR_ENDPOINT: 0x40e8_af41,
  VHOST_SCSI_GET_ABI_VERSION: 0x4004_af42,
  VHOST_SCSI_SET_EVENTS_MISSED: 0x4004_af43,
  VHOST_SCSI_GET_EVENTS_MISSED: 0x4004_af44,
  VHOST_VSOCK_SET_GUEST_CID: 0x4008_af60,
  VHOST_VSOCK_SET_RUNNING: 0x4004_af61,
  VHOST_VDPA_GET_DEVICE_ID: 0x8004_af70,
  VHOST_VDPA_GET_STATUS: 0x8001_af71,
  VHOST_VDPA_SET_STATUS: 0x4001_af72,
  VHOST_VDPA_GET_CONFIG: 0x8008_af73,
  VHOST_VDPA_SET_CONFIG: 0x4008_af74,
  VHOST_VDPA_SET_VRING_ENABLE: 0x4008_af75,
  VHOST_VDPA_GET_VRING_NUM: 0x8002_af76,
  VHOST_VDPA_SET_CONFIG_CALL: 0x4004_af77,
  VHOST_VDPA_GET_IOVA_RANGE: 0x8010_af78,
  VHOST_VDPA_GET_CONFIG_SIZE: 0x8004_af79,
  VHOST_VDPA_GET_AS_NUM: 0x8004_af7a,
  VHOST_VDPA_GET_VRING_GROUP: 0xc008_af7b,
  VHOST_VDPA_SET_GROUP_ASID: 0x4008_af7c,
  VHOST_VDPA_SUSPEND: 0x0000_af7d,
  VHOST_VDPA_RESUME: 0x0000_af7e,
  VHOST_VDPA_GET_VRING_DESC_GROUP: 0xc008_af7f,
  VHOST_VDPA_GET_VQS_COUNT: 0x8004_af80,
  VHOST_VDPA_GET_GROUP_NUM: 0x8004_af81,
  VHOST_VDPA_GET_VRING_SIZE: 0xc008_af82,
  VHOST_SET_FORK_FROM_OWNER: 0x4001_af84,
  VHOST_GET_FORK_FROM_OWNER: 0x8001_af85,
  VHOST_GET_FEATURES_ARRAY: 0x8008_af83,
  VHOST_SET_FEATURES_ARRAY: 0x4008_af83,
} as const

const rows = Object.values(requests) as readonly VhostRequest[]

describe('the table of requests', () => {
  test('has these numbers and no others', () => {
    expect(Object.fromEntries(rows.map(({ name, number }) => [name, number]))).toEqual(numbers)
  })

  test.each(rows.map((request) => [request.name, request] as const))('%s agrees with itself', (name, request) => {
    const { number, nr, direction, size, argument } = request
    expect(requests).toHaveProperty(name, request)
    expect(number).toBe(ioctlNumber(direction, VHOST_VIRTIO, nr, size))
    expect(size).toBe(argument?.size ?? 0)
    expect(direction === 'none').toBe(argument === undefined)
    expect(requestByNumber(number)).toBe(request)
    expect(Object.isFrozen(request)).toBe(true)
  })

  test('has the arguments that the header names', () => {
    const ofArgument: Record<string, string[]> = {}
    for (const { name, argument } of rows) (ofArgument[argument?.name ?? 'none'] ??= []).push(name)
    expect(ofArgument).toEqual({
      none: ['VHOST_SET_OWNER', 'VHOST_RESET_OWNER', 'VHOST_VDPA_SUSPEND', 'VHOST_VDPA_RESUME'],
      __u8: [
        'VHOST_VDPA_GET_STATUS',
        'VHOST_VDPA_SET_STATUS',
        'VHOST_SET_FORK_FROM_OWNER',
        'VHOST_GET_FORK_FROM_OWNER',
      ],
      __u16: ['VHOST_VDPA_GET_VRING_NUM'],
      __u32: [
        'VHOST_SCSI_SET_EVENTS_MISSED',
        'VHOST_SCSI_GET_EVENTS_MISSED',
        'VHOST_VDPA_GET_DEVICE_ID',
        'VHOST_VDPA_GET_CONFIG_SIZE',
        'VHOST_VDPA_GET_AS_NUM',
        'VHOST_VDPA_GET_VQS_COUNT',
        'VHOST_VDPA_GET_GROUP_NUM',
      ],
      int: ['VHOST_SET_LOG_FD', 'VHOST_SCSI_GET_ABI_VERSION', 'VHOST_VSOCK_SET_RUNNING', 'VHOST_VDPA_SET_CONFIG_CALL'],
      __u64: [
        'VHOST_GET_FEATURES',
        'VHOST_SET_FEATURES',
        'VHOST_SET_LOG_BASE',
        'VHOST_SET_BACKEND_FEATURES',
        'VHOST_GET_BACKEND_FEATURES',
        'VHOST_VSOCK_SET_GUEST_CID',
      ],
      vhost_features_array: ['VHOST_GET_FEATURES_ARRAY', 'VHOST_SET_FEATURES_ARRAY'],
      vhost_memory: ['VHOST_SET_MEM_TABLE'],
      vhost_scsi_target: ['VHOST_SCSI_SET_ENDPOINT', 'VHOST_SCSI_CLEAR_ENDPOINT'],
      vhost_vdpa_config: ['VHOST_VDPA_GET_CONFIG', 'VHOST_VDPA_SET_CONFIG'],
      vhost_vdpa_iova_range: ['VHOST_VDPA_GET_IOVA_RANGE'],
      vhost_vring_addr: ['VHOST_SET_VRING_ADDR'],
      vhost_vring_file: [
        'VHOST_SET_VRING_KICK',
        'VHOST_SET_VRING_CALL',
        'VHOST_SET_VRING_ERR',
        'VHOST_NET_SET_BACKEND',
      ],
      vhost_vring_state: [
        'VHOST_SET_VRING_NUM',
        'VHOST_SET_VRING_BASE',
        'VHOST_GET_VRING_BASE',
        'VHOST_SET_VRING_ENDIAN',
        'VHOST_GET_VRING_ENDIAN',
        'VHOST_SET_VRING_BUSYLOOP_TIMEOUT',
        'VHOST_GET_VRING_BUSYLOOP_TIMEOUT',
        'VHOST_VDPA_SET_VRING_ENABLE',
        'VHOST_VDPA_GET_VRING_GROUP',
        'VHOST_VDPA_SET_GROUP_ASID',
        'VHOST_VDPA_GET_VRING_DESC_GROUP',
        'VHOST_VDPA_GET_VRING_SIZE',
      ],
      vhost_vring_worker: ['VHOST_ATTACH_VRING_WORKER', 'VHOST_GET_VRING_WORKER'],
      vhost_worker_state: ['VHOST_NEW_WORKER', 'VHOST_FREE_WORKER'],
    })
  })

  test('says which requests may sleep long, and which carry an array', () => {
    const named = (is: (request: VhostRequest) => boolean) => rows.filter(is).map(({ name }) => name)
    expect(named(({ lane }) => lane === 'sleeps')).toEqual([
      'VHOST_VDPA_SET_STATUS',
      'VHOST_VDPA_SUSPEND',
      'VHOST_VDPA_RESUME',
    ])
    expect(named(({ flexible }) => flexible)).toEqual([
      'VHOST_SET_MEM_TABLE',
      'VHOST_VDPA_GET_CONFIG',
      'VHOST_VDPA_SET_CONFIG',
      'VHOST_GET_FEATURES_ARRAY',
      'VHOST_SET_FEATURES_ARRAY',
    ])
  })

  test('says since which kernel each request is there', () => {
    const bySince: Record<string, string[]> = {}
    for (const { name, since } of rows) (bySince[since] ??= []).push(name.replace(/^VHOST_(VDPA_)?/, ''))
    const { '2.6.34': first, '3.6': scsi, '5.7': vdpa, ...later } = bySince
    expect([first?.length, scsi?.length, vdpa?.length]).toEqual([15, 3, 7])
    expect(later).toEqual({
      '3.10': ['SCSI_SET_EVENTS_MISSED', 'SCSI_GET_EVENTS_MISSED'],
      '4.2': ['SET_VRING_ENDIAN', 'GET_VRING_ENDIAN'],
      '4.6': ['SET_VRING_BUSYLOOP_TIMEOUT', 'GET_VRING_BUSYLOOP_TIMEOUT'],
      '4.8': ['VSOCK_SET_GUEST_CID', 'VSOCK_SET_RUNNING'],
      '4.19': ['SET_BACKEND_FEATURES', 'GET_BACKEND_FEATURES'],
      '5.8': ['SET_CONFIG_CALL'],
      '5.10': ['GET_IOVA_RANGE'],
      '5.18': ['GET_CONFIG_SIZE', 'GET_VQS_COUNT'],
      '5.19': ['GET_AS_NUM', 'GET_VRING_GROUP', 'SET_GROUP_ASID', 'GET_GROUP_NUM'],
      '6.0': ['SUSPEND'],
      '6.3': ['RESUME'],
      '6.5': ['NEW_WORKER', 'FREE_WORKER', 'ATTACH_VRING_WORKER', 'GET_VRING_WORKER'],
      '6.7': ['GET_VRING_DESC_GROUP'],
      '6.9': ['GET_VRING_SIZE'],
      '6.17': ['GET_FEATURES_ARRAY', 'SET_FEATURES_ARRAY', 'SET_FORK_FROM_OWNER', 'GET_FORK_FROM_OWNER'],
    })
  })

  test('gives each request the family of its name', () => {
    for (const { name, family } of rows) {
      const kind = /^VHOST_(VDPA|NET|SCSI|VSOCK)_/.exec(name)?.[1]?.toLowerCase()
      const expected = name.endsWith('_FEATURES_ARRAY') ? 'net' : (kind ?? 'vhost')
      expect([name, family]).toEqual([name, expected])
    }
  })

  test('knows no number of another', () => {
    for (const number of [0, 0xaf00, 0x8008_af01, 0xaf02 + 2 ** 32, -1, NaN, numbers.VHOST_VDPA_SUSPEND + 0x100])
      expect(requestByNumber(number)).toBeUndefined()
  })
})
