// One address space of a device: the mappings it has, and the changes to them. It keeps its own map, checks a change against it before the kernel is
// asked (the kernel's answer to everything is EFAULT), sends the change as one batch, and undoes what was sent when a piece is refused or canceled.

import { rangeError, typeError } from '../base/checks.js'
import type { VdpaError } from '../base/errors.js'
import { contains, showRange, type Range } from '../base/ranges.js'
import { sleeping, type Steps } from '../base/steps.js'
import type { WriteEachFailure, WriteEachOptions } from '../backend/backend.js'
import { IntervalTable } from '../iotlb/interval-table.js'
import type { MemoryRegion } from '../memory/memory-region.js'
import { checkOpen, refusal, type DeviceContext } from './context.js'
import { explainRefusal } from './explain.js'
import { accessOf, PIECE_WORDS, RecordWriter, writePiece, type Access, type MappingRequest } from './mapping-records.js'
import { RegionBook } from './region-book.js'

/** A mapping that an address space has, as plain data beside its region. */
export interface Mapping {
  readonly iova: bigint
  /** Bytes. */
  readonly size: bigint
  readonly access: Access
  readonly region: MemoryRegion
  /** Bytes into the region. */
  readonly offset: number
}

/** Memory that comes in pieces, such as a guest's: each is mapped at its guest-physical address. */
export interface MemoryTable {
  pieces(): Iterable<{
    readonly address: bigint
    readonly region: MemoryRegion
    readonly offset: number
    readonly size: number
  }>
}

/** How far a whole-memory change has come. */
export interface MapProgress {
  readonly entries: number
  readonly totalEntries: number
}

export interface ChangeOptions {
  /** Stops between two messages: what was sent is undone, and ERR_VDPA_CANCELED is thrown. */
  readonly signal?: AbortSignal
  readonly onProgress?: (progress: MapProgress) => void
}

/** The wish to undo exactly one mapping. */
export interface UnmapRequest {
  readonly iova: bigint
  /** Bytes, exactly as mapped. */
  readonly size: bigint
}

type Mappable = MappingRequest | readonly MappingRequest[] | MemoryTable

export class AddressSpace {
  readonly asid: number
  readonly #context: DeviceContext
  readonly #table = new IntervalTable()
  readonly #book: RegionBook
  #isClosed = false

  /** @internal Made by VdpaDevice.addressSpace(). */
  constructor(context: DeviceContext, asid: number) {
    this.#context = context
    this.asid = asid
    this.#book = new RegionBook(`${context.facts.path} asid ${asid}`)
  }

  get isClosed(): boolean {
    return this.#isClosed
  }

  /** How many mappings there are. */
  get size(): number {
    return this.#table.size
  }

  /**
   * Maps one piece, several, or a guest's whole memory, in one batch: all of it or, after a failure or a cancel, none of it.
   *
   * Refused before the kernel is asked: ERR_VDPA_OVERLAP (naming the mapping), ERR_VDPA_IOVA_RANGE, ERR_VDPA_ENTRY_LIMIT, RangeError with the code
   * ERR_VDPA_ALIGNMENT, ERR_VDPA_CLOSED. Explained after it refused: ERR_VDPA_MEMLOCK, ERR_VDPA_ENTRY_LIMIT, ERR_VDPA_REFUSED. (IOTLB UPDATE)
   */
  map(what: Mappable, options: ChangeOptions = {}): Promise<void> {
    return this.#context.serial.run(() => this.#mapSteps(what, options))
  }

  /** map() on the calling thread. */
  mapSync(what: Mappable): void {
    this.#context.serial.runSync(() => this.#mapSteps(what, {}))
  }

