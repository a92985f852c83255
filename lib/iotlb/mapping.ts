// What a mapping is when it is plain data, and the words for what a device may do with it. It knows no memory: where a mapping leads is an address.

import { rangeError } from '../base/checks.js'
import { vhostAccess } from '../uapi/vhost-types.js'
import { IntervalMap } from './interval-map.js'

/** What the device may do: read (`'ro'`), write (`'wo'`), both (`'rw'`). */
export type Access = 'ro' | 'wo' | 'rw'

/** One mapping as plain data. */
export interface MappingSnapshot {
  /** The first address that the device uses. */
  readonly iova: bigint
  /** Bytes, 1 to 2^64. */
  readonly size: bigint
  /** The address in the process that `iova` leads to. */
  readonly uaddr: bigint
  /** What the device may do. */
  readonly access: Access
}

const perms: Readonly<Record<Access, number>> = {
  ro: vhostAccess.VHOST_ACCESS_RO,
  wo: vhostAccess.VHOST_ACCESS_WO,
  rw: vhostAccess.VHOST_ACCESS_RW,
}

/** The `perm` of an IOTLB message (VHOST_ACCESS_*). The kernel takes any number without a word, so what is no access is a RangeError here. */
export function permOf(access: Access): number {
  if (typeof access !== 'string' || !Object.hasOwn(perms, access))
    throw rangeError('access', "one of 'ro', 'wo', 'rw'", access)
  return perms[access]
}

/** The access that a perm of 1, 2 or 3 stands for; RangeError for others. */
export function accessOf(perm: number): Access {
  for (const access of ['rw', 'ro', 'wo'] as const) if (perms[access] === perm) return access
  throw rangeError('perm', 'VHOST_ACCESS_RO, _WO or _RW (1 to 3)', perm)
}

/** A map of the mappings. ERR_VDPA_OVERLAP when two of them overlap; RangeError for one that is none. `objects` are all -1. */
export function mapOf(mappings: Iterable<MappingSnapshot>): IntervalMap {
  const map = new IntervalMap()
  for (const { iova, size, uaddr, access } of mappings) map.insert(iova, iova + size - 1n, uaddr, permOf(access))
  return map
}

/** The mappings of a map, lowest first. */
export function snapshotOf(map: IntervalMap): MappingSnapshot[] {
  return Array.from(map, ({ first, last, uaddr, perm }) => ({
    iova: first,
    size: last - first + 1n,
    uaddr,
    access: accessOf(perm),
  }))
}
