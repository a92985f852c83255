// The driver's side of a packed virtqueue (virtio 1.2 section 2.8). The device overwrites descriptors, so all that must be known of a chain
// in flight is in our own columns, by buffer id.

import { rangeError } from '../base/checks.js'
import type { RingMemory } from '../memory/ring-memory.js'
import { ringBroken, ringFull, rule, wrongTime } from './broken.js'
import { IndirectPool } from './indirect-pool.js'
import * as layout from './layout.js'
import { disableEvents, enableEvents, isEventWanted } from './packed-event.js'
import { checkDriverOptions, type DriverRingOptions } from './ring-options.js'
import { StagedChain } from './staged-chain.js'
import type { DriverRing, DriverSnapshot, RingAreas, RingState } from './virtqueue.js'

// Constants of this module: an imported name would be a property load each time it is used.
const { AVAIL, AVAIL_USED, DESCRIPTOR_BYTES, INDIRECT, NEXT, USED, WRITE } = layout

const NOT_IN_FLIGHT = -1
const NOT_HELD = -1
const NOT_USED = -1

/** The driver's side of a packed ring (section 2.8). */
export class PackedDriverRing implements DriverRing {
  readonly format = 'packed'
  readonly size: number
  readonly #areas: RingAreas
  readonly #ring: RingMemory
  readonly #driverEvent: RingMemory
  readonly #deviceEvent: RingMemory
  readonly #hasEventIdx: boolean
  readonly #isInOrder: boolean
  readonly #pool: IndirectPool | undefined
  readonly #staged: StagedChain

  // Free buffer ids, a stack. With IN_ORDER ids go round instead, so that the oldest is known: from #oldestId up to #nextId.
  readonly #freeIds: Uint16Array
  #freeIdCount = 0
  #nextId = 0
  #oldestId = 0
  // By buffer id, for chains in flight.
  readonly #token: Int32Array
  readonly #slots: Uint16Array
  readonly #table: Int32Array
  readonly #writable: Float64Array
  readonly #sequence: Float64Array

  // Where the next chain goes and where the next used descriptor will be: offset and wrap counter (0 or 1).
  #availableAt = 0
  #availableWrap = 1
  #usedAt = 0
  #usedWrap = 1
  #freeCount = 0
  // How many chains were ever committed, published, taken (exact to 2^53).
  #committed = 0
  #published = 0
  #taken = 0
  // The first head that is not published: its flags (or NOT_HELD), where it is, and how many slots were filled from it on.
  #heldFlags = NOT_HELD
  #heldAt = 0
  #heldWrap = 1
  #heldSlots = 0
  // IN_ORDER: the id whose descriptor stands for a batch that is being taken, and its length.
  #batchId = NOT_IN_FLIGHT
  #batchLength = 0
  #usedLength = 0
  #failure: string | undefined

