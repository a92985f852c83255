// What is asked to be mapped, checked and taken apart into the words of a table entry. Bigints in this loop would cost an allocation a step, and the
// loop is where the start-up time of a large guest goes.

import type { Backend } from '../backend/backend.js'
import { sharingOf } from '../backend/memory-sharing.js'
import { checkFunction, checkObject, rangeError, show, typeError } from '../base/checks.js'
import { vdpaError } from '../base/errors.js'
import type { Range } from '../base/ranges.js'
import { ENTRY_WORDS, EntryWord } from '../iotlb/entry-leaves.js'
import { permOf, type Access } from '../iotlb/mapping.js'
import type { MemoryRegion } from '../memory/memory-region.js'

/** A mapping to make: `size` bytes of `region` from `offset` on, at `iova`. All are multiples of the page size. */
export interface MappingRequest {
  /** Where the device finds the memory: a multiple of the page size. */
  readonly iova: bigint
  /** Memory that the backend allocated or adopted: other memory is private, and some parents skip it without a word. */
  readonly region: MemoryRegion
  /** Bytes into the region; default 0. */
  readonly offset?: number
  /** Bytes; default: to the end of the region. */
  readonly size?: number
  /** Default `'rw'`. */
  readonly access?: Access
}

/** The wish to undo exactly one mapping. */
export interface UnmapRequest {
  /** Where the mapping begins. */
  readonly iova: bigint
  /** Bytes, exactly as mapped. */
  readonly size: bigint
}

/** Where a region is to be mapped, and for what. */
export interface MapRegionOptions {
  /** The IOVA; chosen from the top of the device's window by default. */
  readonly iova?: bigint
  /** What a chosen IOVA is a multiple of: a power of two; default (and at least) the page size. */
  readonly align?: bigint
  /** What the device may do; default `'rw'`. */
  readonly access?: Access
}

/** Memory that comes in pieces, such as a guest's (`GuestMemory`): each is mapped at its guest-physical address. */
export interface MemoryTable {
  /** The pieces, in any order; they do not overlap. */
  pieces(): Iterable<{
    readonly address: bigint
    readonly region: MemoryRegion
    readonly offset: number
    readonly size: number
  }>
}

/** What map() takes. */
export type Mappable = MappingRequest | readonly MappingRequest[] | MemoryTable

/** The requests of what map() was given. TypeError when it is nothing of the kind. */
export function requestsOf(what: Mappable): readonly MappingRequest[] {
  if (Array.isArray(what)) return what as readonly MappingRequest[]
  if (typeof what !== 'object' || what === null)
    throw typeError('what', 'a mapping, an array of mappings, or a memory table', what)
  if (!('pieces' in what)) return [what as MappingRequest]
  checkFunction((what as { readonly pieces: unknown }).pieces, 'what.pieces')
  const pieces = what.pieces() as ReturnType<MemoryTable['pieces']> | null | undefined
  if (typeof pieces?.[Symbol.iterator] !== 'function')
    throw typeError('what.pieces()', 'pieces, one after another', pieces)
  return Array.from(pieces, (one) => {
    checkObject(one, 'a piece')
    const { address, ...piece } = one
    return { iova: address, ...piece }
  })
}

/** A region of whichever backend, by what a mapping needs of it. */
export function checkRegion(region: unknown): asserts region is MemoryRegion {
  if (typeof region !== 'object' || region === null || typeof (region as MemoryRegion).address !== 'bigint')
    throw noRegion(region)
}

// Constants of this module: an imported name would be a property load each time it is used.
const { firstHigh: FIRST_HIGH, firstLow: FIRST_LOW, lastHigh: LAST_HIGH, uaddrHigh: UADDR_HIGH, perm: PERM } = EntryWord

const scratch64 = new BigUint64Array(1)
const scratch32 = new Uint32Array(scratch64.buffer)
const [HIGH, LOW] = new Uint8Array(Uint32Array.of(1).buffer)[0] === 1 ? ([1, 0] as const) : ([0, 1] as const)
const TWO_32 = 0x1_0000_0000
const READ_WRITE = permOf('rw')

/** What a backend says of memory. */
export type MemoryReach = Pick<Backend, 'name' | 'reaches'>

/** The last region that was written, because the next request is mostly of the same. Good for one change only: a region may be closed between two. */
export class RequestWriter {
  readonly #pageSize: number
  readonly #backend: MemoryReach
  readonly #mask: number
  #region: MemoryRegion | undefined
  #length = 0
  #high = 0
  #low = 0

  /** `pageSize` is what everything must be a multiple of: a power of two. `backend` is the device's. */
  constructor(pageSize: number, backend: MemoryReach) {
    this.#pageSize = pageSize
    this.#backend = backend
    this.#mask = pageSize - 1
  }

