// One address space of a device: the mappings it has, and the changes to them. It keeps its own map, checks a change against it before the kernel is
// asked (the kernel's answer to everything is EFAULT), sends the change as one batch, and undoes what was sent when a piece is refused or canceled.

import { checkBigint, checkFunction, checkObject, checkSignal, typeError } from '../base/checks.js'
import { U64_LAST, type Range } from '../base/ranges.js'
import type { Steps } from '../base/steps.js'
import { ENTRY_WORDS, EntryWord } from '../iotlb/entry-leaves.js'
import { IovaAllocator } from '../iotlb/iova-allocator.js'
import type { MappingSnapshot } from '../iotlb/mapping.js'
import type { MappingChange, MappingSink } from '../iotlb/mapping-sink.js'
import { Plan, type PlanOptions } from '../iotlb/plan.js'
import type { MemoryRegion } from '../memory/memory-region.js'
import { inOrder, onTheSpot, refusal, type DeviceContext } from './context.js'
import {
  checkRegion,
  entryOfRange,
  isWithin,
  rangeOfEntry,
  RequestWriter,
  requestsOf,
  type Mappable,
  type MappingRequest,
  type MapRegionOptions,
  type UnmapRequest,
} from './mapping-request.js'
import { MemoryFollower, type ChangingMemoryTable, type FollowOptions } from './memory-follower.js'
import { sendPlan, type ChangeOptions } from './send-plan.js'
import { SpaceContents, type Mapping } from './space-contents.js'
import { entryLimitError, notMappedError, outsideError, overlapError } from './space-errors.js'
import { spaceSink } from './space-sink.js'

/** What lookup() finds. */
export interface FoundMapping {
  /** The mapping that contains the IOVA. */
  readonly mapping: Mapping
  /** The memory behind it. */
  readonly region: MemoryRegion
  /** Where in the region the IOVA leads to, in bytes. */
  readonly offset: number
}

/** What is to be unmapped, and how our own map lets go of it. */
interface Removal {
  readonly plan: Plan
  readonly detach: () => void
}

/** A program's wish as it is now; what is no object is left for the check to name. */
function copyOf<T>(wish: T): T {
  return typeof wish === 'object' && wish !== null ? { ...wish } : wish
}

/** Changes of the largest plan whose memory is kept for the next one: 0.4 MiB. */
const SPARE_CHANGES = 4096

/**
 * The IOVAs of one address space, and the memory behind them: VdpaDevice.addressSpace() gives it. Every change happens whole or not at all; changes of one
 * device are carried out in the order they were asked for. Memory that is mapped cannot be freed.
 */
export class AddressSpace {
  /** Its number, from 0. */
  readonly asid: number
  readonly #context: DeviceContext
  readonly #contents: SpaceContents
  readonly #allocator: IovaAllocator
  readonly #followers = new Set<MemoryFollower>()
  readonly #entry = new Uint32Array(ENTRY_WORDS)
  readonly #window: Uint32Array
  #spare: Plan | undefined
  #version = 0
  #sink: MappingSink | undefined

  /** @internal Made by VdpaDevice.addressSpace(). */
  constructor(context: DeviceContext, asid: number) {
    const { path, iovaRange: window, pageSize } = context.facts
    this.#context = context
    this.asid = asid
    this.#contents = new SpaceContents(`${path} asid ${asid}`, (region) => this.unmapRegionSync(region))
    this.#window = entryOfRange(window)
    this.#allocator = new IovaAllocator({ window, pageSize, besides: this.#contents })
  }

  /** True once the device is closing. */
  get isClosed(): boolean {
    return this.#context.state.isEnding
  }

  /** How many mappings there are. */
  get size(): number {
    return this.#contents.size
  }

