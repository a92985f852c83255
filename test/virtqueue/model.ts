// What two ring sides over one memory must do together, as a model that is plainly right: lists of chains and unbounded counts.
// A schedule of operations is data, so that fast-check can shrink it.

import { expect } from '@jest/globals'

import { initialState } from '../../lib/virtqueue/layout.js'
import type { DeviceRing, DriverRing } from '../../lib/virtqueue/virtqueue.js'
import { TestQueue, loaded, type QueueOptions } from './support.js'

export type Operation =
  | { readonly kind: 'add'; readonly readable: number; readonly writable: number }
  | { readonly kind: 'complete'; readonly which: number; readonly part: number }
  | {
      readonly kind:
        | 'publish'
        | 'next'
        | 'rewind'
        | 'publishUsed'
        | 'take'
        | 'enableCalls'
        | 'disableCalls'
        | 'enableKicks'
        | 'disableKicks'
        | 'moveDriver'
        | 'moveDevice'
        | 'reset'
    }

interface Chain {
  readonly token: number
  readonly readable: [bigint, number][]
  readonly writable: [bigint, number][]
  readonly slots: number
  readonly isIndirect: boolean
  id: number
  written: number
}

/** When a side wants to be notified: always, never, or when the count of what was moved passes `at`. */
type Wish = 'always' | 'never' | number

export class RingModel {
  readonly queue: TestQueue
  #driver: DriverRing
  #device: DeviceRing
  #token = 0
  #committed: Chain[] = []
  #available: Chain[] = []
  #held: Chain[] = []
  #completed: Chain[] = []
  #used: Chain[] = []
  /** Used when the driver was saved, and not taken since. */
  #saved: Chain[] = []
  #canRewind = false
  #freeTables: number
  // Counts since the beginning, in the unit of the format's event position: chains (split), slots (packed).
  #made = 0
  #loadedCount = 0
  #usedCount = 0
  #takenCount = 0
  #kickWish: Wish
  #callWish: Wish

  constructor(options: QueueOptions) {
    this.queue = new TestQueue(options)
    this.#driver = this.queue.driver()
    this.#device = this.queue.device()
    this.#freeTables = this.#tableCount()
    this.#kickWish = this.#callWish = this.#firstWish()
  }

  run(operations: Iterable<Operation>): void {
    for (const operation of operations) this.step(operation)
    this.drain()
    expect(this.queue.firstDamage()).toBe(-1)
  }

  step(operation: Operation): void {
    if (operation.kind === 'add') this.#add(operation.readable, operation.writable)
    else if (operation.kind === 'complete') this.#complete(operation.which, operation.part)
    else this.#steps[operation.kind]()
  }