  /** Undoes mappings, each named exactly (ERR_VDPA_NOT_MAPPED otherwise, and nothing changes), in one batch. (IOTLB INVALIDATE) */
  unmap(what: UnmapRequest | readonly UnmapRequest[], options: ChangeOptions = {}): Promise<void> {
    return this.#context.serial.run(() =>
      this.#unmapSteps(() => this.#exactPieces(Array.isArray(what) ? what : [what]), options),
    )
  }

  /** unmap() on the calling thread. */
  unmapSync(what: UnmapRequest | readonly UnmapRequest[]): void {
    this.#context.serial.runSync(() =>
      this.#unmapSteps(() => this.#exactPieces(Array.isArray(what) ? what : [what]), {}),
    )
  }

  /** Undoes every mapping. */
  unmapAll(options: ChangeOptions = {}): Promise<void> {
    return this.#context.serial.run(() => this.#unmapSteps(() => this.#allPieces(), options))
  }

  unmapAllSync(): void {
    this.#context.serial.runSync(() => this.#unmapSteps(() => this.#allPieces(), {}))
  }

  /** Maps a whole region at an address of this space's choosing: the highest that is free. Returns the IOVA. ERR_VDPA_NO_SPACE when there is none. */
  async mapRegion(
    region: MemoryRegion,
    options: { readonly iova?: bigint; readonly access?: Access } = {},
  ): Promise<bigint> {
    return this.#context.serial.run(() => this.#mapRegionSteps(region, options))
  }

  *#mapRegionSteps(region: MemoryRegion, options: { readonly iova?: bigint; readonly access?: Access }): Steps<bigint> {
    const iova = options.iova ?? this.#freeIova(region.length)
    yield* this.#mapSteps({ iova, region, access: options.access ?? 'rw' }, {})
    return iova
  }

  /** Every mapping, in the order of addresses. */
  get mappings(): Mapping[] {
    const result: Mapping[] = []
    for (let at = this.#table.start(); at >= 0; at = this.#table.next(at)) result.push(this.#mappingAt(at))
    return result
  }

  /** The mapping that contains an IOVA, and where in its region the IOVA lies; undefined when there is none. */
  lookup(
    iova: bigint,
  ): { readonly mapping: Mapping; readonly region: MemoryRegion; readonly offset: number } | undefined {
    if (typeof iova !== 'bigint') throw typeError('iova', 'a bigint', iova)
    const at = this.#table.find(Number(iova >> 32n), Number(iova & 0xffff_ffffn))
    if (at < 0) return undefined
    const mapping = this.#mappingAt(at)
    return { mapping, region: mapping.region, offset: mapping.offset + Number(iova - mapping.iova) }
  }

  toString(): string {
    return `asid ${this.asid} of ${this.#context.facts.path} (${this.size} mappings)`
  }

  /** @internal After a reset: what a parent driver may have forgotten is sent again, unless IOTLB_PERSIST says that it forgets nothing. */
  async replay(): Promise<void> {
    if (this.#table.size === 0 || this.#context.backendFeatures.has('VHOST_BACKEND_F_IOTLB_PERSIST')) return
    await this.#context.serial.run(() => this.#replaySteps())
  }

  /** @internal replay() on the calling thread. */
  replaySync(): void {
    if (this.#table.size === 0 || this.#context.backendFeatures.has('VHOST_BACKEND_F_IOTLB_PERSIST')) return
    this.#context.serial.runSync(() => this.#replaySteps())
  }

  /** @internal Unmaps everything; the device is closing. */
  async close(): Promise<void> {
    this.#isClosed = true
    await this.#context.serial.run(() => this.#unmapSteps(() => this.#allPieces(), {}))
  }

  /** @internal close() on the calling thread. */
  closeSync(): void {
    this.#isClosed = true
    this.#context.serial.runSync(() => this.#unmapSteps(() => this.#allPieces(), {}))
  }

  /** @internal The node is closed: nothing is mapped any more, whatever went wrong before. */
  release(): void {
    this.#table.clear()
    this.#book.clear()
  }

  *#mapSteps(what: Mappable, options: ChangeOptions): Steps<void> {
    checkOpen(this.#context)
    throwIfAborted(this.#context, options.signal)
    const pieces = this.#enter(requestsOf(what))
    const count = pieces.length / PIECE_WORDS
    if (count === 0) return
    const records = this.#writer(count + 2)
    const isBatch = this.#begin(records, count)
    for (let at = 0; at < count; at++) records.update(pieceAt(pieces, at))
    if (isBatch) records.batchEnd()
    try {
      yield* this.#send(records, count, options)
    } catch (failure) {
      const accepted = Math.min(Math.max(completedOf(failure) - (isBatch ? 1 : 0), 0), count)
      const { pinned } = this.#context.backend.memlock()
      const entries = this.#table.size - (count - accepted)
      yield* this.#undoMap(pieces, accepted, isBatch && completedOf(failure) > 0)
      throw this.#explain(failure, pieces, accepted, { pinned, entries })
    }
  }

  /** Puts every piece into our own map, or none of them: this is where overlap, range and limits are found out. */
  #enter(requests: readonly MappingRequest[]): Uint32Array {
    const pieces = new Uint32Array(requests.length * PIECE_WORDS)
    const limit = this.#context.backend.iotlbEntryLimit
    let entered = 0
    try {
      if (limit !== undefined && this.#table.size + requests.length > limit) throw this.#tooMany(requests.length, limit)
      for (const request of requests) {
        const piece = pieceAt(pieces, entered)
        writePiece(request, this.#context.facts.pageSize, 0, piece)
        this.#checkRange(piece)
        piece[7] = this.#book.use(request.region)
        if (!this.#table.insert(piece)) {
          this.#book.drop(piece[7])
          throw this.#overlap(piece)
        }
        entered++
      }
      return pieces
    } catch (failure) {
      this.#leave(pieces, entered)
      throw failure
    }
  }

  /** Takes the first `count` pieces out of our own map. */
  #leave(pieces: Uint32Array, count: number): void {
    for (let at = 0; at < count; at++) {
      const piece = pieceAt(pieces, at)
      this.#table.remove(piece[0] as number, piece[1] as number, piece[2] as number, piece[3] as number)
      this.#book.drop(piece[7] as number)
    }
  }

  *#undoMap(pieces: Uint32Array, accepted: number, isBatchOpen: boolean): Steps<void> {
    const records = this.#writer(accepted + 1)
    for (let at = 0; at < accepted; at++) records.invalidate(pieceAt(pieces, at))
    if (isBatchOpen) records.batchEnd()
    try {
      yield* this.#send(records, accepted, {})
    } catch {
      // The device is gone or broken: closing the node undoes what this could not.
    }
    this.#leave(pieces, pieces.length / PIECE_WORDS)
  }

  *#unmapSteps(choose: () => Uint32Array, options: ChangeOptions): Steps<void> {
    if (!this.#isClosed) checkOpen(this.#context)
    throwIfAborted(this.#context, options.signal)
    const pieces = choose()
    const count = pieces.length / PIECE_WORDS
    if (count === 0) return
    const records = this.#writer(count + 2)
    const isBatch = this.#begin(records, count)
    for (let at = 0; at < count; at++) records.invalidate(pieceAt(pieces, at))
    if (isBatch) records.batchEnd()
    try {
      yield* this.#send(records, count, options)
    } catch (failure) {
      const removed = Math.min(Math.max(completedOf(failure) - (isBatch ? 1 : 0), 0), count)
      yield* this.#restore(pieces, removed, isBatch && completedOf(failure) > 0)
      throw failure
    }
    this.#leave(pieces, count)
  }

  /** Maps again what an unmap that did not end had taken away. */
  *#restore(pieces: Uint32Array, removed: number, isBatchOpen: boolean): Steps<void> {
    const records = this.#writer(removed + 1)
    for (let at = 0; at < removed; at++) records.update(pieceAt(pieces, at))
    if (isBatchOpen) records.batchEnd()
    try {
      yield* this.#send(records, removed, {})
    } catch {
      this.#leave(pieces, removed)
    }
  }

  *#replaySteps(): Steps<void> {
    const pieces = this.#allPieces()
    const count = pieces.length / PIECE_WORDS
    const records = this.#writer(2 * count + 2)
    const isBatch = this.#begin(records, 2 * count)
    for (let at = 0; at < count; at++) records.invalidate(pieceAt(pieces, at))
    for (let at = 0; at < count; at++) records.update(pieceAt(pieces, at))
    if (isBatch) records.batchEnd()
    yield* this.#send(records, 2 * count, {})
  }

  *#send(records: RecordWriter, total: number, options: ChangeOptions): Steps<void> {
    const { transport } = this.#context
    const { bytes } = records
    if (bytes.byteLength === 0) return
    const { signal, onProgress } = options
    const writeOptions: WriteEachOptions = {
      ...(signal === undefined ? {} : { signal }),
      ...(onProgress === undefined
        ? {}
        : {
            onProgress: (completed: number) => onProgress({ entries: Math.min(completed, total), totalEntries: total }),
          }),
    }
    yield* sleeping({
      now: () => transport.writeIotlb(bytes),
      later: () => transport.writeIotlbAsync(bytes, writeOptions),
    })
  }

  /** Opens a batch when it pays and the kernel knows batches. */
  #begin(records: RecordWriter, count: number): boolean {
    const isBatch = count > 1 && this.#context.backendFeatures.has('VHOST_BACKEND_F_IOTLB_BATCH')
    if (isBatch) records.batchBegin()
    return isBatch
  }

  #writer(capacity: number): RecordWriter {
    const hasV2 = this.#context.backendFeatures.has('VHOST_BACKEND_F_IOTLB_MSG_V2')
    const hasAsid = this.#context.backendFeatures.has('VHOST_BACKEND_F_IOTLB_ASID')
    if (this.asid !== 0 && !(hasV2 && hasAsid)) {
      throw refusal(
        this.#context,
        'ERR_VDPA_NOT_SUPPORTED',
        `asid ${this.asid} needs the backend features IOTLB_MSG_V2 and IOTLB_ASID: the kernel would map in asid 0`,
      )
    }
    return new RecordWriter(hasV2 ? 2 : 1, this.asid, capacity)
  }

  #exactPieces(wanted: readonly UnmapRequest[]): Uint32Array {
    const pieces = new Uint32Array(wanted.length * PIECE_WORDS)
    const seen = new Set<bigint>()
    for (const [index, { iova, size }] of wanted.entries()) {
      if (typeof iova !== 'bigint') throw typeError('iova', 'a bigint', iova)
      if (typeof size !== 'bigint') throw typeError('size', 'a bigint', size)
      const at = this.#table.find(Number(BigInt.asUintN(64, iova) >> 32n), Number(iova & 0xffff_ffffn))
      const mapping = at < 0 ? undefined : this.#mappingAt(at)
      if (mapping === undefined || mapping.iova !== iova || mapping.size !== size || seen.has(iova)) {
        throw this.#notMapped(iova, size, mapping, seen.has(iova))
      }
      seen.add(iova)
      this.#table.read(at, pieceAt(pieces, index))
    }
    return pieces
  }

  #allPieces(): Uint32Array {
    const pieces = new Uint32Array(this.#table.size * PIECE_WORDS)
    for (let at = this.#table.start(), index = 0; at >= 0; at = this.#table.next(at), index++)
      this.#table.read(at, pieceAt(pieces, index))
    return pieces
  }

  #mappingAt(at: number): Mapping {
    const piece = new Uint32Array(PIECE_WORDS)
    this.#table.read(at, piece)
    const { first, last } = rangeOfPiece(piece)
    const region = this.#book.region(piece[7] as number)
    if (region === undefined) throw new Error(`asid ${this.asid} has a mapping of memory that it does not know`)
    const uaddr = joined(piece, 4)
    return {
      iova: first,
      size: last - first + 1n,
      access: accessOf(piece[6] as number),
      region,
      offset: Number(uaddr - region.address),
    }
  }

  /** The highest free place for `length` bytes, away from guest memory that may grow upwards from 0. The very last page is left out. */
  #freeIova(length: number): bigint {
    const { iovaRange, pageSize } = this.#context.facts
    const page = BigInt(pageSize)
    const bytes = ((BigInt(length) + page - 1n) / page) * page
    let best: bigint | undefined
    let gapFirst = iovaRange.first < page ? page : iovaRange.first
    const consider = (gapLast: bigint) => {
      const place = ((gapLast + 1n - bytes) / page) * page
      if (gapLast + 1n >= bytes && place >= gapFirst) best = place
    }
    for (let at = this.#table.start(); at >= 0; at = this.#table.next(at)) {
      const { iova, size } = this.#mappingAt(at)
      if (iova > gapFirst) consider(iova - 1n)
      if (iova + size > gapFirst) gapFirst = iova + size
    }
    if (iovaRange.last - page > gapFirst) consider(iovaRange.last - page)
    if (best === undefined)
      throw refusal(this.#context, 'ERR_VDPA_NO_SPACE', `asid ${this.asid} has no free range of ${bytes} bytes`)
    return best
  }

  #checkRange(piece: Uint32Array): void {
    const range = rangeOfPieceIfOutside(piece, this.#context.facts.iovaRange)
    if (range === undefined) return
    throw refusal(
      this.#context,
      'ERR_VDPA_IOVA_RANGE',
      `${showRange(range)} is outside of what the device reaches, ${showRange(this.#context.facts.iovaRange)}`,
      'VHOST_IOTLB_UPDATE',
    )
  }

  #overlap(piece: Uint32Array): VdpaError {
    const at = this.#table.findFrom(piece[0] as number, piece[1] as number)
    const { iova, size } = this.#mappingAt(at)
    const text = `${showRange(rangeOfPiece(piece))} overlaps the mapping ${showRange({ first: iova, last: iova + size - 1n })} of asid ${this.asid}`
    return refusal(this.#context, 'ERR_VDPA_OVERLAP', text, 'VHOST_IOTLB_UPDATE')
  }

  #tooMany(count: number, limit: number): VdpaError {
    const text = `asid ${this.asid} has ${this.#table.size} mappings; ${count} more would pass the limit of ${limit} entries`
    return refusal(this.#context, 'ERR_VDPA_ENTRY_LIMIT', text, 'VHOST_IOTLB_UPDATE')
  }

  #notMapped(iova: bigint, size: bigint, found: Mapping | undefined, isTwice: boolean): VdpaError {
    const range =
      size > 0n ? showRange({ first: iova, last: iova + size - 1n }) : `0x${iova.toString(16)} with size ${size}`
    const near =
      found === undefined
        ? 'nothing is mapped there'
        : `the mapping there is ${showRange({ first: found.iova, last: found.iova + found.size - 1n })}`
    const text = isTwice ? `${range} is named twice` : `${range} is not one mapping of asid ${this.asid}: ${near}`
    return refusal(this.#context, 'ERR_VDPA_NOT_MAPPED', text, 'VHOST_IOTLB_INVALIDATE')
  }

  #explain(
    failure: unknown,
    pieces: Uint32Array,
    accepted: number,
    then: { pinned: bigint; entries: number },
  ): unknown {
    const refused = rangeOfPiece(pieceAt(pieces, Math.min(accepted, pieces.length / PIECE_WORDS - 1)))
    const { asid } = this
    const bytes = refused.last - refused.first + 1n
    return explainRefusal(this.#context, { asid, range: showRange(refused), bytes, accepted, ...then }, failure)
  }
}

