// IOTLB messages to be sent in order, and for each point where sending them may stop, the messages that lead back. A plan is put together step by step, or
// from the mappings that address spaces have and those they should have. It sends nothing and changes no table.

import { checkInteger } from '../base/checks.js'
import { showRange } from '../base/ranges.js'
import { iotlbMessageTypes } from '../uapi/vhost-types.js'
import { ENTRY_WORDS, EntryWord } from './entry-leaves.js'
import type { IntervalTable } from './interval-table.js'
import { MessageWriter } from './message.js'

/** What is to become of one address space. */
export interface SpaceChange {
  /** The number of the address space. */
  readonly asid: number
  /** What the device has mapped there. */
  readonly have: IntervalTable
  /** What it is to have. */
  readonly want: IntervalTable
}

/** What the device's backend features allow. */
export interface PlanOptions {
  /** 2 when VHOST_BACKEND_F_IOTLB_MSG_V2 was acknowledged; version 1 knows asid 0 only. */
  readonly version: 1 | 2
  /** Whether VHOST_BACKEND_F_IOTLB_BATCH was acknowledged. */
  readonly batch: boolean
  /** Whether a message that would stand alone is a batch too, where there are batches. Default false. */
  readonly isAloneBatch?: boolean
}

const { VHOST_IOTLB_UPDATE, VHOST_IOTLB_INVALIDATE, VHOST_IOTLB_BATCH_BEGIN } = iotlbMessageTypes
const HALF = 0x8000_0000
const LAST = 0xffff_ffff
const TWO_32 = 0x1_0000_0000

/**
 * Plans the changes, one address space after the other: messages of two never mix, because a batch takes only its own (EFAULT otherwise). In each,
 * what is not wanted as it is goes first, exactly as it was mapped, then comes what is new; several messages are a batch where the device knows
 * batches. An entry of the whole 2^64, which no message can say, is two halves. RangeError for an asid that version 1 cannot say.
 */
export function planChanges(changes: readonly SpaceChange[], options: PlanOptions): Plan {
  const plan = new Plan(options)
  for (const { asid, have, want } of changes) {
    plan.begin(asid)
    eachOnlyIn(have, want, (entry) => plan.invalidate(entry))
    eachOnlyIn(want, have, (entry) => plan.update(entry))
    plan.end()
  }
  return plan
}

/** What a record does not say, or an invalidation's does not: where the mapping leads (2 words), and perm | object + 1 << 8. */
const KEPT_WORDS = 3

/** Records as they are sent, and beside them what they do not say, so that an invalidation can be turned back into the update it undid. */
export class Plan {
  readonly #options: PlanOptions
  readonly #writer: MessageWriter
  #kept: Uint32Array
  #asid = 0
  #begin = -1
  #hasInvalidations = false

  /** `capacity` messages are made room for; more are taken. */
  constructor(options: PlanOptions, capacity = 8) {
    this.#options = options
    this.#writer = new MessageWriter(options.version, capacity)
    this.#kept = new Uint32Array(Math.max(1, capacity) * KEPT_WORDS)
  }

  /** Begins anew, in the memory that is there. What records() gave before is written over. */
  clear(): void {
    this.#begin = -1
    this.#hasInvalidations = false
    this.#writer.clear()
  }

  /** Messages that there is room for without growing. */
  get capacity(): number {
    return this.#kept.length / KEPT_WORDS
  }

  /** Messages. 0: nothing has to change. */
  get count(): number {
    return this.#writer.count
  }

  /** Whether several steps are a batch. */
  get usesBatches(): boolean {
    return this.#options.batch
  }

  /** Whether a step takes something away. */
  get hasInvalidations(): boolean {
    return this.#hasInvalidations
  }

