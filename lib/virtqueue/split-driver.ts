// The driver's side of a split virtqueue (virtio 1.2 section 2.7). All it believes is in its own columns: what it reads from the ring is two
// numbers per used chain, checked against them.

/* eslint-disable max-lines -- the books are private to the class, and both ways to fill them, one by one and by the many, are its own */

import { checkInteger } from '../base/checks.js'
import type { RingBytes } from '../memory/parted-ring-memory.js'
import { notToken, ringBroken, ringFull, rule, wrongTime } from './broken.js'
import { IndirectPool, readSegment } from './indirect-pool.js'
import * as layout from './layout.js'
import type { PlainChains, PlainDriverRing } from './plain-chains.js'
import { checkDriverOptions, type DriverRingOptions } from './ring-options.js'
import { isSegment, isWhole, notSegment, StagedChain } from './staged-chain.js'
import { UsedBacklog } from './used-backlog.js'
import type { ChainRecord, ChainSegment, DriverRing, DriverSnapshot, RingState, UsedRecord } from './virtqueue.js'

// Constants of this module: an imported name would be a property load each time it is used.
const { DESCRIPTOR_BYTES, ENTRIES_AT, FLAGS_AT, INDEX_AT, INDIRECT, NEXT, NO_NOTIFICATION, WRITE } = layout

const NOT_IN_FLIGHT = -1

/** The driver's side of a split ring (section 2.7). */
export class SplitDriverRing implements DriverRing, PlainDriverRing {
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
  readonly #pool: IndirectPool | undefined
  readonly #staged: StagedChain

  // The free descriptors are a list through #next; a chain is a piece cut from its front. With IN_ORDER #next is the ring order, for good.
  readonly #next: Uint16Array
  #firstFree = 0
  #freeCount = 0
  // By head descriptor, for chains in flight. Where there is none, #slots is 1 and #table -1, as for most chains.
  readonly #token: Int32Array
  readonly #slots: Uint16Array
  readonly #table: Int32Array
  readonly #writable: Float64Array
  readonly #sequence: Float64Array

  // How many chains were ever committed, published, taken, and seen to be used. Their low 16 bits are the indices in the ring; as plain counts
  // (exact to 2^53) they also tell apart two chains that a starving device keeps 2^16 positions apart.
  #committed = 0
  #published = 0
  #taken = 0
  #usedSeen = 0
  // IN_ORDER: the head whose entry stands for a batch that is being taken, its length, and the oldest head in flight.
  #batchHead = NOT_IN_FLIGHT
  #batchLength = 0
  #oldest = 0
  #usedLength = 0
  #overlongCount = 0
  // What save() took out of the ring.
  #backlog: UsedBacklog | undefined
  #failure: string | undefined