  constructor(options: DriverRingOptions) {
    const state = checkDriverOptions(options)
    const { size, areas, features } = options
    this.size = size
    this.#areas = areas
    this.#ring = areas.descriptor
    this.#driverEvent = areas.driver
    this.#deviceEvent = areas.device
    this.#hasEventIdx = features?.eventIdx === true
    this.#isInOrder = features?.inOrder === true
    this.#pool = options.indirect === undefined ? undefined : new IndirectPool('packed', options.indirect)
    this.#staged = new StagedChain(size)
    this.#freeIds = new Uint16Array(size)
    this.#token = new Int32Array(size)
    this.#slots = new Uint16Array(size)
    this.#table = new Int32Array(size)
    this.#writable = new Float64Array(size)
    this.#sequence = new Float64Array(size)
    this.#clear(state)
    if (options.snapshot === undefined) layout.writeEmptyPackedRing(this.#areas, this.size, this.state().used)
    else this.#restore(options.snapshot)
  }

  get freeCount(): number {
    return this.#freeCount
  }

  get inFlight(): number {
    return this.#committed - this.#taken
  }

  get isBroken(): boolean {
    return this.#failure !== undefined
  }

  get usedLength(): number {
    return this.#usedLength
  }

  begin(): void {
    if (this.#failure !== undefined) throw ringBroken(this.#failure)
    this.#staged.begin()
  }

  push(iovaHigh: number, iovaLow: number, length: number, deviceWrites: boolean): void {
    if (this.#failure !== undefined) throw ringBroken(this.#failure)
    this.#staged.push(iovaHigh, iovaLow, length, deviceWrites)
  }

  pushAddress(iova: bigint, length: number, deviceWrites: boolean): void {
    if (this.#failure !== undefined) throw ringBroken(this.#failure)
    this.#staged.pushAddress(iova, length, deviceWrites)
  }

  commit(token: number): void {
    if (this.#failure !== undefined) throw ringBroken(this.#failure)
    if ((token | 0) !== token || token < 0) throw rangeError('token', 'an integer from 0 to 2^31-1', token)
    const staged = this.#staged
    const count = staged.count
    if (count === 0) throw wrongTime('a chain without a segment cannot be committed')
    const table = count > 1 && count <= this.size && this.#freeCount > 0 ? this.#takeTable(count) : -1
    const slots = table < 0 ? count : 1
    if (slots > this.#freeCount) throw ringFull(slots, this.#freeCount)

    const id = this.#takeId()
    if (table < 0) this.#writeDirect(id, count)
    else this.#writeIndirect(id, table)
    this.#heldSlots += slots
    this.#freeCount -= slots
    this.#token[id] = token
    this.#slots[id] = slots
    if (this.#pool !== undefined) this.#table[id] = table
    this.#writable[id] = staged.writableLength
    this.#sequence[id] = this.#committed++
    staged.begin()
  }

  publish(): boolean {
    if (this.#failure !== undefined) throw ringBroken(this.#failure)
    const flags = this.#heldFlags
    if (flags === NOT_HELD) return false
    const moved = this.#heldSlots
    this.#published = this.#committed
    this.#heldFlags = NOT_HELD
    this.#heldSlots = 0
    // Release (2.8.21.1.1): this head is the only descriptor of all those committed that the device is looking at, so its flags, written last,
    // announce them all. Sequentially consistent with the loads after it (2.8.21.2.1): either we see the event that the device asked for, or
    // it sees these flags when it looks again.
    this.#ring.store16(this.#heldAt * DESCRIPTOR_BYTES + 14, flags)
    const position = this.#availableAt | (this.#availableWrap << 15)
    return isEventWanted(this.#deviceEvent, this.#hasEventIdx, position, moved, this.size)
  }

  take(): number {
    if (this.#failure !== undefined) throw ringBroken(this.#failure)
    if (this.#isInOrder) return this.#takeInOrder()
    const flags = this.#usedFlags()
    return flags === NOT_USED ? -1 : this.#release(this.#readUsed(flags))
  }

  enableCalls(): boolean {
    if (this.#failure !== undefined) throw ringBroken(this.#failure)
    enableEvents(this.#driverEvent, this.#hasEventIdx, this.#usedAt | (this.#usedWrap << 15))
    // Its stores and the load below are sequentially consistent (2.8.22): the device sees the wish, or we see its descriptor.
    return this.#batchId < 0 && this.#usedFlags() === NOT_USED
  }

  disableCalls(): void {
    if (this.#failure !== undefined) throw ringBroken(this.#failure)
    disableEvents(this.#driverEvent)
  }

  notificationData(queueIndex: number): number {
    return ((this.state().available << 16) | (queueIndex & 0xffff)) >>> 0
  }

  state(): RingState {
    const isHeld = this.#heldFlags !== NOT_HELD
    const offset = isHeld ? this.#heldAt : this.#availableAt
    const wrap = isHeld ? this.#heldWrap : this.#availableWrap
    return { available: offset | (wrap << 15), used: this.#usedAt | (this.#usedWrap << 15) }
  }

  save(): DriverSnapshot {
    if (this.#failure !== undefined) throw ringBroken(this.#failure)
    if (this.#heldFlags !== NOT_HELD) throw wrongTime('committed chains must be published before the ring is saved')
    if (this.#batchId >= 0) throw wrongTime('the batch that was begun must be taken before the ring is saved')
    const ids = [...this.#token.keys()].filter((id) => (this.#token[id] as number) >= 0)
    ids.sort((a, b) => (this.#sequence[a] as number) - (this.#sequence[b] as number))
    const chains = ids.map((id) => ({
      token: this.#token[id] as number,
      id,
      descriptors: [],
      slots: this.#slots[id] as number,
      writableLength: this.#writable[id] as number,
      table: this.#table[id] as number,
    }))
    return {
      format: 'packed',
      size: this.size,
      state: this.state(),
      chains,
      nextId: this.#isInOrder ? this.#nextId : 0,
    }
  }

  reset(): void {
    this.#clear(layout.initialState('packed'))
    layout.writeEmptyPackedRing(this.#areas, this.size, this.state().used)
  }

  #takeId(): number {
    if (!this.#isInOrder) return this.#freeIds[--this.#freeIdCount] as number
    const id = this.#nextId
    this.#nextId = id + 1 === this.size ? 0 : id + 1
    return id
  }

  #takeTable(count: number): number {
    const pool = this.#pool
    return pool !== undefined && count <= pool.tableSize ? pool.take() : -1
  }

  #writeDirect(id: number, count: number): void {
    const { iovaHigh, iovaLow, lengths, readableCount } = this.#staged
    for (let index = 0; index < count; index++) {
      const flags = (index < readableCount ? 0 : WRITE) | (index === count - 1 ? 0 : NEXT)
      // The id belongs in the last descriptor of a list (2.8.6); the others may have it as well.
      this.#writeDescriptor(iovaLow[index] as number, iovaHigh[index] as number, lengths[index] as number, id, flags)
    }
  }

  #writeIndirect(id: number, table: number): void {
    const pool = this.#pool as IndirectPool
    pool.write(table, this.#staged)
    this.#writeDescriptor(
      pool.iovaLow[table] as number,
      pool.iovaHigh[table] as number,
      this.#staged.count * DESCRIPTOR_BYTES,
      id,
      INDIRECT,
    )
  }

  /** Fills the next slot and moves on. The flags of the first slot since publish() are held back: they announce all others. */
  #writeDescriptor(low: number, high: number, length: number, id: number, flags: number): void {
    const ring = this.#ring
    const offset = this.#availableAt
    const at = offset * DESCRIPTOR_BYTES
    const announced = flags | (this.#availableWrap === 1 ? AVAIL : USED)
    ring.setU32(at, low)
    ring.setU32(at + 4, high)
    ring.setU32(at + 8, length)
    if (this.#heldFlags === NOT_HELD) {
      ring.setU16(at + 12, id)
      this.#heldFlags = announced
      this.#heldAt = offset
      this.#heldWrap = this.#availableWrap
    } else {
      ring.setU32(at + 12, id | (announced << 16))
    }
    if (offset + 1 === this.size) {
      this.#availableAt = 0
      this.#availableWrap ^= 1
    } else {
      this.#availableAt = offset + 1
    }
  }

  /** The flags of the descriptor that the device uses next, or NOT_USED. */
  #usedFlags(): number {
    // Acquire (2.8.22): id, length and buffer are read after the flags that announce them.
    const flags = this.#ring.load16(this.#usedAt * DESCRIPTOR_BYTES + 14)
    return (flags & AVAIL_USED) === (this.#usedWrap === 1 ? AVAIL_USED : 0) ? flags : NOT_USED
  }

  /** Reads the used descriptor once, checks it, keeps its length in #usedLength, and returns the buffer id. */
  #readUsed(flags: number): number {
    const at = this.#usedAt * DESCRIPTOR_BYTES
    const length = this.#ring.u32(at + 8)
    const id = this.#ring.u16(at + 12)
    if (id >= this.size || (this.#token[id] as number) < 0 || (this.#sequence[id] as number) >= this.#published) {
      this.#refuse(id)
    }
    const fits = length <= (this.#writable[id] as number)
    if (!fits && (flags & WRITE) !== 0) this.#refuseLength(id, length)
    // Without WRITE the length is reserved (2.8.4). QEMU never sets WRITE and its lengths are good, so one that can be true is believed.
    this.#usedLength = fits ? length : 0
    return id
  }

  #refuse(id: number): never {
    if (id >= this.size) this.#break(`used buffer id ${id} is not below the ring's size ${this.size}`, '2.8')
    // Perhaps it was committed, but not published: then it is not the device's yet.
    this.#break(`used buffer id ${id} is not that of a chain in flight`, '2.8')
  }

  #refuseLength(id: number, length: number): never {
    this.#break(`used buffer id ${id} claims ${length} bytes written of ${this.#writable[id]} writable`, '2.8.4')
  }

  /** One used descriptor may stand for all chains up to the one it names; those before count as written full (2.8.8). Hands out one chain a call. */
  #takeInOrder(): number {
    if (this.#batchId < 0) {
      const flags = this.#usedFlags()
      if (flags === NOT_USED) return -1
      this.#batchId = this.#readUsed(flags)
      this.#batchLength = this.#usedLength
    }
    const id = this.#oldestId
    this.#oldestId = id + 1 === this.size ? 0 : id + 1
    if (id === this.#batchId) {
      this.#usedLength = this.#batchLength
      this.#batchId = NOT_IN_FLIGHT
    } else {
      // Below 2^32: a descriptor could not have said 2^32 either.
      this.#usedLength = Math.min(this.#writable[id] as number, 0xffff_ffff)
    }
    return this.#release(id)
  }

  /** Moves on over the slots of a chain, frees them and the id, and returns the token. */
  #release(id: number): number {
    const token = this.#token[id] as number
    const slots = this.#slots[id] as number
    if (this.#pool !== undefined) this.#pool.release(this.#table[id] as number)
    if (!this.#isInOrder) this.#freeIds[this.#freeIdCount++] = id
    this.#token[id] = NOT_IN_FLIGHT
    this.#freeCount += slots
    this.#taken++
    const offset = this.#usedAt + slots
    if (offset >= this.size) {
      this.#usedAt = offset - this.size
      this.#usedWrap ^= 1
    } else {
      this.#usedAt = offset
    }
    return token
  }

  #break(what: string, section: string): never {
    this.#failure = rule(what, section)
    throw ringBroken(this.#failure)
  }

  #clear(state: RingState): void {
    this.#token.fill(NOT_IN_FLIGHT)
    this.#table.fill(-1)
    this.#nextId = this.#oldestId = 0
    this.#freeIdCount = 0
    for (let id = this.size - 1; id >= 0; id--) this.#freeIds[this.#freeIdCount++] = id
    this.#availableAt = state.available & 0x7fff
    this.#availableWrap = state.available >>> 15
    this.#usedAt = state.used & 0x7fff
    this.#usedWrap = state.used >>> 15
    this.#freeCount = this.size
    this.#committed = this.#published = this.#taken = 0
    this.#heldFlags = NOT_HELD
    this.#heldSlots = 0
    this.#batchId = NOT_IN_FLIGHT
    this.#usedLength = 0
    this.#failure = undefined
    this.#staged.begin()
    this.#pool?.reset()
  }

  /** Puts the chains of a snapshot, already checked, in flight; ids that they do not use are free. */
  #restore({ chains, nextId }: DriverSnapshot): void {
    for (const [sequence, chain] of chains.entries()) {
      this.#token[chain.id] = chain.token
      this.#slots[chain.id] = chain.slots
      this.#table[chain.id] = chain.table
      this.#writable[chain.id] = chain.writableLength
      this.#sequence[chain.id] = sequence
      this.#freeCount -= chain.slots
    }
    this.#committed = this.#published = chains.length
    this.#pool?.reset(new Set(chains.map((chain) => chain.table)))
    this.#freeIdCount = 0
    for (let id = this.size - 1; id >= 0; id--)
      if ((this.#token[id] as number) < 0) this.#freeIds[this.#freeIdCount++] = id
    this.#nextId = nextId
    this.#oldestId = chains[0]?.id ?? nextId
  }
}