  /** The region of the request that was written last. */
  get region(): MemoryRegion {
    if (this.#region === undefined) throw new Error('nothing was written')
    return this.#region
  }

  /** Checks one request and writes it into an entry, all but its object. Misuse throws TypeError or RangeError; memory of another kind, or of another backend, ERR_VDPA_NOT_SHARED. */
  write(request: MappingRequest, entry: Uint32Array): void {
    if (typeof request !== 'object' || request === null) throw typeError('a mapping', 'an object', request)
    const { iova, region, access } = request
    if (this.#region === undefined || region !== this.#region) this.#use(region)
    const length = this.#length
    const offset = request.offset ?? 0
    if (typeof iova !== 'bigint') throw typeError('iova', 'a bigint', iova)
    scratch64[0] = iova
    const high = scratch32[HIGH] as number
    const low = scratch32[LOW] as number
    if (BigInt.asUintN(64, iova) !== iova) throw rangeError('iova', 'from 0 to 2^64-1', iova)
    if (!Number.isInteger(offset) || offset < 0 || offset >= length) throw badOffset(offset, length)
    const size = request.size ?? length - offset
    if (!Number.isInteger(size) || size < 1 || size > length - offset) throw badSize(size, length - offset)
    if (((low | offset | size) & this.#mask) !== 0) throw alignment(iova, offset, size, this.#pageSize)
    entry[FIRST_HIGH] = high
    entry[FIRST_LOW] = low
    if (!add(high, low, size - 1, entry, LAST_HIGH)) throw wraps(iova, size)
    add(this.#high, this.#low, offset, entry, UADDR_HIGH)
    entry[PERM] = access === undefined || access === 'rw' ? READ_WRITE : permOf(access)
  }

  #use(region: MemoryRegion): void {
    checkRegion(region)
    if (this.#backend.reaches?.(region) === false) throw notReached(region, this.#backend)
    scratch64[0] = region.address
    this.#high = scratch32[HIGH] as number
    this.#low = scratch32[LOW] as number
    this.#length = region.length
    this.#region = region
  }
}

/** Adds a number of bytes below 2^53 to an address and puts the sum at `entry[to]` (high) and behind it; false when it passes 2^64-1. */
function add(high: number, low: number, bytes: number, entry: Uint32Array, to: number): boolean {
  // Below 4 GiB, as regions are, nothing here leaves 32 bits: no doubles.
  const sum = (low + (bytes >>> 0)) >>> 0
  const carry = (sum < low ? 1 : 0) + (bytes >>> 0 === bytes ? 0 : Math.floor(bytes / TWO_32))
  entry[to] = high + carry
  entry[to + 1] = sum
  return carry === 0 || high + carry < TWO_32
}

/** Both ends of an entry as bigints. */
export function rangeOfEntry(entry: Uint32Array): Range {
  return { first: addressAt(entry, FIRST_HIGH), last: addressAt(entry, LAST_HIGH) }
}

/** A range in the first four words of an entry. */
export function entryOfRange({ first, last }: Range): Uint32Array {
  const entry = new Uint32Array(ENTRY_WORDS)
  putAddress(entry, FIRST_HIGH, first)
  putAddress(entry, LAST_HIGH, last)
  return entry
}

/** Whether an entry's range lies in another's. */
export function isWithin(entry: Uint32Array, outer: Uint32Array): boolean {
  return !isBelow(entry, FIRST_HIGH, outer, FIRST_HIGH) && !isBelow(outer, LAST_HIGH, entry, LAST_HIGH)
}

function isBelow(a: Uint32Array, aWord: number, b: Uint32Array, bWord: number): boolean {
  const aHigh = a[aWord] as number
  const bHigh = b[bWord] as number
  return aHigh < bHigh || (aHigh === bHigh && (a[aWord + 1] as number) < (b[bWord + 1] as number))
}

/** The address whose halves begin at a word of an entry. */
export function addressAt(entry: Uint32Array, word: number): bigint {
  scratch32[HIGH] = entry[word] as number
  scratch32[LOW] = entry[word + 1] as number
  return scratch64[0] as bigint
}

/** Puts an address into the two words that begin at `word`. */
export function putAddress(entry: Uint32Array, word: number, address: bigint): void {
  scratch64[0] = address
  entry[word] = scratch32[HIGH] as number
  entry[word + 1] = scratch32[LOW] as number
}

function noRegion(region: unknown): Error {
  const isPrivate = ArrayBuffer.isView(region) || region instanceof ArrayBuffer || region instanceof SharedArrayBuffer
  if (!isPrivate) return typeError('region', 'a MemoryRegion', region)
  return vdpaError(
    'ERR_VDPA_NOT_SHARED',
    `region must be a MemoryRegion (got ${show(region)}): other memory is private to the process, and some parents skip it without a word`,
    { hint: "allocate it with backend.allocate(), or adopt() somebody's memfd" },
  )
}

function notReached(region: MemoryRegion, backend: MemoryReach): Error {
  return vdpaError(
    'ERR_VDPA_NOT_SHARED',
    `region must be memory of the device's backend '${backend.name}' (got ${show(region)} of another): its devices find other bytes, or none, at 0x${region.address.toString(16)}`,
    {
      hint:
        sharingOf(backend) === undefined
          ? 'allocate or adopt it by the backend that the device was opened with'
          : "allocate it by the device's simulator, or show it to that by share()",
    },
  )
}

function badOffset(offset: unknown, length: number): Error {
  if (typeof offset !== 'number') return typeError('offset', 'a number', offset)
  return rangeError('offset', `an integer from 0 to ${length - 1}`, offset)
}

function badSize(size: unknown, left: number): Error {
  if (typeof size !== 'number') return typeError('size', 'a number', size)
  return rangeError('size', `an integer from 1 to ${left}, the bytes that the region has`, size)
}

function wraps(iova: bigint, size: number): Error {
  return rangeError('iova + size', 'at most 2^64', iova + BigInt(size))
}

function alignment(iova: bigint, offset: number, size: number, pageSize: number): Error {
  const [name, value] =
    iova % BigInt(pageSize) !== 0n ? ['iova', iova] : offset % pageSize !== 0 ? ['offset', offset] : ['size', size]
  return Object.assign(rangeError(String(name), `a multiple of the page size ${pageSize}`, value), {
    code: 'ERR_VDPA_ALIGNMENT',
  })
}
