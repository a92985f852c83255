// The table of VDUSE's requests and structs, pinned: a swapped number, size or place fails here without a compiler.

import { expect, test } from '@jest/globals'
import * as vduse from '../../lib/uapi/vduse'
import { argumentBytes } from '../../lib/uapi/argument-length'

// As the compiler computes them from the headers of Linux 6.12 and 7.3 on x86-64, and as strace decodes them.
const numbers = {
  VDUSE_GET_API_VERSION: 0x8008_8100,
  VDUSE_SET_API_VERSION: 0x4008_8101,
  VDUSE_CREATE_DEV: 0x4150_8102,
  VDUSE_DESTROY_DEV: 0x4100_8103,
  VDUSE_GET_FEATURES: 0x8008_8104,
  VDUSE_SET_FEATURES: 0x4008_8105,
  VDUSE_IOTLB_GET_FD: 0xc020_8110,
  VDUSE_DEV_GET_FEATURES: 0x8008_8111,
  VDUSE_DEV_SET_CONFIG: 0x4008_8112,
  VDUSE_DEV_INJECT_CONFIG_IRQ: 0x0000_8113,
  VDUSE_VQ_SETUP: 0x4020_8114,
  VDUSE_VQ_GET_INFO: 0xc030_8115,
  VDUSE_VQ_SETUP_KICKFD: 0x4008_8116,
  VDUSE_VQ_INJECT_IRQ: 0x4004_8117,
  VDUSE_IOTLB_REG_UMEM: 0x4030_8118,
  VDUSE_IOTLB_DEREG_UMEM: 0x4030_8119,
  VDUSE_IOTLB_GET_INFO: 0xc030_811a,
  VDUSE_IOTLB_GET_FD2: 0xc050_811b,
}

test('each request has the number of the header', () => {
  const ours = Object.fromEntries(Object.entries(vduse.vduseRequests).map(([name, { number }]) => [name, number]))
  expect(ours).toEqual(numbers)
})

test.each([
  ['vduseDevConfig', 336],
  ['vduseName', 256],
  ['vduseIotlbEntry', 32],
  ['vduseIotlbEntryV2', 80],
  ['vduseConfigData', 8],
  ['vduseVqConfig', 32],
  ['vduseVqInfo', 48],
  ['vduseVqEventfd', 8],
  ['vduseIovaUmem', 48],
  ['vduseIovaInfo', 48],
  ['vduseDevRequest', 152],
  ['vduseDevResponse', 152],
  ['vduseVqState', 12],
  ['vduseIovaRange', 24],
  ['vduseVqGroupAsid', 8],
  ['vduseVqReady', 8],
] as const)('%s has %i bytes', (name, size) => {
  expect(vduse[name].size).toBe(size)
})

test('the fields that came with Linux 7.0 are where others were reserved', () => {
  const at = (codec: { readonly fields: readonly { name: string; offset: number }[] }, name: string) =>
    codec.fields.find((field) => field.name === name)?.offset
  expect(at(vduse.vduseDevConfig, 'ngroups')).toBe(280)
  expect(at(vduse.vduseDevConfig, 'nas')).toBe(284)
  expect(at(vduse.vduseDevConfig, 'config_size')).toBe(332)
  expect(at(vduse.vduseVqConfig, 'group')).toBe(8)
  expect(at(vduse.vduseIotlbEntryV2, 'asid')).toBe(32)
  expect(at(vduse.vduseIovaInfo, 'asid')).toBe(24)
  expect(at(vduse.vduseDevRequest, 'payload')).toBe(24)
})

test('what follows a head counts for the length of an argument', () => {
  const { VDUSE_CREATE_DEV, VDUSE_DEV_SET_CONFIG } = vduse.vduseRequests
  const made = new Uint8Array(400)
  new DataView(made.buffer).setUint32(332, 60, true)
  expect(argumentBytes(VDUSE_CREATE_DEV.number, made)).toBe(396)
  const data = new Uint8Array(20)
  new DataView(data.buffer).setUint32(4, 12, true)
  expect(argumentBytes(VDUSE_DEV_SET_CONFIG.number, data)).toBe(20)
})
