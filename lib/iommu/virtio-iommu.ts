// An IOMMU device without its queues: domains and endpoints, what each request does to them and to the sinks behind them, and with which status it ends.
// Section numbers are those of virtio 1.2, where the IOMMU device is 5.13.

import { bit } from '../base/bits.js'
import { checkBoolean, checkBytes, checkFunction, checkInteger, checkOneOf, toU64, trueLength } from '../base/checks.js'
import { isVdpaError } from '../base/errors.js'
import { callUnasked, throwUncaught } from '../base/program-calls.js'
import { Serial } from '../base/serial.js'
import { whole, type Steps } from '../base/steps.js'
import type { Access } from '../iotlb/mapping.js'
import { iommuAttachFlags, iommuMapFlags, iommuRequestTypes, iommuStatus } from '../uapi/virtio-iommu.js'
import { checkedFault, checkedRequest } from './checked-request.js'
import { Domain } from './domain.js'
import type { Endpoint } from './endpoint.js'
import { everywhere, type WaysOfSinks } from './everywhere.js'
import { FaultListeners } from './fault-listeners.js'
import { iommuFacts, iommuFeatureBits, type IommuFacts, type VirtioIommuOptions } from './iommu-options.js'
import {
  enter,
  isDomain,
  isReachable,
  netChange,
  planChange,
  withdraw,
  type DomainChange,
  type MappingBooks,
  type MappingRequest,
} from './mapping-change.js'
import { identityPieces, piecesOf, type Piece } from './pieces.js'
import { statusOf } from './refusal-status.js'
import { accessOfFlags, faultOf, translate, type IommuFault, type Translation, type Viewer } from './translate.js'
import type { IommuRequest } from './wire.js'

