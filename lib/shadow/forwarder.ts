// The hot path of a shadowed queue: chains of the guest go down into the device's ring with their addresses translated, used chains come up. So many a turn; nothing is allocated for a chain.

import { rule } from '../virtqueue/broken.js'
import { vdpaError } from '../base/errors.js'
import {
  isPlainDevice,
  isPlainDriver,
  PlainChains,
  type PlainDeviceRing,
  type PlainDriverRing,
} from '../virtqueue/plain-chains.js'
import type { DescriptorChain, DeviceRing, DriverRing } from '../virtqueue/virtqueue.js'
import type { DeviceQueue } from '../device/device-queue.js'
import type { WriteMarks } from '../memory/write-marks.js'
import type { Bounce } from './bounce.js'
import { CHUNK_BYTES } from './bounce.js'
import type { GuestQueue } from './guest-queue.js'
import { iovaHighOf, iovaLowOf, type GuestWindow, type GuestWindows } from './guest-windows.js'
import { SegmentBook } from './segment-book.js'
import { Settlement } from './settlement.js'

/** Chains each way in one turn of the event loop. */
const CHAINS_A_TURN = 256
const WORD = 0x1_0000_0000
/** The upper halves from here on are those of addresses above 2^53, where no guest has memory. */
const HIGH_END = 0x20_0000

const NOTHING = 0
const FORWARDED = 1
const FULL = 2
type Outcome = typeof NOTHING | typeof FORWARDED | typeof FULL

/** What a shadow counted since it was made. */
export interface ShadowQueueCounters {
  /** Chains that went to the device. */
  forwarded: number
  /** Chains that came back. */
  used: number
  /** Chains of which some bytes were copied, because the device cannot reach them. */
  bounced: number
  /** Chains that a device had taken and not answered when shadowing began, and that were given to it again. */
  resubmitted: number
}

/** What a forwarder works with. */
export interface ForwarderParts {
  readonly guest: GuestQueue
  readonly queue: DeviceQueue
  readonly windows: GuestWindows
  readonly bounce: Bounce | undefined
  readonly log: WriteMarks | undefined
  readonly counters: ShadowQueueCounters
  /** Descriptors that a chain may have in an indirect table. */
  readonly tableSize: number
  /** Interrupts the guest. */
  readonly call: () => void
  /** Is told of what ended the queue, once. */
  readonly onFailure: (failure: unknown) => void
}

/** One queue, from one beginning of shadowing to its end. */
export class Forwarder {
  readonly #parts: ForwarderParts
  readonly #book: SegmentBook
  readonly #settlement: Settlement
  // Of the parts, what each chain needs.
  readonly #from: DeviceRing
  #into: DriverRing
  // The same two, where both do chains of one descriptor by the many.
  readonly #plainFrom: PlainDeviceRing | undefined
  #plainInto: PlainDriverRing | undefined
  readonly #chains: PlainChains
  #queue: DeviceQueue
  readonly #windows: GuestWindows
  readonly #counters: ShadowQueueCounters
  readonly #tableSize: number
  // Segments of the chain in hand, as the device will get it.
  #count = 0
  #isBounced = false
  // By chain: which of all it is, or -1 when it is not with the device.
  readonly #number: Float64Array
  #taken = 0
  #isPaused = false
  #isGuestBroken = false
  #isEnded = false
  // The device has no ring of ours.
  #isAway = false
  #again: NodeJS.Immediate | undefined

  constructor(parts: ForwarderParts) {
    this.#parts = parts
    this.#from = parts.guest.ring
    this.#into = parts.queue.ring
    this.#plainFrom = isPlainDevice(this.#from) ? this.#from : undefined
    this.#plainInto = isPlainDriver(this.#into) ? this.#into : undefined
    this.#queue = parts.queue
    this.#windows = parts.windows
    this.#counters = parts.counters
    this.#tableSize = parts.tableSize
    const { size } = this.#from
    this.#chains = new PlainChains(Math.min(size, CHAINS_A_TURN))
    this.#book = new SegmentBook(size)
    this.#settlement = new Settlement(this.#book, parts)
    this.#number = new Float64Array(size).fill(-1)
  }

  /** Chains of the guest that are with the device. */
  get inFlight(): number {
    return this.#into.inFlight
  }

  /** Takes nothing more from the guest; what comes back is given to it. */
  pause(): void {
    this.#isPaused = true
  }

