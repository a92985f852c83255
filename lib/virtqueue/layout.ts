// Numbers of the two ring formats: flags, where fields lie, how long areas are. No algorithm.

import { checkInteger, checkObject, checkOneOf, rangeError } from '../base/checks.js'
import type { RingBytes } from '../memory/parted-ring-memory.js'
import type { RingAreas, RingFormat, RingState } from './virtqueue.js'

/** A flag of a descriptor (sections 2.7.5 and 2.8.13): the chain goes on at `next` (split), or in the descriptor that follows (packed). */
export const NEXT = 1
/** A flag: the device writes the bytes, and otherwise reads them. */
export const WRITE = 2
/** A flag: the bytes are a table of descriptors. */
export const INDIRECT = 4
/** Packed only: both bits together say whose the descriptor is (section 2.8.1). */
export const AVAIL_USED = 0x8080
/** Packed only: the driver's wrap counter, written when the descriptor is made available. */
export const AVAIL = 0x0080
/** Packed only: not equal to AVAIL while the descriptor is available, equal once it was used. */
export const USED = 0x8000

/** Bytes of a descriptor in either format. */
export const DESCRIPTOR_BYTES = 16
/** What can be reached of an indirect table: it may be longer, but no chain goes on past what `next` can say, which has 16 bits. */
export const TABLE_BYTES_LAST = 0x1_0000 * DESCRIPTOR_BYTES
/** The longest chain in bytes (section 2.7.5.2). */
export const CHAIN_BYTES_LAST = 0x1_0000_0000

/** Split rings: 16 bits of `flags` at the start of either ring (sections 2.7.6 and 2.7.8). */
export const FLAGS_AT = 0
/** Split rings: 16 bits of `idx`, which counts entries and never stops. */
export const INDEX_AT = 2
/** Split rings: the entries, 2 bytes each in the available ring and 8 in the used ring; the event field follows them. */
export const ENTRIES_AT = 4
/** Bit 0 of `flags` in either ring: the writer does not want to be notified. */
export const NO_NOTIFICATION = 1

/** Packed: 16 bits of position in an event suppression structure (section 2.8.14), the wrap counter in bit 15. */
export const EVENT_POSITION_AT = 0
/** Packed: 16 bits of flags in the same, of which the lower two are one of the three below. */
export const EVENT_FLAGS_AT = 2
/** Notify always. */
export const EVENT_ENABLE = 0
/** Notify never. */
export const EVENT_DISABLE = 1
/** Notify when the descriptor at the position was moved; only with VIRTIO_F_RING_EVENT_IDX. */
export const EVENT_DESCRIPTOR = 2

/** The largest ring of either format (sections 2.7 and 2.8). */
export const RING_SIZE_LAST = 32768

/** Bytes of the three areas. */
export interface AreaSizes {
  /** Of the descriptor table or ring: 16 × size. */
  readonly descriptor: number
  /** Of the available ring, 6 + 2 × size, or of the driver event suppression structure, 4. */
  readonly driver: number
  /** Of the used ring, 6 + 8 × size, or of the device event suppression structure, 4. */
  readonly device: number
}

/** How long the areas of a ring of `size` descriptors are (tables of sections 2.7 and 2.8.10.1), in bytes. The device needs them aligned to 16, 2, 4 (split) or 16, 4, 4 (packed). */
export function areaSizes(format: RingFormat, size: number): AreaSizes {
  checkRingSize(format, size)
  if (format === 'packed') return { descriptor: DESCRIPTOR_BYTES * size, driver: 4, device: 4 }
  return { descriptor: DESCRIPTOR_BYTES * size, driver: 6 + 2 * size, device: 6 + 8 * size }
}

/** Where a new queue stands: 0 for split; index 0 with the wrap counter set, in both halves, for packed (0x80008000 as one word). */
export function initialState(format: RingFormat): RingState {
  return format === 'packed' ? { available: 0x8000, used: 0x8000 } : { available: 0, used: 0 }
}

