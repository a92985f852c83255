// The hostile side: writes that are mostly what an honest peer would write, then bent in one place or another. It looks at the memory and at what
// the side under test told, as a real peer could.

import { type CaseOptions, type Random, type Step } from './case.js'
import type { DeviceSubject } from './device-subject.js'
import type { DriverSubject } from './driver-subject.js'

const TABLES_LOW = 0xffff_f000
const TABLES_HIGH = 7
const NUMBERS16 = [
  0, 1, 2, 3, 4, 7, 8, 15, 16, 17, 0x7f, 0x80, 0x81, 0xff, 0x7fff, 0x8000, 0x8001, 0x8080, 0xfffe, 0xffff,
]
const NUMBERS32 = [
  0, 1, 15, 16, 17, 32, 48, 64, 80, 4096, 0x7fff_ffff, 0x8000_0000, 0xffff_f000, 0xffff_fff0, 0xffff_ffff,
]

export function randomOptions(random: Random, side: CaseOptions['side']): CaseOptions {
  const format = random.pick(['split', 'packed'] as const)
  const size = format === 'split' ? random.pick([1, 2, 4, 8, 16]) : random.pick([1, 2, 3, 4, 5, 8, 13])
  const at =
    format === 'split' ? random.pick([0, 1, 0x7fff, 0xfffe, 0xffff]) : random.below(size) | (random.below(2) << 15)
  const [eventIdx, indirect, inOrder] = [random.chance(50), random.chance(60), random.chance(30)]
  return { side, format, size, eventIdx, indirect, inOrder, at }
}

/** A driver that is hostile now and then. It keeps its own positions, which it may leave out of step with what it wrote. */
export class HostileDriver {
  readonly #random: Random
  readonly #options: CaseOptions
  #position: number

  constructor(random: Random, options: CaseOptions) {
    this.#random = random
    this.#options = options
    this.#position = options.at
  }

  steps(subject: DeviceSubject): Step[] {
    const random = this.#random
    const kind = random.below(12)
    if (kind < 4) return this.#options.format === 'split' ? this.#splitChain(subject) : this.#packedChain(subject)
    if (kind < 7) return [['next', 0, 0]]
    if (kind < 9) return [['complete', random.below(4), random.below(random.chance(10) ? 12 : 9)]]
    if (kind < 10) return [['publish', 0, 0]]
    return [[random.pick(['enable', 'disable', 'rewind', 'publish', 'next'] as const), 0, 0]]
  }

  /** A write at a place that means something, of a value that may hurt. */
  bend(): Step {
    const random = this.#random
    const { format, size } = this.#options
    const area = random.pick(format === 'split' ? [0, 0, 0, 1, 1, 2, 3] : [0, 0, 0, 0, 1, 2, 3])
    if (area === 0 || area === 3) {
      const field = random.pick([0, 4, 8, 12, 14, 12, 14])
      const at = 16 * random.below(size) + field
      if (field < 12) return ['write', area, at, 4, random.pick(NUMBERS32)]
      return [
        'write',
        area,
        at,
        2,
        random.chance(50) ? random.below(8) | (random.below(4) << 7) : random.pick(NUMBERS16),
      ]
    }
    if (format === 'packed') return ['write', area, random.pick([0, 2]), 2, random.pick(NUMBERS16)]
    const near = (this.#position + random.below(5) - 2) & 0xffff
    const value = random.chance(60) ? near : random.chance(50) ? random.below(size) : random.pick(NUMBERS16)
    return ['write', area, random.chance(50) ? 2 : 2 * random.below(3 + size), 2, value]
  }

  /** The four writes of a descriptor; `low` and `high` are its last two fields. */
  #descriptor(area: 0 | 3, index: number, [low, high]: [number, number], isTable = false): Step[] {
    const random = this.#random
    const at = 16 * index
    const length = isTable
      ? 16 * (1 + random.below(4))
      : random.chance(90)
        ? random.below(2000)
        : random.pick(NUMBERS32)
    const addressHigh = isTable ? TABLES_HIGH : random.chance(90) ? random.below(16) : 0xffff_ffff
    const addressLow = isTable
      ? TABLES_LOW + 16 * random.below(4)
      : random.chance(80)
        ? random.below(0x1_0000)
        : random.pick(NUMBERS32)
    return [
      ['write', area, at, 4, addressLow],
      ['write', area, at + 4, 4, addressHigh],
      ['write', area, at + 8, 4, length],
      ['write', area, at + 12, 2, low],
      ['write', area, at + 14, 2, high],
    ]
  }

