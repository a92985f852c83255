// One virtqueue of a model: its registers, the device ring over guest memory while it can be reached, and a cursor over the chain in hand. It knows no
// device kind. Nothing here allocates per chain.

import { createDeviceRing } from '../virtqueue/create.js'
import { areaSizes, initialState } from '../virtqueue/layout.js'
import type { DeviceRing, RingAreas, RingFormat, RingState, TableLocation } from '../virtqueue/virtqueue.js'
import { dmaAccess, type Dma } from './device-ops.js'

/** What a queue must ask its device. */
export interface QueueContext {
  readonly dma: Dma
  /** The address space of the queue's buffers, and of its ring areas. */
  bufferAsid(index: number): number
  ringAsid(index: number): number
  readonly format: RingFormat
  readonly eventIdx: boolean
  readonly indirect: boolean
  readonly inOrder: boolean
}

interface AreaAddresses {
  readonly descriptor: readonly [high: number, low: number]
  readonly driver: readonly [high: number, low: number]
  readonly device: readonly [high: number, low: number]
}

function halves(address: bigint): readonly [number, number] {
  return [Number(address >> 32n), Number(address & 0xffff_ffffn)]
}

const nowhere: AreaAddresses = { descriptor: [0, 0], driver: [0, 0], device: [0, 0] }

export class DeviceQueue {
  readonly index: number
  isReady = false
  callback: (() => void) | undefined
  /** Interrupts that a test wants lost. */
  interruptsToDrop = 0
  #size: number
  #addresses = nowhere
  // The position while there is no ring: as GET_VRING_BASE, or undefined for a new queue of whichever format.
  #base: number | undefined
  #ring: DeviceRing | undefined
  #ringVersion = -1
  #ringAsid = -1
  #bufferAsid = 0
  #context: QueueContext | undefined
  // Where the cursor stands: segment, byte in it.
  #segment = 0
  #at = 0
  #written = 0

  constructor(index: number, size: number) {
    this.index = index
    this.#size = size
  }

  get size(): number {
    return this.#size
  }

  get hasRing(): boolean {
    return this.#ring !== undefined
  }

  setSize(size: number): void {
    this.#forgetRing()
    this.#size = size
  }

  setAddresses(descriptor: bigint, driver: bigint, device: bigint): void {
    this.#forgetRing()
    this.#addresses = { descriptor: halves(descriptor), driver: halves(driver), device: halves(device) }
  }

  setReady(isReady: boolean): void {
    if (isReady === this.isReady) return
    this.#forgetRing()
    this.isReady = isReady
  }

  /** As GET_VRING_BASE. */
  state(format: RingFormat): number {
    this.#saveBase()
    return this.#base ?? packedWord(initialState(format), format)
  }

  setState(base: number): void {
    this.#ring = undefined
    this.#base = base
  }

  reset(size: number): void {
    this.#ring = undefined
    this.#size = size
    this.#addresses = nowhere
    this.#base = undefined
    this.isReady = false
    this.callback = undefined
  }

