// The driver's side of a packed virtqueue (virtio 1.2 section 2.8). The device overwrites descriptors, so all that must be known of a chain
// in flight is in our own columns, by buffer id.

import { checkInteger } from '../base/checks.js'
import type { RingBytes } from '../memory/parted-ring-memory.js'
import { notToken, ringBroken, ringFull, rule, wrongTime } from './broken.js'
import { IndirectPool } from './indirect-pool.js'
import * as layout from './layout.js'
import { disableEvents, enableEvents, isEventWanted } from './packed-event.js'
import { checkDriverOptions, type DriverRingOptions } from './ring-options.js'
import { isSegment, isWhole, notSegment, StagedChain } from './staged-chain.js'
import { UsedBacklog } from './used-backlog.js'
import type {
  ChainRecord,
  ChainSegment,
  DriverRing,
  DriverSnapshot,
  RingAreas,
  RingState,
  UsedRecord,
} from './virtqueue.js'

// Constants of this module: an imported name would be a property load each time it is used.
const { AVAIL, AVAIL_USED, DESCRIPTOR_BYTES, INDIRECT, NEXT, USED, WRITE } = layout

const NOT_IN_FLIGHT = -1
const NOT_HELD = -1
const NOT_USED = -1

/** The driver's side of a packed ring (section 2.8). */
export class PackedDriverRing implements DriverRing {
  readonly format = 'packed'
  readonly size: number
  readonly #areas: RingAreas<RingBytes>
  readonly #ring: RingBytes
  readonly #driverEvent: RingBytes
  readonly #deviceEvent: RingBytes
  readonly #hasEventIdx: boolean
  readonly #isInOrder: boolean
  readonly #pool: IndirectPool | undefined
  readonly #staged: StagedChain

  // What is in the slots of chains in flight: the device overwrites them. Free entries are a list through #next, a chain is a piece cut from its front, and
  // its first entry is its buffer id. With IN_ORDER #next is a circle, for good, so that the oldest chain is known.
  readonly #next: Uint16Array
  readonly #high: Uint32Array
  readonly #low: Uint32Array
  readonly #length: Uint32Array
  readonly #flags: Uint16Array
  #firstFree = 0
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
  #overlongCount = 0
  // What save() took out of the ring.
  #backlog: UsedBacklog | undefined
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
    this.#next = new Uint16Array(size)
    this.#high = new Uint32Array(size)
    this.#low = new Uint32Array(size)
    this.#length = new Uint32Array(size)
    this.#flags = new Uint16Array(size)
    this.#token = new Int32Array(size)
    this.#slots = new Uint16Array(size)
    this.#table = new Int32Array(size)
    this.#writable = new Float64Array(size)
    this.#sequence = new Float64Array(size)
    this.#clear(state)
    layout.writeEmptyPackedRing(this.#areas, this.size, this.state().used)
    if (options.snapshot !== undefined) this.#restore(options.snapshot)
  }

  get freeCount(): number {
    return this.#freeCount
  }

  get inFlight(): number {
    return this.#committed - this.#taken + (this.#backlog?.count ?? 0)
  }

  get isBroken(): boolean {
    return this.#failure !== undefined
  }

  get usedLength(): number {
    return this.#usedLength
  }