  constructor(options: DriverRingOptions) {
    const state = checkDriverOptions(options)
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
    this.#pool = options.indirect === undefined ? undefined : new IndirectPool('split', options.indirect)
    this.#staged = new StagedChain(size)
    this.#next = new Uint16Array(size)
    this.#token = new Int32Array(size)
    this.#slots = new Uint16Array(size)
    this.#table = new Int32Array(size)
    this.#writable = new Float64Array(size)
    this.#sequence = new Float64Array(size)
    this.#clear(state)
    if (options.snapshot !== undefined) this.#restore(options.snapshot)
    this.#initialize()
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
    if (this.#staged.count !== 0) this.#staged.begin()
    if (typeof token !== 'number' || (token | 0) !== token || token < 0) throw notToken(token)
    if (!isSegment(iovaHigh, iovaLow, length)) throw notSegment(iovaHigh, iovaLow, length)
    if (this.#freeCount === 0) throw ringFull(1, 0, this.size)
    const head = this.#firstFree
    const at = head * DESCRIPTOR_BYTES
    const memory = this.#descriptors
    memory.setU32(at, iovaLow)
    memory.setU32(at + 4, iovaHigh)
    memory.setU32(at + 8, length)
    memory.setU32(at + 12, deviceWrites ? WRITE : 0)
    this.#writable[head] = deviceWrites ? length : 0
    this.#note(token, head, head, 1, -1)
  }

  commitPlain(chains: PlainChains, count: number): void {
    if (this.#failure !== undefined) throw ringBroken(this.#failure)
    if (count > this.#freeCount) throw ringFull(count, this.#freeCount, this.size)
    // Fields in names of their own: the loop is short, and each look-up in it counts.
    const { ids, iovaHigh, iovaLow, lengths, isWritten } = chains
    const memory = this.#descriptors
    const available = this.#available
    const mask = this.#mask
    const [tokens, writable, sequences, next] = [this.#token, this.#writable, this.#sequence, this.#next]
    let head = this.#firstFree
    let sequence = this.#committed
    for (let at = 0; at < count; at++) {
      const descriptor = head * DESCRIPTOR_BYTES
      const length = lengths[at] as number
      const deviceWrites = isWritten[at] === 1
      memory.setU32(descriptor, iovaLow[at] as number)
      memory.setU32(descriptor + 4, iovaHigh[at] as number)
      memory.setU32(descriptor + 8, length)
      memory.setU32(descriptor + 12, deviceWrites ? WRITE : 0)
      available.setU16(ENTRIES_AT + 2 * (sequence & mask), head)
      tokens[head] = ids[at] as number
      writable[head] = deviceWrites ? length : 0
      sequences[head] = sequence++
      head = next[head] as number
    }
    this.#firstFree = head
    this.#freeCount -= count
    this.#committed = sequence
  }

  /** Writes the staged chain, which fits, and its entry. */
  #place(token: number, count: number, slots: number, table: number): void {
    const staged = this.#staged
    const head = this.#firstFree
    const last = table < 0 ? this.#writeDirect(head, count) : this.#writeIndirect(head, table)
    this.#writable[head] = staged.writableLength
    this.#note(token, head, last, slots, table)
    staged.begin()
  }

  /** The entry and the books of a chain whose descriptors, from `head` to `last`, are written. */
  #note(token: number, head: number, last: number, slots: number, table: number): void {
    this.#firstFree = this.#next[last] as number
    this.#freeCount -= slots
    const sequence = this.#committed
    this.#token[head] = token
    if (slots !== 1) this.#slots[head] = slots
    if (table >= 0) this.#table[head] = table
    this.#sequence[head] = sequence
    this.#available.setU16(ENTRIES_AT + 2 * (sequence & this.#mask), head)
    this.#committed = sequence + 1
  }

  publish(): boolean {
    if (this.#failure !== undefined) throw ringBroken(this.#failure)
    const old = this.#published
    const now = this.#committed
    if (now === old) return false
    this.#published = now
    // Release (2.7.13.3.1): the device that reads this index sees the descriptors and entries written before it. Sequentially consistent
    // with the load after it (2.7.13.4.1): either we see the event that the device asked for, or it sees this index when it looks again.
    this.#available.store16(INDEX_AT, now)
    if (this.#hasEventIdx) return layout.passes(this.#used.load16(this.#availableEventAt), now, old)
    return (this.#used.load16(FLAGS_AT) & NO_NOTIFICATION) === 0
  }

  take(): number {
    if (this.#failure !== undefined) throw ringBroken(this.#failure)
    if (this.#backlog !== undefined) return this.#takeSaved(this.#backlog)
    return this.#takeUsed()
  }

  takePlain(chains: PlainChains, most: number): number {
    if (this.#failure !== undefined) throw ringBroken(this.#failure)
    if (this.#isInOrder || this.#backlog !== undefined) return 0
    if (this.#taken === this.#usedSeen && !this.#look()) return 0
    const { ids, lengths } = chains
    const used = this.#used
    const mask = this.#mask
    const [tokens, writable, sequences, next] = [this.#token, this.#writable, this.#sequence, this.#next]
    const [slots, tables] = [this.#slots, this.#table]
    const published = this.#published
    const last = Math.min(this.#usedSeen, this.#taken + most)
    let free = this.#firstFree
    let count = 0
    for (let taken = this.#taken; taken < last; taken++) {
      const at = ENTRIES_AT + 8 * (taken & mask)
      const head = used.u32(at)
      const length = used.u32(at + 4)
      // What is refused, and chains of several descriptors, are for take().
      if (head > mask || slots[head] !== 1 || (tables[head] as number) >= 0) break
      const token = tokens[head] as number
      if (token < 0 || (sequences[head] as number) >= published) break
      const room = writable[head] as number
      lengths[count] = length <= room ? length : this.#cut(head)
      ids[count++] = token
      tokens[head] = NOT_IN_FLIGHT
      next[head] = free
      free = head
    }
    this.#firstFree = free
    this.#freeCount += count
    this.#taken += count
    return count
  }

  #takeUsed(): number {
    if (this.#taken === this.#usedSeen && !this.#look()) return -1
    if (this.#isInOrder) return this.#takeInOrder()
    const head = this.#readEntry()
    return this.#release(head)
  }

  #takeSaved(backlog: UsedBacklog): number {
    const token = backlog.take()
    this.#usedLength = backlog.usedLength
    if (backlog.count === 0) this.#backlog = undefined
    return token
  }

  enableCalls(): boolean {
    if (this.#failure !== undefined) throw ringBroken(this.#failure)
    // The store and the load of #look() are sequentially consistent (2.7.7, 2.7.14): the device sees the wish, or we see its index.
    if (this.#hasEventIdx) this.#available.store16(this.#usedEventAt, this.#taken)
    else this.#available.store16(FLAGS_AT, 0)
    return this.#backlog === undefined && this.#taken === this.#usedSeen && !this.#look()
  }

  disableCalls(): void {
    if (this.#failure !== undefined) throw ringBroken(this.#failure)
    // With EVENT_IDX `flags` stays 0 (2.7.7.1); the event farthest away is the index that was passed last.
    if (this.#hasEventIdx) this.#available.store16(this.#usedEventAt, this.#taken - 1)
    else this.#available.store16(FLAGS_AT, NO_NOTIFICATION)
  }

  notificationData(queueIndex: number): number {
    checkInteger(queueIndex, 'queueIndex', 0, 0xffff)
    return ((this.#published << 16) | queueIndex) >>> 0
  }

  state(): RingState {
    return { available: this.#published & 0xffff, used: this.#taken & 0xffff }
  }

  save(): DriverSnapshot {
    if (this.#failure !== undefined) throw ringBroken(this.#failure)
    this.#setAside()
    const heads = [...this.#token.keys()].filter((head) => (this.#token[head] as number) >= 0)
    heads.sort((a, b) => (this.#sequence[a] as number) - (this.#sequence[b] as number))
    return {
      format: 'split',
      size: this.size,
      chains: heads.map((head) => this.#record(head)),
      used: this.#backlog?.records() ?? [],
    }
  }

  reset(): void {
    this.#clear({ available: 0, used: 0 })
    this.#initialize()
  }

  #takeTable(count: number): number {
    const pool = this.#pool
    return pool !== undefined && count <= pool.tableSize ? pool.take() : -1
  }

  /** Writes the staged chain into free descriptors from `head` on; returns the last of them. */
  #writeDirect(head: number, count: number): number {
    const { iovaHigh, iovaLow, lengths, readableCount } = this.#staged
    const memory = this.#descriptors
    let descriptor = head
    for (let index = 0; ; index++) {
      const at = descriptor * DESCRIPTOR_BYTES
      const write = index < readableCount ? 0 : WRITE
      memory.setU32(at, iovaLow[index] as number)
      memory.setU32(at + 4, iovaHigh[index] as number)
      memory.setU32(at + 8, lengths[index] as number)
      if (index === count - 1) {
        memory.setU32(at + 12, write)
        return descriptor
      }
      // With IN_ORDER this is the next one in the table, as 2.7.5.2 asks.
      descriptor = this.#next[descriptor] as number
      memory.setU32(at + 12, write | NEXT | (descriptor << 16))
    }
  }

  #writeIndirect(head: number, table: number): number {
    const pool = this.#pool as IndirectPool
    pool.write(table, this.#staged)
    const at = head * DESCRIPTOR_BYTES
    this.#descriptors.setU32(at, pool.iovaLow[table] as number)
    this.#descriptors.setU32(at + 4, pool.iovaHigh[table] as number)
    this.#descriptors.setU32(at + 8, this.#staged.count * DESCRIPTOR_BYTES)
    this.#descriptors.setU32(at + 12, INDIRECT)
    return head
  }

  /** Reads the used index; true when there is a chain to take. */
  #look(): boolean {
    // Acquire (2.7.8.2, 2.7.14): entries and buffers that the index announces are read after it.
    const index = this.#used.load16(INDEX_AT)
    const ahead = (index - this.#taken) & 0xffff
    if (ahead > this.#published - this.#taken) {
      this.#break(
        `used index ${index} announces ${ahead} chains and ${this.#published - this.#taken} are in flight`,
        '2.7.8',
      )
    }
    this.#usedSeen = this.#taken + ahead
    return ahead !== 0
  }

  /** Reads the entry at the taken position once, checks it, keeps its length in #usedLength, and returns the head. */
  #readEntry(): number {
    const at = ENTRIES_AT + 8 * (this.#taken & this.#mask)
    const head = this.#used.u32(at)
    const length = this.#used.u32(at + 4)
    if (head >= this.size || (this.#token[head] as number) < 0 || (this.#sequence[head] as number) >= this.#published) {
      this.#refuse(head)
    }
    this.#usedLength = length <= (this.#writable[head] as number) ? length : this.#cut(head)
    return head
  }

  /** A length that cannot be is cut: no byte beyond the chain is believed, and who has no use for the length is not disturbed (2.7.8.2). */
  #cut(head: number): number {
    this.#overlongCount++
    return this.#writable[head] as number
  }

  #refuse(head: number): never {
    if (head >= this.size) this.#break(`used id ${head} is not below the ring's size ${this.size}`, '2.7.8')
    // Perhaps it was committed, but not published: then it is not the device's yet.
    this.#break(`used id ${head} is not the head of a chain in flight`, '2.7.8')
  }

  /** One entry may stand for all chains up to the one it names; those before count as written full (2.7.9). Hands out one chain a call. */
  #takeInOrder(): number {
    if (this.#batchHead < 0) {
      const head = this.#readEntry()
      if ((this.#sequence[head] as number) >= this.#usedSeen) {
        this.#break(`used id ${head} closes a batch that the used index does not cover`, '2.7.9')
      }
      this.#batchHead = head
      this.#batchLength = this.#usedLength
    }
    const head = this.#oldest
    this.#oldest = (head + (this.#slots[head] as number)) & this.#mask
    if (head === this.#batchHead) {
      this.#usedLength = this.#batchLength
      this.#batchHead = NOT_IN_FLIGHT
    } else {
      // Below 2^32: an entry could not have said 2^32 either.
      this.#usedLength = Math.min(this.#writable[head] as number, 0xffff_ffff)
    }
    return this.#release(head)
  }

  /** Makes the descriptors of a chain free and returns its token. */
  #release(head: number): number {
    const token = this.#token[head] as number
    const slots = this.#slots[head] as number
    if (this.#pool !== undefined) this.#releaseTable(this.#pool, head)
    if (!this.#isInOrder) {
      const last = slots === 1 ? head : this.#lastOf(head, slots)
      this.#next[last] = this.#firstFree
      this.#firstFree = head
    }
    if (slots !== 1) this.#slots[head] = 1
    this.#freeCount += slots
    this.#token[head] = NOT_IN_FLIGHT
    this.#taken++
    return token
  }

  #releaseTable(pool: IndirectPool, head: number): void {
    const table = this.#table[head] as number
    if (table < 0) return
    pool.release(table)
    this.#table[head] = -1
  }

  /** The last descriptor of a chain. */
  #lastOf(head: number, slots: number): number {
    let last = head
    for (let left = slots; left > 1; left--) last = this.#next[last] as number
    return last
  }

  #break(what: string, section: string): never {
    this.#failure = rule(what, section)
    throw ringBroken(this.#failure)
  }

  /** Forgets everything: all descriptors free, in the order of the table. */
  #clear(state: RingState): void {
    for (let index = 0; index < this.size; index++) this.#next[index] = (index + 1) & this.#mask
    this.#token.fill(NOT_IN_FLIGHT)
    this.#slots.fill(1)
    this.#table.fill(-1)
    this.#firstFree = this.#oldest = 0
    this.#freeCount = this.size
    this.#committed = this.#published = state.available
    this.#taken = this.#usedSeen = state.used
    this.#batchHead = NOT_IN_FLIGHT
    this.#usedLength = 0
    this.#backlog = undefined
    this.#failure = undefined
    this.#staged.begin()
    this.#pool?.reset()
  }

  /** Writes the rings as they begin: both indices where the state has them, both sides wanting notifications (2.7.10.1). */
  #initialize(): void {
    this.#available.setU16(FLAGS_AT, 0)
    this.#used.setU16(FLAGS_AT, 0)
    if (this.#hasEventIdx) {
      this.#available.setU16(this.#usedEventAt, this.#taken)
      this.#used.setU16(this.#availableEventAt, this.#taken)
    }
    this.#used.store16(INDEX_AT, this.#taken)
    this.#available.store16(INDEX_AT, this.#published)
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

  /** A chain as it was pushed. The device may not write to the tables it is read from (2.7.5), and what it may write to must not have changed. */
  #record(head: number): ChainRecord {
    const token = this.#token[head] as number
    const table = this.#table[head] as number
    const segments = table < 0 ? this.#readDirect(head) : (this.#pool?.read(table) ?? [])
    if (!isWhole(segments, this.#writable[head] as number))
      this.#break(`the descriptors of chain ${head} were overwritten`, '2.7.5')
    return { token, isIndirect: table >= 0, segments }
  }

  #readDirect(head: number): ChainSegment[] {
    const segments: ChainSegment[] = []
    for (let descriptor = head; segments.length < (this.#slots[head] as number);) {
      segments.push(readSegment(this.#descriptors, descriptor * DESCRIPTOR_BYTES, 12))
      descriptor = this.#next[descriptor] as number
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
    this.#published = this.#committed
    if (used.length > 0) this.#backlog = new UsedBacklog(used)
  }
}
