// A guest's control ring as the device's side sees it: in the guest's memory, found by the guest's table. Whatever the guest does to that memory, what comes out
// is a copy of a command, or an error that says that the ring is out of use.

import { checkInteger, toU64, typeError } from '../base/checks.js'
import { bit } from '../base/bits.js'
import { vdpaError } from '../base/errors.js'
import { callUnasked } from '../base/program-calls.js'
import type { Subscription } from '../backend/backend.js'
import type { MemoryRegion } from '../memory/memory-region.js'
import { PartedRingMemory, type RingBytes } from '../memory/parted-ring-memory.js'
import { RingMemory } from '../memory/ring-memory.js'
import type { WriteMarks } from '../memory/write-marks.js'
import { transportFeatureBits } from '../uapi/virtio-features.js'
import { createDeviceRing } from '../virtqueue/create.js'
import { areaSizes, TABLE_BYTES_LAST } from '../virtqueue/layout.js'
import type { DeviceRing, RingAreas, RingFormat, RingState, TableLocation } from '../virtqueue/virtqueue.js'

/** Where the guest's addresses lie in this process: a GuestMemory, or what a virtual IOMMU makes of one. */
export interface GuestTable {
  /** The parts that cover [address, address + size). Throws where the guest has no memory, or may not let the device reach it. */
  slices(
    address: bigint,
    size: number,
  ): readonly { readonly region: MemoryRegion; readonly offset: number; readonly size: number }[]
}

/** A guest's control queue, as the guest set it up. */
export interface GuestControlRing {
  /** Where its addresses lie. */
  readonly memory: GuestTable
  /** The features that the guest accepted, as a word: they say what its ring is like, and which commands it may send. */
  readonly features: bigint
  /** Descriptors. */
  readonly size: number
  /** The guest's addresses of the three areas. */
  readonly addresses: { readonly descriptor: bigint; readonly driver: bigint; readonly device: bigint }
  /** Where the ring stands. Default: as a new one. */
  readonly state?: RingState
  /** The guest's notifications: an Eventfd, of `Backend.eventfd(fd)` for one that came from elsewhere. */
  readonly kick: { onSignal(listener: () => void): Subscription }
  /** What interrupts the guest: an Eventfd. What it throws goes to 'uncaughtException', when the command was answered; the guest is served on. */
  readonly call: { signal(): void }
}

/** What a guest asks for, copied. */
export interface TakenCommand {
  /** Head and payload; undefined where the guest has no memory at the addresses that it gave. */
  readonly bytes: Uint8Array | undefined
  /** Bytes that the guest gave in all: more than `bytes` where they are too many. */
  readonly length: number
  /** Bytes that may be written, the acknowledgement included. */
  readonly room: number
}

/** The ring, and the command in hand. */
export class GuestRing {
  /** What the guest accepted. */
  readonly features: bigint
  readonly #guest: GuestControlRing
  readonly #marks: WriteMarks | undefined
  readonly #format: RingFormat
  readonly #ring: DeviceRing
  // The tables of indirect descriptors that lie in several pieces are gathered here.
  #scratch = new RingMemory(new ArrayBuffer(0))

