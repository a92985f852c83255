// What an IOMMU device is made of, looked through once: its endpoints, its configuration and the features that follow.

import { bit } from '../base/bits.js'
import { checkArray, checkInteger, checkMethods, checkObject, checkOneOf, rangeError, toU64 } from '../base/checks.js'
import { contains, U64_LAST, type Range } from '../base/ranges.js'
import type { MappingSink } from '../iotlb/mapping-sink.js'
import type { GuestMemory } from '../memory/guest-memory.js'
import { otherFeatureBits } from '../uapi/virtio-features.js'
import { deviceIds } from '../uapi/virtio-ids.js'
import { Endpoint } from './endpoint.js'
import { hullOf, reservedRanges, type ReservedRange } from './reserved.js'
import { draftWire, specificationWire, type IommuConfig, type Wire } from './wire.js'

/** An endpoint: the DMA that is translated together, such as that of a device, or of one of its virtqueue groups. */
export interface IommuEndpoint {
  /** What drivers call it by: 0..2^32-1. */
  readonly id: number
  /**
   * Where its mappings go: `AddressSpace.sink` of the address space that its virtqueue group is in. Each endpoint has its own. Absent: mappings are kept for
   * `translate()` only.
   */
  readonly sink?: MappingSink
  /** Addresses that drivers may not map for it; default: none beside those that its device cannot reach. */
  readonly reserved?: readonly ReservedRange[]
}

/** How an IOMMU device is made. */
export interface VirtioIommuOptions {
  /** The memory that guest-physical addresses lead to. The device reads the table only. */
  readonly memory: GuestMemory
  /** All endpoints; there are no others later. */
  readonly endpoints: readonly IommuEndpoint[]
  /** Whose words drivers speak: the specification's (default), or those of draft 0.4 of 2017. */
  readonly profile?: 'specification' | '0.4'
  /** Page sizes; the lowest bit is the granularity. Default: the largest page of a sink, or 4096, and all above. */
  readonly pageSizeMask?: bigint
  /** Numbers that a domain may have; default: all of 32 bits, and then not a feature. */
  readonly domainRange?: { readonly first: number; readonly last: number }
  /** Whether endpoints without a domain reach all memory at first. Default false; with draft 0.4 a feature that the driver may accept. */
  readonly bypass?: boolean
  /** Mappings of all domains together; more are refused with NOMEM. Default 2^20. */
  readonly maxMappings?: number
  /**
   * Told of each failure that a driver learns as a status only, or not at all, such as a refusal of the kernel. Without it failures of another kind than
   * VdpaError go to 'uncaughtException'.
   */
  readonly onFailure?: (failure: unknown) => void
}

/** What follows from the options. */
export interface IommuFacts {
  readonly memory: GuestMemory
  readonly wire: Wire
  readonly endpoints: ReadonlyMap<number, Endpoint>
  readonly granule: bigint
  /** Without `bypass`, which changes. */
  readonly config: Omit<IommuConfig, 'bypass'>
  readonly features: bigint
  readonly maxMappings: number
}

/** Feature bits of the IOMMU device, by name. */
export const iommuFeatureBits = otherFeatureBits[deviceIds.iommu]

const U32_LAST = 0xffff_ffff
const everything: Range = { first: 0n, last: U64_LAST }
/** What Linux and QEMU have, and enough for 21 reserved ranges. */
const PROBE_BYTES = 512

/** Checks the options. TypeError or RangeError for what no device can be made of. */
export function iommuFacts(options: VirtioIommuOptions): IommuFacts {
  checkObject(options, 'options')
  const { memory, profile = 'specification', domainRange, maxMappings = 2 ** 20 } = options
  checkMethods(memory, 'memory', 'a GuestMemory', ['lookup'])
  checkArray(options.endpoints, 'endpoints')
  for (const endpoint of options.endpoints) checkEndpoint(endpoint)
  checkOneOf(profile, 'profile', ['specification', '0.4'])
  checkInteger(maxMappings, 'maxMappings', 1, Number.MAX_SAFE_INTEGER)
  const wire = profile === '0.4' ? draftWire : specificationWire
  const inputRange = hullOf(options.endpoints.map(({ sink }) => sink?.range ?? everything))
  const endpoints = endpointsOf(options.endpoints, inputRange)
  const pageSizeMask = pageSizes(options)
  const config = {
    pageSizeMask,
    inputRange,
    domainRange: domains(domainRange),
    probeSize: probeBytes(wire, endpoints),
  }
  const features = featuresOf(wire, inputRange, domainRange !== undefined)
  // Whatever this way of speaking cannot say is found out now.
  wire.config({ ...config, bypass: false })
  for (const { reserved } of endpoints.values()) for (const range of reserved) wire.property(range)
  return { memory, wire, endpoints, granule: pageSizeMask & -pageSizeMask, config, features, maxMappings }
}