function requestsOf(what: Mappable): readonly MappingRequest[] {
  if (Array.isArray(what)) return what as readonly MappingRequest[]
  if (typeof what !== 'object' || what === null)
    throw typeError('what', 'a mapping, an array of mappings, or a memory table', what)
  if (!('pieces' in what)) return [what as MappingRequest]
  return Array.from(what.pieces(), ({ address, ...piece }) => ({ iova: address, ...piece }))
}

function pieceAt(pieces: Uint32Array, index: number): Uint32Array {
  return pieces.subarray(index * PIECE_WORDS, (index + 1) * PIECE_WORDS)
}

function joined(words: Uint32Array, at: number): bigint {
  return (BigInt(words[at] as number) << 32n) | BigInt(words[at + 1] as number)
}

function rangeOfPiece(piece: Uint32Array): Range {
  return { first: joined(piece, 0), last: joined(piece, 2) }
}

function rangeOfPieceIfOutside(piece: Uint32Array, allowed: Range): Range | undefined {
  if (allowed.first === 0n && allowed.last === 0xffff_ffff_ffff_ffffn) return undefined
  const range = rangeOfPiece(piece)
  return contains(allowed, range) ? undefined : range
}

/** How many records were written before a failure. */
function completedOf(failure: unknown): number {
  const completed = (failure as Partial<WriteEachFailure> | undefined)?.completed
  return typeof completed === 'number' ? completed : 0
}

function throwIfAborted(context: DeviceContext, signal: AbortSignal | undefined): void {
  if (signal === undefined) return
  if (!(signal instanceof AbortSignal)) throw rangeError('signal', 'an AbortSignal', signal)
  if (signal.aborted) throw refusal(context, 'ERR_VDPA_CANCELED', 'canceled before anything was sent')
}