  /** Errors: TypeError and RangeError for a ring that is none, ERR_VDPA_RING_BROKEN where it does not lie in the guest's memory. */
  constructor(guest: GuestControlRing, marks?: WriteMarks) {
    if (typeof guest !== 'object' || guest === null) throw typeError('guest', 'an object', guest)
    const features = toU64(guest.features, 'guest.features')
    const has = (number: number) => (features & bit(number)) !== 0n
    this.#marks = marks
    checkInteger(guest.size, 'guest.size', 1, 0x8000)
    this.features = features
    this.#guest = { ...guest, features, addresses: { ...guest.addresses } }
    this.#format = has(transportFeatureBits.VIRTIO_F_RING_PACKED) ? 'packed' : 'split'
    this.#ring = createDeviceRing({
      format: this.#format,
      size: guest.size,
      areas: this.#locateAreas(),
      features: {
        eventIdx: has(transportFeatureBits.VIRTIO_F_RING_EVENT_IDX),
        indirect: has(transportFeatureBits.VIRTIO_F_RING_INDIRECT_DESC),
        inOrder: has(transportFeatureBits.VIRTIO_F_IN_ORDER),
      },
      translateTable: (high, low, length) => this.#locateTable(addressOf(high, low), length),
      ...(guest.state !== undefined && { state: guest.state }),
    })
  }

  /** Takes the next command, at most `most` bytes of it; undefined while there is none. It is read once: what the guest writes afterwards changes nothing. */
  take(most: number): TakenCommand | undefined {
    if (!this.#ring.next()) return undefined
    const { readableLength, writableLength } = this.#ring.chain
    return { bytes: this.#read(most), length: readableLength, room: writableLength }
  }

  /** Answers the command in hand: bytes as far as there is room, none where the guest has no memory there. Interrupts the guest when it wants that. */
  answer(bytes: Uint8Array): void {
    const { id } = this.#ring.chain
    this.#ring.complete(id, this.#write(bytes))
    const isWanted = this.#ring.publish()
    this.#markRing()
    if (isWanted) callUnasked(() => this.#guest.call.signal())
  }

  /** The command in hand was not looked at: who goes on with the ring finds it again. */
  putBack(): void {
    this.#ring.rewind()
  }

  /** Says that kicks are not wanted, while commands are being taken anyway. */
  disableKicks(): void {
    this.#ring.disableKicks()
    this.#markRing()
  }

  /** Asks for a kick; false when a command is there already. */
  enableKicks(): boolean {
    const isEmpty = this.#ring.enableKicks()
    this.#markRing()
    return isEmpty
  }

  /** Where the ring stands. */
  state(): RingState {
    return this.#ring.state()
  }

  #read(most: number): Uint8Array | undefined {
    const { iovaHigh, iovaLow, lengths, readableCount, readableLength } = this.#ring.chain
    const bytes = new Uint8Array(Math.min(readableLength, most))
    let done = 0
    for (let segment = 0; segment < readableCount && done < bytes.length; segment++) {
      const length = Math.min(lengths[segment] ?? 0, bytes.length - done)
      const parts = this.#parts(addressOf(iovaHigh[segment], iovaLow[segment]), length)
      if (parts === undefined) return undefined
      for (const part of parts) {
        bytes.set(part, done)
        done += part.length
      }
    }
    return bytes
  }

  #write(bytes: Uint8Array): number {
    const { iovaHigh, iovaLow, lengths, readableCount, count } = this.#ring.chain
    let done = 0
    for (let segment = readableCount; segment < count && done < bytes.length; segment++) {
      const length = Math.min(lengths[segment] ?? 0, bytes.length - done)
      const address = addressOf(iovaHigh[segment], iovaLow[segment])
      const parts = this.#parts(address, length)
      if (parts === undefined) return done
      const before = done
      for (const part of parts) {
        part.set(bytes.subarray(done, done + part.length))
        done += part.length
      }
      this.#mark(address, done - before)
    }
    return done
  }

  /** The areas that a device writes: of a packed ring the descriptors as well. They are few bytes, and commands are few. */
  #markRing(): void {
    if (this.#marks === undefined) return
    const { addresses, size } = this.#guest
    const sizes = areaSizes(this.#format, size)
    this.#mark(addresses.device, sizes.device)
    if (this.#format === 'packed') this.#mark(addresses.descriptor, sizes.descriptor)
  }

  /** Addresses above 2^53 are none of a guest's memory. */
  #mark(address: bigint, length: number): void {
    if (length > 0) this.#marks?.mark(Number(address), length)
  }

  /** The bytes of the guest at an address, as windows; undefined where it has not all of them. */
  #parts(address: bigint, length: number): Uint8Array[] | undefined {
    if (length === 0) return []
    try {
      const parts = this.#guest.memory
        .slices(address, length)
        .map(({ region, offset, size }) => region.view(offset, size))
      // A table of the program's own is not trusted to have done its sums.
      return parts.reduce((sum, part) => sum + part.length, 0) === length ? parts : undefined
    } catch {
      return undefined
    }
  }

  #locateAreas(): RingAreas<RingBytes> {
    const { addresses, size } = this.#guest
    const sizes = areaSizes(this.#format, size)
    const locate = (name: 'descriptor' | 'driver' | 'device') => {
      const parts = this.#parts(toU64(addresses[name], `guest.addresses.${name}`), sizes[name])
      if (parts === undefined)
        throw vdpaError('ERR_VDPA_RING_BROKEN', `the ${name} area of the guest's ring does not lie in its memory`)
      const windows = parts.map((part) => new RingMemory(part.buffer, part.byteOffset, part.length))
      const [whole] = windows
      return windows.length === 1 && whole !== undefined ? whole : new PartedRingMemory(windows)
    }
    return { descriptor: locate('descriptor'), driver: locate('driver'), device: locate('device') }
  }

  #locateTable(address: bigint, tableLength: number): TableLocation | undefined {
    const length = Math.min(tableLength, TABLE_BYTES_LAST)
    const parts = this.#parts(address, length) ?? []
    const [first] = parts
    if (first === undefined) return undefined
    if (parts.length === 1) return { memory: new RingMemory(first.buffer, first.byteOffset, first.length), offset: 0 }
    if (this.#scratch.byteLength < length) this.#scratch = new RingMemory(new ArrayBuffer(length))
    let at = 0
    for (const part of parts) {
      this.#scratch.bytes(at, part.length).set(part)
      at += part.length
    }
    return { memory: this.#scratch, offset: 0 }
  }
}

function addressOf(high = 0, low = 0): bigint {
  return (BigInt(high) << 32n) | BigInt(low)
}
