// An IOMMU device without its queues: domains and endpoints, what each request does to them and to the sinks behind them, and with which status it ends.
// Section numbers are those of virtio 1.2, where the IOMMU device is 5.13.

import { bit } from '../base/bits.js'
import { checkBytes, checkFunction, checkInteger, checkOneOf, toU64 } from '../base/checks.js'
import { isVdpaError } from '../base/errors.js'
import { callUnasked, throwUncaught } from '../base/program-calls.js'
import { contains, overlaps, U64_LAST, type Range } from '../base/ranges.js'
import { Serial } from '../base/serial.js'
import { whole, type Steps } from '../base/steps.js'
import type { Access } from '../iotlb/mapping.js'
import { iommuAttachFlags, iommuMapFlags, iommuRequestTypes, iommuStatus } from '../uapi/virtio-iommu.js'
import { Domain, type DomainMapping } from './domain.js'
import type { Endpoint } from './endpoint.js'
import { iommuFacts, iommuFeatureBits, type IommuFacts, type VirtioIommuOptions } from './iommu-options.js'
import { identityPieces, inverse, piecesOf, type Piece, type PieceChange } from './pieces.js'
import { accessOfFlags, faultOf, translate, type IommuFault, type Translation } from './translate.js'
import type { IommuRequest } from './wire.js'

const {
  VIRTIO_IOMMU_S_OK: OK,
  VIRTIO_IOMMU_S_UNSUPP: UNSUPP,
  VIRTIO_IOMMU_S_DEVERR: DEVERR,
  VIRTIO_IOMMU_S_INVAL: INVAL,
  VIRTIO_IOMMU_S_RANGE: RANGE,
  VIRTIO_IOMMU_S_NOENT: NOENT,
  VIRTIO_IOMMU_S_FAULT: FAULT,
  VIRTIO_IOMMU_S_NOMEM: NOMEM,
} = iommuStatus
const { VIRTIO_IOMMU_ATTACH_F_BYPASS: ATTACH_BYPASS } = iommuAttachFlags
const { VIRTIO_IOMMU_MAP_F_MMIO: MMIO } = iommuMapFlags
const { VIRTIO_IOMMU_T_MAP, VIRTIO_IOMMU_T_UNMAP, VIRTIO_IOMMU_T_PROBE } = iommuRequestTypes
const HEAD_BYTES = 4
const TAIL_BYTES = 4
/** Where `bypass` lies in the configuration space. */
export const BYPASS_AT = 36

const nothing = new Uint8Array(0)
/** Of draft 0.4; the specification has a field of the configuration in its place. */
const bypassFeature = bit(iommuFeatureBits.VIRTIO_IOMMU_F_BYPASS)

/** What a sink's refusal is for a driver. */
function statusOf(failure: unknown): number {
  if (!isVdpaError(failure)) return DEVERR
  if (['ERR_VDPA_ENTRY_LIMIT', 'ERR_VDPA_MEMLOCK', 'ENOMEM', 'ENOSPC'].includes(failure.code)) return NOMEM
  return failure.code === 'ERR_VDPA_IOVA_RANGE' ? RANGE : DEVERR
}

/**
 * An IOMMU device (virtio 5.13) whose domains are mapped into address spaces. `answer()` takes the bytes of requests, `request()` requests in words;
 * `iommuDevice()` serves it over virtqueues. Each request happens whole or not at all, in every endpoint of its domain; requests are carried out in the order
 * in which they were made.
 */
export class VirtioIommu {
  /** The features of its kind that it offers. */
  readonly features: bigint
  /** The configuration space. Its bytes change with `bypass`. */
  readonly config: Uint8Array
  readonly #facts: IommuFacts
  readonly #onFailure: ((failure: unknown) => void) | undefined
  readonly #domains = new Map<number, Domain>()
  readonly #serial = new Serial('virtio-iommu')
  readonly #faultListeners = new Set<(fault: IommuFault) => void>()
  #accepted: bigint
  #bypass: boolean
  #isClosed = false

