// The device's side of a split virtqueue (virtio 1.2 section 2.7). The driver may write anything anywhere at any time: each field is read
// once, into columns of our own, and checked there.

import type { RingBytes } from '../memory/parted-ring-memory.js'
import { misuse, ringBroken, rule, wrongTime } from './broken.js'
import * as layout from './layout.js'
import { LoadedChain } from './loaded-chain.js'
import type { PlainChains, PlainDeviceRing } from './plain-chains.js'
import { checkDeviceOptions, longestChain, type DeviceRingOptions } from './ring-options.js'
import type { DescriptorChain, DeviceRing, RingState, TranslateTable } from './virtqueue.js'

// Constants of this module: an imported name would be a property load each time it is used.
const { DESCRIPTOR_BYTES, ENTRIES_AT, FLAGS_AT, INDEX_AT, INDIRECT, NEXT, NO_NOTIFICATION, WRITE } = layout

const NOT_IN_FLIGHT = -1

/** The device's side of a split ring (section 2.7). */
export class SplitDeviceRing implements DeviceRing, PlainDeviceRing {
  readonly format = 'split'
  readonly size: number
  readonly #mask: number
  readonly #descriptors: RingBytes
  readonly #available: RingBytes
  readonly #used: RingBytes
  readonly #usedEventAt: number
  readonly #availableEventAt: number
  readonly #hasEventIdx: boolean
  readonly #isInOrder: boolean
  readonly #isVringh: boolean
  readonly #translateTable: TranslateTable | undefined
  readonly #chain: LoadedChain
  readonly #longestChain: number
  // By head: how many bytes may be written, or that no chain with this head is in flight.
  readonly #writable: Float64Array
  // IN_ORDER: heads in flight by the position at which they were loaded.
  readonly #order: Uint16Array

  // 16-bit positions: loaded, seen to be available, completed, published.
  #loaded = 0
  #availableSeen = 0
  #completed = 0
  #published = 0
  #inFlight = 0
  #canRewind = false
  // IN_ORDER: the chain completed last, whose entry is not written yet, and where the batch that it closes began.
  #pendingHead = NOT_IN_FLIGHT
  #pendingLength = 0
  #pendingIsFull = false
  #batchAt = 0
  #failure: string | undefined