const {
  VIRTIO_IOMMU_S_OK: OK,
  VIRTIO_IOMMU_S_UNSUPP: UNSUPP,
  VIRTIO_IOMMU_S_DEVERR: DEVERR,
  VIRTIO_IOMMU_S_INVAL: INVAL,
  VIRTIO_IOMMU_S_RANGE: RANGE,
  VIRTIO_IOMMU_S_NOENT: NOENT,
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
  readonly #books: MappingBooks
  readonly #ways: WaysOfSinks = {
    bring: (endpoint) => this.#bring(endpoint),
    report: (failure) => this.report(failure),
  }
  readonly #serial = new Serial('virtio-iommu')
  readonly #faultListeners = new FaultListeners()
  #accepted: bigint
  #bypass: boolean
  #isClosed = false

  /** TypeError or RangeError for options that no device can be made of. Endpoints that bypass it are mapped by `refresh()`. */
  constructor(options: VirtioIommuOptions) {
    const facts = iommuFacts(options)
    const { bypass = false, onFailure } = options
    checkBoolean(bypass, 'bypass')
    if (onFailure !== undefined) checkFunction(onFailure, 'onFailure')
    this.#facts = facts
    this.#books = {
      facts,
      domains: this.#domains,
      allowsMmio: () => this.#has('VIRTIO_IOMMU_F_MMIO'),
      size: () => this.size,
    }
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
    let sum = 0
    for (const { size } of this.#domains.values()) sum += size
    return sum
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
    return request instanceof Uint8Array ? request : this.#tail(await this.#request(request), request)
  }

  /** answer() on the calling thread. ERR_VDPA_STATE while `isBusy`. */
  answerSync(readable: Uint8Array, writableLength: number): Uint8Array {
    const request = this.#parse(readable, writableLength)
    return request instanceof Uint8Array ? request : this.#tail(this.#requestSync(request), request)
  }

  /**
   * Carries out a request; resolves with its status, one of `iommuStatus`. TypeError or RangeError for what is no request, and nothing else: what a sink refuses is a status, and told to
   * `onFailure`.
   */
  async request(request: IommuRequest): Promise<number> {
    return this.#request(checkedRequest(request))
  }

  /** request() on the calling thread. ERR_VDPA_STATE while `isBusy`; a device behind a sink that is busy gives the status DEVERR. */
  requestSync(request: IommuRequest): number {
    return this.#requestSync(checkedRequest(request))
  }

  /**
   * @internal answer() of requests that only change mappings, and that a driver made available together: nobody is told of one before all are done, so that a sink
   * has one batch for all of a domain. Where it refuses, each request is carried out by itself, and has its own status. Resolves with the statuses as a driver is
   * told them.
   */
  async changeTogether(requests: readonly MappingRequest[]): Promise<number[]> {
    return this.#told(await this.#serial.run(() => whole(this.#changeTogether(requests))))
  }

  /** @internal changeTogether() on the calling thread. ERR_VDPA_STATE while `isBusy`. */
  changeTogetherSync(requests: readonly MappingRequest[]): number[] {
    return this.#told(this.#serial.runSync(() => this.#changeTogether(requests)))
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
    const address = toU64(iova, 'iova')
    checkOneOf(access, 'access', ['ro', 'wo', 'rw'])
    const found = translate(this.#facts.memory, this.#viewer(this.#endpoint(endpoint)), address, access)
    if (typeof found === 'object') return found
    this.#faultListeners.tell(faultOf(endpoint, address, access, found))
    return undefined
  }

  /** Reports a fault that somebody else found, as physical devices do. TypeError or RangeError for what is none. */
  reportFault(fault: IommuFault): void {
    this.#faultListeners.tell(checkedFault(fault))
  }

  /** Calls `listener` for each fault, until the returned function is called. */
  onFault(listener: (fault: IommuFault) => void): () => void {
    return this.#faultListeners.add(listener)
  }

  /** @internal Told what goes wrong where nobody waits for it. */
  report(failure: unknown): void {
    const onFailure = this.#onFailure
    if (onFailure !== undefined) callUnasked(() => onFailure(failure))
    else if (!isVdpaError(failure)) throwUncaught(failure)
  }

  #request(request: IommuRequest): Promise<number> {
    return this.#serial.run(() => whole(this.#carryOut(request)))
  }

  #requestSync(request: IommuRequest): number {
    return this.#serial.runSync(() => this.#carryOut(request))
  }

  #endpoint(id: number): Endpoint {
    checkInteger(id, 'endpoint', 0, 0xffff_ffff)
    const endpoint = this.#facts.endpoints.get(id)
    if (endpoint === undefined) throw new RangeError(`endpoint must be one of the device (got ${id})`)
    return endpoint
  }

  /** One without a sink sees what there is. */
  #viewer(endpoint: Endpoint): Viewer {
    const hasSink = endpoint.sink !== undefined
    const { domain } = endpoint
    const view = hasSink ? endpoint.view : { domain, isBypassed: this.isBypassed }
    return { endpoint, view, identity: () => (hasSink ? endpoint.pieces() : this.#identityOf(endpoint)) }
  }

  #parse(readable: Uint8Array, writableLength: number): IommuRequest | Uint8Array {
    checkBytes(readable, 'readable')
    checkInteger(writableLength, 'writableLength', 0, Number.MAX_SAFE_INTEGER)
    const length = trueLength(readable)
    return this.parse(new DataView(readable.buffer, readable.byteOffset, length), length, writableLength)
  }

  /** @internal The request that the first `length` bytes are, or the answer where that is known without carrying anything out. */
  parse(view: DataView, length: number, writableLength: number): IommuRequest | Uint8Array {
    if (length < HEAD_BYTES || writableLength < TAIL_BYTES) return nothing
    const { wire, config } = this.#facts
    const request = wire.decode(view, length)
    const type = view.getUint8(0)
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

  #told(statuses: readonly number[]): number[] {
    return statuses.map((status) => this.#facts.wire.status(status))
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
        case 'unmap':
          return yield* this.#change(request)
        case 'probe':
          return this.#facts.endpoints.has(request.endpoint) ? OK : NOENT
      }
    } catch (failure) {
      return this.#refused(failure)
    }
  }

  *#attach({ domain: id, endpoint: number, flags, isMalformed }: IommuRequest & { kind: 'attach' }): Steps<number> {
    const known = this.#has('VIRTIO_IOMMU_F_BYPASS_CONFIG') ? ATTACH_BYPASS : 0
    if (isMalformed || (flags & ~known) !== 0) return INVAL
    const endpoint = this.#facts.endpoints.get(number)
    if (endpoint === undefined) return NOENT
    if (!isDomain(this.#books, id)) return RANGE
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
    if (id !== undefined && !isDomain(this.#books, id)) return RANGE
    if (endpoint.domain === undefined || (id !== undefined && endpoint.domain.id !== id)) return INVAL
    yield* this.#move(endpoint, undefined)
    return OK
  }

  /** One request that changes mappings. */
  *#change(request: MappingRequest): Steps<number> {
    const change = planChange(this.#books, request)
    if (typeof change === 'number') return change
    const { domain } = change
    domain.begin()
    enter(change)
    try {
      yield* everywhere(domain, netChange([change]), this.#ways)
    } catch (failure) {
      withdraw(change)
      throw failure
    } finally {
      domain.settle()
    }
    return OK
  }

  *#changeTogether(requests: readonly MappingRequest[]): Steps<number[]> {
    const statuses: number[] = []
    while (statuses.length < requests.length) {
      if (this.#isClosed) statuses.push(DEVERR)
      else statuses.push(...(yield* this.#changeSome(requests.slice(statuses.length))))
    }
    return statuses
  }

  /** As many of the requests as change one domain, in one batch of each sink; returns their statuses. */
  *#changeSome(requests: readonly MappingRequest[]): Steps<number[]> {
    const made: DomainChange[] = []
    const statuses: number[] = []
    let firstMade = 0
    for (const request of requests) {
      const change = this.#planned(request)
      if (typeof change !== 'number') {
        if (made.length === 0) firstMade = statuses.length
        else if (made[0]?.domain !== change.domain) break
        change.domain.begin()
        enter(change)
        made.push(change)
      }
      statuses.push(typeof change === 'number' ? change : OK)
    }
    const [first] = made
    if (first === undefined) return statuses
    try {
      yield* everywhere(first.domain, netChange(made), this.#ways)
      first.domain.settle()
      return statuses
    } catch (failure) {
      for (const change of made.toReversed()) withdraw(change)
      first.domain.settle()
      // What comes behind one that is refused finds other books.
      const before = statuses.slice(0, firstMade)
      if (made.length === 1) return [...before, this.#refused(failure)]
      for (const request of requests.slice(firstMade, statuses.length)) before.push(yield* this.#carryOut(request))
      return before
    }
  }

  #planned(request: MappingRequest): DomainChange | number {
    try {
      return planChange(this.#books, request)
    } catch (failure) {
      return this.#refused(failure)
    }
  }

  #refused(failure: unknown): number {
    this.report(failure)
    return statusOf(failure)
  }

  /** Puts an endpoint into another domain, or none, in one batch; on failure it stays where it was. */
  *#move(endpoint: Endpoint, domain: Domain | undefined): Steps<void> {
    const { domain: before, view } = endpoint
    endpoint.domain = domain
    try {
      yield* this.#bring(endpoint)
    } catch (failure) {
      endpoint.domain = before
      endpoint.view = view
      throw failure
    }
    before?.endpoints.delete(endpoint)
    if (before?.endpoints.size === 0) this.#domains.delete(before.id)
    if (domain === undefined) return
    domain.endpoints.add(endpoint)
    this.#domains.set(domain.id, domain)
  }

  /** Brings a sink, and lookups, to what they are to have now. */
  *#bring(endpoint: Endpoint): Steps<void> {
    const { domain } = endpoint
    yield* endpoint.bring(this.#wanted(endpoint), { domain, isBypassed: this.isBypassed && !this.#isClosed })
  }

  /** What a sink is to have mapped. */
  #wanted(endpoint: Endpoint): readonly Piece[] {
    const { domain } = endpoint
    if (this.#isClosed) return []
    if (domain !== undefined && !domain.isBypass) return domain.mappings().flatMap(({ pieces }) => pieces)
    return domain === undefined && !this.isBypassed ? [] : this.#identityOf(endpoint)
  }

  #identityOf({ window, reserved }: Endpoint): Piece[] {
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
    return yield* this.#bringAll((endpoint) => endpoint.look())
  }

  *#resetSteps(): Steps<boolean> {
    for (const endpoint of this.#facts.endpoints.values()) endpoint.domain = undefined
    this.#domains.clear()
    return yield* this.#bringAll()
  }

  /** Brings every sink to what it is to have, past those that refuse. `look` is called before each. */
  *#bringAll(look?: (endpoint: Endpoint) => void): Steps<boolean> {
    let isDone = true
    for (const endpoint of this.#facts.endpoints.values()) {
      try {
        look?.(endpoint)
        yield* this.#bring(endpoint)
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

  #showBypass(isBypassed: boolean): void {
    checkBoolean(isBypassed, 'isBypassed')
    this.#bypass = isBypassed
    if (this.#facts.wire.hasMmio) this.config[BYPASS_AT] = isBypassed ? 1 : 0
  }
}