  /**
   * Maps one piece, several, or a guest's whole memory, in one batch: all of it or, after a failure or a cancel, none of it.
   *
   * Refused before the kernel is asked: ERR_VDPA_OVERLAP (naming the mapping), ERR_VDPA_IOVA_RANGE, ERR_VDPA_ENTRY_LIMIT, ERR_VDPA_MEMLOCK (where the device
   * is known to pin memory), ERR_VDPA_NOT_SHARED, RangeError with the code ERR_VDPA_ALIGNMENT, ERR_VDPA_CLOSED, ERR_VDPA_CANCELED. Explained after it
   * refused: ERR_VDPA_MEMLOCK, ERR_VDPA_ENTRY_LIMIT, ERR_VDPA_BATCH, ERR_VDPA_REFUSED, each naming the piece. (VHOST_IOTLB_UPDATE)
   */
  async map(what: Mappable, options: ChangeOptions = {}): Promise<void> {
    // What the program does with its objects while the change waits for its turn is not ours to see.
    const requests = Array.from(requestsOf(what), copyOf)
    return inOrder(this.#context, () => this.#mapSteps(requests, options))
  }

  /** map() on the calling thread. */
  mapSync(what: Mappable): void {
    onTheSpot(this.#context, () => this.#mapSteps(requestsOf(what), {}))
  }

  /** Undoes mappings, each named exactly (ERR_VDPA_NOT_MAPPED otherwise, and nothing changes), in one batch. (VHOST_IOTLB_INVALIDATE) */
  async unmap(what: UnmapRequest | readonly UnmapRequest[], options: ChangeOptions = {}): Promise<void> {
    const wanted = Array.isArray(what) ? (what as readonly UnmapRequest[]).map(copyOf) : copyOf(what as UnmapRequest)
    return inOrder(this.#context, () => this.#unmapSteps(() => this.#exactly(wanted), options))
  }

  /** unmap() on the calling thread. */
  unmapSync(what: UnmapRequest | readonly UnmapRequest[]): void {
    onTheSpot(this.#context, () => this.unmapSteps(what))
  }

  /** Undoes every mapping, in one batch. */
  unmapAll(options: ChangeOptions = {}): Promise<void> {
    return inOrder(this.#context, () => this.#unmapSteps(() => this.#everything(), options))
  }

  /** unmapAll() on the calling thread. */
  unmapAllSync(): void {
    onTheSpot(this.#context, () => this.#unmapSteps(() => this.#everything(), {}))
  }

  /** Undoes every mapping of a region, in one batch, so that it can be closed. */
  unmapRegion(region: MemoryRegion, options: ChangeOptions = {}): Promise<void> {
    // Chosen in its turn: a map that waits before it is undone as well.
    const choose = () => this.#exactly(this.#contents.mappingsOf(region))
    return inOrder(this.#context, () => this.#unmapSteps(choose, options))
  }

  /** unmapRegion() on the calling thread. */
  unmapRegionSync(region: MemoryRegion): void {
    this.unmapSync(this.#contents.mappingsOf(region))
  }

  /**
   * Maps a whole region at an address of this space's choosing, away from guest memory that may grow upwards from 0: the highest that is free and not
   * reserved. Returns the IOVA. ERR_VDPA_NO_SPACE when there is none; else as map().
   */
  async mapRegion(region: MemoryRegion, options: MapRegionOptions = {}): Promise<bigint> {
    if (typeof options !== 'object' || options === null) throw typeError('options', 'an object', options)
    const wish = { ...options }
    return inOrder(this.#context, () => this.mapRegionSteps(region, wish))
  }

  /** mapRegion() on the calling thread. */
  mapRegionSync(region: MemoryRegion, options: MapRegionOptions = {}): bigint {
    return onTheSpot(this.#context, () => this.mapRegionSteps(region, options))
  }

  /** Keeps mapRegion() away from `size` bytes at `iova`, such as where guest memory may be plugged in later. ERR_VDPA_OVERLAP with another reservation. */
  reserve(iova: bigint, size: bigint | number): void {
    checkBigint(iova, 'iova')
    this.#allocator.reserve(iova, size)
  }

  /** Gives a reservation back, named exactly. ERR_VDPA_NOT_MAPPED when there is none. */
  unreserve(iova: bigint, size: bigint | number): void {
    checkBigint(iova, 'iova')
    this.#allocator.free(iova, size)
  }

  /** Maps a guest's memory and keeps following its table, each change as one batch of the difference. Resolves when it is mapped as it is now. Errors as map(). */
  async follow(table: ChangingMemoryTable, options: FollowOptions = {}): Promise<MemoryFollower> {
    const follower: MemoryFollower = new MemoryFollower(table, options, {
      run: (change) => this.#context.serial.run(() => this.#followSteps(follower, change)),
      end: () => this.#followers.delete(follower),
    })
    this.#followers.add(follower)
    try {
      await follower.begin()
    } catch (failure) {
      await follower.close()
      throw failure
    }
    return follower
  }

  /** Every mapping, in the order of addresses. */
  get mappings(): Mapping[] {
    return this.#contents.mappings()
  }

  /** Every mapping as plain data, in the order of addresses. */
  snapshot(): MappingSnapshot[] {
    return this.#contents.snapshot()
  }

  /** The mapping that contains an IOVA, and where in its region the IOVA leads to; undefined when there is none. */
  lookup(iova: bigint): FoundMapping | undefined {
    checkBigint(iova, 'iova')
    if (iova < 0n || iova > U64_LAST) return undefined
    const mapping = this.#contents.find(iova)
    if (mapping === undefined) return undefined
    return { mapping, region: mapping.region, offset: mapping.offset + Number(iova - mapping.iova) }
  }

  /** The same space for a feeder, such as an endpoint of a VirtioIommu: its changes come in the device's order, among those that are made here. One object. */
  get sink(): MappingSink {
    if (this.#sink !== undefined) return this.#sink
    const steps = (changes: readonly MappingChange[]) => this.batchSteps(changes)
    const find = (range: Range) => this.#contents.exactly(range)
    return (this.#sink = spaceSink(this.#context, this.asid, steps, find))
  }

  /** `asid 1 of /dev/vhost-vdpa-0 (3 mappings)` */
  toString(): string {
    return `asid ${this.asid} of ${this.#context.facts.path} (${this.size} mappings)`
  }

  /** @internal mapRegion() as part of a procedure of the device. */
  *mapRegionSteps(region: MemoryRegion, options: MapRegionOptions): Steps<bigint> {
    checkObject(options, 'options')
    checkRegion(region)
    const { iova, align, access = 'rw' } = options
    const place = iova ?? this.#allocator.highest(region.length, align === undefined ? {} : { align })
    yield* this.#mapSteps([{ iova: place, region, access }], {})
    return place
  }

  /** @internal map() as part of a procedure of the device. */
  mapSteps(requests: readonly MappingRequest[]): Steps<void> {
    return this.#mapSteps(requests, {})
  }

  /** @internal unmap() as part of a procedure of the device. */
  unmapSteps(what: UnmapRequest | readonly UnmapRequest[]): Steps<void> {
    return this.#unmapSteps(() => this.#exactly(what), {})
  }

  /** @internal A feeder's changes as one plan, what goes before what comes. */
  *batchSteps(changes: readonly MappingChange[]): Steps<void> {
    const gone: UnmapRequest[] = []
    const come: MappingRequest[] = []
    for (const change of changes) {
      if (change.verb === 'unmap') {
        const { first, last } = change.range
        gone.push({ iova: first, size: last - first + 1n })
      } else {
        const { iova, slice, access } = change
        come.push({ iova, region: slice.region, offset: slice.offset, size: slice.size, access })
      }
    }
    const plan = this.#newPlan(changes.length)
    plan.begin(this.asid)
    this.#planExactly(plan, gone)
    this.#checkLimit(come.length - gone.length)
    this.#contents.detach(plan)
    this.#enter(plan, come)
    plan.end()
    yield* this.#send(plan, {})
  }

  /** @internal After a reset: what a parent driver may have forgotten is sent again, unless IOTLB_PERSIST says that it forgets nothing. */
  *replaySteps(): Steps<void> {
    if (this.size === 0 || this.#context.backendFeatures.has('VHOST_BACKEND_F_IOTLB_PERSIST')) return
    yield* this.#replaySteps()
  }

  /** @internal close() of the device was called: followers stop. */
  stopFollowing(): void {
    for (const follower of [...this.#followers]) follower.stop()
  }

  /** @internal The device is closing: unmaps everything. A device that is gone takes no messages, and an address space that no message can name has none. */
  *closeSteps(): Steps<void> {
    if (this.size === 0 || this.#context.state.phase === 'lost') return
    yield* this.#unmapSteps(() => this.#everything(), {})
  }

  /** @internal The node is closed: nothing is mapped any more, whatever went wrong before. */
  release(): void {
    this.#contents.clear()
  }

  /** @internal Another number after each change. */
  get version(): number {
    return this.#version
  }

  *#send(plan: Plan, options: ChangeOptions): Steps<void> {
    this.#version++
    yield* sendPlan(this.#context, this.asid, this.#contents, plan, options)
  }

  *#mapSteps(requests: readonly MappingRequest[], options: ChangeOptions): Steps<void> {
    this.#checkChange(options)
    const plan = this.#newPlan(requests.length)
    plan.begin(this.asid)
    this.#enter(plan, requests)
    plan.end()
    yield* this.#send(plan, options)
  }

  /** Puts every request into our own map and the plan, or none of them: this is where overlap, range and limits are found out. */
  #enter(plan: Plan, requests: readonly MappingRequest[]): void {
    const window = this.#window
    const entry = this.#entry
    const contents = this.#contents
    const writer = new RequestWriter(this.#context.facts.pageSize, this.#context.backend)
    this.#checkLimit(requests.length)
    try {
      for (let at = 0; at < requests.length; at++) {
        const request = requests[at] as MappingRequest
        writer.write(request, entry)
        if (!isWithin(entry, window)) throw outsideError(this.#context, rangeOfEntry(entry))
        // What was written is what is held, whatever the request says when it is asked again.
        if (!contents.add(entry, writer.region)) throw this.#overlap(entry)
        plan.update(entry)
      }
    } catch (failure) {
      contents.settle(plan, 0)
      throw failure
    }
  }

  *#unmapSteps(choose: () => Removal, options: ChangeOptions): Steps<void> {
    this.#checkChange(options)
    const { plan, detach } = choose()
    detach()
    yield* this.#send(plan, options)
  }

  *#replaySteps(): Steps<void> {
    const contents = this.#contents
    const plan = this.#newPlan(2 * this.size)
    plan.begin(this.asid)
    contents.planRemoval(plan)
    contents.each((entry) => plan.update(entry))
    plan.end()
    contents.replan(plan)
    yield* this.#send(plan, {})
  }

  /** What leads from what a follower had mapped to what its table has now. */
  *#followSteps(follower: MemoryFollower, options: ChangeOptions): Steps<void> {
    this.#checkChange(options)
    const contents = this.#contents
    const { facts, backend } = this.#context
    const { pageSize } = facts
    const isMapped = (entry: Uint32Array) => contents.hasExactly(entry)
    const space = { asid: this.asid, pageSize, backend, options: this.#planOptions(), isMapped }
    const { plan, regions, done } = follower.plan(space)
    contents.identify(plan)
    contents.detach(plan)
    this.#enterPlanned(plan, regions)
    yield* this.#send(plan, options)
    done()
  }

  #enterPlanned(plan: Plan, regions: readonly MemoryRegion[]): void {
    const entry = this.#entry
    let step = 0
    try {
      for (; step < plan.count; step++) {
        if (plan.verb(step) !== 'update') continue
        plan.read(step, entry)
        const region = regions[entry[EntryWord.object] as number]
        if (region === undefined) throw new Error('a piece without a region')
        if (!isWithin(entry, this.#window)) throw outsideError(this.#context, rangeOfEntry(entry))
        this.#checkLimit(1)
        if (!this.#contents.add(entry, region)) throw this.#overlap(entry)
        plan.complete(step, entry)
      }
    } catch (failure) {
      this.#contents.settle(plan, 0, step)
      throw failure
    }
  }

  #exactly(what: UnmapRequest | readonly UnmapRequest[]): Removal {
    const wanted: readonly UnmapRequest[] = Array.isArray(what) ? what : [what]
    const plan = this.#newPlan(wanted.length)
    plan.begin(this.asid)
    this.#planExactly(plan, wanted)
    plan.end()
    return { plan, detach: () => this.#contents.detach(plan) }
  }

  #planExactly(plan: Plan, wanted: readonly UnmapRequest[]): void {
    const seen = wanted.length > 1 ? new Set<string>() : undefined
    const entry = this.#entry
    for (const wish of wanted) {
      if (typeof wish !== 'object' || wish === null) throw typeError('what', 'a mapping, or an array of mappings', wish)
      const { iova, size } = wish
      checkBigint(iova, 'iova')
      checkBigint(size, 'size')
      const isAddress = iova >= 0n && iova <= U64_LAST
      // What may still be there can begin where another mapping does.
      const key = seen && `${iova} ${size}`
      const isTwice = key !== undefined && seen?.has(key) === true
      if (!isAddress || isTwice || !this.#contents.findExactly({ first: iova, last: iova + size - 1n }, entry)) {
        const found = isAddress ? this.#contents.find(iova) : undefined
        throw notMappedError(this.#context, this.asid, { iova, size, isTwice }, found)
      }
      if (key !== undefined) seen?.add(key)
      plan.invalidate(entry)
    }
  }

  #everything(): Removal {
    const plan = this.#newPlan(this.size)
    plan.begin(this.asid)
    this.#contents.planRemoval(plan)
    plan.end()
    return { plan, detach: () => this.#contents.detachAll() }
  }

  /** An empty plan with room for `changes` in a batch: the one of the last time where it is large enough, because changes come one at a time. */
  #newPlan(changes: number): Plan {
    const options = this.#planOptions()
    const spare = this.#spare
    if (spare !== undefined && spare.capacity >= changes + 2) {
      spare.clear()
      return spare
    }
    const plan = new Plan(options, changes + 2)
    if (changes <= SPARE_CHANGES) this.#spare = plan
    return plan
  }

  #planOptions(): PlanOptions {
    const { backendFeatures, facts } = this.#context
    const hasV2 = backendFeatures.has('VHOST_BACKEND_F_IOTLB_MSG_V2')
    if (this.asid !== 0 && !(hasV2 && backendFeatures.has('VHOST_BACKEND_F_IOTLB_ASID'))) {
      const text = `asid ${this.asid} needs the backend features IOTLB_MSG_V2 and IOTLB_ASID: the kernel would map in asid 0`
      throw refusal(this.#context, 'ERR_VDPA_NOT_SUPPORTED', text)
    }
    return {
      version: hasV2 ? 2 : 1,
      batch: backendFeatures.has('VHOST_BACKEND_F_IOTLB_BATCH'),
      // The kernel waits for the program's answer, for a mapping that stands alone with the table of this process's memory locked: where the program is a thread
      // of this very process, it can map and unmap nothing then. The end of a batch waits without the lock.
      isAloneBatch: facts.isServedByProgram,
    }
  }

  #checkChange(options: ChangeOptions): void {
    checkObject(options, 'options')
    const { signal, onProgress } = options
    checkSignal(signal)
    if (onProgress !== undefined) checkFunction(onProgress, 'onProgress')
    if (signal?.aborted === true) throw refusal(this.#context, 'ERR_VDPA_CANCELED', 'canceled before anything was sent')
  }

  #checkLimit(more: number): void {
    const limit = this.#context.backend.iotlbEntryLimit
    if (limit !== undefined && this.size + more > limit)
      throw entryLimitError(this.#context, this.asid, { has: this.size, more, limit })
  }

  #overlap(entry: Uint32Array): Error {
    const range = rangeOfEntry(entry)
    const other = this.#contents.firstOverlap(range.first, range.last) ?? range
    return overlapError(this.#context, this.asid, range, other)
  }
}