  constructor(options: DeviceRingOptions) {
    const state = checkDeviceOptions(options)
    const { size, areas, features } = options
    this.size = size
    this.#mask = size - 1
    this.#descriptors = areas.descriptor
    this.#available = areas.driver
    this.#used = areas.device
    this.#usedEventAt = ENTRIES_AT + 2 * size
    this.#availableEventAt = ENTRIES_AT + 8 * size
    this.#hasEventIdx = features?.eventIdx === true
    this.#isInOrder = features?.inOrder === true
    this.#isVringh = options.law === 'vringh'
    this.#translateTable = features?.indirect === true || this.#isVringh ? options.translateTable : undefined
    this.#chain = new LoadedChain('split', size, options.law)
    this.#longestChain = longestChain(options)
    this.#writable = new Float64Array(size)
    this.#order = new Uint16Array(this.#isInOrder ? size : 0)
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
    if (this.#isVringh) return this.#nextAsVringh()
    const at = this.#loaded
    if (at === this.#availableSeen && !this.#look()) return false
    const head = this.#available.u16(ENTRIES_AT + 2 * (at & this.#mask))
    if (head >= this.size || (this.#writable[head] as number) >= 0) this.#refuseHead(at, head)
    // From here on the chain before is gone, also when a lookup throws.
    this.#canRewind = false
    this.#load(head)
    this.#take(at, head)
    return true
  }

  peekPlain(chains: PlainChains, most: number): number {
    if (this.#failure !== undefined) throw ringBroken(this.#failure)
    if (this.#isVringh) return 0
    let at = this.#loaded
    if (at === this.#availableSeen && !this.#look()) return 0
    // Fields in names of their own: the loop is short, and each look-up in it counts.
    const { ids, iovaHigh, iovaLow, lengths, isWritten } = chains
    const seen = this.#availableSeen
    const available = this.#available
    const memory = this.#descriptors
    const mask = this.#mask
    let count = 0
    for (; count < most && at !== seen; at = (at + 1) & 0xffff) {
      const head = available.u16(ENTRIES_AT + 2 * (at & mask))
      if (head > mask) break
      const descriptor = head * DESCRIPTOR_BYTES
      const flags = memory.u32(descriptor + 12)
      const high = memory.u32(descriptor + 4)
      const length = memory.u32(descriptor + 8)
      if ((flags & (NEXT | INDIRECT)) !== 0 || high === 0xffff_ffff || length === 0) break
      ids[count] = head
      iovaHigh[count] = high
      iovaLow[count] = memory.u32(descriptor)
      lengths[count] = length
      isWritten[count] = (flags & WRITE) === 0 ? 0 : 1
      count++
    }
    return count
  }

  loadPlain(chains: PlainChains, count: number): number {
    const { ids, lengths, isWritten } = chains
    const writable = this.#writable
    let done = 0
    for (; done < count; done++) {
      const head = ids[done] as number
      if ((writable[head] as number) >= 0) break
      writable[head] = isWritten[done] === 1 ? (lengths[done] as number) : 0
      if (this.#isInOrder) this.#order[(this.#loaded + done) & this.#mask] = head
    }
    this.#loaded = (this.#loaded + done) & 0xffff
    this.#inFlight += done
    this.#canRewind = false
    return done
  }

  completeEach(chains: PlainChains, count: number): void {
    if (this.#failure !== undefined) throw ringBroken(this.#failure)
    const { ids, lengths } = chains
    if (this.#isInOrder) {
      for (let at = 0; at < count; at++) this.complete(ids[at] as number, lengths[at] as number)
      return
    }
    const used = this.#used
    const writable = this.#writable
    const mask = this.#mask
    const first = this.#completed
    let done = 0
    for (; done < count; done++) {
      const id = ids[done] as number
      const written = lengths[done] as number
      // Not so for an id that no chain can have either.
      if (!(written <= (writable[id] as number))) break
      const at = ENTRIES_AT + 8 * ((first + done) & mask)
      used.setU32(at, id)
      used.setU32(at + 4, written)
      writable[id] = NOT_IN_FLIGHT
    }
    this.#completed = (first + done) & 0xffff
    this.#inFlight -= done
    this.#canRewind = false
    if (done < count) this.complete(ids[done] as number, lengths[done] as number)
  }

  rewind(): void {
    if (this.#failure !== undefined) throw ringBroken(this.#failure)
    if (!this.#canRewind)
      throw wrongTime('only the chain loaded last can be rewound, once, with nothing completed since')
    this.#canRewind = false
    this.#writable[this.#chain.id] = NOT_IN_FLIGHT
    this.#loaded = (this.#loaded - 1) & 0xffff
    this.#inFlight--
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
    if (this.#isInOrder) this.#completeInOrder(id, written, written === writable)
    else this.#writeEntry(this.#completed, id, written)
    this.#writable[id] = NOT_IN_FLIGHT
    this.#completed = (this.#completed + 1) & 0xffff
    this.#inFlight--
    this.#canRewind = false
  }

  publish(): boolean {
    if (this.#failure !== undefined) throw ringBroken(this.#failure)
    const old = this.#published
    const now = this.#completed
    if (now === old) return false
    if (this.#pendingHead >= 0) this.#writePending()
    this.#published = now
    // Release (2.7.8.2): entries and buffers are written before the index that announces them. Sequentially consistent with the load after
    // it: either we see the event that the driver asked for, or it sees this index when it looks again.
    this.#used.store16(INDEX_AT, now)
    if (this.#hasEventIdx) return layout.passes(this.#available.load16(this.#usedEventAt), now, old)
    return (this.#available.load16(FLAGS_AT) & NO_NOTIFICATION) === 0
  }

  enableKicks(): boolean {
    if (this.#failure !== undefined) throw ringBroken(this.#failure)
    // The store and the load of #look() are sequentially consistent (2.7.10): the driver sees the wish, or we see its index.
    if (this.#hasEventIdx) this.#used.store16(this.#availableEventAt, this.#loaded)
    else this.#used.store16(FLAGS_AT, 0)
    return this.#loaded === this.#availableSeen && !this.#look()
  }

  disableKicks(): void {
    if (this.#failure !== undefined) throw ringBroken(this.#failure)
    // With EVENT_IDX `flags` stays 0 (2.7.10.2); the event farthest away is the index that was passed last.
    if (this.#hasEventIdx) this.#used.store16(this.#availableEventAt, this.#loaded - 1)
    else this.#used.store16(FLAGS_AT, NO_NOTIFICATION)
  }

  state(): RingState {
    return { available: this.#loaded, used: this.#completed }
  }

  reset(state: RingState = { available: 0, used: 0 }): void {
    if (!this.#isVringh) layout.checkRingState('split', this.size, state)
    this.#writable.fill(NOT_IN_FLIGHT)
    this.#loaded = this.#availableSeen = state.available
    this.#completed = this.#published = this.#batchAt = state.used
    this.#inFlight = 0
    this.#canRewind = false
    this.#pendingHead = NOT_IN_FLIGHT
    this.#failure = undefined
    this.#chain.begin()
  }

  /** The chain loaded at a position is in flight from here on. */
  #take(at: number, head: number): void {
    this.#writable[head] = this.#chain.writableLength
    if (this.#isInOrder) this.#order[at & this.#mask] = head
    this.#loaded = (at + 1) & 0xffff
    this.#inFlight++
    this.#canRewind = true
  }

  /** next() under that law: see DeviceLaw. It reads the index each time, because a driver may take chains back. */
  #nextAsVringh(): boolean {
    if (!this.#look()) return false
    const at = this.#loaded
    const head = this.#available.u16(ENTRIES_AT + 2 * (at & this.#mask))
    if (head >= this.size) return false
    this.#canRewind = false
    this.#loaded = (at + 1) & 0xffff
    try {
      this.#load(head)
    } catch (error) {
      if (this.#failure === undefined) throw error
      this.#failure = undefined
      return false
    }
    this.#take(at, head)
    return true
  }

  /** Reads the available index; true when there is a chain to load. */
  #look(): boolean {
    // Acquire (2.7.13): entries and descriptors that the index announces are read after it.
    const index = this.#available.load16(INDEX_AT)
    if (!this.#isVringh) this.#checkIndex(index)
    this.#availableSeen = index
    return index !== this.#loaded
  }

  #checkIndex(index: number): void {
    // The driver has `size` descriptors and knows of the chains that we published (2.7.13). It must not take chains back (2.7.6.1).
    const ahead = (index - this.#published) & 0xffff
    if (ahead > this.size) {
      this.#break(
        `available index ${index} is ${ahead} ahead of used index ${this.#published} in a ring of ${this.size}`,
        '2.7.13',
      )
    }
    if (ahead < ((this.#loaded - this.#published) & 0xffff)) {
      this.#break(`available index ${index} is behind ${this.#loaded}, where it was before`, '2.7.6.1')
    }
  }

  #refuseHead(at: number, head: number): never {
    if (head >= this.size) this.#break(`available entry ${at} names descriptor ${head} of ${this.size}`, '2.7.6')
    this.#break(`available entry ${at} names descriptor ${head}, whose chain is in flight`, '2.7.13.1')
  }

  #load(head: number): void {
    const chain = this.#chain
    const size = this.size
    let memory = this.#descriptors
    let base = 0
    let limit = size
    let index = head
    let isTable = false
    let resume = 0
    // Segments that the ring, or the table, may still have: more are a loop.
    let left = size
    let leftInRing = size
    chain.begin()
    chain.id = head
    for (;;) {
      const at = base + index * DESCRIPTOR_BYTES
      const low = memory.u32(at)
      const high = memory.u32(at + 4)
      const length = memory.u32(at + 8)
      const flagsAndNext = memory.u32(at + 12)
      if (!isTable) chain.slots++
      if ((flagsAndNext & INDIRECT) !== 0) {
        if (isTable) this.#break('an indirect table refers to another table', '2.7.5.3.1')
        const location = this.#table(high, low, length, flagsAndNext)
        memory = location.memory
        base = location.offset
        limit = length / DESCRIPTOR_BYTES
        index = 0
        isTable = true
        leftInRing = left
        left = limit
        chain.reserve(Math.min(chain.count + left + leftInRing, this.#longestChain))
        // Refused by #table() but for vringh, which goes on behind the table, though not at descriptor 0.
        resume = (flagsAndNext & NEXT) === 0 ? 0 : flagsAndNext >>> 16
        continue
      }
      if (left-- === 0 || chain.count === this.#longestChain) this.#refuseLength(head)
      const problem = chain.add(high, low, length, (flagsAndNext & WRITE) !== 0)
      if (problem !== undefined) this.#break(`descriptor ${index}: ${problem}`)
      if ((flagsAndNext & NEXT) !== 0) {
        index = flagsAndNext >>> 16
      } else if (resume > 0) {
        memory = this.#descriptors
        base = 0
        limit = size
        index = resume
        isTable = false
        resume = 0
        left = leftInRing
      } else return
      if (index >= limit)
        this.#break(`the chain of descriptor ${head} goes on at ${index}, its table has ${limit} descriptors`, '2.7.5')
    }
  }

  #refuseLength(head: number): never {
    const most = this.#longestChain === this.size ? `the ring's ${this.size}` : `${this.#longestChain}`
    this.#break(`the chain of descriptor ${head} loops, or is longer than ${most} descriptors`, '2.7.5.3.1')
  }

  /** Where the table of an indirect descriptor lies. A WRITE flag on it is ignored (2.7.5.3.2). */
  #table(high: number, low: number, length: number, flags: number): ReturnType<TranslateTable> & object {
    if (this.#translateTable === undefined)
      this.#break('an indirect descriptor without VIRTIO_F_INDIRECT_DESC', '2.7.5.3.1')
    if ((flags & NEXT) !== 0 && !this.#isVringh) this.#break('a descriptor has both INDIRECT and NEXT', '2.7.5.3.1')
    if (length === 0 || length % DESCRIPTOR_BYTES !== 0)
      this.#break(`an indirect table of ${length} bytes is not a number of descriptors`, '2.7.5.3')
    if (high === 0xffff_ffff && low + length > 0x1_0000_0000)
      this.#break('an indirect table passes address 2^64-1', '2.7.5.3')
    const location = this.#translateTable(high, low, length)
    if (location === undefined) this.#break('an indirect table lies where the device cannot read', '2.7.5.3')
    return location
  }

  /** Keeps the entry back: when the chain was written full and another follows before publish(), one entry stands for both (2.7.9). */
  #completeInOrder(head: number, written: number, isFull: boolean): void {
    const due = this.#order[(this.#loaded - this.#inFlight) & this.#mask] as number
    if (head !== due) throw wrongTime(`with IN_ORDER chain ${due} is due to be completed, before chain ${head}`)
    if (this.#pendingHead >= 0 && !this.#pendingIsFull) this.#writePending()
    this.#pendingHead = head
    this.#pendingLength = written
    this.#pendingIsFull = isFull
  }

  /** Writes the entry of a batch at the position of its first chain; the next batch begins after its last (2.7.9). */
  #writePending(): void {
    this.#writeEntry(this.#batchAt, this.#pendingHead, this.#pendingLength)
    this.#pendingHead = NOT_IN_FLIGHT
    this.#batchAt = this.#completed
  }

  #writeEntry(position: number, head: number, written: number): void {
    const at = ENTRIES_AT + 8 * (position & this.#mask)
    this.#used.setU32(at, head)
    this.#used.setU32(at + 4, written)
  }

  #break(what: string, section?: string): never {
    this.#failure = section === undefined ? what : rule(what, section)
    throw ringBroken(this.#failure)
  }
}
