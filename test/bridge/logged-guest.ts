// A guest's network traffic through a front end of our own, while its pages are logged: numbered frames that come back, and a memory of which pages were written by whom.

import type { MemoryRegion } from '../../lib/memory/memory-region'
import { GUEST, words, type FrontEnd, type GuestQueue } from '../vhost-user/front-end'
import type { RingFormat } from '../../lib/virtqueue/virtqueue'

export const LOG_ALL = 1n << 26n
const HEADER = 12
const FRAME = 78
const PAGE = 4096
/** Frames under way at a time; and receive buffers, more than can be missing because a kick is still to be heard. */
const SLOTS = 8
const BUFFERS = 32

/** A log in the front end's hands. */
export class FrontEndLog {
  readonly region: MemoryRegion

  constructor(backend: { allocate(length: number): MemoryRegion }, bytes = 1 << 16) {
    this.region = backend.allocate(bytes)
  }

  get fd(): number {
    return this.region.fd ?? -1
  }

  /** Gives it to the back end. */
  async give(front: FrontEnd): Promise<bigint> {
    return (await front.ask('SET_LOG_BASE', words(BigInt(this.region.length), 0n), [this.fd])).value
  }

  /** Pages of the guest's memory that are marked, as numbers from its beginning on; taken away with that. */
  take(): number[] {
    const bytes = this.region.view(0, this.region.length)
    const pages: number[] = []
    for (let at = 0; at < bytes.length; at++) {
      const byte = bytes[at] ?? 0
      bytes[at] = 0
      for (let shift = 0; shift < 8; shift++)
        if ((byte & (1 << shift)) !== 0) pages.push(8 * at + shift - Number(GUEST / BigInt(PAGE)))
    }
    return pages
  }
}

/** The page of a guest address, counted as in `FrontEndLog.take()`. */
export const pageOf = (address: bigint): number => Number((address - GUEST) / BigInt(PAGE))

/** One pair of queues, loaded with frames. */
export class Traffic {
  readonly queues: readonly [GuestQueue, GuestQueue]
  sent = 0
  readonly received: number[] = []
  /** Pages of the buffers that frames came into. */
  readonly pages = new Set<number>()
  readonly #transmit: { bytes: Uint8Array; guest: bigint }[]
  readonly #receive: { bytes: Uint8Array; guest: bigint }[]
  #free: number[]
  #isStopped = false
  #running: Promise<void> | undefined

  constructor(front: FrontEnd, shape: { format?: RingFormat; eventIdx?: boolean } = {}, first = 0) {
    const roomOfAPage = () => front.room(PAGE)
    front.align(PAGE)
    this.#receive = Array.from({ length: BUFFERS }, roomOfAPage)
    this.#transmit = Array.from({ length: SLOTS }, roomOfAPage)
    this.#free = this.#transmit.map((_, index) => index)
    this.queues = [front.queue(first, { ...shape, size: BUFFERS }), front.queue(first + 1, { ...shape, size: BUFFERS })]
    for (let slot = 0; slot < BUFFERS; slot++) this.#post(slot)
    if (this.queues[0].ring.publish()) this.queues[0].kick.signal()
  }

  /** Begins to send without end. */
  begin(): void {
    this.#running = this.#run()
  }

  /** Sends no more, and waits for what is under way. */
  async end(): Promise<void> {
    this.#isStopped = true
    await this.#running
    for (let idle = 0; this.received.length < this.sent && idle < 20_000; idle++) {
      await new Promise((resolve) => setImmediate(resolve))
      this.#collect()
    }
  }

  /** What is wrong with what came: frames that are missing, doubled, or out of order. */
  get problems(): string[] {
    const problems = this.received.flatMap((number, at) =>
      number === at ? [] : [`frame ${number} came as the ${at}th`],
    )
    if (this.received.length !== this.sent) problems.push(`${this.received.length} of ${this.sent} frames came`)
    return problems.slice(0, 5)
  }

  async #run(): Promise<void> {
    while (!this.#isStopped) {
      for (let count = 0; count < 4; count++) this.#send()
      if (this.queues[1].ring.publish()) this.queues[1].kick.signal()
      await new Promise((resolve) => setImmediate(resolve))
      this.#collect()
    }
  }

  #send(): void {
    const slot = this.sent - this.received.length < SLOTS ? this.#free.pop() : undefined
    const buffer = slot === undefined ? undefined : this.#transmit[slot]
    if (slot === undefined || buffer === undefined) return
    buffer.bytes.fill(0, 0, FRAME)
    buffer.bytes.fill(0xff, HEADER, HEADER + 6)
    new DataView(buffer.bytes.buffer, buffer.bytes.byteOffset).setUint32(HEADER + 14, this.sent++, true)
    const { ring } = this.queues[1]
    ring.begin()
    ring.pushAddress(buffer.guest, FRAME, false)
    ring.commit(slot)
  }

  #post(slot: number): void {
    const { ring } = this.queues[0]
    ring.begin()
    ring.pushAddress(this.#receive[slot]?.guest ?? 0n, PAGE, true)
    ring.commit(slot)
  }

  #collect(): void {
    const [receive, transmit] = this.queues
    for (let slot = transmit.ring.take(); slot >= 0; slot = transmit.ring.take()) this.#free.push(slot)
    for (let slot = receive.ring.take(); slot >= 0; slot = receive.ring.take()) {
      const { bytes, guest } = this.#receive[slot] as { bytes: Uint8Array; guest: bigint }
      this.received.push(new DataView(bytes.buffer, bytes.byteOffset).getUint32(HEADER + 14, true))
      this.pages.add(pageOf(guest))
      this.#post(slot)
    }
    if (receive.ring.publish()) receive.kick.signal()
  }
}
