// One virtqueue as the kernel knows it: size, addresses, position, eventfds, enabled or not. The ring itself is in virtqueue/.

import { checkInteger, checkObject, rangeError, typeError } from '../base/checks.js'
import { overlaps, rangeOf, showRange } from '../base/ranges.js'
import type { Eventfd } from '../backend/backend.js'
import { areaSizes, initialState } from '../virtqueue/layout.js'
import type { RingFormat, RingState } from '../virtqueue/virtqueue.js'
import type { VringAddresses } from '../transport/vhost-vdpa.js'
import {
  checkNegotiated,
  checkOpen,
  checkThere,
  checkUnchanging,
  isRunning,
  refusal,
  type DeviceContext,
} from './context.js'
import { absent } from './groups.js'

/** An eventfd of ours, or a file descriptor that somebody else owns (KVM's ioeventfd, irqfd); null takes it away. */
export type EventfdLike = Eventfd | number | null

/** How a virtqueue is set up. */
export interface VringSetup {
  /** Descriptors: a power of two for split rings, up to the queue's largest size. */
  readonly size: number
  /** IOVAs of the three areas; descriptor aligned to 16, driver to 2 (packed 4), device to 4. */
  readonly addresses: VringAddresses
  /** Where the ring begins; the initial state by default. */
  readonly state?: RingState
  /** By which the driver says that there is work; unchanged when left out. */
  readonly kick?: EventfdLike
  /** By which the device interrupts; unchanged when left out. */
  readonly call?: EventfdLike
  /** By which the device tells of an error in the ring; unchanged when left out. */
  readonly err?: EventfdLike
}

const DEFAULT_SIZE = 256
const HALF_SET = 'its last setUp() was refused half-way'

/** A virtqueue as the kernel knows it: size, addresses, state, eventfds. VdpaDevice.vring() gives it. */
export class Vring {
  /** The virtqueue's number, from 0. */
  readonly index: number
  readonly #context: DeviceContext
  #isEnabled = false
  #size = 0
  /** What the device answered last for the largest size, before there was a ring. */
  #largest: number | undefined
  #addresses: VringAddresses | undefined
  #isHalfSet = false

  constructor(context: DeviceContext, index: number) {
    this.#context = context
    this.index = index
  }

