// One virtqueue of a model: its registers, the device ring over guest memory while it can be reached, and a cursor over the chain in hand. It knows no
// device kind. Nothing here allocates per chain.

import { isGone, isSamePlace, type RingBytes } from '../memory/parted-ring-memory.js'
import { RingMemory } from '../memory/ring-memory.js'
import { createDeviceRing } from '../virtqueue/create.js'
import { areaSizes, ENTRIES_AT, initialState } from '../virtqueue/layout.js'
import type { DeviceRing, RingAreas, RingFormat, RingState } from '../virtqueue/virtqueue.js'
import { AheadRing } from './ahead-ring.js'
import { dmaAccess } from './device-ops.js'
import type { QueueContext, VringStateKind } from './queue-context.js'
import { locateArea } from './queue-areas.js'
import { tablesOf } from './queue-tables.js'

interface AreaAddresses {
  readonly descriptor: readonly [high: number, low: number]
  readonly driver: readonly [high: number, low: number]
  readonly device: readonly [high: number, low: number]
}

function halves(address: bigint): readonly [number, number] {
  return [Number(address >> 32n), Number(address & 0xffff_ffffn)]
}

/** Apart from the getters that call it, which are then short enough for the compiler to inline everywhere. */
function withoutRing(): never {
  throw new Error('the queue has no ring')
}

/** Writable bytes that lie in one piece. */
interface AsidePart {
  readonly high: number
  readonly low: number
  readonly length: number
}

/** A chain that others were loaded after. */
export interface ChainAside {
  readonly id: number
  readonly parts: readonly AsidePart[]
}

const WORD = 0x1_0000_0000

const areaNames = ['descriptor', 'driver', 'device'] as const

/** Where a device that serves a ring whose used area it cannot write puts what it would write. */
function ownDeviceArea(bytes: number): RingMemory {
  return new RingMemory(new ArrayBuffer(bytes))
}

const nowhere: AreaAddresses = { descriptor: [0, 0], driver: [0, 0], device: [0, 0] }

/** One virtqueue, as its model works with it: `open()`, then `next()` with `read()`, `write()` and `complete()` for each chain, then `publish()`. */
export class DeviceQueue {
  /** Its number in the device, from 0. */
  readonly index: number
  /** VHOST_VDPA_SET_VRING_ENABLE. Only read it: setReady() is the way to change it. */
  isReady = false
  /** The interrupt: what to call when the driver wants to hear of used chains. */
  callback: (() => void) | undefined
  /** What is counted of it; frames by models of network devices. A reset does not clear it. */
  readonly tally = { kicks: 0, interrupts: 0, packets: 0, bytes: 0, drops: 0, missed: 0 }
  /** How often it became ready. */
  enabled = 0
  /** Interrupts that a test wants lost. */
  interruptsToDrop = 0
  // Registers, and what they were when the queue became ready: changes in between are for the next time.
  #size: number
  #addresses = nowhere
  #ringSize = 0
  #ringAddresses = nowhere
  // Where the queue stands while there is no ring; undefined for a new queue of whichever format.
  #position: RingState | undefined
  // The queue became ready, and nothing was done with it yet.
  #isFresh = false
  #ring: DeviceRing | undefined
  #areas: RingAreas<RingBytes> | undefined
  // The used ring is not the driver's, which therefore stays where it was.
  #isUnwritable = false
  #ringVersion = -1
  #ringAsid = -1
  #bufferAsid = 0
  #context: QueueContext | undefined
  // Where the cursor stands: segment, byte in it.
  #segment = 0
  #at = 0
  #written = 0
  #isHolding = false
  // Where the ring stood before the chains that are held, when they are more than one.
  #heldFrom: RingState | undefined

  constructor(index: number, size: number) {
    this.index = index
    this.#size = size
  }

  /** Descriptors, as VHOST_SET_VRING_NUM set them; a ready queue goes on with what it began with. */
  get size(): number {
    return this.#size
  }

  /** Whether the ring could be reached when it was last opened. */
  get hasRing(): boolean {
    return this.#ring !== undefined
  }

  /** Whether the queue still works on a ring that somebody has in hand, and its memory is there. */
  isOn(ring: DeviceRing): boolean {
    return this.#ring === ring && !this.isDetached
  }

  /** Whether memory of the ring in hand was freed under it. */
  get isDetached(): boolean {
    const areas = this.#areas
    return (
      this.#ring !== undefined &&
      areas !== undefined &&
      (isGone(areas.descriptor) || isGone(areas.driver) || isGone(areas.device))
    )
  }

  /** For the next time that the queue becomes ready. */
  setSize(size: number): void {
    this.#size = size
  }

  /** IOVAs of the three areas, for the next time that the queue becomes ready. */
  setAddresses(descriptor: bigint, driver: bigint, device: bigint): void {
    this.#addresses = { descriptor: halves(descriptor), driver: halves(driver), device: halves(device) }
  }

