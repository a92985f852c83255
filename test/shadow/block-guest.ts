// A guest with a disk: its ring and buffers lie in its memory. It writes blocks of its own pattern, and looks whether it reads them.

import type { Backend, Eventfd } from '../../lib/backend/backend.js'
import { GuestMemory } from '../../lib/memory/guest-memory.js'
import type { MemoryRegion } from '../../lib/memory/memory-region.js'
import { RingMemory } from '../../lib/memory/ring-memory.js'
import type { GuestDataRing } from '../../lib/shadow/shadow-queue.js'
import { createDriverRing } from '../../lib/virtqueue/create.js'
import { areaSizes } from '../../lib/virtqueue/layout.js'
import type { DriverRing } from '../../lib/virtqueue/virtqueue.js'
import { turn } from './guest.js'

const BASE = 0x1000_0000
const SIZE = 16
const SLOTS = 5
const SLOT_AT = 0x4000
const SLOT = 0x2000
const BLOCK = 4096
const [IN, OUT] = [0, 1]

interface Request {
  readonly block: number
  readonly type: number
  readonly pattern: number
}

/** The guest. */
export class BlockGuest {
  readonly region: MemoryRegion
  readonly memory: GuestMemory
  readonly ring: DriverRing
  readonly kick: Eventfd
  readonly call: Eventfd
  /** What went wrong: statuses that are not 0, and bytes that are not those that were written. */
  readonly wrong: string[] = []
  answered = 0
  readonly #blocks: number
  readonly #patterns = new Map<number, number>()
  readonly #requests: (Request | undefined)[] = Array.from({ length: SLOTS }, () => undefined)
  #count = 0

  constructor(backend: Pick<Backend, 'allocate' | 'eventfd'>, blocks: number) {
    this.#blocks = blocks
    this.region = backend.allocate(0x1_0000)
    this.memory = new GuestMemory([{ address: BigInt(BASE), region: this.region }])
    const sizes = areaSizes('split', SIZE)
    const area = (at: number, length: number) => new RingMemory(this.region.buffer, at, length)
    this.ring = createDriverRing({
      format: 'split',
      size: SIZE,
      areas: {
        descriptor: area(0, sizes.descriptor),
        driver: area(0x1000, sizes.driver),
        device: area(0x2000, sizes.device),
      },
    })
    this.kick = backend.eventfd()
    this.call = backend.eventfd()
  }

  queue(): GuestDataRing {
    const at = (offset: number) => BigInt(BASE + offset)
    const addresses = { descriptor: at(0), driver: at(0x1000), device: at(0x2000) }
    return { memory: this.memory, size: SIZE, addresses, kick: this.kick, call: this.call }
  }

  /** So many requests more: each block is written, read, and written again. */
  async work(requests: number): Promise<void> {
    const end = this.answered + requests
    for (let idle = 0; this.answered < end && idle < 20_000; idle++) {
      for (let slot = 0; slot < SLOTS; slot++) if (this.#requests[slot] === undefined) this.#ask(slot)
      if (this.ring.publish()) this.kick.signal()
      await turn()
      this.#collect()
    }
    if (this.answered < end) this.wrong.push(`only ${this.answered} of ${end} requests were answered`)
  }

  close(): void {
    for (const owned of [this.kick, this.call]) owned.close()
    this.region.close({ unmap: true })
  }

  #ask(slot: number): void {
    const block = Math.floor(this.#count / 2) % this.#blocks
    // Two requests for a block are not under way at once: their order is the device's.
    if (this.#requests.some((one) => one?.block === block)) return
    const type = this.#count % 2 === 0 ? OUT : IN
    const pattern = type === OUT ? 1 + (this.#count % 251) : (this.#patterns.get(block) ?? 0)
    this.#count++
    this.#requests[slot] = { block, type, pattern }
    const at = SLOT_AT + slot * SLOT
    const view = new DataView(this.region.buffer, at)
    view.setUint32(0, type, true)
    view.setUint32(4, 0, true)
    view.setBigUint64(8, BigInt(block * (BLOCK / 512)), true)
    this.region.view(at + 0x1000, BLOCK).fill(type === OUT ? pattern : 0xee)
    view.setUint8(16, 0xff)
    this.ring.begin()
    this.ring.pushAddress(BigInt(BASE + at), 16, false)
    this.ring.pushAddress(BigInt(BASE + at + 0x1000), BLOCK, type === IN)
    this.ring.pushAddress(BigInt(BASE + at + 16), 1, true)
    this.ring.commit(slot)
  }

  #collect(): void {
    for (let slot = this.ring.take(); slot >= 0; slot = this.ring.take()) {
      const request = this.#requests[slot]
      this.#requests[slot] = undefined
      this.answered++
      if (request === undefined) {
        this.wrong.push(`slot ${slot} came twice`)
        continue
      }
      const at = SLOT_AT + slot * SLOT
      const status = this.region.view(at + 16, 1)[0]
      if (status !== 0) this.wrong.push(`status ${status} of block ${request.block}`)
      if (request.type === OUT) this.#patterns.set(request.block, request.pattern)
      else if (this.region.view(at + 0x1000, BLOCK).some((byte) => byte !== request.pattern))
        this.wrong.push(`block ${request.block} has not ${request.pattern}`)
    }
  }
}