  /** The format that was negotiated. */
  get format(): RingFormat {
    checkThere(this.#context)
    return checkNegotiated(this.#context, 'a ring').has('VIRTIO_F_RING_PACKED') ? 'packed' : 'split'
  }

  /** Descriptors the ring was set up with; 0 before. */
  get size(): number {
    return this.#size
  }

  /** Where the three areas are, as setUp() was told; undefined before, and after a reset. */
  get addresses(): VringAddresses | undefined {
    return this.#addresses
  }

  /** Whether enable() was called since the last reset or disable(). */
  get isEnabled(): boolean {
    return this.#isEnabled
  }

  /**
   * The largest ring size of this queue (VHOST_VDPA_GET_VRING_SIZE where the driver answers it, else the device's largest). Where a ring is set up or the device runs,
   * what was answered before: parent drivers tell the size of the ring then (vdpa_sim while it runs, virtio-pci's registers from the write on).
   */
  get maxSize(): number {
    checkThere(this.#context)
    const { facts, transport } = this.#context
    if (this.#size !== 0 || this.#isHalfSet || isRunning(this.#context)) return this.#largest ?? facts.maxQueueSize
    this.#largest = absent(() => transport.vringSize(this.index)) ?? facts.maxQueueSize
    return this.#largest
  }

  /** The size of a ring that is asked for without one: 256, or the largest power of two below it that the queue can have. ERR_VDPA_NOT_SUPPORTED where that is none. */
  get defaultSize(): number {
    const largest = Math.min(this.maxSize, DEFAULT_SIZE)
    if (largest === 0) throw this.#notThere()
    let size = 1
    while (size * 2 <= largest) size *= 2
    return size
  }

  /**
   * Tells the device where the ring is, before start(). Checks size, alignment and overlap first; nothing is half set when a check refuses. When the kernel refuses
   * half-way, the ring cannot be enabled before it was set up again. ERR_VDPA_STATE while a queue of createQueue() has it. (VHOST_SET_VRING_NUM, _ADDR, _BASE, _KICK, _CALL, _ERR)
   */
  setUp(setup: VringSetup): void {
    checkUnchanging(this.#context, 'setting a ring up')
    this.#context.queues.checkFree(this.#context, this.index)
    this.setUpOwned(setup)
  }

  /** @internal setUp() for the queue's owner, which checked the rest. */
  setUpOwned(setup: VringSetup): void {
    this.#checkChangeable('setting a ring up')
    this.#checkSetup(setup)
    const { format } = this
    const base = encodeBase(format, setup.state ?? initialState(format))
    const [kick, call, err] = [setup.kick, setup.call, setup.err].map((one) => (one === undefined ? one : fdOf(one)))
    this.#isHalfSet = true
    try {
      const { transport } = this.#context
      transport.setVringNum(this.index, setup.size)
      transport.setVringBase(this.index, base)
      transport.setVringAddr(this.index, setup.addresses)
      if (kick !== undefined) transport.setVringKick(this.index, kick)
      if (call !== undefined) transport.setVringCall(this.index, call)
      if (err !== undefined) transport.setVringErr(this.index, err)
    } catch (failure) {
      if (this.#isEnabled) this.#context.state.needsReset(`queue ${this.index} is enabled, and ${HALF_SET}`)
      throw failure
    }
    this.#isHalfSet = false
    this.#size = setup.size
    this.#addresses = { ...setup.addresses }
  }

  /** The eventfd by which the driver kicks. (VHOST_SET_VRING_KICK) */
  setKick(eventfd: EventfdLike): void {
    checkOpen(this.#context)
    this.#context.transport.setVringKick(this.index, fdOf(eventfd))
  }

  /** The eventfd by which the device interrupts; may change while the device runs. (VHOST_SET_VRING_CALL) */
  setCall(eventfd: EventfdLike): void {
    checkOpen(this.#context)
    this.#context.transport.setVringCall(this.index, fdOf(eventfd))
  }

  /** The eventfd by which the device tells of an error. (VHOST_SET_VRING_ERR) */
  setErr(eventfd: EventfdLike): void {
    checkOpen(this.#context)
    this.#context.transport.setVringErr(this.index, fdOf(eventfd))
  }

  /**
   * Enables the queue: before start(), or after it only with ENABLE_AFTER_DRIVER_OK acknowledged (ERR_VDPA_STATE otherwise, because devices
   * break on it silently). (VHOST_VDPA_SET_VRING_ENABLE)
   */
  enable(): void {
    checkUnchanging(this.#context, 'enabling a ring')
    this.enableOwned()
  }

  /** @internal enable() for the queue's owner. */
  enableOwned(): void {
    checkNegotiated(this.#context, 'enabling a ring')
    if (isRunning(this.#context) && !this.#context.backendFeatures.has('VHOST_BACKEND_F_ENABLE_AFTER_DRIVER_OK')) {
      throw refusal(
        this.#context,
        'ERR_VDPA_STATE',
        `queue ${this.index} is enabled before start(): ENABLE_AFTER_DRIVER_OK is not there`,
      )
    }
    if (this.#isHalfSet) {
      const text = `queue ${this.index} cannot be enabled: ${HALF_SET}. Set it up again`
      throw refusal(this.#context, 'ERR_VDPA_STATE', text)
    }
    this.#context.transport.setVringEnable(this.index, true)
    this.#isEnabled = true
  }

  /** Disables the queue. Some parents stop it, many only note it: suspend() is what stops. (VHOST_VDPA_SET_VRING_ENABLE) */
  disable(): void {
    checkUnchanging(this.#context, 'disabling a ring')
    this.disableOwned()
  }

  /** @internal disable() for the queue's owner. */
  disableOwned(): void {
    this.#context.transport.setVringEnable(this.index, false)
    this.#isEnabled = false
  }

  /** Where the ring stands. Refused with ERR_VDPA_STATE while the device runs and is not suspended: the answer could not be trusted. (VHOST_GET_VRING_BASE) */
  state(): RingState {
    checkThere(this.#context)
    this.#checkChangeable("reading a ring's state")
    return decodeBase(this.format, this.#context.transport.vringBase(this.index))
  }

  /** Sets where the ring begins, before start() or while suspended. (VHOST_SET_VRING_BASE) */
  setState(state: RingState): void {
    checkUnchanging(this.#context, "setting a ring's state")
    this.#checkChangeable("setting a ring's state")
    this.#context.transport.setVringBase(this.index, encodeBase(this.format, state))
  }

  /** @internal The device was reset: nothing is set or enabled any more. */
  forget(): void {
    this.#isEnabled = false
    this.#isHalfSet = false
    this.#size = 0
    this.#largest = undefined
    this.#addresses = undefined
  }

  /** @internal ERR_VDPA_STATE while the device runs and is not suspended. */
  checkStopped(what: string): void {
    this.#checkChangeable(what)
  }

  #checkChangeable(what: string): void {
    checkNegotiated(this.#context, what)
    if (this.#context.state.phase === 'running') {
      throw refusal(
        this.#context,
        'ERR_VDPA_STATE',
        `${what} needs a device that is not running: before start(), or after suspend()`,
      )
    }
  }

  /** @internal ERR_VDPA_NOT_SUPPORTED for a queue that the device says has no descriptors, RangeError for a size that it cannot have. */
  checkSize(size: number): void {
    const { maxSize } = this
    if (maxSize === 0) throw this.#notThere()
    checkInteger(size, 'size', 1, maxSize)
  }

  #notThere(): Error {
    const text = `queue ${this.index} can have no descriptors: the device does not have it under the negotiated features`
    return refusal(this.#context, 'ERR_VDPA_NOT_SUPPORTED', text)
  }

  #checkSetup(setup: VringSetup): void {
    checkObject(setup, 'setup')
    checkObject(setup.addresses, 'setup.addresses')
    const { format } = this
    this.checkSize(setup.size)
    const sizes = areaSizes(format, setup.size)
    const areas = (['descriptor', 'driver', 'device'] as const).map((name) => {
      const alignment = { descriptor: 16n, driver: format === 'packed' ? 4n : 2n, device: 4n }[name]
      const iova = setup.addresses[name]
      if (typeof iova !== 'bigint' || iova < 0n || iova % alignment !== 0n) {
        throw rangeError(`addresses.${name}`, `an IOVA that is a multiple of ${alignment}`, iova)
      }
      const range = rangeOf(iova, BigInt(sizes[name]))
      if (range === undefined) throw rangeError(`addresses.${name}`, 'such that the area ends by 2^64-1', iova)
      return { name, range }
    })
    for (const [at, one] of areas.entries()) {
      const other = areas.slice(at + 1).find(({ range }) => overlaps(range, one.range))
      if (other !== undefined) {
        throw rangeError(
          `addresses.${other.name}`,
          `apart from addresses.${one.name} ${showRange(one.range)}`,
          other.range.first,
        )
      }
    }
  }
}

/** The descriptor that stands in a request: -1 for null. A number is left for the request to judge. TypeError for anything else. */
export function fdOf(eventfd: EventfdLike): number {
  if (eventfd === null) return -1
  const fd = typeof eventfd === 'object' ? eventfd.fd : eventfd
  if (typeof fd !== 'number') throw typeError('eventfd', 'an Eventfd, a file descriptor, or null', eventfd)
  return fd
}

/** The word of SET_VRING_BASE: the available index (split), or both positions with their wrap counters (packed: available low, used high). */
export function encodeBase(format: RingFormat, state: RingState): number {
  checkObject(state, 'state')
  checkInteger(state.available, 'state.available', 0, 0xffff)
  checkInteger(state.used, 'state.used', 0, 0xffff)
  return format === 'packed' ? state.available + state.used * 0x1_0000 : state.available
}

export function decodeBase(format: RingFormat, word: number): RingState {
  const available = word % 0x1_0000
  return format === 'packed' ? { available, used: Math.floor(word / 0x1_0000) } : { available, used: available }
}