  /** Lets everything that is on its way arrive. */
  drain(): void {
    this.#steps.publish()
    while (this.#available.length > 0) this.#steps.next()
    this.#steps.next()
    while (this.#held.length > 0) this.#complete(0, 1)
    this.#steps.publishUsed()
    while (this.#saved.length + this.#used.length > 0) this.#steps.take()
    this.#steps.take()
    expect(this.#driver.freeCount).toBe(this.queue.options.size)
    expect(this.#driver.inFlight).toBe(0)
    expect(this.#device.inFlight).toBe(0)
    expect(this.#driver.state().available).toBe(this.#driver.state().used)
    expect(this.#device.state()).toEqual(this.#driver.state())
  }

  get #size(): number {
    return this.queue.options.size
  }

  get #isPacked(): boolean {
    return this.queue.options.format === 'packed'
  }

  get #isInOrder(): boolean {
    return this.queue.options.features?.inOrder === true
  }

  #tableCount(): number {
    const { indirect } = this.queue
    return indirect === undefined ? 0 : Math.floor(indirect.memory.byteLength / 16 / indirect.tableSize)
  }

  #firstWish(): Wish {
    return this.queue.options.features?.eventIdx === true && !this.#isPacked ? 0 : 'always'
  }

  #inFlight(): Chain[] {
    return [...this.#committed, ...this.#available, ...this.#held, ...this.#completed, ...this.#used]
  }

  #units(chains: readonly Chain[]): number {
    return this.#isPacked ? chains.reduce((sum, chain) => sum + chain.slots, 0) : chains.length
  }

  /** Whether moving a count from `old` to `next` is to notify. Positions are told modulo two laps (packed) or 2^16 (split). */
  #isWanted(wish: Wish, old: number, next: number): boolean {
    if (typeof wish === 'string') return wish === 'always' && next !== old
    const lap = this.#isPacked ? 2 * this.#size : 0x1_0000
    for (let at = old; at < next; at++) if ((((at - wish) % lap) + lap) % lap === 0) return true
    return false
  }

  #add(readable: number, writable: number): void {
    const token = this.#token
    const segment = (index: number): [bigint, number] => [
      BigInt(token) * 0x1_0000_0001n + BigInt(index) * 0x1000n,
      1 + ((token * 7 + index) % 4096),
    ]
    const segments = Array.from({ length: readable + writable }, (_, index) => segment(index))
    const driver = this.#driver
    driver.begin()
    for (const [index, [iova, length]] of segments.entries()) {
      if (index % 2 === 0) driver.pushAddress(iova, length, index >= readable)
      else driver.push(Number(iova >> 32n), Number(iova & 0xffff_ffffn), length, index >= readable)
    }
    const count = segments.length
    const free = this.#size - this.#inFlight().reduce((sum, chain) => sum + chain.slots, 0)
    expect(driver.freeCount).toBe(free)
    const tableSize = this.queue.indirect?.tableSize ?? 0
    const isIndirect = count > 1 && count <= tableSize && count <= this.#size && this.#freeTables > 0 && free > 0
    const slots = isIndirect ? 1 : count
    if (count === 0 || slots > free) {
      const code = count === 0 ? 'ERR_VDPA_STATE' : count > this.#size ? 'ERR_OUT_OF_RANGE' : 'ERR_VDPA_NO_SPACE'
      expect(() => driver.commit(token)).toThrow(expect.objectContaining({ code }))
      expect(driver.freeCount).toBe(free)
      return
    }
    driver.commit(token)
    if (isIndirect) this.#freeTables--
    this.#token++
    this.#committed.push({
      token,
      readable: segments.slice(0, readable),
      writable: segments.slice(readable),
      slots,
      isIndirect,
      id: -1,
      written: 0,
    })
    expect(driver.freeCount).toBe(free - slots)
    expect(driver.inFlight).toBe(this.#inFlight().length + this.#saved.length)
  }

  #complete(which: number, part: number): void {
    if (this.#held.length === 0) return
    const at = this.#isInOrder ? 0 : which % this.#held.length
    const [chain] = this.#held.splice(at, 1)
    if (chain === undefined) throw new Error('the model lost a chain')
    const writable = chain.writable.reduce((sum, [, length]) => sum + length, 0)
    chain.written = Math.floor(writable * part)
    this.#device.complete(chain.id, chain.written)
    this.#completed.push(chain)
    this.#canRewind = false
  }

  readonly #steps = {
    publish: () => {
      const old = this.#made
      this.#made += this.#units(this.#committed)
      this.#available.push(...this.#committed.splice(0))
      expect(this.#driver.publish()).toBe(this.#isWanted(this.#kickWish, old, this.#made))
    },

    next: () => {
      const chain = this.#available.shift()
      expect(this.#device.next()).toBe(chain !== undefined)
      if (chain === undefined) return
      const seen = loaded(this.#device)
      expect(seen).toEqual({ id: seen.id, slots: chain.slots, readable: chain.readable, writable: chain.writable })
      expect(this.#held.map(({ id }) => id)).not.toContain(seen.id)
      chain.id = seen.id
      this.#held.push(chain)
      this.#loadedCount += this.#units([chain])
      this.#canRewind = true
      expect(this.#device.inFlight).toBe(this.#held.length)
    },

    rewind: () => {
      if (!this.#canRewind) {
        expect(() => this.#device.rewind()).toThrow(expect.objectContaining({ code: 'ERR_VDPA_STATE' }))
        return
      }
      this.#device.rewind()
      const chain = this.#held.pop()
      if (chain === undefined) throw new Error('the model lost a chain')
      this.#available.unshift(chain)
      this.#loadedCount -= this.#units([chain])
      this.#canRewind = false
    },

    publishUsed: () => {
      const old = this.#usedCount
      this.#usedCount += this.#units(this.#completed)
      this.#used.push(...this.#completed.splice(0))
      expect(this.#device.publish()).toBe(this.#isWanted(this.#callWish, old, this.#usedCount))
    },

    take: () => {
      const saved = this.#saved.shift()
      const chain = saved ?? this.#used.shift()
      expect(this.#driver.take()).toBe(chain?.token ?? -1)
      if (chain === undefined) return
      expect(this.#driver.usedLength).toBe(chain.written)
      if (saved !== undefined) return
      if (chain.isIndirect) this.#freeTables++
      this.#takenCount += this.#units([chain])
    },

    enableCalls: () => {
      expect(this.#driver.enableCalls()).toBe(this.#saved.length + this.#used.length === 0)
      this.#callWish = this.queue.options.features?.eventIdx === true ? this.#takenCount : 'always'
    },

    disableCalls: () => {
      this.#driver.disableCalls()
      this.#callWish =
        this.queue.options.features?.eventIdx === true && !this.#isPacked ? this.#takenCount - 1 : 'never'
    },

    enableKicks: () => {
      expect(this.#device.enableKicks()).toBe(this.#available.length === 0)
      this.#kickWish = this.queue.options.features?.eventIdx === true ? this.#loadedCount : 'always'
    },

    disableKicks: () => {
      this.#device.disableKicks()
      this.#kickWish =
        this.queue.options.features?.eventIdx === true && !this.#isPacked ? this.#loadedCount - 1 : 'never'
    },

    /** Both sides begin anew from the driver's books, which went through JSON: what the device had not answered is there again, in order, and nothing else. */
    moveDriver: () => {
      const snapshot = JSON.parse(JSON.stringify(this.#driver.save())) as ReturnType<DriverRing['save']>
      const chains = [...this.#committed, ...this.#available, ...this.#held, ...this.#completed]
      chains.sort((a, b) => a.token - b.token)
      expect(snapshot.chains.map(({ token }) => token)).toEqual(chains.map(({ token }) => token))
      this.#driver = this.queue.driver(snapshot)
      this.#device = this.queue.device(initialState(this.queue.options.format))
      for (const list of [this.#committed, this.#held, this.#completed]) list.length = 0
      this.#available = chains
      this.#freeTables += this.#used.filter(({ isIndirect }) => isIndirect).length
      this.#saved.push(...this.#used.splice(0))
      this.#made = this.#units(chains)
      this.#loadedCount = this.#usedCount = this.#takenCount = 0
      this.#canRewind = false
      this.#kickWish = this.#callWish = this.#firstWish()
      expect(this.#driver.inFlight).toBe(this.#inFlight().length + this.#saved.length)
    },

    /** Another device goes on from the state, what was in flight having been completed. */
    moveDevice: () => {
      while (this.#held.length > 0) this.#complete(0, 0.5)
      this.#steps.publishUsed()
      this.#device = this.queue.device(this.#device.state())
      this.#canRewind = false
    },

    reset: () => {
      this.#driver.reset()
      this.#device.reset()
      for (const list of [this.#committed, this.#available, this.#held, this.#completed, this.#used, this.#saved])
        list.length = 0
      this.#made = this.#loadedCount = this.#usedCount = this.#takenCount = 0
      this.#canRewind = false
      this.#freeTables = this.#tableCount()
      this.#kickWish = this.#callWish = this.#firstWish()
    },
  }
}