  /** TypeError or RangeError for options that no device can be made of. Endpoints that bypass it are mapped by `refresh()`. */
  constructor(options: VirtioIommuOptions) {
    const facts = iommuFacts(options)
    const { bypass = false, onFailure } = options
    if (onFailure !== undefined) checkFunction(onFailure, 'onFailure')
    this.#facts = facts
    this.#onFailure = onFailure
    this.#bypass = bypass
    this.features = bypass || facts.wire.hasMmio ? facts.features : facts.features & ~bypassFeature
    this.#accepted = this.features & ~bypassFeature
    this.config = facts.wire.config({ ...facts.config, bypass })
  }

  /** Whether it has a queue for faults beside that for requests; draft 0.4 has none. */
  get hasEventQueue(): boolean {
    return this.#facts.wire.hasEventQueue
  }

  /** Whether a change is under way, so that the calls that end in Sync would be refused. */
  get isBusy(): boolean {
    return this.#serial.isBusy
  }

  /** Whether endpoints without a domain reach all memory (minus what is reserved). */
  get isBypassed(): boolean {
    return this.#facts.wire.hasMmio ? this.#bypass : (this.#accepted & bypassFeature) !== 0n
  }

  /** Mappings of all domains. */
  get size(): number {
    return [...this.#domains.values()].reduce((sum, { size }) => sum + size, 0)
  }

  /** The number of the domain that an endpoint is in; undefined when it is in none. RangeError for an endpoint that there is not. */
  domainOf(endpoint: number): number | undefined {
    return this.#endpoint(endpoint).domain?.id
  }

  /** What a driver accepted of `features`: flags and requests of others are refused from now on. Before it all are taken. */
  accept(features: bigint): void {
    this.#accepted = toU64(features, 'features') & this.features
  }

  /**
   * Carries out a request given as the bytes that a driver made readable, where it made `writableLength` writable. Resolves with the bytes to write there: a
   * tail with the status, properties before it for PROBE, or none where the request cannot be answered (a used length of 0).
   */
  async answer(readable: Uint8Array, writableLength: number): Promise<Uint8Array> {
    const request = this.#parse(readable, writableLength)
    return request instanceof Uint8Array ? request : this.#tail(await this.request(request), request)
  }

  /** answer() on the calling thread. ERR_VDPA_STATE while `isBusy`. */
  answerSync(readable: Uint8Array, writableLength: number): Uint8Array {
    const request = this.#parse(readable, writableLength)
    return request instanceof Uint8Array ? request : this.#tail(this.requestSync(request), request)
  }

  /** Carries out a request; resolves with its status, one of `iommuStatus`. It does not reject: what a sink refuses is a status, and told to `onFailure`. */
  async request(request: IommuRequest): Promise<number> {
    return this.#serial.run(() => whole(this.#carryOut(request)))
  }

  /** request() on the calling thread. ERR_VDPA_STATE while `isBusy`; a device behind a sink that is busy gives the status DEVERR. */
  requestSync(request: IommuRequest): number {
    return this.#serial.runSync(() => this.#carryOut(request))
  }

  /** Sets whether endpoints without a domain reach all memory, and maps or unmaps theirs. Resolves whether all of them could be. */
  async setBypass(isBypassed: boolean): Promise<boolean> {
    this.#showBypass(isBypassed)
    return this.refresh()
  }

  /** setBypass() on the calling thread. ERR_VDPA_STATE while `isBusy`. */
  setBypassSync(isBypassed: boolean): boolean {
    this.#serial.checkIdle()
    this.#showBypass(isBypassed)
    return this.refreshSync()
  }

  /**
   * Maps what bypass wants mapped, and what domains have, anew: after it was made, after the guest's memory changed, and after a device behind a sink lost its
   * mappings. Resolves whether every sink has what it should have.
   */
  async refresh(): Promise<boolean> {
    return this.#serial.run(() => whole(this.#refreshSteps()))
  }

  /** refresh() on the calling thread. ERR_VDPA_STATE while `isBusy`. */
  refreshSync(): boolean {
    return this.#serial.runSync(() => this.#refreshSteps())
  }

  /** What a device reset does: no endpoint is in a domain any more. Resolves whether every sink has let go. `bypass` stays (5.13.4). */
  async reset(): Promise<boolean> {
    return this.#serial.run(() => whole(this.#resetSteps()))
  }

  /** reset() on the calling thread. ERR_VDPA_STATE while `isBusy`. */
  resetSync(): boolean {
    return this.#serial.runSync(() => this.#resetSteps())
  }

  /** Unmaps everything. Later requests get the status DEVERR. May be called twice. */
  async close(): Promise<void> {
    this.#isClosed = true
    await this.#serial.run(() => whole(this.#resetSteps()))
  }

  /** The same as close(). */
  async [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  /**
   * Where an access of an endpoint leads, and how far around that is so. Undefined where it may not be: that is a fault, which listeners are told and a driver
   * is reported. RangeError for an endpoint that there is not.
   */
  translate(endpoint: number, iova: bigint, access: Access): Translation | undefined {
    toU64(iova, 'iova')
    checkOneOf(access, 'access', ['ro', 'wo', 'rw'])
    const found = translate(this.#facts.memory, this.#endpoint(endpoint), this.isBypassed, iova, access)
    if (typeof found === 'object') return found
    this.reportFault(faultOf(endpoint, iova, access, found))
    return undefined
  }

  /** Reports a fault that somebody else found, as physical devices do. */
  reportFault(fault: IommuFault): void {
    for (const listener of [...this.#faultListeners]) callUnasked(() => listener(fault))
  }

  /** Calls `listener` for each fault, until the returned function is called. */
  onFault(listener: (fault: IommuFault) => void): () => void {
    checkFunction(listener, 'listener')
    this.#faultListeners.add(listener)
    return () => this.#faultListeners.delete(listener)
  }

  /** @internal Told what goes wrong where nobody waits for it. */
  report(failure: unknown): void {
    const onFailure = this.#onFailure
    if (onFailure !== undefined) callUnasked(() => onFailure(failure))
    else if (!isVdpaError(failure)) throwUncaught(failure)
  }

  #endpoint(id: number): Endpoint {
    checkInteger(id, 'endpoint', 0, 0xffff_ffff)
    const endpoint = this.#facts.endpoints.get(id)
    if (endpoint === undefined) throw new RangeError(`endpoint must be one of the device (got ${id})`)
    return endpoint
  }

  /** The request, or the answer where that is known without carrying anything out. */
  #parse(readable: Uint8Array, writableLength: number): IommuRequest | Uint8Array {
    checkBytes(readable, 'readable')
    checkInteger(writableLength, 'writableLength', 0, Number.MAX_SAFE_INTEGER)
    if (readable.length < HEAD_BYTES || writableLength < TAIL_BYTES) return nothing
    const { wire, config } = this.#facts
    const type = readable[0] as number
    const request = wire.decode(type, readable)
    if (request === undefined || !this.#isAvailable(type)) return nothing
    if (type === VIRTIO_IOMMU_T_PROBE && writableLength < config.probeSize + TAIL_BYTES)
      return this.#bytes(writableLength - TAIL_BYTES, INVAL)
    if (request !== 'short') return request
    return this.#bytes(type === VIRTIO_IOMMU_T_PROBE ? config.probeSize : 0, INVAL)
  }

  #isAvailable(type: number): boolean {
    if (type === VIRTIO_IOMMU_T_PROBE) return this.#has('VIRTIO_IOMMU_F_PROBE')
    if (type === VIRTIO_IOMMU_T_MAP || type === VIRTIO_IOMMU_T_UNMAP) return this.#has('VIRTIO_IOMMU_F_MAP_UNMAP')
    return true
  }

  #has(name: keyof typeof iommuFeatureBits): boolean {
    return (this.#accepted & bit(iommuFeatureBits[name])) !== 0n
  }

  #bytes(before: number, status: number): Uint8Array {
    const bytes = new Uint8Array(before + TAIL_BYTES)
    bytes[before] = this.#facts.wire.status(status)
    return bytes
  }

  #tail(status: number, request: IommuRequest): Uint8Array {
    if (request.kind !== 'probe') return this.#bytes(0, status)
    const { wire, config, endpoints } = this.#facts
    const bytes = this.#bytes(config.probeSize, status)
    if (status !== OK) return bytes
    const reserved = endpoints.get(request.endpoint)?.reserved ?? []
    for (const [index, range] of reserved.entries()) bytes.set(wire.property(range), index * wire.propertyBytes)
    return bytes
  }

  *#carryOut(request: IommuRequest): Steps<number> {
    if (this.#isClosed) return DEVERR
    try {
      switch (request.kind) {
        case 'attach':
          return yield* this.#attach(request)
        case 'detach':
          return yield* this.#detach(request)
        case 'map':
          return yield* this.#map(request)
        case 'unmap':
          return yield* this.#unmap(request)
        case 'probe':
          return this.#facts.endpoints.has(request.endpoint) ? OK : NOENT
      }
    } catch (failure) {
      this.report(failure)
      return statusOf(failure)
    }
  }

  *#attach({ domain: id, endpoint: number, flags, isMalformed }: IommuRequest & { kind: 'attach' }): Steps<number> {
    const known = this.#has('VIRTIO_IOMMU_F_BYPASS_CONFIG') ? ATTACH_BYPASS : 0
    if (isMalformed || (flags & ~known) !== 0) return INVAL
    const endpoint = this.#facts.endpoints.get(number)
    if (endpoint === undefined) return NOENT
    if (!this.#isDomain(id)) return RANGE
    const isBypass = (flags & ATTACH_BYPASS) !== 0
    const domain = this.#domains.get(id) ?? new Domain(id, isBypass)
    if (domain.isBypass !== isBypass) return INVAL
    if (endpoint.domain === domain) return OK
    if (domain.mappings().some(({ range }) => !isReachable(endpoint, range))) return UNSUPP
    yield* this.#move(endpoint, domain)
    return OK
  }

  *#detach({ domain: id, endpoint: number }: IommuRequest & { kind: 'detach' }): Steps<number> {
    const endpoint = this.#facts.endpoints.get(number)
    if (endpoint === undefined) return NOENT
    if (id !== undefined && !this.#isDomain(id)) return RANGE
    if (endpoint.domain === undefined || (id !== undefined && endpoint.domain.id !== id)) return INVAL
    yield* this.#move(endpoint, undefined)
    return OK
  }

  *#map({ domain: id, first, last, physical, flags }: IommuRequest & { kind: 'map' }): Steps<number> {
    const { wire, granule, config, memory, maxMappings } = this.#facts
    if (!this.#isDomain(id)) return RANGE
    const known = wire.mapFlags | (wire.hasMmio && this.#has('VIRTIO_IOMMU_F_MMIO') ? MMIO : 0)
    if ((flags & ~known) !== 0) return INVAL
    if (((first | (last + 1n) | physical) & (granule - 1n)) !== 0n) return RANGE
    const range = { first, last }
    if (last < first || last > U64_LAST || !contains(config.inputRange, range)) return RANGE
    const domain = this.#domains.get(id)
    if (domain === undefined) return NOENT
    if (domain.isBypass || [...domain.endpoints].some((endpoint) => !isReachable(endpoint, range))) return INVAL
    if (domain.has(range)) return INVAL
    if (this.size >= maxMappings) return NOMEM
    if (physical + (last - first) > U64_LAST) return RANGE
    const isMmio = wire.hasMmio && (flags & MMIO) !== 0
    const access = accessOfFlags(flags)
    const found = isMmio ? [] : piecesOf(memory, range, physical, access ?? 'ro')
    if (found === undefined) return FAULT
    const mapping: DomainMapping = { range, physical, flags, pieces: access === undefined ? [] : found }
    domain.add(mapping)
    try {
      yield* this.#everywhere(domain, { gone: [], come: mapping.pieces })
    } catch (failure) {
      domain.remove(mapping)
      throw failure
    }
    return OK
  }

  *#unmap({ domain: id, first, last }: IommuRequest & { kind: 'unmap' }): Steps<number> {
    if (!this.#isDomain(id)) return RANGE
    const domain = this.#domains.get(id)
    if (domain === undefined) return NOENT
    if (domain.isBypass) return INVAL
    if (last < first || last > U64_LAST || ((first | (last + 1n)) & (this.#facts.granule - 1n)) !== 0n) return RANGE
    const range = { first, last }
    const mappings = domain.within(range)
    if (mappings.some((mapping) => !contains(range, mapping.range))) return RANGE
    for (const mapping of mappings) domain.remove(mapping)
    try {
      yield* this.#everywhere(domain, { gone: mappings.flatMap(({ pieces }) => pieces), come: [] })
    } catch (failure) {
      for (const mapping of mappings) domain.add(mapping)
      throw failure
    }
    return OK
  }

  /** Puts an endpoint into another domain, or none, in one batch; on failure it stays where it was. */
  *#move(endpoint: Endpoint, domain: Domain | undefined): Steps<void> {
    const before = endpoint.domain
    endpoint.domain = domain
    try {
      yield* endpoint.bring(this.#wanted(endpoint))
    } catch (failure) {
      endpoint.domain = before
      throw failure
    }
    before?.endpoints.delete(endpoint)
    if (before?.endpoints.size === 0) this.#domains.delete(before.id)
    if (domain === undefined) return
    domain.endpoints.add(endpoint)
    this.#domains.set(domain.id, domain)
  }

  /** Makes a change in all endpoints of a domain, or in none. What cannot be taken back is mended by the endpoint's next change. */
  *#everywhere(domain: Domain, change: PieceChange): Steps<void> {
    const done: Endpoint[] = []
    try {
      for (const endpoint of domain.endpoints) {
        if (endpoint.isAstray) yield* endpoint.bring(this.#wanted(endpoint))
        else yield* endpoint.apply(change)
        done.push(endpoint)
      }
    } catch (failure) {
      const back = inverse(change)
      for (const endpoint of done.reverse()) yield* this.#takeBack(endpoint, back)
      throw failure
    }
  }

  *#takeBack(endpoint: Endpoint, back: PieceChange): Steps<void> {
    try {
      yield* endpoint.apply(back)
    } catch (failure) {
      endpoint.isAstray = true
      this.report(failure)
    }
  }

  /** What a sink is to have mapped. */
  #wanted(endpoint: Endpoint): readonly Piece[] {
    const { domain, window, reserved } = endpoint
    if (this.#isClosed) return []
    if (domain !== undefined && !domain.isBypass) return domain.mappings().flatMap(({ pieces }) => pieces)
    if (domain === undefined && !this.isBypassed) return []
    const { memory, granule } = this.#facts
    return identityPieces(memory, window, reserved, granule)
  }

  *#refreshSteps(): Steps<boolean> {
    const { memory } = this.#facts
    for (const domain of this.#domains.values()) {
      for (const mapping of domain.mappings()) {
        const access = accessOfFlags(mapping.flags)
        if (access === undefined || (this.#facts.wire.hasMmio && (mapping.flags & MMIO) !== 0)) continue
        const pieces = piecesOf(memory, mapping.range, mapping.physical, access) ?? []
        domain.remove(mapping)
        domain.add({ ...mapping, pieces })
      }
    }
    return yield* this.#bringAll()
  }

  *#resetSteps(): Steps<boolean> {
    for (const endpoint of this.#facts.endpoints.values()) endpoint.domain = undefined
    this.#domains.clear()
    return yield* this.#bringAll()
  }

  /** Brings every sink to what it is to have, past those that refuse. */
  *#bringAll(): Steps<boolean> {
    let isDone = true
    for (const endpoint of this.#facts.endpoints.values()) {
      try {
        yield* endpoint.bring(this.#wanted(endpoint))
      } catch (failure) {
        // A device that is closed has nothing mapped.
        if (isVdpaError(failure) && failure.code === 'ERR_VDPA_CLOSED') continue
        endpoint.isAstray = true
        isDone = false
        this.report(failure)
      }
    }
    return isDone
  }

  #isDomain(id: number): boolean {
    const { first, last } = this.#facts.config.domainRange
    return id >= first && id <= last
  }

  #showBypass(isBypassed: boolean): void {
    this.#bypass = isBypassed
    if (this.#facts.wire.hasMmio) this.config[BYPASS_AT] = isBypassed ? 1 : 0
  }
}

/** Whether an endpoint could go through a mapping: nothing of it is reserved. What it cannot reach is. */
function isReachable({ reserved }: Endpoint, range: Range): boolean {
  return !reserved.some((one) => overlaps(one, range))
}
