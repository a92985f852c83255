// The guest's end of a shadowed queue: the device's side of a ring that lies in the guest's memory, and where that ring stands when nobody of us was there.

import { vdpaError } from '../base/errors.js'
import { PartedRingMemory, type RingBytes } from '../memory/parted-ring-memory.js'
import { RingMemory } from '../memory/ring-memory.js'
import { createDeviceRing } from '../virtqueue/create.js'
import {
  areaSizes,
  DESCRIPTOR_BYTES,
  ENTRIES_AT,
  INDEX_AT,
  slotsBetween,
  TABLE_BYTES_LAST,
} from '../virtqueue/layout.js'
import type {
  DeviceRing,
  RingAreas,
  RingFeatures,
  RingFormat,
  RingState,
  TableLocation,
} from '../virtqueue/virtqueue.js'
import type { WriteMarks } from '../memory/write-marks.js'
import type { GuestWindows } from './guest-windows.js'

/** A ring as its guest set it up. */
export interface GuestShape {
  readonly format: RingFormat
  /** Descriptors. */
  readonly size: number
  /** The guest's addresses of the three areas. */
  readonly addresses: { readonly descriptor: bigint; readonly driver: bigint; readonly device: bigint }
  readonly features: RingFeatures
}

/** A guest's ring under what was negotiated. */
export function shapeOf(
  { size, addresses }: Pick<GuestShape, 'size' | 'addresses'>,
  format: RingFormat,
  has: (feature: 'VIRTIO_F_RING_EVENT_IDX' | 'VIRTIO_F_RING_INDIRECT_DESC' | 'VIRTIO_F_IN_ORDER') => boolean,
): GuestShape {
  const features = {
    eventIdx: has('VIRTIO_F_RING_EVENT_IDX'),
    indirect: has('VIRTIO_F_RING_INDIRECT_DESC'),
    inOrder: has('VIRTIO_F_IN_ORDER'),
  }
  return { format, size, addresses, features }
}

type AreaName = 'descriptor' | 'driver' | 'device'

/** The ring of one guest, from one beginning of shadowing to its end. */
export class GuestQueue {
  readonly ring: DeviceRing
  /** Whether chains are answered in the order in which they came. */
  readonly isInOrder: boolean
  readonly #shape: GuestShape
  readonly #windows: GuestWindows
  readonly #usedAt: number
  readonly #usedBytes: number
  readonly #eventAt: number
  // What the guest was told of last.
  #marked: number
  // The tables of indirect descriptors that lie in several pieces are gathered here.
  #scratch = new RingMemory(new ArrayBuffer(0))
  readonly #location: { memory: RingMemory; offset: number }

  /** ERR_VDPA_RING_BROKEN where the ring does not lie in the guest's memory, RangeError for a position that is none. */
  constructor(shape: GuestShape, windows: GuestWindows, state: RingState) {
    this.#shape = shape
    this.#windows = windows
    const { format, size, features, addresses } = shape
    this.isInOrder = features.inOrder === true
    this.#location = { memory: this.#scratch, offset: 0 }
    const translateTable = (high: number, low: number, length: number) => this.#table(high, low, length)
    this.ring = createDeviceRing({ format, size, areas: areasOf(shape, windows), features, state, translateTable })
    this.#usedAt = Number(format === 'split' ? addresses.device : addresses.descriptor)
    this.#usedBytes = format === 'split' ? 8 : DESCRIPTOR_BYTES
    this.#eventAt = Number(addresses.device)
    this.#marked = state.used
  }

