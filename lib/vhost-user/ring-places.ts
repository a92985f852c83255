// Where a queue lies, and where it begins: what a front end said of it, read by the memory that it gave. It knows no message and no device.

import { areaSizes, AVAIL_USED, DESCRIPTOR_BYTES, USED } from '../virtqueue/layout.js'
import type { RingFormat } from '../virtqueue/virtqueue.js'
import { protocolError } from './codec.js'
import type { MemoryTable } from './memory-table.js'
import type { Vring } from './vring.js'

/** Where the flags of a packed descriptor are. */
const PACKED_FLAGS_AT = 14
/** A packed ring that nobody has touched. */
const FRESH = 0x8000_8000
/** Where a device that has taken all descriptors of an even lap goes on to take: at the first of the next. */
const FULL_LAP = 0x8000

/** The guest's addresses of a queue's areas. */
export interface RingPlace {
  readonly descriptor: bigint
  readonly driver: bigint
  readonly device: bigint
}

/** The same. ERR_VDPA_PROTOCOL where one lies in no region. */
export function findAreas(
  table: MemoryTable,
  { index, size, areas }: Vring,
  format: RingFormat,
  request: string,
): RingPlace {
  const sizes = areaSizes(format, size)
  const find = (name: string, address: bigint | undefined, bytes: number) => {
    const found = address === undefined ? undefined : table.guestAddressOf(address, bytes)
    if (found !== undefined) return found
    const where = address === undefined ? 'nowhere' : `0x${address.toString(16)}`
    throw protocolError(request, `the ${name} area of queue ${index} at ${where} lies in no region`)
  }
  return {
    descriptor: find('descriptor', areas?.descriptor, sizes.descriptor),
    driver: find('driver', areas?.available, sizes.driver),
    device: find('device', areas?.used, sizes.device),
  }
}

/** The base of a queue that nobody has touched. */
export function beginningOf(format: RingFormat): number {
  return format === 'packed' ? FRESH : 0
}

/** The base of a queue, once its size and base are such as a ring can have. ERR_VDPA_PROTOCOL. */
export function startOf(table: MemoryTable, vring: Vring, format: RingFormat, request: string): number {
  const { index, size } = vring
  if (format === 'split' && (size & (size - 1)) !== 0)
    throw protocolError(request, `queue ${index} has ${size} descriptors, no power of two`)
  const base = baseOf(table, vring, format)
  if (format === 'split' && base > 0xffff)
    throw protocolError(request, `queue ${index} is to begin at 0x${base.toString(16)}`)
  return base
}

/**
 * Where a queue begins. Front ends have three ideas of a fresh packed ring: 0x80008000, 0x8000 with nothing in the used half, and 0; some have room for the available half only. Both halves are
 * alike then. Where the ring shows that a device has been there and has used nothing in the lap that begins at 0, what was said is meant: a ring stands at 0 after each odd lap.
 */
export function baseOf(table: MemoryTable, vring: Vring, format: RingFormat): number {
  const { base = 0 } = vring
  if (format === 'split' || base >>> 16 !== 0 || isLapNew(table, vring, base)) return base
  return base === 0 ? FRESH : base * 0x1_0001
}

/** Whether all descriptors from the ring's first to the one where a device goes on to take were made available in an even lap, and none of them used; of no descriptors, whether there was a lap before. */
function isLapNew(table: MemoryTable, { areas, size }: Vring, available: number): boolean {
  const taken = available === FULL_LAP ? size : available
  const bytes = size * DESCRIPTOR_BYTES
  const at = areas === undefined || taken > size ? undefined : table.guestAddressOf(areas.descriptor, bytes)
  const [slice] = at === undefined ? [] : (table.find(at, bytes) ?? [])
  if (slice === undefined) return false
  const ring = new DataView(slice.region.view(slice.offset, bytes).slice().buffer)
  const flagsOf = (index: number) => ring.getUint16(index * DESCRIPTOR_BYTES + PACKED_FLAGS_AT, true)
  const all = Array.from({ length: taken === 0 ? size : taken }, (_, index) => flagsOf(index))
  return taken === 0 ? all.some((flags) => (flags & USED) !== 0) : all.every((flags) => (flags & AVAIL_USED) === USED)
}