  /**
   * Makes sure of the ring: false when the queue is not ready, or its areas cannot be reached. Call it before a run of next(); mappings that change
   * are noticed here.
   */
  open(context: QueueContext): boolean {
    if (!this.isReady) return false
    const asid = context.ringAsid(this.index)
    const version = context.dma.version(asid)
    this.#bufferAsid = context.bufferAsid(this.index)
    this.#context = context
    if (this.#ring !== undefined && this.#ringVersion === version && this.#ringAsid === asid) return true
    return this.#openRing(context, asid, version)
  }

  get ring(): DeviceRing {
    if (this.#ring === undefined) throw new Error('the queue has no ring')
    return this.#ring
  }

  /** Loads the next chain and puts the cursor on its first byte. */
  next(): boolean {
    this.#segment = 0
    this.#at = 0
    this.#written = 0
    return this.ring.next()
  }

  /** Bytes that the device may read of the chain, and may write to it. */
  get readableLength(): number {
    return this.ring.chain.readableLength
  }

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
    const { dma } = this.#contextNow()
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
    return done
  }

  /** Writes on from the cursor (the rest of the readable part is passed over): the count of bytes that had room, -1 where memory cannot be written. */
  write(source: Uint8Array, offset: number, length: number): number {
    const { iovaHigh, iovaLow, lengths, readableCount, count: segments } = this.ring.chain
    const { dma } = this.#contextNow()
    if (this.#segment < readableCount) {
      this.#segment = readableCount
      this.#at = 0
    }
    let done = 0
    while (done < length && this.#segment < segments) {
      const left = (lengths[this.#segment] ?? 0) - this.#at
      const count = left < length - done ? left : length - done
      if (count > 0) {
        const low = (iovaLow[this.#segment] ?? 0) + this.#at
        const high = (iovaHigh[this.#segment] ?? 0) + (low > 0xffff_ffff ? 1 : 0)
        if (!dma.write(this.#bufferAsid, high, low >>> 0, source, offset + done, count)) return -1
      }
      done += count
      this.#advance(count, left)
    }
    this.#written += done
    return done
  }

  /** Passes over `length` writable bytes, as if what is there were written. */
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
      this.#written += count
      this.#advance(count, inSegment)
    }
  }

  /** Completes the chain in hand with what was written to it. */
  complete(): void {
    this.ring.complete(this.ring.chain.id, this.#written)
  }

  /** Shows the driver what was completed, and interrupts it when it wants that. */
  publish(): void {
    if (this.ring.publish()) this.interrupt()
  }

  interrupt(): void {
    if (this.interruptsToDrop > 0) {
      this.interruptsToDrop--
      return
    }
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
    if (this.#context === undefined) throw new Error('the queue has no ring')
    return this.#context
  }

  #openRing(context: QueueContext, asid: number, version: number): boolean {
    const format = context.format
    this.#saveBase()
    this.#ring = undefined
    const areas = this.#locateAreas(context, asid)
    if (areas === undefined) return false
    const state = this.#base === undefined ? initialState(format) : stateOf(this.#base, format)
    const { dma, eventIdx, indirect, inOrder } = context
    this.#ring = createDeviceRing({
      format,
      size: this.#size,
      areas,
      state,
      features: { eventIdx, indirect, inOrder },
      // Indirect tables are memory of the chain, but read as part of the ring: with descriptor groups they lie with the descriptors.
      translateTable: (high, low, length) => dma.locate(asid, high, low, length, dmaAccess.READ),
    })
    this.#ringVersion = version
    this.#ringAsid = asid
    return true
  }

  #locateAreas({ dma, format }: QueueContext, asid: number): RingAreas | undefined {
    const sizes = areaSizes(format, this.#size)
    const eventBytes = format === 'split' ? 0 : 4
    const locate = ([high, low]: readonly [number, number], length: number, access: number) => {
      const found: TableLocation | undefined = dma.locate(asid, high, low, length, access)
      return found?.memory.slice(found.offset, length)
    }
    const descriptorAccess = format === 'split' ? dmaAccess.READ : dmaAccess.READ | dmaAccess.WRITE
    const descriptor = locate(this.#addresses.descriptor, sizes.descriptor, descriptorAccess)
    const driver = locate(this.#addresses.driver, Math.max(sizes.driver, eventBytes), dmaAccess.READ)
    const device = locate(this.#addresses.device, Math.max(sizes.device, eventBytes), dmaAccess.WRITE)
    if (descriptor === undefined || driver === undefined || device === undefined) return undefined
    return { descriptor, driver, device }
  }

  #saveBase(): void {
    const ring = this.#ring
    if (ring !== undefined) this.#base = packedWord(ring.state(), ring.format)
  }

  #forgetRing(): void {
    this.#saveBase()
    this.#ring = undefined
  }
}

function packedWord(state: RingState, format: RingFormat): number {
  return format === 'split' ? state.available : state.available + state.used * 0x1_0000
}

function stateOf(base: number, format: RingFormat): RingState {
  const available = base & 0xffff
  return { available, used: format === 'split' ? available : base >>> 16 }
}