  get overlongCount(): number {
    return this.#overlongCount
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
    if (typeof token !== 'number' || (token | 0) !== token || token < 0) throw notToken(token)
    const staged = this.#staged
    const count = staged.count
    if (count === 0) throw wrongTime('a chain without a segment cannot be committed')
    const table = count > 1 && count <= this.size && this.#freeCount > 0 ? this.#takeTable(count) : -1
    const slots = table < 0 ? count : 1
    if (slots > this.#freeCount) throw ringFull(slots, this.#freeCount, this.size)
    this.#place(token, count, slots, table)
  }

  commitOne(token: number, iovaHigh: number, iovaLow: number, length: number, deviceWrites: boolean): void {
    if (this.#failure !== undefined) throw ringBroken(this.#failure)
    this.#staged.begin()
    if (typeof token !== 'number' || (token | 0) !== token || token < 0) throw notToken(token)
    if (!isSegment(iovaHigh, iovaLow, length)) throw notSegment(iovaHigh, iovaLow, length)
    if (this.#freeCount === 0) throw ringFull(1, 0, this.size)
    const id = this.#firstFree
    const write = deviceWrites ? WRITE : 0
    this.#fill(id, iovaLow, iovaHigh, length, write)
    this.#writeDescriptor(iovaLow, iovaHigh, length, id, write)
    this.#writable[id] = deviceWrites ? length : 0
    this.#note(token, id, id, 1, -1)
  }

  /** Writes the staged chain, which fits. */
  #place(token: number, count: number, slots: number, table: number): void {
    const staged = this.#staged
    const id = this.#firstFree
    const last = table < 0 ? this.#writeDirect(id, count) : this.#writeIndirect(id, table)
    this.#writable[id] = staged.writableLength
    this.#note(token, id, last, slots, table)
    staged.begin()
  }

  /** The books of a chain that is written, whose entries are those from `id` to `last`. */
  #note(token: number, id: number, last: number, slots: number, table: number): void {
    this.#firstFree = this.#next[last] as number
    this.#heldSlots += slots
    this.#freeCount -= slots
    this.#token[id] = token
    this.#slots[id] = slots
    if (this.#pool !== undefined) this.#table[id] = table
    this.#sequence[id] = this.#committed++
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
    if (this.#backlog !== undefined) return this.#takeSaved(this.#backlog)
    return this.#takeUsed()
  }

  #takeUsed(): number {
    if (this.#isInOrder) return this.#takeInOrder()
    const flags = this.#usedFlags()
    return flags === NOT_USED ? -1 : this.#release(this.#readUsed(flags))
  }

  #takeSaved(backlog: UsedBacklog): number {
    const token = backlog.take()
    this.#usedLength = backlog.usedLength
    if (backlog.count === 0) this.#backlog = undefined
    return token
  }

  enableCalls(): boolean {
    if (this.#failure !== undefined) throw ringBroken(this.#failure)
    enableEvents(this.#driverEvent, this.#hasEventIdx, this.#usedAt | (this.#usedWrap << 15))
    // Its stores and the load below are sequentially consistent (2.8.22): the device sees the wish, or we see its descriptor.
    return this.#backlog === undefined && this.#batchId < 0 && this.#usedFlags() === NOT_USED
  }

  disableCalls(): void {
    if (this.#failure !== undefined) throw ringBroken(this.#failure)
    disableEvents(this.#driverEvent)
  }

  notificationData(queueIndex: number): number {
    checkInteger(queueIndex, 'queueIndex', 0, 0xffff)
    return ((this.state().available << 16) | queueIndex) >>> 0
  }

  state(): RingState {
    const isHeld = this.#heldFlags !== NOT_HELD
    const offset = isHeld ? this.#heldAt : this.#availableAt
    const wrap = isHeld ? this.#heldWrap : this.#availableWrap
    return { available: offset | (wrap << 15), used: this.#usedAt | (this.#usedWrap << 15) }
  }

  save(): DriverSnapshot {
    if (this.#failure !== undefined) throw ringBroken(this.#failure)
    this.#setAside()
    const ids = [...this.#token.keys()].filter((id) => (this.#token[id] as number) >= 0)
    ids.sort((a, b) => (this.#sequence[a] as number) - (this.#sequence[b] as number))
    return {
      format: 'packed',
      size: this.size,
      chains: ids.map((id) => this.#record(id)),
      used: this.#backlog?.records() ?? [],
    }
  }

  reset(): void {
    this.#clear(layout.initialState('packed'))
    layout.writeEmptyPackedRing(this.#areas, this.size, this.state().used)
  }

  #takeTable(count: number): number {
    const pool = this.#pool
    return pool !== undefined && count <= pool.tableSize ? pool.take() : -1
  }

  /** Writes the staged chain into slots and entries from `id` on; returns the last entry. */
  #writeDirect(id: number, count: number): number {
    const { iovaHigh, iovaLow, lengths, readableCount } = this.#staged
    let entry = id
    for (let index = 0; ; index++) {
      const write = index < readableCount ? 0 : WRITE
      const [low, high, length] = [iovaLow[index] as number, iovaHigh[index] as number, lengths[index] as number]
      this.#fill(entry, low, high, length, write)
      // The id belongs in the last descriptor of a list (2.8.6); the others may have it as well.
      this.#writeDescriptor(low, high, length, id, write | (index === count - 1 ? 0 : NEXT))
      if (index === count - 1) return entry
      entry = this.#next[entry] as number
    }
  }

  #fill(entry: number, low: number, high: number, length: number, write: number): void {
    this.#low[entry] = low
    this.#high[entry] = high
    this.#length[entry] = length
    this.#flags[entry] = write
  }

  /** The same with one slot for all; its entry stays empty, because the table can be read. */
  #writeIndirect(id: number, table: number): number {
    const pool = this.#pool as IndirectPool
    pool.write(table, this.#staged)
    const bytes = this.#staged.count * DESCRIPTOR_BYTES
    this.#writeDescriptor(pool.iovaLow[table] as number, pool.iovaHigh[table] as number, bytes, id, INDIRECT)
    return id
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
    this.#usedLength = length <= (this.#writable[id] as number) ? length : this.#cut(id, flags)
    return id
  }

  /** A length that cannot be. Without WRITE it is reserved (2.8.4); QEMU never sets WRITE and its lengths are good, so one that can be true is believed. */
  #cut(id: number, flags: number): number {
    if ((flags & WRITE) === 0) return 0
    this.#overlongCount++
    return this.#writable[id] as number
  }

  #refuse(id: number): never {
    if (id >= this.size) this.#break(`used buffer id ${id} is not below the ring's size ${this.size}`, '2.8')
    // Perhaps it was committed, but not published: then it is not the device's yet.
    this.#break(`used buffer id ${id} is not that of a chain in flight`, '2.8')
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
    const next = id + (this.#slots[id] as number)
    this.#oldestId = next >= this.size ? next - this.size : next
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
    if (!this.#isInOrder) {
      let last = id
      for (let left = slots; left > 1; left--) last = this.#next[last] as number
      this.#next[last] = this.#firstFree
      this.#firstFree = id
    }
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
    this.#firstFree = this.#oldestId = 0
    for (let index = 0; index < this.size; index++) this.#next[index] = index + 1 === this.size ? 0 : index + 1
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
    this.#backlog = undefined
    this.#failure = undefined
    this.#staged.begin()
    this.#pool?.reset()
  }

  /** Takes what the device has used out of the ring: it must not be carried out again, and its length is in the ring's memory. */
  #setAside(): void {
    const records: UsedRecord[] = this.#backlog?.records() ?? []
    const usedLength = this.#usedLength
    try {
      for (let token = this.#takeUsed(); token >= 0; token = this.#takeUsed())
        records.push({ token, length: this.#usedLength })
    } finally {
      this.#usedLength = usedLength
      this.#backlog = records.length === 0 ? undefined : new UsedBacklog(records)
    }
  }

  /** A chain as it was pushed. The device may not write to the indirect tables (2.8.7), and what it may write to must not have changed. */
  #record(id: number): ChainRecord {
    const token = this.#token[id] as number
    const table = this.#table[id] as number
    const segments = table < 0 ? this.#readEntries(id) : (this.#pool?.read(table) ?? [])
    if (!isWhole(segments, this.#writable[id] as number))
      this.#break(`the indirect table of chain ${id} was overwritten`, '2.8.7')
    return { token, isIndirect: table >= 0, segments }
  }

  #readEntries(id: number): ChainSegment[] {
    const segments: ChainSegment[] = []
    for (let entry = id; segments.length < (this.#slots[id] as number); entry = this.#next[entry] as number) {
      segments.push({
        iovaHigh: this.#high[entry] as number,
        iovaLow: this.#low[entry] as number,
        length: this.#length[entry] as number,
        deviceWrites: this.#flags[entry] === WRITE,
      })
    }
    return segments
  }

  /** Makes the chains of a snapshot, already checked, anew. */
  #restore({ chains, used }: DriverSnapshot): void {
    for (const { token, isIndirect, segments } of chains) {
      this.#staged.load(segments)
      const table = isIndirect ? this.#takeTable(segments.length) : -1
      this.#place(token, segments.length, isIndirect ? 1 : segments.length, table)
    }
    this.publish()
    if (used.length > 0) this.#backlog = new UsedBacklog(used)
  }
}
