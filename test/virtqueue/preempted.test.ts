// Two sides of a ring where one is stopped at any access to the shared memory while the other goes on, as two processors would have it: each sleeps whenever the
// ring says that it may, and neither may be left asleep with work to do. Random and repeatable; scripts/fuzz-rings.mjs has real threads.

import { describe, expect, test } from '@jest/globals'
import { RingMemory } from '../../lib/memory/ring-memory.js'
import { createDeviceRing, createDriverRing } from '../../lib/virtqueue/create.js'
import { areaSizes } from '../../lib/virtqueue/layout.js'
import type { RingAreas, RingFeatures, RingFormat } from '../../lib/virtqueue/virtqueue.js'

/** Memory whose owner may be stopped before and after each ordered access. */
class PreemptedMemory extends RingMemory {
  #stop: () => void = () => undefined

  static on(buffer: ArrayBuffer, offset: number, length: number, stop: () => void): PreemptedMemory {
    const memory = new PreemptedMemory(buffer, offset, length)
    memory.#stop = stop
    return memory
  }

  override load16(offset: number): number {
    this.#stop()
    const value = super.load16(offset)
    this.#stop()
    return value
  }

  override store16(offset: number, value: number): void {
    this.#stop()
    super.store16(offset, value)
    this.#stop()
  }
}

interface Kind {
  readonly format: RingFormat
  readonly size: number
  readonly features: RingFeatures
  readonly seed: number
}

const CHAINS = 3000

/** The world of one ring: whose turn it is, who sleeps, and who was woken. */
class Preemption {
  readonly #driver
  readonly #device
  readonly #size: number
  #random: number
  #isNested = false
  readonly #asleep = { driver: false, device: false }
  readonly #woken = { driver: false, device: false }
  #sent = 0
  #taken = 0
  #sleeps = 0

  constructor({ format, size, features, seed }: Kind) {
    this.#size = size
    this.#random = seed
    const sizes = areaSizes(format, size)
    const buffer = new ArrayBuffer(sizes.descriptor + sizes.driver + sizes.device + 64)
    const areas = (other: () => void): RingAreas => {
      let at = 0
      const area = (length: number) => {
        const first = Math.ceil(at / 16) * 16
        at = first + length
        return PreemptedMemory.on(buffer, first, length, () => this.#stop(other))
      }
      return { descriptor: area(sizes.descriptor), driver: area(sizes.driver), device: area(sizes.device) }
    }
    this.#isNested = true
    this.#driver = createDriverRing({ format, size, features, areas: areas(() => this.#stepDevice()) })
    this.#device = createDeviceRing({ format, size, features, areas: areas(() => this.#stepDriver()) })
    this.#isNested = false
  }

  #below(count: number): number {
    this.#random = (Math.imul(this.#random, 1664525) + 1013904223) >>> 0
    return Math.floor((this.#random / 0x1_0000_0000) * count)
  }

  /** Now and then the other side goes on, for one step of its own; it is not stopped itself. */
  #stop(other: () => void): void {
    if (this.#isNested || this.#below(6) > 0) return
    this.#isNested = true
    other()
    this.#isNested = false
  }

  #mayRun(who: 'driver' | 'device'): boolean {
    if (!this.#asleep[who]) return true
    if (!this.#woken[who]) return false
    this.#woken[who] = this.#asleep[who] = false
    return true
  }

  #stepDriver(): void {
    if (!this.#mayRun('driver')) return
    const driver = this.#driver
    const burst = this.#below(3)
    for (let count = 0; count < burst && this.#sent < CHAINS && driver.freeCount > 0; count++, this.#sent++) {
      driver.begin()
      driver.push(0, 0x1000, 8, true)
      driver.commit(this.#sent % this.#size)
    }
    if (driver.publish()) this.#woken.device = true
    driver.disableCalls()
    let some = false
    for (; driver.take() >= 0; this.#taken++) some = true
    if (some || (driver.freeCount > 0 && this.#sent < CHAINS)) return
    if (driver.enableCalls()) this.#sleep('driver')
  }

  #stepDevice(): void {
    if (!this.#mayRun('device')) return
    const device = this.#device
    device.disableKicks()
    for (let count = this.#below(3); count >= 0 && device.next(); count--)
      device.complete(device.chain.id, device.chain.writableLength)
    if (device.publish()) this.#woken.driver = true
    if (this.#below(2) === 0 && device.enableKicks()) this.#sleep('device')
  }

  #sleep(who: 'driver' | 'device'): void {
    this.#asleep[who] = true
    this.#sleeps++
  }

  /** Lets both go on until every chain came back; how often one slept. Throws when both sleep before that. */
  run(): number {
    const lost = () => new Error(`both sides sleep with ${this.#sent - this.#taken} chains under way`)
    while (this.#taken < CHAINS) {
      const { driver, device } = this.#asleep
      if (driver && device && !this.#woken.driver && !this.#woken.device) throw lost()
      if (this.#below(2) === 0) this.#stepDriver()
      else this.#stepDevice()
    }
    return this.#sleeps
  }
}

const features = [false, true].flatMap((eventIdx) => [false, true].map((inOrder) => ({ eventIdx, inOrder })))
const kinds: Kind[] = (['split', 'packed'] as const).flatMap((format) =>
  features.flatMap((chosen) =>
    [2, 8].flatMap((size) => [1, 2].map((seed) => ({ format, size, features: chosen, seed }))),
  ),
)

describe('a ring whose sides are stopped anywhere', () => {
  test.each(kinds)('$format of $size, $features, seed $seed: nobody sleeps for ever', (kind) => {
    expect(new Preemption(kind).run()).toBeGreaterThan(100)
  })
})