  /** Takes from the guest again. */
  goOn(): void {
    this.#isPaused = false
    this.work()
  }

  /** Has nothing to do with the device's ring any more, until rejoin(). */
  leave(): void {
    this.#isAway = true
  }

  /** Goes on with another ring, which holds what the last one held and the device has not answered. */
  rejoin(queue: DeviceQueue): void {
    this.#queue = queue
    this.#into = queue.ring
    this.#plainInto = isPlainDriver(this.#into) ? this.#into : undefined
    this.#isAway = false
  }

  /** Whether both rings are as they should be, as far as anybody looked. */
  get isWhole(): boolean {
    return !this.#isGuestBroken && !this.#into.isBroken
  }

  /** Whether the guest, or the device, broke its ring. */
  get isBroken(): boolean {
    return this.#isGuestBroken
  }

  /** Whether the chains that are with the device are the last ones that the guest gave: only then the guest's ring says by one number which they are. */
  get isInOrder(): boolean {
    const first = this.#taken - this.inFlight
    return this.#number.every((number) => number === -1 || number >= first)
  }

  /** Both ways, as far as this turn goes. What fails ends the queue, and is told. */
  work(): void {
    if (this.#isEnded || this.#isAway) return
    try {
      let more = this.#up()
      if (!this.#isPaused && !this.#isGuestBroken) more = this.#down() || more
      if (more) this.#workAgain()
    } catch (failure) {
      this.#fail(failure)
    }
  }

  /** Takes everything that the device has used; for a device that stands still. */
  collect(): void {
    try {
      while (!this.#isEnded && !this.#isAway && this.#up());
    } catch (failure) {
      this.#fail(failure)
    }
  }

  /** Ends it: nothing is forwarded any more. What the device may have written of chains that it did not answer is marked. The guest's ring asks for kicks when it is given back. */
  end(): void {
    if (this.#isEnded) return
    this.#isEnded = true
    if (this.#again !== undefined) clearImmediate(this.#again)
    const { guest, log } = this.#parts
    this.#number.forEach((number, chain) => {
      if (number !== -1) this.#settlement.markWritten(chain)
    })
    if (this.#isGuestBroken || guest.ring.isBroken) return
    try {
      guest.ring.enableKicks()
      if (log !== undefined) guest.mark(log)
    } catch {
      // The guest's own doing: who serves the ring next finds out.
    }
  }

  #workAgain(): void {
    this.#again ??= setImmediate(() => {
      this.#again = undefined
      this.work()
    })
  }

  /** The guest's own doing, or the device's. What the device still has may be written meanwhile, and is marked when it comes back. */
  #fail(failure: unknown): void {
    const isFirst = !this.#isGuestBroken
    this.#isGuestBroken = true
    if (this.#into.isBroken) this.#isEnded = true
    else this.#workAgain()
    if (isFirst) this.#parts.onFailure(failure)
  }

  /** Guest to device. True when there may be more. */
  #down(): boolean {
    const { guest, log } = this.#parts
    const queue = this.#queue
    const { ring } = guest
    const taken = this.#taken
    let left = CHAINS_A_TURN
    let outcome: Outcome
    ring.disableKicks()
    try {
      do {
        outcome = FORWARDED
        while (left > 0 && outcome === FORWARDED) {
          const count = this.#forwardMany(left)
          if (count > 0) left -= count
          else if ((outcome = this.#forward()) === FORWARDED) left--
        }
      } while (outcome === NOTHING && left > 0 && !ring.enableKicks())
    } finally {
      this.#counters.forwarded += this.#taken - taken
      // What was forwarded before a guest broke its ring is the device's.
      queue.publish()
      if (log !== undefined) guest.mark(log)
    }
    return left === 0
  }

  /** Chains of one segment at the same address for the device, which most are, as many as come one after the other. 0 where there is none now, or no room for it. */
  #forwardMany(most: number): number {
    const [from, into] = [this.#plainFrom, this.#plainInto]
    if (from === undefined || into === undefined) return 0
    const chains = this.#chains
    const { ids, iovaHigh, iovaLow, lengths, isWritten } = chains
    const found = from.peekPlain(chains, Math.min(most, chains.size, this.#into.freeCount))
    const count = from.loadPlain(chains, this.#countSame(found))
    const book = this.#book
    const numbers = this.#number
    const first = this.#taken
    for (let at = 0; at < count; at++) {
      const id = ids[at] as number
      const address = (iovaHigh[at] as number) * WORD + (iovaLow[at] as number)
      if (isWritten[at] === 1) book.setOnly(id, address, lengths[at] as number)
      numbers[id] = first + at
    }
    this.#taken = first + count
    into.commitPlain(chains, count)
    return count
  }

  /** How many of the chains at hand, the first ones, are where the device has the same address. */
  #countSame(found: number): number {
    const { iovaHigh, iovaLow, lengths } = this.#chains
    // Most are in one window.
    let [first, last] = [0, -1]
    for (let at = 0; at < found; at++) {
      const address = (iovaHigh[at] as number) * WORD + (iovaLow[at] as number)
      if (address >= first && address + (lengths[at] as number) - 1 <= last) continue
      if (!this.#isSame(iovaHigh[at] as number, iovaLow[at] as number, lengths[at] as number)) return at
      const window = this.#windows.at(address) as GuestWindow
      first = window.first
      last = window.last
    }
    return found
  }

  #isSame(high: number, low: number, length: number): boolean {
    if (high >= HIGH_END) return false
    const address = high * WORD + low
    const window = this.#windows.at(address)
    return window !== undefined && window.isSame && window.last - address + 1 >= length
  }

  #forward(): Outcome {
    const ring = this.#from
    if (!ring.next()) return NOTHING
    const { chain } = ring
    if (chain.count === 1 && this.#forwardPlain(chain)) return FORWARDED
    return this.#forwardAny(chain.id)
  }

  /** The chain that was loaded, where it is one segment at the same address for the device: most chains are. False, and nothing done, where it is not, or there is no room for it. */
  #forwardPlain(chain: DescriptorChain): boolean {
    const into = this.#into
    const high = chain.iovaHigh[0] as number
    const low = chain.iovaLow[0] as number
    const length = chain.lengths[0] as number
    if (length === 0 || into.freeCount === 0 || !this.#isSame(high, low, length)) return false
    const { id } = chain
    const isWritten = chain.readableCount === 0
    into.commitOne(id, high, low, length, isWritten)
    if (isWritten) this.#book.setOnly(id, high * WORD + low, length)
    this.#number[id] = this.#taken++
    return true
  }

  #forwardAny(id: number): Outcome {
    const ring = this.#from
    // Begun anew with each chain, whatever became of the one before.
    this.#into.begin()
    if (!this.#translate(id)) return this.#putBack(id)
    const count = this.#count
    if (count === 0) {
      // Segments of no bytes only: no device is needed for them. With IN_ORDER those before it are due first.
      if (this.#parts.guest.isInOrder && this.inFlight > 0) return this.#putBack(id)
      ring.complete(id, 0)
      this.#announce()
      return FORWARDED
    }
    const needed = count > 1 && count <= this.#tableSize ? 1 : count
    if (needed > this.#into.freeCount) return this.#putBack(id)
    this.#into.commit(id)
    this.#number[id] = this.#taken++
    if (this.#isBounced) this.#counters.bounced++
    return FORWARDED
  }

  /** There is no room for the chain in hand now. */
  #putBack(id: number): Outcome {
    this.#settlement.release(id)
    if (this.inFlight === 0)
      throw brokenBy('a chain has more segments, or more bytes that the device cannot reach, than there is room for')
    this.#parts.guest.ring.rewind()
    return FULL
  }

  /** Finds where the device has the bytes of the chain that was loaded. False when there is no room for a copy of them, or for so many segments. */
  #translate(id: number): boolean {
    const { chain } = this.#from
    const windows = this.#windows
    this.#count = 0
    this.#isBounced = false
    for (let segment = 0; segment < chain.count; segment++) {
      const high = chain.iovaHigh[segment] as number
      const low = chain.iovaLow[segment] as number
      const length = chain.lengths[segment] as number
      const isWritten = segment >= chain.readableCount
      if (length === 0) continue
      const address = high < HIGH_END ? high * WORD + low : Infinity
      const window = windows.at(address)
      const isPlain = window !== undefined && window.isSame && window.last - address + 1 >= length
      if (!isPlain) {
        if (!this.#translatePieces(id, address, length, isWritten)) return false
        continue
      }
      if (isWritten) this.#book.add(id, address, length, -1, true)
      if (!this.#push(high, low, length, isWritten)) return false
    }
    return true
  }

  #translatePieces(id: number, address: number, length: number, isWritten: boolean): boolean {
    for (let at = address, left = length; left > 0;) {
      const window = this.#windowAt(at)
      const rest = Math.min(left, window.last - at + 1)
      const count = window.isMapped ? rest : Math.min(rest, CHUNK_BYTES)
      if (!window.isMapped) {
        if (!this.#bounce(id, window, at, count, isWritten)) return false
      } else {
        if (isWritten) this.#book.add(id, at, count, -1, true)
        if (!this.#push(iovaHighOf(window, at), iovaLowOf(window, at), count, isWritten)) return false
      }
      at += count
      left -= count
    }
    return true
  }

  /** The window of an address; looked for once more where the program may have mapped something since. */
  #windowAt(address: number): GuestWindow {
    const { windows, bounce } = this.#parts
    const isUsable = (window: GuestWindow | undefined): window is GuestWindow =>
      window !== undefined && (window.isMapped || bounce !== undefined)
    const first = windows.at(address)
    if (isUsable(first)) return first
    windows.refresh()
    const second = windows.at(address)
    if (isUsable(second)) return second
    const where = `a descriptor names ${address === Infinity ? 'an address above 2^53' : `0x${address.toString(16)}`}`
    throw brokenBy(
      second === undefined
        ? `${where}, where the guest has no memory`
        : `${where}, which the device cannot reach, and there is no memory to bounce it through`,
    )
  }

  #bounce(id: number, window: GuestWindow, address: number, length: number, isWritten: boolean): boolean {
    const bounce = this.#parts.bounce as Bounce
    const chunk = bounce.take()
    if (chunk < 0) return false
    this.#book.add(id, address, length, chunk, isWritten)
    this.#isBounced = true
    const bytes = bounce.bytes(chunk, length)
    // What the device does not write of it must not be what another chain left there.
    if (isWritten) bytes.fill(0)
    else bytes.set(window.region.view(window.offset + (address - window.first), length))
    const iova = bounce.iovaOf(chunk)
    return this.#push(Number(iova >> 32n), Number(iova & 0xffff_ffffn), length, isWritten)
  }

  #push(high: number, low: number, length: number, isWritten: boolean): boolean {
    if (this.#count === this.#into.size) return false
    this.#into.push(high, low, length, isWritten)
    this.#count++
    return true
  }

  /** Device to guest. True when there may be more. */
  #up(): boolean {
    const from = this.#into
    let left = CHAINS_A_TURN
    try {
      from.disableCalls()
      do {
        let count = 1
        while (left > 0 && count > 0) left -= count = this.#giveBackMany(left) || this.#giveBackNext()
      } while (left > 0 && !from.enableCalls())
    } finally {
      // What was used before a device broke its ring is the guest's.
      if (left < CHAINS_A_TURN && !this.#isGuestBroken) this.#announce()
    }
    return left === 0
  }

  /** Before the guest sees what was used, the log has it. */
  #announce(): void {
    const { guest, log, call } = this.#parts
    if (log !== undefined) guest.mark(log)
    if (guest.ring.publish()) call()
  }

  /** Chains that are one descriptor in the device's ring: how many. 0 where the next is not, or there is none. */
  #giveBackMany(most: number): number {
    const [from, into] = [this.#plainInto, this.#plainFrom]
    if (from === undefined || into === undefined) return 0
    const chains = this.#chains
    const { ids, lengths } = chains
    const count = from.takePlain(chains, Math.min(most, chains.size))
    this.#counters.used += count
    const numbers = this.#number
    for (let at = 0; at < count; at++) {
      const id = ids[at] as number
      this.#settlement.settle(id, lengths[at] as number)
      numbers[id] = -1
    }
    if (!this.#isGuestBroken) into.completeEach(chains, count)
    return count
  }

  /** Any chain: 1, or 0 where there is none. */
  #giveBackNext(): number {
    const from = this.#into
    const id = from.take()
    if (id < 0) return 0
    this.#counters.used++
    const length = from.usedLength
    this.#settlement.settle(id, length)
    this.#number[id] = -1
    if (!this.#isGuestBroken) this.#from.complete(id, length)
    return 1
  }
}

function brokenBy(what: string): Error {
  return vdpaError('ERR_VDPA_RING_BROKEN', rule(what, '2.6'))
}
