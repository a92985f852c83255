// The device's side of a packed virtqueue (virtio 1.2 section 2.8). The driver may write anything anywhere at any time: each field is read
// once, into columns of our own, and checked there.

import type { RingBytes } from '../memory/parted-ring-memory.js'
import { misuse, ringBroken, rule, wrongTime } from './broken.js'
import * as layout from './layout.js'
import { LoadedChain } from './loaded-chain.js'
import { disableEvents, enableEvents, isEventWanted } from './packed-event.js'
import { checkDeviceOptions, longestChain, type DeviceRingOptions } from './ring-options.js'
import type { DescriptorChain, DeviceRing, RingState, TranslateTable } from './virtqueue.js'

// Constants of this module: an imported name would be a property load each time it is used.
const { AVAIL, AVAIL_USED, DESCRIPTOR_BYTES, INDIRECT, NEXT, USED, WRITE } = layout

const NOT_IN_FLIGHT = -1
const NOT_HELD = -1

/** The device's side of a packed ring (section 2.8). */
export class PackedDeviceRing implements DeviceRing {
  readonly format = 'packed'
  readonly size: number
  readonly #ring: RingBytes
  readonly #driverEvent: RingBytes
  readonly #deviceEvent: RingBytes
  readonly #hasEventIdx: boolean
  readonly #isInOrder: boolean
  readonly #translateTable: TranslateTable | undefined
  readonly #chain: LoadedChain
  readonly #longestChain: number

  // Chains in flight have an entry of ours, because buffer ids are any 16 bits. With IN_ORDER entries go round, so that the oldest is known.
  readonly #freeEntries: Uint16Array
  #freeEntryCount = 0
  #nextEntry = 0
  #dueEntry = 0
  // By entry.
  readonly #bufferId: Uint16Array
  readonly #slots: Uint16Array
  readonly #writable: Float64Array

  // Where the next chain is and where the next used descriptor goes: offset and wrap counter (0 or 1).
  #availableAt = 0
  #availableWrap = 1
  #usedAt = 0
  #usedWrap = 1
  #inFlight = 0
  /** Slots that the driver cannot have filled again: of chains in flight, lost, or completed and not published. */
  #takenSlots = 0
  #bufferIdLoaded = 0
  #canRewind = false
  // The first used descriptor that is not published: its flags (or NOT_HELD), where it is, and how many slots were used from it on.
  #heldFlags = NOT_HELD
  #heldAt = 0
  #heldSlots = 0
  // IN_ORDER: the chain completed last, whose descriptor is not written yet, and the slots of the batch that it closes.
  #pendingEntry = NOT_IN_FLIGHT
  #pendingLength = 0
  #pendingIsFull = false
  #batchSlots = 0
  #failure: string | undefined

  constructor(options: DeviceRingOptions) {
    const state = checkDeviceOptions(options)
    const { size, areas, features } = options
    this.size = size
    this.#ring = areas.descriptor
    this.#driverEvent = areas.driver
    this.#deviceEvent = areas.device
    this.#hasEventIdx = features?.eventIdx === true
    this.#isInOrder = features?.inOrder === true
    this.#translateTable = features?.indirect === true ? options.translateTable : undefined
    this.#chain = new LoadedChain('packed', size)
    this.#longestChain = longestChain(options)
    this.#freeEntries = new Uint16Array(size)
    this.#bufferId = new Uint16Array(size)
    this.#slots = new Uint16Array(size)
    this.#writable = new Float64Array(size)
    this.reset(state)
  }

  get isBroken(): boolean {
    return this.#failure !== undefined
  }

  get inFlight(): number {
    return this.#inFlight
  }

  get chain(): DescriptorChain {
    return this.#chain
  }