/** A power of two up to 32768 (split), any number from 1 to 32768 (packed). */
export function checkRingSize(format: RingFormat, size: number): void {
  checkOneOf(format, 'format', ['split', 'packed'])
  checkInteger(size, 'size', 1, RING_SIZE_LAST)
  if (format === 'split' && (size & (size - 1)) !== 0) throw rangeError('size', 'a power of two for a split ring', size)
}

/** Areas that are long enough and lie so that their 16-bit fields can be reached atomically. */
export function checkAreas(format: RingFormat, size: number, areas: RingAreas<RingBytes>): void {
  const sizes = areaSizes(format, size)
  for (const name of ['descriptor', 'driver', 'device'] as const) {
    const { byteLength, byteOffset } = areas[name]
    if (byteLength < sizes[name]) throw rangeError(`areas.${name}`, `at least ${sizes[name]} bytes long`, byteLength)
    if (byteOffset % 2 !== 0) throw rangeError(`areas.${name}`, 'at an even offset in its buffer', byteOffset)
  }
}

/** Two positions that lie at most `size` apart. */
export function checkRingState(format: RingFormat, size: number, state: RingState, name = 'state'): void {
  checkObject(state, name)
  checkInteger(state.available, `${name}.available`, 0, 0xffff)
  checkInteger(state.used, `${name}.used`, 0, 0xffff)
  if (format === 'packed') {
    checkInteger(state.available & 0x7fff, `${name}.available's index`, 0, size - 1)
    checkInteger(state.used & 0x7fff, `${name}.used's index`, 0, size - 1)
  }
  const ahead = slotsBetween(format, size, state)
  if (ahead > size) throw rangeError(`${name}.available`, `at most ${size} ahead of ${name}.used`, ahead)
}

/** How far `available` is ahead of `used`: chains (split) or descriptors (packed). Above `size` when that cannot be. */
export function slotsBetween(format: RingFormat, size: number, state: RingState): number {
  if (format === 'split') return (state.available - state.used) & 0xffff
  // In the same lap the available index cannot be behind; in the next lap it cannot be ahead (section 2.8.1).
  const indices = (state.available & 0x7fff) - (state.used & 0x7fff)
  const isSameLap = (state.available & 0x8000) === (state.used & 0x8000)
  const ahead = isSameLap ? indices : indices + size
  return ahead < 0 ? size + 1 : ahead
}

/**
 * Whether moving an index from `old` to `next` passed `event`, modulo 2^16: `old <= event < next` (sections 2.7.7.2 and 2.7.10.1: the entry with that
 * index was written). At most 2^15 entries are moved at once, so that one lap cannot hide another.
 */
export function passes(event: number, next: number, old: number): boolean {
  return ((next - event - 1) & 0xffff) < ((next - old) & 0xffff)
}

/**
 * Writes a packed ring of `size` with nothing available and nothing used at `position` (offset, wrap counter in bit 15), both sides wanting notifications. From
 * the position on, descriptors look as used in the lap before, those before it as used in this lap: all 0 in a new ring (section 2.8.13).
 */
export function writeEmptyPackedRing(areas: RingAreas<RingBytes>, size: number, position: number): void {
  const offset = position & 0x7fff
  const wrap = position >>> 15
  for (let at = 0; at < size * DESCRIPTOR_BYTES; at += 4) areas.descriptor.setU32(at, 0)
  for (let index = 0; index < size; index++) {
    const lap = index < offset ? wrap : wrap ^ 1
    areas.descriptor.store16(index * DESCRIPTOR_BYTES + 14, lap === 1 ? AVAIL_USED : 0)
  }
  for (const event of [areas.driver, areas.device]) {
    event.store16(EVENT_POSITION_AT, 0)
    event.store16(EVENT_FLAGS_AT, EVENT_ENABLE)
  }
}
