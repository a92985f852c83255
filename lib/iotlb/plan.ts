// From the mappings that address spaces have to those they should have: the fewest IOTLB messages in the right order, and for each point where
// sending them may stop, the messages that lead back. It sends nothing and changes no table.

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

/**
 * Plans the changes, one address space after the other: messages of two never mix, because a batch takes only its own (EFAULT otherwise). In each,
 * what is not wanted as it is goes first, exactly as it was mapped, then comes what is new; several messages are a batch where the device knows
 * batches. An entry of the whole 2^64, which no message can say, is two halves. RangeError for an asid that version 1 cannot say.
 */
export function planChanges(changes: readonly SpaceChange[], options: PlanOptions): Plan {
  const steps = new Steps()
  for (const { asid, have, want } of changes) {
    checkInteger(asid, 'asid', 0, options.version === 1 ? 0 : LAST)
    const begin = steps.count
    if (options.batch) steps.add(VHOST_IOTLB_BATCH_BEGIN, asid)
    const from = steps.count
    eachOnlyIn(have, want, (entry) => steps.add(VHOST_IOTLB_INVALIDATE, asid, entry))
    eachOnlyIn(want, have, (entry) => steps.add(VHOST_IOTLB_UPDATE, asid, entry))
    const added = steps.count - from
    if (options.batch && added > 1) steps.add(VHOST_IOTLB_BATCH_END, asid)
    else if (options.batch) steps.dropBatch(begin)
  }
  return new Plan(steps, options)
}

/** Messages to send, in order, as records for `writeEach`. */
export class Plan {
  readonly #steps: Steps
  readonly #options: PlanOptions

  /** @internal planChanges() makes plans. */
  constructor(steps: Steps, options: PlanOptions) {
    this.#steps = steps
    this.#options = options
  }

  /** Records. 0: nothing has to change. */
  get count(): number {
    return this.#steps.count
  }

  /** The records, RECORD_BYTES each. */
  records(): Uint8Array {
    const writer = new MessageWriter(this.#options.version, this.count)
    for (let step = 0; step < this.count; step++) this.#steps.write(step, this.#steps.type(step), writer)
    return writer.bytes
  }

  /**
   * The records that lead back to what was there before, when the first `completed` records were accepted and no more: newest first, inside the
   * batch that was left open and with its end, then each earlier address space in a batch of its own.
   */
  undo(completed: number): Uint8Array {
    checkInteger(completed, 'completed', 0, this.count)
    const writer = new MessageWriter(this.#options.version, completed + 1)
    for (let step = completed - 1; step >= 0; step--) this.#steps.write(step, inverse(this.#steps.type(step)), writer)
    return writer.bytes
  }

  /** A record in words, for the sentence that says which one was refused: `VHOST_IOTLB_UPDATE [0x1000, 0x1fff] of asid 0`. */
  describe(record: number): string {
    checkInteger(record, 'record', 0, this.count - 1)
    return this.#steps.describe(record)
  }
}

function inverse(type: number): number {
  if (type === VHOST_IOTLB_UPDATE) return VHOST_IOTLB_INVALIDATE
  if (type === VHOST_IOTLB_INVALIDATE) return VHOST_IOTLB_UPDATE
  return type === VHOST_IOTLB_BATCH_BEGIN ? VHOST_IOTLB_BATCH_END : VHOST_IOTLB_BATCH_BEGIN
}

/** Messages in flat columns: type, asid, and the whole entry, so that an invalidation can be turned back into the update it undid. */
class Steps {
  count = 0
  #types = new Uint8Array(8)
  #asids = new Uint32Array(8)
  #entries = new Uint32Array(8 * ENTRY_WORDS)

  add(type: number, asid: number, entry?: Uint32Array): void {
    if (this.count === this.#types.length) this.#grow()
    this.#types[this.count] = type
    this.#asids[this.count] = asid
    if (entry !== undefined) this.#entries.set(entry, this.count * ENTRY_WORDS)
    this.count++
  }

  /** Takes the BATCH_BEGIN at `step` away again; at most one step came after it. */
  dropBatch(step: number): void {
    this.#types.copyWithin(step, step + 1, this.count)
    this.#asids.copyWithin(step, step + 1, this.count)
    this.#entries.copyWithin(step * ENTRY_WORDS, (step + 1) * ENTRY_WORDS, this.count * ENTRY_WORDS)
    this.count--
  }

  type(step: number): number {
    return this.#types[step] as number
  }

  /** Writes a step's message, as `type`. */
  write(step: number, type: number, writer: MessageWriter): void {
    const asid = this.#asids[step] as number
    if (type === VHOST_IOTLB_BATCH_BEGIN) writer.batchBegin(asid)
    else if (type === VHOST_IOTLB_BATCH_END) writer.batchEnd(asid)
    else if (type === VHOST_IOTLB_UPDATE) writer.update(asid, this.#entry(step))
    else writer.invalidate(asid, this.#entry(step))
  }

  describe(step: number): string {
    const name = Object.entries(iotlbMessageTypes).find(([, type]) => type === this.type(step))?.[0] ?? ''
    const isBatch = this.type(step) === VHOST_IOTLB_BATCH_BEGIN || this.type(step) === VHOST_IOTLB_BATCH_END
    const entry = this.#entry(step)
    const first = joined(entry, EntryWord.firstHigh)
    const range = isBatch ? '' : ` ${showRange({ first, last: joined(entry, EntryWord.lastHigh) })}`
    return `${name}${range} of asid ${this.#asids[step]}`
  }

  #entry(step: number): Uint32Array {
    return this.#entries.subarray(step * ENTRY_WORDS, (step + 1) * ENTRY_WORDS)
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