  next(): boolean {
    if (this.#failure !== undefined) throw ringBroken(this.#failure)
    const flags = this.#availableFlags()
    if (flags < 0) return false
    // From here on the chain before is gone, also when a lookup throws.
    const chain = this.#chain
    this.#canRewind = false
    chain.begin()
    if ((flags & INDIRECT) !== 0) this.#loadTable(flags)
    else this.#loadList(flags)
    const slots = chain.slots
    const entry = this.#takeEntry()
    chain.id = entry
    this.#bufferId[entry] = this.#bufferIdLoaded
    this.#slots[entry] = slots
    this.#writable[entry] = chain.writableLength
    this.#takenSlots += slots
    this.#inFlight++
    this.#moveAvailable(slots)
    this.#canRewind = true
    return true
  }

  rewind(): void {
    if (this.#failure !== undefined) throw ringBroken(this.#failure)
    if (!this.#canRewind)
      throw wrongTime('only the chain loaded last can be rewound, once, with nothing completed since')
    const entry = this.#chain.id
    const slots = this.#slots[entry] as number
    this.#canRewind = false
    this.#writable[entry] = NOT_IN_FLIGHT
    if (this.#isInOrder) this.#nextEntry = entry
    else this.#freeEntries[this.#freeEntryCount++] = entry
    this.#takenSlots -= slots
    this.#inFlight--
    this.#moveAvailable(-slots)
  }

  complete(id: number, written: number): void {
    if (this.#failure !== undefined) throw ringBroken(this.#failure)
    // Undefined for an id that no chain can have, and then not >= 0 either.
    const writable = this.#writable[id] as number
    if (
      typeof id !== 'number' ||
      !(writable >= 0) ||
      typeof written !== 'number' ||
      written >>> 0 !== written ||
      written > writable
    )
      throw misuse(id, writable, written)
    if (this.#isInOrder) {
      this.#completeInOrder(id, written, written === writable)
    } else {
      this.#writeUsed(id, written, this.#slots[id] as number)
      this.#freeEntries[this.#freeEntryCount++] = id
    }
    this.#writable[id] = NOT_IN_FLIGHT
    this.#inFlight--
    this.#canRewind = false
  }

  publish(): boolean {
    if (this.#failure !== undefined) throw ringBroken(this.#failure)
    if (this.#pendingEntry >= 0) this.#writePending()
    const flags = this.#heldFlags
    if (flags === NOT_HELD) return false
    const moved = this.#heldSlots
    this.#heldFlags = NOT_HELD
    this.#heldSlots = 0
    this.#takenSlots -= moved
    // Release (2.8.21, 2.8.22): of all descriptors used since, the driver looks at this one only, so its flags, written last, announce them
    // all. Sequentially consistent with the loads after it: either we see the event that the driver asked for, or it sees these flags.
    this.#ring.store16(this.#heldAt * DESCRIPTOR_BYTES + 14, flags)
    const position = this.#usedAt | (this.#usedWrap << 15)
    return isEventWanted(this.#driverEvent, this.#hasEventIdx, position, moved, this.size)
  }

  enableKicks(): boolean {
    if (this.#failure !== undefined) throw ringBroken(this.#failure)
    enableEvents(this.#deviceEvent, this.#hasEventIdx, this.#availableAt | (this.#availableWrap << 15))
    // Its stores and the load below are sequentially consistent (2.8.21.2.1): the driver sees the wish, or we see its descriptor.
    return this.#availableFlags() < 0
  }

  disableKicks(): void {
    if (this.#failure !== undefined) throw ringBroken(this.#failure)
    disableEvents(this.#deviceEvent)
  }

  state(): RingState {
    // A batch that is held back is completed as well.
    const completed = this.#usedAt + this.#batchSlots
    const isOver = completed >= this.size
    const used = isOver ? (completed - this.size) | ((this.#usedWrap ^ 1) << 15) : completed | (this.#usedWrap << 15)
    return { available: this.#availableAt | (this.#availableWrap << 15), used }
  }

  reset(state: RingState = layout.initialState('packed')): void {
    layout.checkRingState('packed', this.size, state)
    this.#availableAt = state.available & 0x7fff
    this.#availableWrap = state.available >>> 15
    this.#usedAt = state.used & 0x7fff
    this.#usedWrap = state.used >>> 15
    this.#takenSlots = layout.slotsBetween('packed', this.size, state)
    this.#inFlight = 0
    this.#canRewind = false
    this.#heldFlags = NOT_HELD
    this.#heldSlots = this.#batchSlots = 0
    this.#pendingEntry = NOT_IN_FLIGHT
    this.#writable.fill(NOT_IN_FLIGHT)
    this.#nextEntry = this.#dueEntry = 0
    this.#freeEntryCount = 0
    for (let entry = this.size - 1; entry >= 0; entry--) this.#freeEntries[this.#freeEntryCount++] = entry
    this.#failure = undefined
    this.#chain.begin()
  }

  /** The flags of the next descriptor, or -1 when the driver has not made it available. */
  #availableFlags(): number {
    // Acquire (2.8.21): the rest of the list is read after the flags of its head, which the driver writes last.
    const flags = this.#ring.load16(this.#availableAt * DESCRIPTOR_BYTES + 14)
    return (flags & AVAIL_USED) === (this.#availableWrap === 1 ? AVAIL : USED) ? flags : -1
  }

  /** Copies a list of direct descriptors that begins with flags already read. */
  #loadList(headFlags: number): void {
    const chain = this.#chain
    const ring = this.#ring
    let offset = this.#availableAt
    let owner = headFlags & AVAIL_USED
    let flags = headFlags
    for (;;) {
      const at = offset * DESCRIPTOR_BYTES
      if (this.#takenSlots + chain.slots === this.size) {
        this.#break(
          `the list at ${this.#availableAt} is longer than the slots that are free in a ring of ${this.size}`,
          '2.8.17',
        )
      }
      chain.slots++
      const problem = chain.add(ring.u32(at + 4), ring.u32(at), ring.u32(at + 8), (flags & WRITE) !== 0)
      if (problem !== undefined) this.#break(`descriptor ${offset}: ${problem}`)
      if ((flags & NEXT) === 0) {
        this.#bufferIdLoaded = ring.u16(at + 12)
        return
      }
      offset++
      if (offset === this.size) {
        offset = 0
        owner ^= AVAIL_USED
      }
      // The head was made available last, so the others are there (2.8.6, 2.8.17).
      flags = ring.u16(offset * DESCRIPTOR_BYTES + 14)
      if ((flags & AVAIL_USED) !== owner)
        this.#break(`descriptor ${offset} continues a list and is not available itself`, '2.8.6')
      if ((flags & INDIRECT) !== 0) this.#break(`descriptor ${offset} of a list is indirect`, '2.8.19')
    }
  }

  /** Copies an indirect table: descriptors one after the other, of whose flags only WRITE is valid (2.8.7). WRITE on the head is ignored. */
  #loadTable(flags: number): void {
    const chain = this.#chain
    const at = this.#availableAt * DESCRIPTOR_BYTES
    const low = this.#ring.u32(at)
    const high = this.#ring.u32(at + 4)
    const length = this.#ring.u32(at + 8)
    if (this.#translateTable === undefined)
      this.#break('an indirect descriptor without VIRTIO_F_INDIRECT_DESC', '2.8.19')
    if ((flags & NEXT) !== 0) this.#break('a descriptor has both INDIRECT and NEXT', '2.8.19')
    if (length === 0 || length % DESCRIPTOR_BYTES !== 0)
      this.#break(`an indirect table of ${length} bytes is not a number of descriptors`, '2.8.7')
    if (length > this.#longestChain * DESCRIPTOR_BYTES) this.#refuseTable(length)
    if (high === 0xffff_ffff && low + length > 0x1_0000_0000)
      this.#break('an indirect table passes address 2^64-1', '2.8.7')
    if (this.#takenSlots === this.size)
      this.#break(`descriptor ${this.#availableAt} is available while all are in flight`, '2.8.16')
    this.#bufferIdLoaded = this.#ring.u16(at + 12)
    const location = this.#translateTable(high, low, length)
    if (location === undefined) this.#break('an indirect table lies where the device cannot read', '2.8.7')
    const memory = location.memory
    chain.slots = 1
    chain.reserve(length / DESCRIPTOR_BYTES)
    for (let from = location.offset, left = length; left > 0; from += DESCRIPTOR_BYTES, left -= DESCRIPTOR_BYTES) {
      const isWritten = (memory.u16(from + 14) & WRITE) !== 0
      const problem = chain.add(memory.u32(from + 4), memory.u32(from), memory.u32(from + 8), isWritten)
      if (problem !== undefined) this.#break(`indirect table: ${problem}`)
    }
  }

  #refuseTable(length: number): never {
    const most =
      this.#longestChain === this.size ? `a list may be in a ring of ${this.size}` : `${this.#longestChain} descriptors`
    this.#break(`an indirect table of ${length} bytes is longer than ${most}`, '2.8.5')
  }

  #takeEntry(): number {
    if (!this.#isInOrder) return this.#freeEntries[--this.#freeEntryCount] as number
    const entry = this.#nextEntry
    this.#nextEntry = entry + 1 === this.size ? 0 : entry + 1
    return entry
  }

  #moveAvailable(slots: number): void {
    const offset = this.#availableAt + slots
    const isOver = offset >= this.size || offset < 0
    this.#availableAt = isOver ? offset - Math.sign(slots) * this.size : offset
    if (isOver) this.#availableWrap ^= 1
  }

  /** Keeps the descriptor back: when the chain was written full and another follows before publish(), one stands for both (2.8.8). */
  #completeInOrder(entry: number, written: number, isFull: boolean): void {
    if (entry !== this.#dueEntry)
      throw wrongTime(`with IN_ORDER chain ${this.#dueEntry} is due to be completed, before chain ${entry}`)
    if (this.#pendingEntry >= 0 && !this.#pendingIsFull) this.#writePending()
    this.#dueEntry = entry + 1 === this.size ? 0 : entry + 1
    this.#pendingEntry = entry
    this.#pendingLength = written
    this.#pendingIsFull = isFull
    this.#batchSlots += this.#slots[entry] as number
  }

  #writePending(): void {
    this.#writeUsed(this.#pendingEntry, this.#pendingLength, this.#batchSlots)
    this.#pendingEntry = NOT_IN_FLIGHT
    this.#batchSlots = 0
  }

  /** Writes a used descriptor for `slots` slots and moves on over them. The flags of the first since publish() are held back: they announce all others. */
  #writeUsed(entry: number, written: number, slots: number): void {
    const ring = this.#ring
    const at = this.#usedAt * DESCRIPTOR_BYTES
    const flags = (this.#usedWrap === 1 ? AVAIL_USED : 0) | (written > 0 ? WRITE : 0)
    ring.setU32(at + 8, written)
    const bufferId = this.#bufferId[entry] as number
    if (this.#heldFlags === NOT_HELD) {
      ring.setU16(at + 12, bufferId)
      this.#heldFlags = flags
      this.#heldAt = this.#usedAt
    } else {
      ring.setU32(at + 12, bufferId | (flags << 16))
    }
    this.#heldSlots += slots
    const offset = this.#usedAt + slots
    if (offset >= this.size) {
      this.#usedAt = offset - this.size
      this.#usedWrap ^= 1
    } else {
      this.#usedAt = offset
    }
  }

  #break(what: string, section?: string): never {
    this.#failure = section === undefined ? what : rule(what, section)
    throw ringBroken(this.#failure)
  }
}
