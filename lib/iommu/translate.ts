// Where an endpoint's access leads, for those who look it up instead of having it mapped: devices that ask when they miss, and models of devices.

import type { Access } from '../iotlb/mapping.js'
import type { GuestMemory } from '../memory/guest-memory.js'
import type { MemoryRegion } from '../memory/memory-region.js'
import { iommuFaultFlags, iommuFaultReasons, iommuMapFlags, virtioIommuFault } from '../uapi/virtio-iommu.js'
import type { Endpoint, EndpointView } from './endpoint.js'
import type { Piece } from './pieces.js'

/** Where an access leads. */
export interface Translation {
  /** The address that was asked for. */
  readonly iova: bigint
  /** Bytes from it on that lie behind one another. */
  readonly size: bigint
  /** The address in this process. */
  readonly uaddr: bigint
  /** What the endpoint may do there. */
  readonly access: Access
  /** The memory. */
  readonly region: MemoryRegion
  /** Bytes into the region. */
  readonly offset: number
}

/** An access that could not be. */
export interface IommuFault {
  /** One of `iommuFaultReasons`: no domain, no mapping that allows it, or no memory behind the mapping. */
  readonly reason: number
  /** Whose access it was. */
  readonly endpoint: number
  /** What it was. */
  readonly access: Access
  /** The address; undefined where that is not known. */
  readonly address: bigint | undefined
}

/** Whose access it is, and how it sees the memory now. */
export interface Viewer {
  readonly endpoint: Endpoint
  readonly view: EndpointView
  /** What it reaches in bypass. */
  readonly identity: () => Iterable<Piece>
}

const { VIRTIO_IOMMU_MAP_F_READ: READ, VIRTIO_IOMMU_MAP_F_WRITE: WRITE } = iommuMapFlags
const flagsOfAccess: Readonly<Record<Access, number>> = { ro: READ, wo: WRITE, rw: READ | WRITE }

/** The access that flags of a mapping allow; undefined for none. */
export function accessOfFlags(flags: number): Access | undefined {
  if ((flags & READ) === 0) return (flags & WRITE) === 0 ? undefined : 'wo'
  return (flags & WRITE) === 0 ? 'ro' : 'rw'
}

/** Where an access leads, or the reason why nowhere. */
export function translate(
  memory: GuestMemory,
  { endpoint, view, identity }: Viewer,
  iova: bigint,
  access: Access,
): Translation | number {
  const { domain, isBypassed } = view
  if (domain === undefined && !isBypassed) return iommuFaultReasons.VIRTIO_IOMMU_FAULT_R_DOMAIN
  if (domain === undefined || domain.isBypass) return within(identity(), iova)
  const mapping = domain.find(iova, endpoint)
  const allowed = mapping === undefined ? undefined : accessOfFlags(mapping.flags)
  if (mapping === undefined || allowed === undefined || (flagsOfAccess[access] & ~mapping.flags) !== 0)
    return iommuFaultReasons.VIRTIO_IOMMU_FAULT_R_MAPPING
  // A device's registers, or memory that is gone: nothing that a process could reach.
  if (mapping.pieces.length === 0) return iommuFaultReasons.VIRTIO_IOMMU_FAULT_R_UNKNOWN
  const found = lookup(memory, iova, mapping.physical + (iova - mapping.range.first), allowed)
  if (found === undefined) return iommuFaultReasons.VIRTIO_IOMMU_FAULT_R_UNKNOWN
  return limited(found, mapping.range.last)
}

function within(pieces: Iterable<Piece>, iova: bigint): Translation | number {
  for (const { range, slice, access } of pieces) {
    if (iova < range.first || iova > range.last) continue
    const { region } = slice
    const offset = slice.offset + Number(iova - range.first)
    return { iova, size: range.last - iova + 1n, uaddr: region.address + BigInt(offset), access, region, offset }
  }
  return iommuFaultReasons.VIRTIO_IOMMU_FAULT_R_MAPPING
}

function lookup(memory: GuestMemory, iova: bigint, physical: bigint, access: Access): Translation | undefined {
  const found = memory.lookup(physical)
  if (found === undefined) return undefined
  const { piece, region, offset } = found
  const size = piece.address + BigInt(piece.size) - physical
  return { iova, size, uaddr: region.address + BigInt(offset), access, region, offset }
}

function limited(found: Translation, last: bigint): Translation {
  const most = last - found.iova + 1n
  return found.size <= most ? found : { ...found, size: most }
}

/** A fault in words. */
export function faultOf(endpoint: number, address: bigint, access: Access, reason: number): IommuFault {
  return { reason, endpoint, access, address }
}

/** A fault as the event queue reports it. */
export function encodeFault({ reason, endpoint, access, address }: IommuFault): Uint8Array {
  const { VIRTIO_IOMMU_FAULT_F_READ, VIRTIO_IOMMU_FAULT_F_WRITE, VIRTIO_IOMMU_FAULT_F_ADDRESS } = iommuFaultFlags
  const kind = { ro: VIRTIO_IOMMU_FAULT_F_READ, wo: VIRTIO_IOMMU_FAULT_F_WRITE, rw: 3 }[access]
  return virtioIommuFault.encode({
    reason,
    reserved: new Uint8Array(3),
    flags: kind | (address === undefined ? 0 : VIRTIO_IOMMU_FAULT_F_ADDRESS),
    endpoint,
    reserved1: 0,
    address: address ?? 0n,
  })
}
