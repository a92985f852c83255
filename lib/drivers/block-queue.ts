// One request queue of a block device in flat numbers: preallocated slots, requests into the ring, answers out of it by callback (spec section
// 5.2.6). It waits for nothing and splits nothing; promises are made in block-transfers.ts.

import { checkInteger, rangeError, typeError } from '../base/checks.js'
import { vdpaError, type VdpaError } from '../base/errors.js'
import { ProgramCalls, throwUncaught } from '../base/program-calls.js'
import type { Subscription } from '../backend/backend.js'
import type { DeviceQueue } from '../device/device-queue.js'
import type { DriverRing } from '../virtqueue/virtqueue.js'
import { blockRequestTypes, blockStatus, SECTOR_BYTES } from '../uapi/virtio-blk.js'
import { BLOCK_NO_STATUS, refuseSectors, statusError } from './block-errors.js'
import { blockSectors, type BlockLimits, type RangeLimits } from './block-limits.js'
import type { BlockCompletions, BlockCounters, BlockDone, BlockQueueParts } from './block-queue-types.js'
import { BlockSlots, HEADER_BYTES } from './block-slots.js'
import { checkBudget } from './driver-queues.js'

// Constants of this module: an imported name would be a property load each time it is used.
const { VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID } = blockRequestTypes
const { VIRTIO_BLK_S_OK } = blockStatus
const SECTOR_SHIFT = 9
const [FREE, OWNED, IN_FLIGHT] = [0, 1, 2]
/** What a status byte holds before the device writes it: no status of any device. */
const UNANSWERED = 0xff
/** Rounds of answers before the event loop has another turn. */
const ROUNDS_A_TURN = 16

/** The hot form of a block driver: nothing here allocates per request. Made by BlockDriver; `driver.queues[n]`. */
export class BlockQueue {
  /** The virtqueue's number, from 0. */
  readonly index: number
  /** Requests that may be under way, as far as the ring has room for their segments. */
  readonly slots: number
  /** Data bytes of one slot, and so the most of one request. */
  readonly slotBytes: number
  /** How completions are learned of. */
  readonly completions: BlockCompletions
  readonly #path: string
  readonly #isIndirect: boolean
  readonly #segmentBytes: number
  #memory: BlockSlots
  #limits: BlockLimits
  #queue: DeviceQueue
  #ring: DriverRing
  #subscription: Subscription | undefined
  #stopWatchingClose: () => void = () => undefined
  #isReferenced = false
  // By slot.
  readonly #state: Uint8Array
  readonly #types: Uint8Array
  readonly #sectors: Float64Array
  readonly #wanted: Int32Array
  readonly #used: Float64Array
  readonly #done: BlockDone[]
  readonly #goOn = () => this.#serve()
  // Free slots, a stack: the slot freed last is the one that is still in the cache.
  readonly #free: Int32Array
  #freeCount: number
  #inFlight = 0
  #answers = 0
  #failures = 0
  #rounds = 0
  #requests = 0
  #failure: VdpaError | undefined
  #isParked = false
  #onRoom: (() => void) | undefined
  #onUntold: (failure: unknown) => boolean = () => false
  #cut: RangeLimits
  #hasWaiting: () => boolean = () => false

  /** @internal */
  constructor(queue: DeviceQueue, parts: BlockQueueParts) {
    const { slots, slotBytes } = parts
    this.index = queue.index
    this.slots = slots
    this.slotBytes = slotBytes
    this.completions = parts.completions
    this.#path = parts.path
    this.#limits = parts.limits
    this.#cut = cutOf(parts.limits, slotBytes)
    this.#isIndirect = parts.isIndirect
    this.#segmentBytes = parts.limits.segmentBytes
    this.#memory = new BlockSlots(queue, slots, slotBytes)
    this.#state = new Uint8Array(slots)
    this.#types = new Uint8Array(slots)
    this.#sectors = new Float64Array(slots)
    this.#wanted = new Int32Array(slots)
    this.#used = new Float64Array(slots)
    this.#done = new Array<BlockDone>(slots).fill(() => undefined)
    this.#free = Int32Array.from({ length: slots }, (_, at) => slots - 1 - at)
    this.#freeCount = slots
    this.#queue = queue
    this.#ring = queue.ring
    this.#listen()
  }

  /** Requests that the device has and has not answered. */
  get inFlight(): number {
    return this.#inFlight
  }