  /** Marks what we wrote to the ring since the last time: before publish(), for what is announced then, and the words by which kicks are asked for. */
  mark(log: WriteMarks): void {
    const { format, size } = this.#shape
    const used = this.ring.state().used
    if (format === 'split') {
      log.mark(this.#usedAt, ENTRIES_AT)
      log.mark(this.#usedAt + ENTRIES_AT + 8 * size, 2)
    } else log.mark(this.#eventAt, 4)
    if (used === this.#marked) return
    const entriesAt = this.#usedAt + (format === 'split' ? ENTRIES_AT : 0)
    const mask = format === 'split' ? 0xffff : 0x7fff
    const first = (this.#marked & mask) % size
    const end = (used & mask) % size
    const bytes = this.#usedBytes
    // IN_ORDER writes the entry of a batch at the place of its first chain: all of the run is marked.
    if (first < end) log.mark(entriesAt + first * bytes, (end - first) * bytes)
    else {
      log.mark(entriesAt + first * bytes, (size - first) * bytes)
      log.mark(entriesAt, end * bytes)
    }
    this.#marked = used
  }

  /** Where who goes on begins: what is in flight is given again. */
  position(): RingState {
    const { used } = this.ring.state()
    return { available: used, used }
  }

  #table(high: number, low: number, length: number): TableLocation | undefined {
    const address = high * 0x1_0000_0000 + low
    const whole = high < 0x20_0000 ? this.#windows.bytes(address, length) : undefined
    if (whole !== undefined) {
      this.#location.memory = new RingMemory(whole.buffer, whole.byteOffset, length)
      return this.#location
    }
    return this.#gather(address, Math.min(length, TABLE_BYTES_LAST))
  }

  #gather(address: number, length: number): TableLocation | undefined {
    if (this.#scratch.byteLength < length) this.#scratch = new RingMemory(new ArrayBuffer(length))
    for (let done = 0; done < length;) {
      const window = this.#windows.at(address + done)
      if (window === undefined) return undefined
      const count = Math.min(length - done, window.last - (address + done) + 1)
      const part = window.region.view(window.offset + (address + done - window.first), count)
      this.#scratch.bytes(done, count).set(part)
      done += count
    }
    this.#location.memory = this.#scratch
    return this.#location
  }
}

/** Where a ring stands that somebody else served, and whether that is certain. */
export type FoundPosition =
  { readonly isCertain: true; readonly state: RingState; readonly resubmitted: number } | { readonly isCertain: false }

/**
 * Where a guest's ring stands whose device stands still. `said` is what the device says of it, undefined where it says nothing: a split ring tells by itself, by its used index. Chains that
 * the device took and did not answer are given again, which is right as long as it answered in order; where the ring shows that it did not, the position is not certain.
 */
export function findPosition(shape: GuestShape, windows: GuestWindows, said: RingState | undefined): FoundPosition {
  const { format, size, features } = shape
  if (format === 'packed') {
    if (said === undefined)
      throw vdpaError(
        'ERR_VDPA_NOT_SUPPORTED',
        'the device does not say where a packed ring stands, and the ring does not either',
      )
    const resubmitted = slotsBetween(format, size, said)
    return { isCertain: true, state: { available: said.used, used: said.used }, resubmitted }
  }
  const { driver, device } = areasOf(shape, windows)
  const used = device.load16(INDEX_AT)
  const state = { available: used, used }
  const taken = said === undefined ? undefined : (said.available - used) & 0xffff
  if (taken === 0 || features.inOrder === true) return { isCertain: true, state, resubmitted: taken ?? 0 }
  // A device that stands still because it was reset has nothing in hand; what it took is what the guest offers.
  const offered = (driver.load16(INDEX_AT) - used) & 0xffff
  const ahead = taken ?? offered
  // A guest that spoils its own index is found out when its ring is read.
  if (ahead > size) return { isCertain: true, state, resubmitted: 0 }
  for (let back = 1; back <= Math.min(size - ahead, used); back++) {
    const at = (used - back) & (size - 1)
    if (driver.u16(ENTRIES_AT + 2 * at) !== device.u32(ENTRIES_AT + 8 * at)) return { isCertain: false }
  }
  return { isCertain: true, state, resubmitted: taken ?? 0 }
}

/** An area may lie over several pieces of the guest's memory. */
function areasOf({ format, size, addresses }: GuestShape, windows: GuestWindows): RingAreas<RingBytes> {
  const sizes = areaSizes(format, size)
  const locate = (name: AreaName): RingBytes => {
    const parts =
      addresses[name] > BigInt(Number.MAX_SAFE_INTEGER) ? [] : partsOf(windows, Number(addresses[name]), sizes[name])
    const [whole] = parts
    if (whole === undefined) throw broken(`the ${name} area of the guest's ring does not lie in its memory`)
    // The last piece may end anywhere.
    const ends = parts.slice(0, -1).map(({ byteOffset, byteLength }) => byteOffset + byteLength)
    if ([...parts.map(({ byteOffset }) => byteOffset), ...ends].some((edge) => edge % 2 !== 0)) {
      const text = `the ${name} area of the guest's ring lies in a piece of its memory that begins or ends at an odd byte: an index there could not be read at once`
      throw broken(text)
    }
    return parts.length === 1 ? whole : new PartedRingMemory(parts)
  }
  return { descriptor: locate('descriptor'), driver: locate('driver'), device: locate('device') }
}

/** So many bytes of a guest, window by window; none where it has not all of them. */
function partsOf(windows: GuestWindows, address: number, length: number): RingMemory[] {
  const parts: RingMemory[] = []
  for (let done = 0; done < length;) {
    const window = windows.at(address + done)
    if (window === undefined) return []
    const count = Math.min(length - done, window.last - (address + done) + 1)
    const { buffer, byteOffset } = window.region.view(window.offset + (address + done - window.first), count)
    parts.push(new RingMemory(buffer, byteOffset, count))
    done += count
  }
  return parts
}

function broken(text: string): Error {
  return vdpaError('ERR_VDPA_RING_BROKEN', text)
}
