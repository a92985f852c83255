// The IOMMU device's words (spec section 5.13), and those of draft 0.4 of 2017 where they differ: configuration space, requests, properties, faults.

import { bytes, struct, u16, u32, u64, u8 } from './struct.js'

/** The configuration space: 40 bytes. Which fields mean something depends on the features offered. */
export const virtioIommuConfig = struct('virtio_iommu_config', {
  page_size_mask: u64,
  input_start: u64,
  input_end: u64,
  domain_start: u32,
  domain_end: u32,
  probe_size: u32,
  bypass: u8,
  reserved: bytes(3),
})

/** The configuration space of draft 0.4: 32 bytes. `ioasid_bits`: address spaces are numbered below 2^n. */
export const virtioIommuConfig04 = struct('virtio_iommu_config', {
  page_size_mask: u64,
  input_start: u64,
  input_end: u64,
  ioasid_bits: u8,
  padding: bytes(3),
  probe_size: u32,
})

/** What a request asks for: its first byte. */
export const iommuRequestTypes = {
  VIRTIO_IOMMU_T_ATTACH: 1,
  VIRTIO_IOMMU_T_DETACH: 2,
  VIRTIO_IOMMU_T_MAP: 3,
  VIRTIO_IOMMU_T_UNMAP: 4,
  VIRTIO_IOMMU_T_PROBE: 5,
} as const

/** What a request came to: the first byte of its tail. NOMEM is younger than draft 0.4. */
export const iommuStatus = {
  VIRTIO_IOMMU_S_OK: 0,
  VIRTIO_IOMMU_S_IOERR: 1,
  VIRTIO_IOMMU_S_UNSUPP: 2,
  VIRTIO_IOMMU_S_DEVERR: 3,
  VIRTIO_IOMMU_S_INVAL: 4,
  VIRTIO_IOMMU_S_RANGE: 5,
  VIRTIO_IOMMU_S_NOENT: 6,
  VIRTIO_IOMMU_S_FAULT: 7,
  VIRTIO_IOMMU_S_NOMEM: 8,
} as const

/** Flags of an attachment: the domain lets everything through. */
export const iommuAttachFlags = { VIRTIO_IOMMU_ATTACH_F_BYPASS: 1 } as const
/** Flags of a mapping. */
export const iommuMapFlags = {
  VIRTIO_IOMMU_MAP_F_READ: 1,
  VIRTIO_IOMMU_MAP_F_WRITE: 2,
  VIRTIO_IOMMU_MAP_F_MMIO: 4,
} as const
/** The flag that draft 0.4 had in the place of MMIO. */
export const VIRTIO_IOMMU_MAP_F_EXEC = 4

const head = { type: u8, head_reserved: bytes(3) } as const

/** The device-readable part of ATTACH: 20 bytes. As with all requests, a device-writable tail of 4 bytes follows. */
export const virtioIommuReqAttach = struct('virtio_iommu_req_attach', {
  ...head,
  domain: u32,
  endpoint: u32,
  flags: u32,
  reserved: bytes(4),
})
/** The device-readable part of DETACH: 20 bytes. */
export const virtioIommuReqDetach = struct('virtio_iommu_req_detach', {
  ...head,
  domain: u32,
  endpoint: u32,
  reserved: bytes(8),
})
/** The device-readable part of MAP: 36 bytes, which end before the struct's alignment would have them end. */
export const virtioIommuReqMap = struct(
  'virtio_iommu_req_map',
  { ...head, domain: u32, virt_start: u64, virt_end: u64, phys_start: u64, flags: u32 },
  { packed: true },
)
/** The device-readable part of UNMAP: 28 bytes. */
export const virtioIommuReqUnmap = struct(
  'virtio_iommu_req_unmap',
  { ...head, domain: u32, virt_start: u64, virt_end: u64, reserved: bytes(4) },
  { packed: true },
)
/** The device-readable part of PROBE: 72 bytes. `probe_size` bytes of properties come before the tail. */
export const virtioIommuReqProbe = struct('virtio_iommu_req_probe', { ...head, endpoint: u32, reserved: bytes(64) })

/** ATTACH of draft 0.4: 16 bytes. What became a domain was an address space, and an endpoint a device. */
export const virtioIommuReqAttach04 = struct('virtio_iommu_req_attach', {
  ...head,
  domain: u32,
  endpoint: u32,
  reserved: bytes(4),
})
/** DETACH of draft 0.4: 12 bytes. It names no domain. */
export const virtioIommuReqDetach04 = struct('virtio_iommu_req_detach', { ...head, endpoint: u32, reserved: bytes(4) })
/** MAP of draft 0.4: 36 bytes. It says a size, and so cannot say the whole 2^64. */
export const virtioIommuReqMap04 = struct(
  'virtio_iommu_req_map',
  { ...head, domain: u32, virt_addr: u64, phys_addr: u64, size: u64, flags: u32 },
  { packed: true },
)
/** UNMAP of draft 0.4: 28 bytes. */
export const virtioIommuReqUnmap04 = struct(
  'virtio_iommu_req_unmap',
  { ...head, domain: u32, virt_addr: u64, size: u64, reserved: bytes(4) },
  { packed: true },
)

/** The tail of every request, written by the device. */
export const virtioIommuReqTail = struct('virtio_iommu_req_tail', { status: u8, reserved: bytes(3) })

/** The type of the property that describes reserved memory; draft 0.4 said 2. */
export const VIRTIO_IOMMU_PROBE_T_RESV_MEM = 1
/** The same in draft 0.4. */
export const VIRTIO_IOMMU_PROBE_T_RESV_MEM_04 = 2
/** What reserved memory is for. */
export const iommuReservedTypes = { VIRTIO_IOMMU_RESV_MEM_T_RESERVED: 0, VIRTIO_IOMMU_RESV_MEM_T_MSI: 1 } as const

/** A property of reserved memory with its head: 24 bytes, of which `length` counts 20. */
export const virtioIommuProbeResvMem = struct(
  'virtio_iommu_probe_resv_mem',
  { type: u16, length: u16, subtype: u8, reserved: bytes(3), start: u64, end: u64 },
  { packed: true },
)
/** The same in draft 0.4: 28 bytes, of which `length` counts 24. Subtype 0 ABORT, 1 BYPASS; flag 1 says MSI. */
export const virtioIommuProbeResvMem04 = struct(
  'virtio_iommu_probe_resv_mem',
  { type: u16, length: u16, subtype: u8, reserved: bytes(3), addr: u64, length_bytes: u64, flags: u32 },
  { packed: true },
)

/** Why an access was refused: the `reason` of a fault. */
export const iommuFaultReasons = {
  VIRTIO_IOMMU_FAULT_R_UNKNOWN: 0,
  VIRTIO_IOMMU_FAULT_R_DOMAIN: 1,
  VIRTIO_IOMMU_FAULT_R_MAPPING: 2,
} as const
/** Flags of a fault: what the access was, and whether its address is said. */
export const iommuFaultFlags = {
  VIRTIO_IOMMU_FAULT_F_READ: 1,
  VIRTIO_IOMMU_FAULT_F_WRITE: 2,
  VIRTIO_IOMMU_FAULT_F_ADDRESS: 0x100,
} as const
/** A fault, as the event queue reports it: 24 bytes. */
export const virtioIommuFault = struct('virtio_iommu_fault', {
  reason: u8,
  reserved: bytes(3),
  flags: u32,
  endpoint: u32,
  reserved1: u32,
  address: u64,
})
