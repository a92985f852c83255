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
}

const { VHOST_IOTLB_UPDATE, VHOST_IOTLB_INVALIDATE, VHOST_IOTLB_BATCH_BEGIN, VHOST_IOTLB_BATCH_END } = iotlbMessageTypes
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

/** Messages in flat columns: type, asid, and the whole entry, so that an invalidation can be turned back into the update it undid. */
export class Plan {
  readonly #options: PlanOptions
  readonly #writer: MessageWriter
  #count = 0
  #types: Uint8Array
  #asids: Uint32Array
  #entries: Uint32Array
  #asid = 0
  #begin = -1

  /** `capacity` messages are made room for; more are taken. */
  constructor(options: PlanOptions, capacity = 8) {
    this.#options = options
    this.#writer = new MessageWriter(options.version, capacity)
    this.#types = new Uint8Array(Math.max(1, capacity))
    this.#asids = new Uint32Array(Math.max(1, capacity))
    this.#entries = new Uint32Array(Math.max(1, capacity) * ENTRY_WORDS)
  }

  /** Begins anew, in the memory that is there. What records() gave before is written over. */
  clear(): void {
    this.#count = 0
    this.#begin = -1
    this.#writer.clear()
  }

  /** Messages that there is room for without growing. */
  get capacity(): number {
    return this.#types.length
  }

  /** Messages. 0: nothing has to change. */
  get count(): number {
    return this.#count
  }

  /** From here to end(), steps are for this address space; more than one of them are a batch. RangeError for an asid that version 1 cannot say. */
  begin(asid: number): void {
    checkInteger(asid, 'asid', 0, this.#options.version === 1 ? 0 : LAST)
    this.#asid = asid
    this.#begin = this.#count
    if (!this.#options.batch) return
    this.#writer.batchBegin(asid)
    this.#add(VHOST_IOTLB_BATCH_BEGIN)
  }

  /** Maps an entry (8 words, EntryWord). */
  update(entry: Uint32Array): void {
    this.#writer.update(this.#asid, entry)
    this.#add(VHOST_IOTLB_UPDATE, entry)
  }

  /** Takes away a mapping, exactly; the whole entry is given, because undo() maps it again. */
  invalidate(entry: Uint32Array): void {
    this.#writer.invalidate(this.#asid, entry)
    this.#add(VHOST_IOTLB_INVALIDATE, entry)
  }

  /** Ends the steps of an address space. A batch of less than two is none. */
  end(): void {
    if (!this.#options.batch) return
    if (this.#count - this.#begin <= 2) {
      this.#dropBatch()
      return
    }
    this.#writer.batchEnd(this.#asid)
    this.#add(VHOST_IOTLB_BATCH_END)
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
    checkInteger(completed, 'completed', 0, this.#count)
    const writer = new MessageWriter(this.#options.version, completed + 1)
    for (let step = completed - 1; step >= 0; step--) this.#write(step, inverse(this.#types[step] as number), writer)
    return writer.bytes
  }

  /** Whether a step maps something, takes something away, or begins or ends a batch. */
  verb(step: number): 'update' | 'invalidate' | 'batch' {
    const type = this.#types[step]
    return type === VHOST_IOTLB_UPDATE ? 'update' : type === VHOST_IOTLB_INVALIDATE ? 'invalidate' : 'batch'
  }

  /** Copies a step's entry into `entry`; of a batch's ends it says nothing. */
  read(step: number, entry: Uint32Array): void {
    copyWords(this.#entries, step * ENTRY_WORDS, entry, 0)
  }

  /** The object of a step's entry. */
  object(step: number): number {
    return this.#entries[step * ENTRY_WORDS + EntryWord.object] as number
  }

  /** Puts another entry, of the same range, in a step's place: its object or address was not known when it was planned. */
  replace(step: number, entry: Uint32Array): void {
    copyWords(entry, 0, this.#entries, step * ENTRY_WORDS)
  }

  /** Bytes that a step maps or takes away; 0 for the ends of a batch. */
  bytes(step: number): number {
    if (this.verb(step) === 'batch') return 0
    const at = step * ENTRY_WORDS
    const words = this.#entries
    const high = (words[at + EntryWord.lastHigh] as number) - (words[at + EntryWord.firstHigh] as number)
    return high * TWO_32 + (words[at + EntryWord.lastLow] as number) - (words[at + EntryWord.firstLow] as number) + 1
  }

  /** A record in words, for the sentence that says which one was refused: `VHOST_IOTLB_UPDATE [0x1000, 0x1fff] of asid 0`. */
  describe(record: number): string {
    checkInteger(record, 'record', 0, this.#count - 1)
    const name = Object.entries(iotlbMessageTypes).find(([, type]) => type === this.#types[record])?.[0] ?? ''
    const range = this.verb(record) === 'batch' ? '' : ` ${this.rangeText(record)}`
    return `${name}${range} of asid ${this.#asids[record]}`
  }

  /** A step's range: `[0x1000, 0x1fff]`. */
  rangeText(step: number): string {
    const at = step * ENTRY_WORDS
    const first = joined(this.#entries, at + EntryWord.firstHigh)
    return showRange({ first, last: joined(this.#entries, at + EntryWord.lastHigh) })
  }

  #add(type: number, entry?: Uint32Array): void {
    const step = this.#count
    if (step === this.#types.length) this.#grow()
    this.#types[step] = type
    this.#asids[step] = this.#asid
    if (entry !== undefined) copyWords(entry, 0, this.#entries, step * ENTRY_WORDS)
    this.#count = step + 1
  }

  /** Takes the batch's beginning away again; at most one step came after it. */
  #dropBatch(): void {
    const from = this.#begin
    this.#writer.drop(from)
    this.#types.copyWithin(from, from + 1, this.#count)
    this.#asids.copyWithin(from, from + 1, this.#count)
    this.#entries.copyWithin(from * ENTRY_WORDS, (from + 1) * ENTRY_WORDS, this.#count * ENTRY_WORDS)
    this.#count--
  }

  #write(step: number, type: number, writer: MessageWriter): void {
    const asid = this.#asids[step] as number
    if (type === VHOST_IOTLB_BATCH_BEGIN) writer.batchBegin(asid)
    else if (type === VHOST_IOTLB_BATCH_END) writer.batchEnd(asid)
    else {
      this.read(step, scratch)
      if (type === VHOST_IOTLB_UPDATE) writer.update(asid, scratch)
      else writer.invalidate(asid, scratch)
    }
  }

  #grow(): void {
    const [types, asids, entries] = [this.#types, this.#asids, this.#entries]
    this.#types = new Uint8Array(types.length * 2)
    this.#asids = new Uint32Array(types.length * 2)
    this.#entries = new Uint32Array(entries.length * 2)
    this.#types.set(types)
    this.#asids.set(asids)
    this.#entries.set(entries)
  }
}

const scratch = new Uint32Array(ENTRY_WORDS)

/** An entry. Eight stores take less time than a subarray and set(). */
function copyWords(from: Uint32Array, at: number, to: Uint32Array, toAt: number): void {
  for (let word = 0; word < ENTRY_WORDS; word++) to[toAt + word] = from[at + word] as number
}

function inverse(type: number): number {
  if (type === VHOST_IOTLB_UPDATE) return VHOST_IOTLB_INVALIDATE
  if (type === VHOST_IOTLB_INVALIDATE) return VHOST_IOTLB_UPDATE
  return type === VHOST_IOTLB_BATCH_BEGIN ? VHOST_IOTLB_BATCH_END : VHOST_IOTLB_BATCH_BEGIN
}

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