function checkEndpoint(endpoint: IommuEndpoint): void {
  checkObject(endpoint, 'an endpoint')
  const { sink, reserved } = endpoint
  if (reserved !== undefined) checkArray(reserved, 'reserved')
  if (sink === undefined) return
  checkObject(sink, 'sink')
  checkMethods(sink, 'sink', 'a MappingSink', ['batch'])
  checkObject(sink.range, 'sink.range')
  checkInteger(sink.pageSize, 'sink.pageSize', 1, Number.MAX_SAFE_INTEGER)
}

function endpointsOf(given: readonly IommuEndpoint[], hull: Range): Map<number, Endpoint> {
  const endpoints = new Map<number, Endpoint>()
  const sinks = new Set<MappingSink>()
  for (const { id, sink, reserved = [] } of given) {
    checkInteger(id, 'id', 0, U32_LAST)
    if (endpoints.has(id)) throw rangeError('id', 'another for each endpoint', id)
    if (sink !== undefined && sinks.has(sink)) throw rangeError('sink', 'another for each endpoint', sink.name)
    const window = sink?.range ?? everything
    endpoints.set(id, new Endpoint(id, sink, window, reservedRanges(reserved, window, hull)))
    if (sink !== undefined) sinks.add(sink)
  }
  return endpoints
}

function pageSizes({ endpoints, pageSizeMask }: VirtioIommuOptions): bigint {
  const largest = endpoints.reduce((most, { sink }) => Math.max(most, sink?.pageSize ?? 1), 1)
  const isBound = endpoints.some(({ sink }) => sink !== undefined)
  if (pageSizeMask === undefined) return U64_LAST & -BigInt(isBound ? largest : 4096)
  const mask = toU64(pageSizeMask, 'pageSizeMask')
  if (mask === 0n || (mask & -mask) < BigInt(largest))
    throw rangeError('pageSizeMask', `a mask whose lowest bit is at least ${largest}`, mask)
  return mask
}

function domains(range: VirtioIommuOptions['domainRange']): { readonly first: number; readonly last: number } {
  if (range === undefined) return { first: 0, last: U32_LAST }
  checkObject(range, 'domainRange')
  const { first, last } = range
  checkInteger(first, 'domainRange.first', 0, U32_LAST)
  checkInteger(last, 'domainRange.last', first, U32_LAST)
  return { first, last }
}

function probeBytes(wire: Wire, endpoints: ReadonlyMap<number, Endpoint>): number {
  let most = 0
  for (const { reserved } of endpoints.values()) most = Math.max(most, reserved.length)
  return Math.max(PROBE_BYTES, most * wire.propertyBytes)
}

function featuresOf(wire: Wire, inputRange: Range, hasDomainRange: boolean): bigint {
  const of = (name: keyof typeof iommuFeatureBits) => bit(iommuFeatureBits[name])
  let features = of('VIRTIO_IOMMU_F_MAP_UNMAP') | of('VIRTIO_IOMMU_F_PROBE')
  if (!contains(inputRange, everything)) features |= of('VIRTIO_IOMMU_F_INPUT_RANGE')
  if (hasDomainRange) features |= of('VIRTIO_IOMMU_F_DOMAIN_RANGE')
  if (!wire.hasMmio) return features | of('VIRTIO_IOMMU_F_BYPASS')
  return features | of('VIRTIO_IOMMU_F_MMIO') | of('VIRTIO_IOMMU_F_BYPASS_CONFIG')
}