  /** A queue that begins to be ready has nothing in flight: what was is forgotten, and the next used entry follows the last chain taken. */
  setReady(isReady: boolean): void {
    if (isReady === this.isReady) return
    this.#forgetRing()
    this.isReady = isReady
    if (isReady) this.enabled++
    this.#ringSize = this.#size
    this.#ringAddresses = this.#addresses
    this.#isFresh = isReady
  }

  /** As GET_VRING_BASE of a device that says how many chains it took, or how many it answered. */
  state(format: RingFormat, kind: Exclude<VringStateKind, 'none'> = 'available index'): number {
    const state = this.#ring?.state() ?? this.#position ?? initialState(format)
    const { used } = state
    const available = kind === 'used index' ? used : state.available
    return format === 'split' ? available : available + used * 0x1_0000
  }

  /** Where the queue goes on, as VHOST_SET_VRING_BASE. */
  setState(base: number, format: RingFormat): void {
    this.#forgetRing()
    const available = base & 0xffff
    // Split: the used position is the device's own, except where a queue begins.
    const used = format === 'split' ? (this.#position?.used ?? available) : base >>> 16
    this.#position = { available, used }
  }

  /** Forgets all registers and the ring; `size` is the largest there may be. */
  reset(size: number): void {
    this.#ring = undefined
    this.#isHolding = false
    this.#size = size
    this.#addresses = nowhere
    this.#position = undefined
    this.isReady = false
    this.callback = undefined
  }

  /**
   * Makes sure of the ring: false when the queue is not ready, its areas cannot be reached, or its driver broke a rule. Call it before a run of next():
   * mappings that change are noticed here.
   */
  open(context: QueueContext): boolean {
    if (!this.isReady) return false
    const asid = context.ringAsid(this.index)
    const version = context.dma.version(asid)
    this.#bufferAsid = context.bufferAsid(this.index)
    this.#context = context
    const ring = this.#ring
    if (ring !== undefined && this.#ringAsid === asid) {
      if (this.#ringVersion !== version && this.#liesWhereItDid(context, asid)) this.#ringVersion = version
      if (this.#ringVersion === version) return !ring.isBroken
    }
    return this.#openRing(context, asid, version)
  }

  /** Asks for a kick at the next chain. True when there is one already, and the queue wants another turn. */
  rest(): boolean {
    // With that law a chain may be there which cannot be taken: it is looked at again at the next kick.
    return !this.ring.enableKicks() && this.#contextNow().law !== 'vringh'
  }

  /** Whether chains were taken that are answered in a later turn. */
  get owesAnswers(): boolean {
    return this.#ring instanceof AheadRing && this.#ring.owesAnswers
  }

  /** The ring. Throws while there is none: after a false open(). */
  get ring(): DeviceRing {
    return this.#ring ?? withoutRing()
  }

  /** Loads the next chain and puts the cursor on its first byte. */
  next(): boolean {
    this.#segment = 0
    this.#at = 0
    this.#written = 0
    const { ring } = this
    if (!ring.next()) return false
    this.#contextNow().meter.countChain(ring.chain.count)
    return true
  }

  /**
   * The chain in hand goes on in another turn, from where the cursor stands. Until then no other may be loaded. `from`: where the ring stood before chains that were set
   * aside, with all before them published; they go on as well, and come again all or none.
   */
  hold(from?: RingState): void {
    this.#isHolding = true
    this.#heldFrom = from
  }

  /** Whether there is a chain that goes on. Not any more when the queue ended, moved or was suspended since: such a chain comes again, from its beginning. */
  get isHolding(): boolean {
    return this.#isHolding
  }

  /** Goes on with the chain that was held. */
  takeUp(): void {
    this.#isHolding = false
  }

  /** A chain that was held, and those set aside with it, are as if they had not been looked at; true when there was one. */
  putBack(): boolean {
    if (!this.#isHolding) return false
    this.#isHolding = false
    const ring = this.#ring
    if (ring === undefined || ring.isBroken) return true
    if (this.#heldFrom === undefined) ring.rewind()
    else ring.reset(this.#heldFrom)
    return true
  }

  /** Bytes of the chain in hand that the device may read. */
  get readableLength(): number {
    return this.ring.chain.readableLength
  }

  /** Bytes of the chain in hand that the device may write. */
  get writableLength(): number {
    return this.ring.chain.writableLength
  }

  /** Bytes written to the chain so far. */
  get written(): number {
    return this.#written
  }

  /** Reads on from the cursor: the count of bytes, less than `length` at the end of the readable part, -1 where memory cannot be read. */
  read(target: Uint8Array, offset: number, length: number): number {
    const { iovaHigh, iovaLow, lengths, readableCount } = this.ring.chain
    const { dma, meter } = this.#contextNow()
    let done = 0
    while (done < length && this.#segment < readableCount) {
      const left = (lengths[this.#segment] ?? 0) - this.#at
      const count = left < length - done ? left : length - done
      if (count > 0) {
        const low = (iovaLow[this.#segment] ?? 0) + this.#at
        const high = (iovaHigh[this.#segment] ?? 0) + (low > 0xffff_ffff ? 1 : 0)
        if (!dma.read(this.#bufferAsid, high, low >>> 0, target, offset + done, count)) return -1
      }
      done += count
      this.#advance(count, left)
    }
    meter.countBytes(done)
    return done
  }

  /**
   * Writes on from the cursor (the rest of the readable part is passed over): the count of bytes that had room, -1 where memory cannot be written. The cursor stays
   * where it was then, so that what follows, such as a status, is not written behind its place.
   */
  write(source: Uint8Array, offset: number, length: number): number {
    const { iovaHigh, iovaLow, lengths, readableCount, count: segments } = this.ring.chain
    const { dma, meter } = this.#contextNow()
    if (this.#segment < readableCount) {
      this.#segment = readableCount
      this.#at = 0
    }
    const [segment, at] = [this.#segment, this.#at]
    let done = 0
    while (done < length && this.#segment < segments) {
      const left = (lengths[this.#segment] ?? 0) - this.#at
      const count = left < length - done ? left : length - done
      if (count > 0) {
        const low = (iovaLow[this.#segment] ?? 0) + this.#at
        const high = (iovaHigh[this.#segment] ?? 0) + (low > 0xffff_ffff ? 1 : 0)
        if (!dma.write(this.#bufferAsid, high, low >>> 0, source, offset + done, count)) return this.#stay(segment, at)
      }
      done += count
      this.#advance(count, left)
    }
    this.#written += done
    meter.countBytes(done)
    return done
  }

  /** Puts the cursor back after a write that failed. vringh leaves it behind what it wrote. */
  #stay(segment: number, at: number): number {
    if (this.#contextNow().law === 'vringh') return -1
    this.#segment = segment
    this.#at = at
    return -1
  }

  /** Where byte `at` of the writable part of the chain in hand lies, for writing it when the chain is no longer in hand; undefined when it is too short. */
  writablePlace(at: number): readonly [high: number, low: number] | undefined {
    const { iovaHigh, iovaLow, lengths, readableCount, count } = this.ring.chain
    let left = at
    for (let segment = readableCount; segment < count; segment++) {
      const length = lengths[segment] ?? 0
      if (left < length) {
        const low = (iovaLow[segment] ?? 0) + left
        return [(iovaHigh[segment] ?? 0) + (low > 0xffff_ffff ? 1 : 0), low >>> 0]
      }
      left -= length
    }
    return undefined
  }

  /** Writes one byte of `source` at a place; false where memory cannot be written. */
  writeAt([high, low]: readonly [high: number, low: number], source: Uint8Array, index: number): boolean {
    return this.#contextNow().dma.write(this.#bufferAsid, high, low, source, index, 1)
  }

  /** The chain in hand and where its first `length` writable bytes lie, for completing it in this turn when others are in hand; undefined where it has fewer. */
  setAside(length: number): ChainAside | undefined {
    const { id, iovaHigh, iovaLow, lengths, readableCount, count } = this.ring.chain
    const parts: AsidePart[] = []
    let left = length
    for (let segment = readableCount; segment < count && left > 0; segment++) {
      const size = Math.min(lengths[segment] ?? 0, left)
      if (size > 0) parts.push({ high: iovaHigh[segment] ?? 0, low: iovaLow[segment] ?? 0, length: size })
      left -= size
    }
    return left > 0 ? undefined : { id, parts }
  }

  /** Writes to a chain that was set aside, and completes it: with no bytes, where memory cannot be written. Chains are completed in the order in which they came. */
  completeAside({ id, parts }: ChainAside, bytes: Uint8Array): void {
    const { dma } = this.#contextNow()
    let written = 0
    for (const { high, low, length } of parts) {
      if (!dma.write(this.#bufferAsid, high, low, bytes, written, length)) {
        written = 0
        break
      }
      written += length
    }
    this.ring.complete(id, written)
  }

  /** Passes over `length` writable bytes. They are not counted as written. */
  skipWritable(length: number): void {
    const { lengths, readableCount, count: segments } = this.ring.chain
    if (this.#segment < readableCount) {
      this.#segment = readableCount
      this.#at = 0
    }
    for (let left = length; left > 0 && this.#segment < segments;) {
      const inSegment = (lengths[this.#segment] ?? 0) - this.#at
      const count = Math.min(inSegment, left)
      left -= count
      this.#advance(count, inSegment)
    }
  }

  /** Completes the chain in hand with what was written to it. */
  complete(): void {
    this.ring.complete(this.ring.chain.id, this.#written)
  }

  /** Completes the chain in hand with a length that is none, as some devices do with an error: only for imitating them, in split rings. */
  completeWith(word: number): void {
    const { ring } = this
    const at = ring.state().used & (ring.size - 1)
    ring.complete(ring.chain.id, 0)
    this.#areas?.device.setU32(ENTRIES_AT + 8 * at + 4, word)
  }

  /** Shows the driver what was completed, and interrupts it when it wants that. */
  publish(): void {
    const { ring } = this
    if (!ring.isBroken && ring.publish()) this.interrupt()
  }

  /** Shows the driver what was completed, and does not interrupt it: only for imitating devices that forget to. */
  publishSilently(): void {
    this.ring.publish()
  }

  /** Interrupts the driver, unless a test wants the interrupt lost. */
  interrupt(): void {
    if (this.interruptsToDrop > 0) {
      this.interruptsToDrop--
      return
    }
    this.tally.interrupts++
    this.callback?.()
  }

  #advance(count: number, left: number): void {
    if (count === left) {
      this.#segment++
      this.#at = 0
    } else {
      this.#at += count
    }
  }

  #contextNow(): QueueContext {
    return this.#context ?? withoutRing()
  }

  #openRing(context: QueueContext, asid: number, version: number): boolean {
    const { format, eventIdx, indirect, inOrder, law, longestTable } = context
    this.#forgetRing()
    const found = this.#locateAreas(context, asid)
    const areas = found ?? (context.servesUnwritable ? this.#locateAreas(context, asid, ownDeviceArea) : undefined)
    if (areas === undefined) return false
    const position = this.#position ?? initialState(format)
    const startsAnew = format === 'split' && this.#isFresh
    const state = startsAnew ? { available: position.available, used: position.available } : position
    // Indirect tables are read as part of the ring: with descriptor groups they lie with the descriptors.
    const translateTable = tablesOf(context, asid)
    const features = { eventIdx, indirect, inOrder }
    try {
      const ring = createDeviceRing({
        ...{ format, size: this.#ringSize, areas, state, features, translateTable, law },
        ...(longestTable !== undefined && { longestTable }),
      })
      const { ahead, meter } = context
      this.#ring = ahead === undefined ? ring : new AheadRing(ring, ahead, { index: this.index, inOrder, meter })
    } catch (error) {
      // A position that no ring of this size can have, or areas at odd addresses: the driver's doing.
      if (!(error instanceof RangeError)) throw error
      return false
    }
    this.#areas = areas
    this.#isUnwritable = found === undefined
    this.#position = state
    this.#isFresh = false
    this.#ringVersion = version
    this.#ringAsid = asid
    return true
  }

  /** The areas, of which the device's is what `otherwise` makes where the driver's cannot be written. */
  #locateAreas(
    { dma, format }: QueueContext,
    asid: number,
    otherwise?: (bytes: number) => RingBytes,
  ): RingAreas<RingBytes> | undefined {
    const sizes = areaSizes(format, this.#ringSize)
    const eventBytes = format === 'split' ? 0 : 4
    const locate = ([high, low]: readonly [number, number], length: number, access: number) =>
      locateArea(
        (at, bytes) => dma.locate(asid, high + Math.floor((low + at) / WORD), (low + at) % WORD, bytes, access),
        low,
        length,
      )
    const descriptorAccess = format === 'split' ? dmaAccess.READ : dmaAccess.READ | dmaAccess.WRITE
    const descriptor = locate(this.#ringAddresses.descriptor, sizes.descriptor, descriptorAccess)
    const driver = locate(this.#ringAddresses.driver, Math.max(sizes.driver, eventBytes), dmaAccess.READ)
    const deviceBytes = Math.max(sizes.device, eventBytes)
    const device = locate(this.#ringAddresses.device, deviceBytes, dmaAccess.WRITE) ?? otherwise?.(deviceBytes)
    if (descriptor === undefined || driver === undefined || device === undefined) return undefined
    return { descriptor, driver, device }
  }

  /** Mappings changed, and not those of the ring: what is in flight stays so. */
  #liesWhereItDid(context: QueueContext, asid: number): boolean {
    const [before, now] = [this.#areas, this.#locateAreas(context, asid)]
    return before !== undefined && now !== undefined && areaNames.every((name) => isSamePlace(before[name], now[name]))
  }

  #forgetRing(): void {
    this.putBack()
    const state = this.#ring?.state()
    this.#ring = undefined
    if (state === undefined) return
    const used = this.#isUnwritable ? (this.#position?.used ?? state.used) : state.used
    this.#position = { available: state.available, used }
  }
}
