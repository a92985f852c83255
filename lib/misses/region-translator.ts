// A translator of memory that lies where a table says: what a program without an IOMMU of its own needs, whole or page by page.

import { checkArray, checkInteger, checkObject, rangeError, toU64, typeError } from '../base/checks.js'
import { U64_LAST } from '../base/ranges.js'
import { IntervalMap } from '../iotlb/interval-map.js'
import { permOf, type Access } from '../iotlb/mapping.js'
import type { MemoryRegion } from '../memory/memory-region.js'
import type { MissAnswer, MissRequest, Translator } from './translator.js'

/** Memory at an address. */
export interface TranslatedRegion {
  /** The first address that the device uses. */
  readonly iova: bigint
  /** The memory, all of it. */
  readonly region: MemoryRegion
  /** What the device may do there; `'rw'` by default. */
  readonly access?: Access
}

interface Place {
  readonly first: bigint
  readonly last: bigint
  readonly uaddr: bigint
  readonly access: Access
  readonly region: MemoryRegion
}

/** Translates addresses into regions. Changes hold for what is asked next: have the server invalidate what the device was given before. */
export class RegionTranslator implements Translator {
  readonly #map = new IntervalMap()
  readonly #places = new Map<bigint, Place>()
  #lastFound: Place | undefined
  readonly #granule: bigint

  /** `granule`: the most bytes of one answer, a power of two, and what answers are aligned to; by default each answer is a whole region. */
  constructor(regions: readonly TranslatedRegion[] = [], granule = 0) {
    checkArray(regions, 'regions')
    checkInteger(granule, 'granule', 0, 2 ** 52)
    if (granule !== 0 && !Number.isInteger(Math.log2(granule))) throw rangeError('granule', 'a power of two', granule)
    this.#granule = BigInt(granule)
    for (const region of regions) this.add(region)
  }

  /** Puts memory at an address. ERR_VDPA_OVERLAP where there is some; RangeError for what goes past 2^64. */
  add(wish: TranslatedRegion): void {
    checkObject(wish, 'a region')
    const { iova, region, access = 'rw' } = wish
    if (typeof region !== 'object' || region === null || typeof region.address !== 'bigint')
      throw typeError('region', 'a MemoryRegion', region)
    const first = toU64(iova, 'iova')
    const last = first + BigInt(region.length) - 1n
    if (last > U64_LAST) throw rangeError('iova', `below 2^64 by at least ${region.length}`, iova)
    this.#map.insert(first, last, region.address, permOf(access))
    this.#places.set(first, { first, last, uaddr: region.address, access, region })
  }

  /** Takes the memory away that begins at an address. RangeError where none does. */
  remove(iova: bigint): void {
    const place = this.#places.get(iova)
    if (place === undefined) throw rangeError('iova', 'where memory was added', iova)
    this.#map.remove(place.first, place.last)
    this.#places.delete(iova)
    this.#lastFound = undefined
  }

  /** Where an address leads; undefined where there is no memory. */
  translate(request: Pick<MissRequest, 'iova'>): MissAnswer | undefined {
    checkObject(request, 'request')
    const iova = toU64(request.iova, 'iova')
    const place = this.#placeOf(iova)
    if (place === undefined) return undefined
    let { first, last } = place
    const granule = this.#granule
    if (granule > 0n) {
      const begin = iova - (iova & (granule - 1n))
      const end = begin + granule - 1n
      if (begin > first) first = begin
      if (end < last) last = end
    }
    const { access, region, uaddr } = place
    return { iova: first, size: last - first + 1n, uaddr: uaddr + (first - place.first), access, region }
  }

  /** A device asks for one region many times, piece by piece: the last one found is looked at first. */
  #placeOf(iova: bigint): Place | undefined {
    const last = this.#lastFound
    if (last !== undefined && iova >= last.first && iova <= last.last) return last
    const entry = this.#map.find(iova)
    if (entry === undefined) return undefined
    const place = this.#places.get(entry.first)
    this.#lastFound = place
    return place
  }
}