  /** What was done so far. */
  get counters(): BlockCounters {
    return { requests: this.#requests, answers: this.#answers, failures: this.#failures, rounds: this.#rounds }
  }

  /** What the queue ended with: everything throws it. Undefined while the queue works. */
  get failure(): VdpaError | undefined {
    return this.#failure
  }

  /** A free slot, which is the caller's until release(); -1 when there is none, or when others wait for one. Throws what the queue ended with. */
  acquire(): number {
    if (this.#failure !== undefined) throw this.#failure
    return this.#hasWaiting() ? -1 : this.take()
  }

  /** Gives a slot back. RangeError for one that is not the caller's, such as one whose request is under way. */
  release(slot: number): void {
    this.#checkOwned(slot)
    this.#state[slot] = FREE
    this.#free[this.#freeCount++] = slot
    this.#onRoom?.()
  }

  /** The data bytes of a slot: always the same view, which the device reads and writes while a request is under way, until the queue is moved to other memory. */
  data(slot: number): Uint8Array {
    return (typeof slot === 'number' ? this.#memory.views[slot] : undefined) ?? this.#noSlot(slot)
  }

  /**
   * Reads `length` bytes (a multiple of 512, up to `slotBytes`) from `sector` on into the slot's data. `done` tells the end. False when the ring has no room:
   * again after poll(). The device sees it after publish(). RangeError outside of the disk. (VIRTIO_BLK_T_IN)
   */
  read(slot: number, sector: number, length: number, done: BlockDone): boolean {
    this.#checkSectors(sector, length)
    return this.submit(slot, VIRTIO_BLK_T_IN, sector, length, done)
  }

  /** Writes the first `length` bytes of the slot's data, as read(). ERR_VDPA_NOT_SUPPORTED on a read-only disk. (VIRTIO_BLK_T_OUT) */
  write(slot: number, sector: number, length: number, done: BlockDone): boolean {
    if (this.#limits.isReadOnly) throw this.#unsupported('the disk is read-only', 'VIRTIO_BLK_T_OUT')
    this.#checkSectors(sector, length)
    return this.submit(slot, VIRTIO_BLK_T_OUT, sector, length, done)
  }

  /** Makes what was written, and answered, before this call survive a loss of power. ERR_VDPA_NOT_SUPPORTED without VIRTIO_BLK_F_FLUSH. (VIRTIO_BLK_T_FLUSH) */
  flush(slot: number, done: BlockDone): boolean {
    if (!this.#limits.canFlush) throw this.#unsupported('VIRTIO_BLK_F_FLUSH was not negotiated', 'VIRTIO_BLK_T_FLUSH')
    return this.submit(slot, VIRTIO_BLK_T_FLUSH, 0, 0, done)
  }

  /** Makes all requests so far visible to the device and tells it, if it wants to be told. One call for many requests; poll() does it for its callbacks. */
  publish(): void {
    if (this.#failure !== undefined) throw this.#failure
    if (!this.#isParked) this.#tell()
  }

  /**
   * Takes the answers that are there, at most `budget`, and calls their callbacks; then publishes what these have sent. Returns how many there were. Interrupts
   * do it by themselves. What callbacks throw is thrown at the end, when the others were called and what they sent was published. Throws
   * ERR_VDPA_RING_BROKEN, after every request was told, when the device broke a rule.
   */
  poll(budget = Number.MAX_SAFE_INTEGER): number {
    checkBudget(budget)
    if (this.#failure !== undefined) throw this.#failure
    const ring = this.#ring
    let calls: ProgramCalls | undefined
    let count = 0
    try {
      // A callback may end the queue, or park it: then what is left is not its any more.
      for (; count < budget && !this.#isParked && this.#ring === ring; count++) {
        const slot = ring.take()
        if (slot < 0) break
        const status = this.#finish(slot, ring.usedLength)
        const done = this.#done[slot] as BlockDone
        try {
          done(slot, status)
        } catch (failure) {
          ;(calls ??= new ProgramCalls()).keep(failure)
        }
      }
    } catch (failure) {
      calls ??= new ProgramCalls()
      calls.keep(failure)
      if (ring.isBroken) this.#end(failure as VdpaError, calls)
    }
    if (count > 0) {
      this.#rounds++
      try {
        if (this.#hasWaiting()) this.#onRoom?.()
        if (!this.#isParked) this.#tell()
      } catch (failure) {
        ;(calls ??= new ProgramCalls()).keep(failure)
      }
      if (this.#inFlight === 0) this.#reference(false)
    }
    calls?.throwKept()
    return count
  }

  /** The error that a status means for the request that was in this slot last. */
  errorOf(slot: number, status: number): VdpaError {
    checkInteger(slot, 'slot', 0, this.slots - 1)
    checkInteger(status, 'status', BLOCK_NO_STATUS, 0xff)
    if (status === BLOCK_NO_STATUS && this.#failure !== undefined) return this.#failure
    const [type = 0, sector = 0, usedLength = 0] = [this.#types[slot], this.#sectors[slot], this.#used[slot]]
    return statusError({ path: this.#path, type, sector, usedLength }, status)
  }

  /** @internal As acquire(), whoever waits. */
  take(): number {
    if (this.#freeCount === 0) return -1
    const slot = this.#free[--this.#freeCount] as number
    this.#state[slot] = OWNED
    return slot
  }

  /** @internal Puts one request into the ring: with the first `length` bytes of the slot's data, which the type says who writes. */
  submit(slot: number, type: number, sector: number, length: number, done: BlockDone): boolean {
    if (this.#failure !== undefined) throw this.#failure
    this.#checkOwned(slot)
    if (typeof done !== 'function') throw typeError('done', 'a function', done)
    const ring = this.#ring
    const deviceWrites = type === VIRTIO_BLK_T_IN || type === VIRTIO_BLK_T_GET_ID
    const segments = length <= this.#segmentBytes ? (length === 0 ? 2 : 3) : 2 + Math.ceil(length / this.#segmentBytes)
    if (ring.freeCount < (this.#isIndirect ? 1 : segments) || this.#isParked) return false
    const memory = this.#memory
    memory.writeHeader(slot, type, sector)
    ring.begin()
    ring.push(memory.headHigh[slot] as number, memory.headLow[slot] as number, HEADER_BYTES, false)
    if (segments === 3) ring.push(memory.dataHigh[slot] as number, memory.dataLow[slot] as number, length, deviceWrites)
    else if (segments > 3) memory.pushData(ring, slot, length, this.#segmentBytes, deviceWrites)
    ring.push(memory.headHigh[slot] as number, memory.statusLow[slot] as number, 1, true)
    ring.commit(slot)
    this.#state[slot] = IN_FLIGHT
    this.#types[slot] = type
    this.#sectors[slot] = sector
    this.#wanted[slot] = deviceWrites ? length : 0
    this.#done[slot] = done
    this.#requests++
    if (this.#inFlight++ === 0) this.#reference(true)
    return true
  }

  /** @internal Who is asked whether somebody waits, and told of room, or that the device could not be told: true when somebody waited for that. */
  setWaiting(hasWaiting: () => boolean, onRoom: () => void, onUntold: (failure: unknown) => boolean): void {
    this.#hasWaiting = hasWaiting
    this.#onRoom = onRoom
    this.#onUntold = onUntold
  }

  /**
   * @internal Ends the queue: each request under way is told BLOCK_NO_STATUS, and everything after that throws `failure`. The memory stays the device's. What
   * callbacks throw is thrown when all were called.
   */
  fail(failure: VdpaError): void {
    const calls = new ProgramCalls()
    this.#end(failure, calls)
    calls.throwKept()
  }

  /** @internal Takes the answers of a device that has stopped. What callbacks throw goes to 'uncaughtException'. */
  takeAnswers(): void {
    try {
      this.poll()
    } catch (failure) {
      if (failure !== this.#failure) throwUncaught(failure)
    }
  }

  /** @internal Stops at a suspended device: what is in the ring stays there, and nothing more goes in. */
  park(): void {
    this.#isParked = true
    this.#reference(false)
    this.#subscription?.close()
    this.#stopWatchingClose()
  }

  /** @internal Waits for another queue to go on in, because the restoring in this one failed. Nothing was sent there. */
  parkAgain(): void {
    if (this.#failure === undefined) this.park()
  }

  /** @internal Whether it was parked and waits for attach(). */
  get isSaved(): boolean {
    return this.#isParked && this.#failure === undefined
  }

  /** @internal Has a queue to go on in that was restored from the parked one: with resume(). */
  attach(queue: DeviceQueue, limits: BlockLimits): void {
    this.#queue = queue
    this.#ring = queue.ring
    // What was saved may have been carried to other memory.
    if (!this.#memory.isIn(queue)) this.#memory = new BlockSlots(queue, this.slots, this.slotBytes)
    this.setLimits(limits)
    // They are sent again: a status that came before the device was stopped answers nothing.
    for (let slot = 0; slot < this.slots; slot++) if (this.#state[slot] === IN_FLIGHT) this.#memory.forgetStatus(slot)
    this.#listen()
  }

  /** @internal Goes on after attach(). */
  resume(): void {
    this.#isParked = false
    if (this.#inFlight > 0) this.#reference(true)
    this.#onRoom?.()
  }

  /** @internal Reads the limits again, after the disk has grown. */
  setLimits(limits: BlockLimits): void {
    this.#limits = limits
    this.#cut = cutOf(limits, this.slotBytes)
  }

  /** @internal Where long reads and writes are cut: between blocks, where a slot holds one. */
  get cut(): RangeLimits {
    return this.#cut
  }

  #listen(): void {
    this.#stopWatchingClose = this.#queue.onClose(() =>
      this.fail(vdpaError('ERR_VDPA_CANCELED', 'the device was reset or closed', { path: this.#path })),
    )
    if (this.completions === 'poll') this.#ring.disableCalls()
    else {
      this.#isReferenced = false
      this.#subscription = this.#queue.onCall(() => this.#serve())
      this.#ring.enableCalls()
    }
  }

  /**
   * One interrupt: answers are taken until there are none, without more interrupts meanwhile. A device that is as fast as we are must not keep the event
   * loop for itself: after some rounds others have a turn. Nobody of the program called: what callbacks throw goes to 'uncaughtException'.
   */
  #serve(): void {
    for (let round = 0; this.#failure === undefined && !this.#isParked; round++) {
      if (round === ROUNDS_A_TURN) {
        setImmediate(this.#goOn)
        return
      }
      try {
        this.#ring.disableCalls()
        this.poll()
        if (this.#failure !== undefined || this.#isParked || this.#ring.enableCalls()) return
      } catch (failure) {
        // What the queue ended with was told to every request.
        if (failure !== this.#failure) throwUncaught(failure)
      }
    }
  }

  /** Tells the device. Where that is refused, requests stay the device's until it gives them back, and who waits for them is told. */
  #tell(): void {
    try {
      this.#queue.publish()
    } catch (failure) {
      if (!this.#onUntold(failure)) throw failure
    }
  }

  #end(failure: VdpaError, calls: ProgramCalls): void {
    if (this.#failure !== undefined) return
    this.#failure = failure
    this.#isParked = true
    this.#subscription?.close()
    this.#inFlight = 0
    const told: number[] = []
    for (let slot = 0; slot < this.slots; slot++) if (this.#state[slot] === IN_FLIGHT) told.push(slot)
    for (const slot of told) this.#state[slot] = OWNED
    for (const slot of told) calls.call(() => this.#done[slot]?.(slot, BLOCK_NO_STATUS))
    this.#onRoom?.()
  }

  /** Books the answer of a slot, which is the caller's again. Returns its status. */
  #finish(slot: number, usedLength: number): number {
    let status: number = this.#memory.status(slot)
    // The driver may rely on no byte beyond the length that the device gave (section 2.7.8.2), the status included.
    if (usedLength === 0 || status === UNANSWERED) status = BLOCK_NO_STATUS
    else if (status === VIRTIO_BLK_S_OK && usedLength <= (this.#wanted[slot] as number)) status = BLOCK_NO_STATUS
    this.#state[slot] = OWNED
    this.#used[slot] = usedLength
    this.#inFlight--
    this.#answers++
    if (status !== VIRTIO_BLK_S_OK) this.#failures++
    return status
  }

  /** A process with requests under way is kept alive, an idle one is not. */
  #reference(wanted: boolean): void {
    if (wanted === this.#isReferenced || this.#subscription === undefined) return
    this.#isReferenced = wanted
    if (wanted) this.#subscription.ref()
    else this.#subscription.unref()
  }

  #checkOwned(slot: number): void {
    if (typeof slot === 'number' && this.#state[slot] === OWNED) return
    if (typeof slot !== 'number' || this.#state[slot] === undefined) this.#noSlot(slot)
    throw rangeError('slot', 'acquired, and its request answered', slot)
  }

  #noSlot(slot: unknown): never {
    checkInteger(slot, 'slot', 0, this.slots - 1)
    throw rangeError('slot', 'that of the queue', slot)
  }

  /** Whole sectors of the disk that fit into a slot. One test, so that this function stays small enough to be inlined. */
  #checkSectors(sector: number, length: number): void {
    if (
      typeof length !== 'number' ||
      typeof sector !== 'number' ||
      (length & (SECTOR_BYTES - 1)) !== 0 ||
      !(length > 0 && length <= this.slotBytes) ||
      !(sector >= 0 && sector + (length >>> SECTOR_SHIFT) <= this.#limits.capacity) ||
      Math.floor(sector) !== sector
    )
      refuseSectors(sector, length, this.slotBytes, this.#limits.capacity)
  }

  #unsupported(text: string, request: string): VdpaError {
    return vdpaError('ERR_VDPA_NOT_SUPPORTED', text, { path: this.#path, request })
  }
}

/** Reads and writes end at a block where a slot holds one. */
function cutOf({ blockSize }: BlockLimits, slotBytes: number): RangeLimits {
  return { maxSectors: Math.floor(slotBytes / SECTOR_BYTES), alignment: blockSectors(blockSize) }
}
