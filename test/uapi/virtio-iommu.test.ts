import { describe, expect, test } from '@jest/globals'
import * as iommu from '../../lib/uapi/virtio-iommu.js'

const none = (length: number) => new Uint8Array(length)
const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString('hex')
const head = (type: number) => ({ type, head_reserved: none(3) })

describe('sizes', () => {
  test.each([
    [iommu.virtioIommuConfig, 40],
    [iommu.virtioIommuConfig04, 32],
    [iommu.virtioIommuReqAttach, 20],
    [iommu.virtioIommuReqDetach, 20],
    [iommu.virtioIommuReqMap, 36],
    [iommu.virtioIommuReqUnmap, 28],
    [iommu.virtioIommuReqProbe, 72],
    [iommu.virtioIommuReqAttach04, 16],
    [iommu.virtioIommuReqDetach04, 12],
    [iommu.virtioIommuReqMap04, 36],
    [iommu.virtioIommuReqUnmap04, 28],
    [iommu.virtioIommuReqTail, 4],
    [iommu.virtioIommuProbeResvMem, 24],
    [iommu.virtioIommuProbeResvMem04, 28],
    [iommu.virtioIommuFault, 24],
  ])('%#: %p', (codec, size) => {
    expect(codec.size).toBe(size)
  })
})

describe('bytes', () => {
  test('a mapping', () => {
    const value = { domain: 1, virt_start: 0x1000n, virt_end: 0x1fffn, phys_start: 0xa000n, flags: 1 }
    const bytes = '03000000010000000010000000000000ff1f00000000000000a000000000000001000000'
    expect(hex(iommu.virtioIommuReqMap.encode({ ...head(3), ...value }))).toBe(bytes)
    expect(iommu.virtioIommuReqMap.decode(Buffer.from(bytes, 'hex'))).toEqual({ ...head(3), ...value })
  })

  test('a mapping of draft 0.4', () => {
    const value = { domain: 1, virt_addr: 0x1000n, phys_addr: 0xa000n, size: 0x1000n, flags: 1 }
    const bytes = '0300000001000000001000000000000000a0000000000000001000000000000001000000'
    expect(hex(iommu.virtioIommuReqMap04.encode({ ...head(3), ...value }))).toBe(bytes)
  })

  test('a configuration', () => {
    const config = iommu.virtioIommuConfig.encode({
      page_size_mask: ~0xfffn & 0xffff_ffff_ffff_ffffn,
      input_start: 0n,
      input_end: 0xffff_ffff_ffffn,
      domain_start: 0,
      domain_end: 0xffff,
      probe_size: 512,
      bypass: 1,
      reserved: none(3),
    })
    expect(hex(config)).toBe('00f0ffffffffffff0000000000000000ffffffffffff000000000000ffff00000002000001000000')
  })

  test('a fault', () => {
    const fault = { reason: 2, reserved: none(3), flags: 0x101, endpoint: 8, reserved1: 0, address: 0x3000n }
    expect(hex(iommu.virtioIommuFault.encode(fault))).toBe('020000000101000008000000000000000030000000000000')
  })
})