  #table(): Step[] {
    const random = this.#random
    const count = 1 + random.below(5)
    const readable = random.below(count + 1)
    const isSplit = this.#options.format === 'split'
    return Array.from({ length: count }, (_, index) => {
      const flags = (index < readable ? 0 : 2) | (isSplit && index < count - 1 ? 1 : 0)
      return this.#descriptor(3, index, isSplit ? [flags, index + 1] : [random.below(99), flags])
    }).flat()
  }

  #splitChain(subject: DeviceSubject): Step[] {
    const random = this.#random
    const { size, indirect } = this.#options
    const first = random.below(size)
    const isTable = indirect && random.chance(40)
    const count = 1 + random.below(random.chance(90) ? Math.min(4, size) : size + 2)
    const readable = random.below(count + 1)
    const steps = isTable ? this.#table() : []
    for (let index = 0; index < count; index++) {
      const isLast = index === count - 1
      const next = (first + index + 1) % size
      const flags = isLast && isTable ? 4 : (index < readable ? 0 : 2) | (isLast ? 0 : 1)
      steps.push(...this.#descriptor(0, (first + index) % size, [flags, next], isLast && isTable))
    }
    // Mostly the next entry, as the device sees it; sometimes where this driver believes to be.
    const position = random.chance(90) ? subject.device.state().available : this.#position
    this.#position = (position + 1) & 0xffff
    steps.push(['write', 1, 4 + 2 * (position % size), 2, random.chance(95) ? first : random.pick(NUMBERS16)])
    steps.push(['write', 1, 2, 2, this.#position])
    return steps
  }

  #packedChain(subject: DeviceSubject): Step[] {
    const random = this.#random
    const { size, indirect } = this.#options
    const isTable = indirect && random.chance(30)
    const count = isTable ? 1 : 1 + random.below(random.chance(90) ? Math.min(3, size) : size + 2)
    const readable = random.below(count + 1)
    const steps = isTable ? this.#table() : []
    const position = random.chance(90) ? subject.device.state().available : this.#position
    let slot = position & 0x7fff
    let wrap = position >>> 15
    for (let index = 0; index < count; index++) {
      const owner = wrap === 1 ? 0x80 : 0x8000
      const flags = isTable ? 4 : (index < readable ? 0 : 2) | (index === count - 1 ? 0 : 1)
      steps.push(...this.#descriptor(0, slot, [random.below(0x1_0000), flags | owner], isTable))
      slot = (slot + 1) % size
      if (slot === 0) wrap ^= 1
    }
    this.#position = slot | (wrap << 15)
    return steps
  }
}

/** A device that is hostile now and then. */
export class HostileDevice {
  readonly #random: Random
  readonly #options: CaseOptions

  constructor(random: Random, options: CaseOptions) {
    this.#random = random
    this.#options = options
  }

  steps(subject: DriverSubject): Step[] {
    const random = this.#random
    const kind = random.below(12)
    if (kind < 4) return [['add', random.below(3), random.below(3)]]
    if (kind < 6) return [['publish', 0, 0]]
    if (kind < 7) return [['take', 0, 0]]
    if (kind < 10) return [...this.#use(subject), ['take', 0, 0]]
    return [[random.pick(['enable', 'disable', 'move', 'take'] as const), 0, 0]]
  }

  bend(subject: DriverSubject): Step {
    const random = this.#random
    const { format, size } = this.#options
    const area = random.pick(format === 'split' ? [0, 1, 2, 2, 2] : [0, 0, 0, 1, 2])
    if (area === 0) {
      const field = random.pick([0, 4, 8, 12, 14, 14])
      const at = 16 * random.below(size) + field
      if (field < 12) return ['write', 0, at, 4, random.pick(NUMBERS32)]
      return ['write', 0, at, 2, random.pick(NUMBERS16)]
    }
    if (format === 'packed' || area === 1) return ['write', area, random.pick([0, 2]), 2, random.pick(NUMBERS16)]
    const index = random.chance(60) ? (subject.position.at + random.below(6) - 2) & 0xffff : random.pick(NUMBERS16)
    if (random.chance(50)) return ['write', 2, 2, 2, index]
    return [
      'write',
      2,
      4 + 4 * random.below(2 * size),
      4,
      random.chance(60) ? random.below(size + 1) : random.pick(NUMBERS32),
    ]
  }

  /** Marks chains used: mostly one that is in flight, with a length that can be. */
  #use(subject: DriverSubject): Step[] {
    const random = this.#random
    const published = subject.sent.filter(({ isPublished }) => isPublished)
    const few: Step[] = [
      ['add', random.below(3), random.below(3)],
      ['publish', 0, 0],
    ]
    if (published.length === 0 && random.chance(95)) return few
    const chain =
      published.length > 0
        ? published[random.below(this.#options.inOrder ? Math.min(2, published.length) : published.length)]
        : undefined
    const id = chain !== undefined && random.chance(92) ? chain.id : random.below(this.#options.size + 2)
    const writable = chain?.writable ?? 0
    const length = random.chance(92)
      ? random.below(writable + 1)
      : random.chance(50)
        ? writable + 1
        : random.pick(NUMBERS32)
    const { at, wrap } = subject.position
    if (this.#options.format === 'packed') {
      const flags =
        (random.chance(95) === wrap ? 0x8080 : 0) |
        (random.chance(80) ? 2 : 0) |
        (random.chance(5) ? random.pick(NUMBERS16) : 0)
      return [
        ['write', 0, 16 * at + 8, 4, length],
        ['write', 0, 16 * at + 12, 2, id],
        ['write', 0, 16 * at + 14, 2, flags],
      ]
    }
    const step = this.#options.inOrder && chain !== undefined ? published.indexOf(chain) + 1 : 1
    const index = (at + (random.chance(95) ? step : random.below(4))) & 0xffff
    const entry = 4 + 8 * (at % this.#options.size)
    return [
      ['write', 2, entry, 4, id],
      ['write', 2, entry + 4, 4, length],
      ['write', 2, 2, 2, index],
    ]
  }
}
