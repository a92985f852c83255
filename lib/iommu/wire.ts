// The two ways in which an IOMMU device speaks: the specification's, and that of draft 0.4. Both become the same requests, in inclusive ranges.

import { rangeError } from '../base/checks.js'
import { U64_LAST, type Range } from '../base/ranges.js'
import {
  iommuMapFlags,
  iommuRequestTypes as types,
  iommuReservedTypes,
  iommuStatus,
  VIRTIO_IOMMU_MAP_F_EXEC,
  VIRTIO_IOMMU_PROBE_T_RESV_MEM,
  VIRTIO_IOMMU_PROBE_T_RESV_MEM_04,
  virtioIommuConfig,
  virtioIommuConfig04,
  virtioIommuProbeResvMem,
  virtioIommuProbeResvMem04,
  virtioIommuReqAttach,
  virtioIommuReqAttach04,
  virtioIommuReqDetach,
  virtioIommuReqDetach04,
  virtioIommuReqMap,
  virtioIommuReqMap04,
  virtioIommuReqProbe,
  virtioIommuReqUnmap,
  virtioIommuReqUnmap04,
} from '../uapi/virtio-iommu.js'
import type { StructCodec } from '../uapi/struct.js'
import type { ReservedRange } from './reserved.js'

/** What a driver asks for. */
export type IommuRequest =
  | {
      readonly kind: 'attach'
      readonly domain: number
      readonly endpoint: number
      /** VIRTIO_IOMMU_ATTACH_F_*. */
      readonly flags: number
      /** Whether the bytes that must be 0 were not. */
      readonly isMalformed: boolean
    }
  | {
      readonly kind: 'detach'
      /** Absent: whichever it is in, because the draft names none. */
      readonly domain?: number
      readonly endpoint: number
    }
  | {
      readonly kind: 'map'
      readonly domain: number
      readonly first: bigint
      /** Below `first`, or past 2^64-1, where the driver said so. */
      readonly last: bigint
      /** The guest-physical address that `first` leads to. */
      readonly physical: bigint
      /** VIRTIO_IOMMU_MAP_F_*. */
      readonly flags: number
    }
  | { readonly kind: 'unmap'; readonly domain: number; readonly first: bigint; readonly last: bigint }
  | { readonly kind: 'probe'; readonly endpoint: number }

/** Numbers of the configuration space. */
export interface IommuConfig {
  readonly pageSizeMask: bigint
  readonly inputRange: Range
  /** The first and last number of a domain. */
  readonly domainRange: { readonly first: number; readonly last: number }
  /** Bytes of the properties that PROBE answers with. */
  readonly probeSize: number
  readonly bypass: boolean
}

/** One way of speaking. */
export interface Wire {
  readonly hasEventQueue: boolean
  /** Flags that a mapping may have, MMIO aside. */
  readonly mapFlags: number
  /** Whether bit 2 of those flags is MMIO. */
  readonly hasMmio: boolean
  /** Bytes of one property. */
  readonly propertyBytes: number
  /** The request that the first `length` bytes are, which have a head; undefined for a type that there is none of, `'short'` where bytes are missing. */
  decode(view: DataView, length: number): IommuRequest | 'short' | undefined
  property(range: Required<ReservedRange>): Uint8Array
  config(config: IommuConfig): Uint8Array
  /** The status as this way says it. */
  status(status: number): number
}

/** Of a type: bytes that it takes, and what it becomes. */
type Decoder = readonly [size: number, decode: (view: DataView) => IommuRequest]

/** Where the fields of a request lie. Requests that change mappings are many: their fields are read one by one, where a codec would make an object of all of them. */
function places<T extends object>({ fields }: StructCodec<T>): Readonly<Record<keyof T, number>> {
  return Object.fromEntries(fields.map(({ name, offset }) => [name, offset])) as Record<keyof T, number>
}

const mapAt = places(virtioIommuReqMap)
const unmapAt = places(virtioIommuReqUnmap)

/** As its codec reads it, for what is rarely asked. */
function whole<T extends object>(codec: StructCodec<T>, { buffer, byteOffset }: DataView): T {
  return codec.decode(new Uint8Array(buffer, byteOffset, codec.size))
}

const none = (length: number) => new Uint8Array(length)

const probe: Decoder = [
  virtioIommuReqProbe.size,
  (view) => ({ kind: 'probe', endpoint: whole(virtioIommuReqProbe, view).endpoint }),
]

const decoders = new Map<number, Decoder>([
  [types.VIRTIO_IOMMU_T_ATTACH, [virtioIommuReqAttach.size, attachOf((view) => whole(virtioIommuReqAttach, view))]],
  [
    types.VIRTIO_IOMMU_T_DETACH,
    [
      virtioIommuReqDetach.size,
      (view) => {
        const { domain, endpoint } = whole(virtioIommuReqDetach, view)
        return { kind: 'detach', domain, endpoint }
      },
    ],
  ],
  [
    types.VIRTIO_IOMMU_T_MAP,
    [
      virtioIommuReqMap.size,
      (view) => ({
        kind: 'map',
        domain: view.getUint32(mapAt.domain, true),
        first: view.getBigUint64(mapAt.virt_start, true),
        last: view.getBigUint64(mapAt.virt_end, true),
        physical: view.getBigUint64(mapAt.phys_start, true),
        flags: view.getUint32(mapAt.flags, true),
      }),
    ],
  ],
  [
    types.VIRTIO_IOMMU_T_UNMAP,
    [
      virtioIommuReqUnmap.size,
      (view) => ({
        kind: 'unmap',
        domain: view.getUint32(unmapAt.domain, true),
        first: view.getBigUint64(unmapAt.virt_start, true),
        last: view.getBigUint64(unmapAt.virt_end, true),
      }),
    ],
  ],
  [types.VIRTIO_IOMMU_T_PROBE, probe],
])

