// Keeps an address space equal to a table of guest memory while the table changes: what was mapped, what is wanted now, and the difference as a plan.

import { checkFunction, typeError } from '../base/checks.js'
import type { Closeable } from '../base/closeable.js'
import { callUnasked, ProgramCalls } from '../base/program-calls.js'
import { ENTRY_WORDS, EntryWord } from '../iotlb/entry-leaves.js'
import { IntervalTable } from '../iotlb/interval-table.js'
import { planChanges, type Plan, type PlanOptions } from '../iotlb/plan.js'
import type { MemoryRegion } from '../memory/memory-region.js'
import { RequestWriter, requestsOf, type MemoryReach, type MemoryTable } from './mapping-request.js'
import type { ChangeOptions } from './send-plan.js'

/** A memory table that tells of its changes, such as `GuestMemory`. */
export interface ChangingMemoryTable extends MemoryTable {
  /** Calls `listener` after each change, until the returned function is called. */
  onChange(listener: () => void): () => void
}

/** How an address space follows a table. */
export interface FollowOptions extends ChangeOptions {
  /** Told of a later change of the table that could not be carried out. Without it such a failure is an unhandled rejection unless settled() is awaited. */
  readonly onError?: (failure: unknown) => void
}

/** What the follower needs of its address space. */
interface FollowerHost {
  /** Carries the plan out, in its turn. */
  readonly run: (options: ChangeOptions) => Promise<void>
  /** Nothing is followed any more. */
  readonly end: () => void
}

/** The address space as the follower sees it. */
interface FollowedSpace {
  readonly asid: number
  readonly pageSize: number
  readonly backend: MemoryReach
  readonly options: PlanOptions
  readonly isMapped: (entry: Uint32Array) => boolean
}

/** What is to be sent, and what to call when it was. */
interface FollowerPlan {
  readonly plan: Plan
  /** The memory of each entry, by its object. */
  readonly regions: readonly MemoryRegion[]
  readonly done: () => void
}

/** An address space that follows a table; AddressSpace.follow() makes it. Closing it unmaps what it had mapped. */
export class MemoryFollower implements Closeable {
  readonly #table: ChangingMemoryTable
  readonly #options: FollowOptions
  readonly #host: FollowerHost
  // The memory of what is mapped and wanted, by the numbers that entries have for it.
  #numbers = new Map<MemoryRegion, number>()
  #regions: MemoryRegion[] = []
  readonly #stopListening: () => void
  #have = new IntervalTable()
  #isStopped = false
  /** The change that waits for its turn; table changes before that are part of it. */
  #waiting: Promise<void> | undefined
  #last: Promise<void> = Promise.resolve()
  #closing: Promise<void> | undefined

  /** @internal Made by AddressSpace.follow(). */
  constructor(table: ChangingMemoryTable, options: FollowOptions, host: FollowerHost) {
    if (typeof table !== 'object' || table === null || typeof table.onChange !== 'function')
      throw typeError('table', 'a memory table that tells of its changes, such as a GuestMemory', table)
    if (typeof options !== 'object' || options === null) throw typeError('options', 'an object', options)
    if (options.onError !== undefined) checkFunction(options.onError, 'onError')
    this.#table = table
    this.#options = options
    this.#host = host
    this.#stopListening = table.onChange(() => this.#onChange())
    // Without it nothing could end: the table is heard no more, and why is said now.
    this.#isStopped = typeof this.#stopListening !== 'function'
    checkFunction(this.#stopListening, 'what table.onChange() returns')
  }

  /** True from close() on, or when the device was closed. */
  get isClosed(): boolean {
    return this.#isStopped
  }

  /** Resolves when every change of the table so far is carried out; rejects when the last of them could not be, and is tried again at the next change. */
  settled(): Promise<void> {
    return this.#last
  }

  /** Stops following, and unmaps what was mapped of the table. What the table's own function threw, which ends the listening, is thrown at the end. */
  close(): Promise<void> {
    this.#closing ??= this.#close()
    return this.#closing
  }

  /** close() */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  /** @internal Maps the table as it is. */
  begin(): Promise<void> {
    return this.#schedule(this.#options)
  }

  /** @internal The address space is closing, and unmaps everything itself. Nobody closed the follower: what the table's function throws is nobody's here. */
  stop(): void {
    this.#end()
    callUnasked(this.#stopListening)
  }

  #end(): void {
    this.#isStopped = true
    this.#host.end()
  }

  /**
   * @internal From what is mapped to what the table has now; nothing once close() was called. `isMapped` says of an entry whether it still is: somebody may
   * have unmapped it.
   */
  plan(space: FollowedSpace): FollowerPlan {
    const { asid, options, isMapped } = space
    this.#waiting = undefined
    this.#have = filtered(this.#have, isMapped)
    const want = this.#isStopped ? new IntervalTable() : this.#wanted(space)
    const plan = planChanges([{ asid, have: this.#have, want }], options)
    return { plan, regions: this.#regions, done: () => this.#keep(want) }
  }

  /** What is mapped now. Memory that is in none of it is not kept: the program may have freed it. */
  #keep(want: IntervalTable): void {
    this.#have = want
    const entry = new Uint32Array(ENTRY_WORDS)
    const before = this.#regions
    const used = new Set<number>()
    for (let at = want.start(); at >= 0; at = want.next(at)) {
      want.read(at, entry)
      used.add(entry[EntryWord.object] as number)
    }
    if (used.size === before.length) return
    this.#numbers = new Map()
    this.#regions = []
    this.#have = filtered(want, (one) => {
      const region = before[one[EntryWord.object] as number]
      if (region !== undefined) one[EntryWord.object] = this.#numberOf(region)
      return true
    })
  }

  #wanted({ pageSize, backend }: FollowedSpace): IntervalTable {
    const want = new IntervalTable()
    const entry = new Uint32Array(ENTRY_WORDS)
    const writer = new RequestWriter(pageSize, backend)
    for (const request of requestsOf(this.#table)) {
      writer.write(request, entry)
      entry[EntryWord.object] = this.#numberOf(writer.region)
      if (!want.insert(entry)) throw new RangeError('the pieces of a memory table may not overlap')
    }
    return want
  }

  #numberOf(region: MemoryRegion): number {
    let number = this.#numbers.get(region)
    if (number === undefined) {
      number = this.#regions.push(region) - 1
      this.#numbers.set(region, number)
    }
    return number
  }

  #onChange(): void {
    if (this.#isStopped || this.#waiting !== undefined) return
    const { onError } = this.#options
    const change = this.#schedule({})
    // Nobody of the program waits for this change: what its listener throws goes to 'uncaughtException'.
    if (onError !== undefined) change.catch((failure: unknown) => callUnasked(() => onError(failure)))
  }

  #schedule(options: ChangeOptions): Promise<void> {
    this.#waiting = this.#host.run(options)
    this.#last = this.#waiting
    return this.#waiting
  }

  async #close(): Promise<void> {
    if (this.#isStopped) return
    this.#end()
    const calls = new ProgramCalls()
    calls.call(this.#stopListening)
    await this.#last.catch(() => undefined)
    await this.#schedule({}).catch((failure: unknown) => calls.keep(failure))
    calls.throwKept()
  }
}

/** A copy of the entries that pass. */
function filtered(table: IntervalTable, passes: (entry: Uint32Array) => boolean): IntervalTable {
  const result = new IntervalTable()
  const entry = new Uint32Array(ENTRY_WORDS)
  for (let at = table.start(); at >= 0; at = table.next(at)) {
    table.read(at, entry)
    if (passes(entry)) result.insert(entry)
  }
  return result
}