  /** From here to end(), steps are for this address space; more than one of them are a batch. RangeError for an asid that version 1 cannot say. */
  begin(asid: number): void {
    checkInteger(asid, 'asid', 0, this.#options.version === 1 ? 0 : LAST)
    this.#asid = asid
    this.#begin = this.count
    if (this.#options.batch) this.#writer.batchBegin(asid)
  }

  /** Maps an entry (8 words, EntryWord). */
  update(entry: Uint32Array): void {
    this.#keep(this.#writer.count, entry)
    this.#writer.update(this.#asid, entry)
  }

  /** Takes away a mapping, exactly; the whole entry is given, because undo() maps it again. */
  invalidate(entry: Uint32Array): void {
    this.#keep(this.#writer.count, entry)
    this.#writer.invalidate(this.#asid, entry)
    this.#hasInvalidations = true
  }

  /** Ends the steps of an address space. A batch of less than two is none, unless that is asked for. */
  end(): void {
    const { batch, isAloneBatch = false } = this.#options
    if (!batch) return
    if (this.count - this.#begin > (isAloneBatch ? 1 : 2)) this.#writer.batchEnd(this.#asid)
    else this.#dropBatch()
  }

  /** The records, RECORD_BYTES each; not a copy. */
  records(): Uint8Array {
    return this.#writer.bytes
  }

  /**
   * The records that lead back to what was there before, when the first `completed` records were accepted and no more: newest first, inside the
   * batch that was left open and with its end, then each earlier address space in a batch of its own. As many as were accepted.
   */
  undo(completed: number): Uint8Array {
    checkInteger(completed, 'completed', 0, this.count)
    const writer = new MessageWriter(this.#options.version, completed + 1)
    for (let step = completed - 1; step >= 0; step--) this.#writeInverse(step, writer)
    return writer.bytes
  }

  /**
   * The records that lead back to what was there before from a place that is not known: an invalidation of each step's range, and then an update for each
   * mapping that the plan takes away. For a plan of one address space. With them, by step, the index of its invalidation and of its update.
   */
  sweep(): { readonly records: Uint8Array; readonly invalidations: number[]; readonly updates: number[] } {
    const writer = new MessageWriter(this.#options.version, 2 * this.count + 2)
    const [invalidations, updates]: [number[], number[]] = [[], []]
    const asid = this.#writer.asid(0)
    if (this.#options.batch) writer.batchBegin(asid)
    for (let step = 0; step < this.count; step++) {
      if (this.verb(step) === 'batch') continue
      this.read(step, scratch)
      invalidations[step] = writer.count
      writer.invalidate(asid, scratch)
    }
    for (let step = 0; step < this.count; step++) {
      if (this.verb(step) !== 'invalidate') continue
      this.read(step, scratch)
      updates[step] = writer.count
      writer.update(asid, scratch)
    }
    if (this.#options.batch) writer.batchEnd(asid)
    return { records: writer.bytes, invalidations, updates }
  }

  /** Whether a step maps something, takes something away, or begins or ends a batch. */
  verb(step: number): 'update' | 'invalidate' | 'batch' {
    const type = this.#writer.type(step)
    return type === VHOST_IOTLB_UPDATE ? 'update' : type === VHOST_IOTLB_INVALIDATE ? 'invalidate' : 'batch'
  }

  /** Copies a step's entry into `entry`; of a batch's ends it says nothing. */
  read(step: number, entry: Uint32Array): void {
    this.#writer.readRange(step, entry)
    const kept = this.#kept
    const at = step * KEPT_WORDS
    entry[EntryWord.uaddrHigh] = kept[at] as number
    entry[EntryWord.uaddrLow] = kept[at + 1] as number
    entry[EntryWord.perm] = (kept[at + 2] as number) & 0xff
    entry[EntryWord.object] = this.object(step)
  }

  /** The object of a step's entry. */
  object(step: number): number {
    return (((this.#kept[step * KEPT_WORDS + 2] as number) >>> 8) - 1) >>> 0
  }

  /** Says what was not known when a step was planned: the object of its entry and, where it takes away, where the mapping led and what it allowed. */
  complete(step: number, entry: Uint32Array): void {
    this.#keep(step, entry)
  }

  /** Bytes that a step maps or takes away; 0 for the ends of a batch. */
  bytes(step: number): number {
    if (this.verb(step) === 'batch') return 0
    this.#writer.readRange(step, scratch)
    const high = (scratch[EntryWord.lastHigh] as number) - (scratch[EntryWord.firstHigh] as number)
    return high * TWO_32 + (scratch[EntryWord.lastLow] as number) - (scratch[EntryWord.firstLow] as number) + 1
  }

  /** A record in words, for the sentence that says which one was refused: `VHOST_IOTLB_UPDATE [0x1000, 0x1fff] of asid 0`. */
  describe(record: number): string {
    checkInteger(record, 'record', 0, this.count - 1)
    const type = this.#writer.type(record)
    const name = Object.entries(iotlbMessageTypes).find(([, number]) => number === type)?.[0] ?? ''
    const range = this.verb(record) === 'batch' ? '' : ` ${this.rangeText(record)}`
    return `${name}${range} of asid ${this.#writer.asid(record)}`
  }

  /** A step's range: `[0x1000, 0x1fff]`. */
  rangeText(step: number): string {
    this.#writer.readRange(step, scratch)
    return showRange({ first: joined(scratch, EntryWord.firstHigh), last: joined(scratch, EntryWord.lastHigh) })
  }

  #keep(step: number, entry: Uint32Array): void {
    const at = step * KEPT_WORDS
    if (at >= this.#kept.length) this.#grow()
    const kept = this.#kept
    kept[at] = entry[4] as number
    kept[at + 1] = entry[5] as number
    kept[at + 2] = (entry[6] as number) | (((entry[7] as number) + 1) << 8)
  }

  /** Takes the batch's beginning away again; at most one step came after it. */
  #dropBatch(): void {
    const from = this.#begin
    this.#kept.copyWithin(from * KEPT_WORDS, (from + 1) * KEPT_WORDS, this.count * KEPT_WORDS)
    this.#writer.drop(from)
  }

  #writeInverse(step: number, writer: MessageWriter): void {
    const asid = this.#writer.asid(step)
    const type = this.#writer.type(step)
    this.read(step, scratch)
    if (type === VHOST_IOTLB_UPDATE) writer.invalidate(asid, scratch)
    else if (type === VHOST_IOTLB_INVALIDATE) writer.update(asid, scratch)
    else if (type === VHOST_IOTLB_BATCH_BEGIN) writer.batchEnd(asid)
    else writer.batchBegin(asid)
  }

  #grow(): void {
    const kept = this.#kept
    this.#kept = new Uint32Array(kept.length * 2)
    this.#kept.set(kept)
  }
}

const scratch = new Uint32Array(ENTRY_WORDS)

/** Calls `visit` with each piece of `table` that `other` does not have just so, lowest first. The words are valid during the call. */
function eachOnlyIn(table: IntervalTable, other: IntervalTable, visit: (entry: Uint32Array) => void): void {
  const pieces = new Pieces(table)
  const others = new Pieces(other)
  let isThere = others.next()
  while (pieces.next()) {
    while (isThere && compareFirst(others.words, pieces.words) < 0) isThere = others.next()
    if (!isThere || !areEqual(others.words, pieces.words)) visit(pieces.words)
  }
}

/** A walk over a table in pieces that a message can say: its entries, and the whole 2^64 in two halves. */
class Pieces {
  readonly words = new Uint32Array(ENTRY_WORDS)
  readonly #table: IntervalTable
  #index: number
  #isLowerHalf = false

  constructor(table: IntervalTable) {
    this.#table = table
    this.#index = table.start()
  }

  /** Loads the next piece into `words`; false when there is none. */
  next(): boolean {
    const { words } = this
    if (this.#isLowerHalf) {
      this.#isLowerHalf = false
      words[EntryWord.firstHigh] = HALF
      words[EntryWord.lastHigh] = LAST
      words[EntryWord.uaddrHigh] = (words[EntryWord.uaddrHigh] as number) + HALF // modulo 2^32, as the address modulo 2^64
      return true
    }
    if (this.#index < 0) return false
    this.#table.read(this.#index, words)
    this.#index = this.#table.next(this.#index)
    if (isWhole(words)) {
      this.#isLowerHalf = true
      words[EntryWord.lastHigh] = HALF - 1
    }
    return true
  }
}

function isWhole(words: Uint32Array): boolean {
  const { firstHigh, firstLow, lastHigh, lastLow } = EntryWord
  return words[firstHigh] === 0 && words[firstLow] === 0 && words[lastHigh] === LAST && words[lastLow] === LAST
}

function compareFirst(a: Uint32Array, b: Uint32Array): number {
  const { firstHigh, firstLow } = EntryWord
  return (a[firstHigh] as number) - (b[firstHigh] as number) || (a[firstLow] as number) - (b[firstLow] as number)
}

function areEqual(a: Uint32Array, b: Uint32Array): boolean {
  for (let word = 0; word < ENTRY_WORDS; word++) if (a[word] !== b[word]) return false
  return true
}

function joined(words: Uint32Array, at: number): bigint {
  return (BigInt(words[at] as number) << 32n) | BigInt(words[at + 1] as number)
}