const decoders04 = new Map<number, Decoder>([
  [
    types.VIRTIO_IOMMU_T_ATTACH,
    [virtioIommuReqAttach04.size, attachOf((view) => ({ flags: 0, ...whole(virtioIommuReqAttach04, view) }))],
  ],
  [
    types.VIRTIO_IOMMU_T_DETACH,
    [
      virtioIommuReqDetach04.size,
      (view) => ({ kind: 'detach', endpoint: whole(virtioIommuReqDetach04, view).endpoint }),
    ],
  ],
  [
    types.VIRTIO_IOMMU_T_MAP,
    [
      virtioIommuReqMap04.size,
      (view) => {
        const { domain, virt_addr, phys_addr, size, flags } = whole(virtioIommuReqMap04, view)
        return { kind: 'map', domain, first: virt_addr, last: virt_addr + size - 1n, physical: phys_addr, flags }
      },
    ],
  ],
  [
    types.VIRTIO_IOMMU_T_UNMAP,
    [
      virtioIommuReqUnmap04.size,
      (view) => {
        const { domain, virt_addr, size } = whole(virtioIommuReqUnmap04, view)
        return { kind: 'unmap', domain, first: virt_addr, last: virt_addr + size - 1n }
      },
    ],
  ],
  [types.VIRTIO_IOMMU_T_PROBE, probe],
])

interface Attachment {
  readonly domain: number
  readonly endpoint: number
  readonly flags: number
  readonly reserved: Uint8Array
}

function attachOf(decode: (view: DataView) => Attachment): (view: DataView) => IommuRequest {
  return (view) => {
    const { domain, endpoint, flags, reserved } = decode(view)
    return { kind: 'attach', domain, endpoint, flags, isMalformed: reserved.some((byte) => byte !== 0) }
  }
}

function decodeWith(table: ReadonlyMap<number, Decoder>): Wire['decode'] {
  return (view, length) => {
    const decoder = table.get(view.getUint8(0))
    if (decoder === undefined) return undefined
    const [size, decode] = decoder
    return length < size ? 'short' : decode(view)
  }
}

const { VIRTIO_IOMMU_MAP_F_READ: READ, VIRTIO_IOMMU_MAP_F_WRITE: WRITE } = iommuMapFlags
const { VIRTIO_IOMMU_RESV_MEM_T_RESERVED: RESERVED, VIRTIO_IOMMU_RESV_MEM_T_MSI: MSI } = iommuReservedTypes
const HEAD_BYTES = 4

/** Spec section 5.13. */
export const specificationWire: Wire = {
  hasEventQueue: true,
  mapFlags: READ | WRITE,
  hasMmio: true,
  propertyBytes: virtioIommuProbeResvMem.size,
  decode: decodeWith(decoders),
  property: ({ first, last, kind }) =>
    virtioIommuProbeResvMem.encode({
      type: VIRTIO_IOMMU_PROBE_T_RESV_MEM,
      length: virtioIommuProbeResvMem.size - HEAD_BYTES,
      subtype: kind === 'msi' ? MSI : RESERVED,
      reserved: none(3),
      start: first,
      end: last,
    }),
  config: ({ pageSizeMask, inputRange, domainRange, probeSize, bypass }) =>
    virtioIommuConfig.encode({
      page_size_mask: pageSizeMask,
      input_start: inputRange.first,
      input_end: inputRange.last,
      domain_start: domainRange.first,
      domain_end: domainRange.last,
      probe_size: probeSize,
      bypass: bypass ? 1 : 0,
      reserved: none(3),
    }),
  status: (status) => status,
}

/** Draft 0.4. What cannot be said in it is a RangeError when the device is made: domains that are not numbered from 0 to 2^n-1, and 2^64 reserved bytes. */
export const draftWire: Wire = {
  hasEventQueue: false,
  mapFlags: READ | WRITE | VIRTIO_IOMMU_MAP_F_EXEC,
  hasMmio: false,
  propertyBytes: virtioIommuProbeResvMem04.size,
  decode: decodeWith(decoders04),
  property: ({ first, last, kind }) =>
    virtioIommuProbeResvMem04.encode({
      type: VIRTIO_IOMMU_PROBE_T_RESV_MEM_04,
      length: virtioIommuProbeResvMem04.size - HEAD_BYTES,
      // An address of the doorbell is left as it is, and so bypasses; others are refused.
      subtype: kind === 'msi' ? 1 : 0,
      reserved: none(3),
      addr: first,
      length_bytes: sizeOf({ first, last }),
      flags: kind === 'msi' ? 1 : 0,
    }),
  config: ({ pageSizeMask, inputRange, domainRange, probeSize }) =>
    virtioIommuConfig04.encode({
      page_size_mask: pageSizeMask,
      input_start: inputRange.first,
      input_end: inputRange.last,
      ioasid_bits: bitsOf(domainRange),
      padding: none(3),
      probe_size: probeSize,
    }),
  status: (status) => (status === iommuStatus.VIRTIO_IOMMU_S_NOMEM ? iommuStatus.VIRTIO_IOMMU_S_DEVERR : status),
}

function sizeOf({ first, last }: Range): bigint {
  const size = last - first + 1n
  if (size > U64_LAST) throw rangeError('reserved', 'less than 2^64 bytes in draft 0.4', size)
  return size
}

function bitsOf({ first, last }: IommuConfig['domainRange']): number {
  const bits = Math.log2(last + 1)
  if (first !== 0 || !Number.isInteger(bits)) throw rangeError('domainRange', 'from 0 to 2^n-1 in draft 0.4', last)
  return bits
}
