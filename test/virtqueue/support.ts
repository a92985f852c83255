// A queue in memory for tests: both sides over the same bytes, with canaries around every area, so that a write outside is seen.

import { RingMemory } from '../../lib/memory/ring-memory.js'
import { createDeviceRing, createDriverRing } from '../../lib/virtqueue/create.js'
import { areaSizes } from '../../lib/virtqueue/layout.js'
import type {
  DeviceRing,
  DriverRing,
  DriverSnapshot,
  IndirectTables,
  RingAreas,
  RingFeatures,
  RingFormat,
  RingState,
  TranslateTable,
} from '../../lib/virtqueue/virtqueue.js'

export interface QueueOptions {
  readonly format: RingFormat
  readonly size: number
  readonly features?: RingFeatures
  readonly state?: RingState
  /** Indirect tables of the driver: how many, and how long. Default: 4 of the ring's size, at most 8 long. */
  readonly tables?: number
  readonly tableSize?: number
}

const CANARY = 0xa5
const GAP = 64
/** Where the device finds the indirect tables. High half not 0, so that a lost half is seen. */
export const TABLES_IOVA = 0x7_ffff_f000n

/** The memory of a queue and the makers of its two sides. */
export class TestQueue {
  readonly options: QueueOptions
  readonly buffer: ArrayBuffer
  readonly areas: RingAreas
  readonly tables: RingMemory
  readonly #used: { first: number; length: number }[] = []

  constructor(options: QueueOptions) {
    this.options = options
    const sizes = areaSizes(options.format, options.size)
    const tableSize = options.tableSize ?? Math.min(options.size, 8)
    const tableBytes = (options.tables ?? 4) * tableSize * 16
    const round = (bytes: number) => Math.ceil(bytes / 16) * 16
    const total = GAP * 5 + round(sizes.descriptor) + round(sizes.driver) + round(sizes.device) + round(tableBytes)
    this.buffer = new ArrayBuffer(total)
    new Uint8Array(this.buffer).fill(CANARY)
    let at = GAP
    const place = (length: number) => {
      const memory = new RingMemory(this.buffer, at, length)
      memory.bytes().fill(0)
      this.#used.push({ first: at, length })
      at += round(length) + GAP
      return memory
    }
    this.areas = { descriptor: place(sizes.descriptor), driver: place(sizes.driver), device: place(sizes.device) }
    this.tables = place(tableBytes)
  }

  get indirect(): IndirectTables | undefined {
    if (this.options.features?.indirect !== true || this.tables.byteLength === 0) return undefined
    return {
      memory: this.tables,
      iova: TABLES_IOVA,
      tableSize: this.options.tableSize ?? Math.min(this.options.size, 8),
    }
  }

  /** Only the tables are mapped. A test may put another answer here. */
  translateTable: TranslateTable = (iovaHigh, iovaLow, length) => {
    const offset = (BigInt(iovaHigh) << 32n) + BigInt(iovaLow) - TABLES_IOVA
    if (offset < 0n || offset + BigInt(length) > BigInt(this.tables.byteLength)) return undefined
    return { memory: this.tables, offset: Number(offset) }
  }

  driver(snapshot?: DriverSnapshot): DriverRing {
    const { format, size, features, state } = this.options
    return createDriverRing({
      format,
      size,
      areas: this.areas,
      ...(features === undefined ? {} : { features }),
      ...(this.indirect === undefined ? {} : { indirect: this.indirect }),
      ...(snapshot !== undefined ? { snapshot } : state !== undefined ? { state } : {}),
    })
  }

  device(state = this.options.state): DeviceRing {
    const { format, size, features } = this.options
    return createDeviceRing({
      format,
      size,
      areas: this.areas,
      translateTable: (iovaHigh, iovaLow, length) => this.translateTable(iovaHigh, iovaLow, length),
      ...(features === undefined ? {} : { features }),
      ...(state === undefined ? {} : { state }),
    })
  }

  /** The offset of the first byte outside all areas that is not as it was made, or -1. */
  firstDamage(): number {
    const bytes = new Uint8Array(this.buffer)
    let at = 0
    for (const { first, length } of [...this.#used, { first: bytes.length, length: 0 }]) {
      for (; at < first; at++) if (bytes[at] !== CANARY) return at
      at = first + length
    }
    return -1
  }
}

/** The bytes of a memory as hex, 16 a line. */
export function hex(memory: RingMemory): string[] {
  const lines: string[] = []
  for (let at = 0; at < memory.byteLength; at += 16) {
    lines.push(Buffer.from(memory.bytes(at, Math.min(16, memory.byteLength - at))).toString('hex'))
  }
  return lines
}

/** Adds one chain of `[address, length]` segments and publishes it. */
export function send(
  driver: DriverRing,
  token: number,
  readable: [bigint, number][],
  writable: [bigint, number][] = [],
): boolean {
  driver.begin()
  for (const [iova, length] of readable) driver.pushAddress(iova, length, false)
  for (const [iova, length] of writable) driver.pushAddress(iova, length, true)
  driver.commit(token)
  return driver.publish()
}

/** The chain that was loaded last, as plain values. */
export function loaded(device: DeviceRing): {
  id: number
  slots: number
  readable: [bigint, number][]
  writable: [bigint, number][]
} {
  const { chain } = device
  const segments = Array.from({ length: chain.count }, (_, index): [bigint, number] => [
    (BigInt(chain.iovaHigh[index] ?? 0) << 32n) | BigInt(chain.iovaLow[index] ?? 0),
    chain.lengths[index] ?? 0,
  ])
  return {
    id: chain.id,
    slots: chain.slots,
    readable: segments.slice(0, chain.readableCount),
    writable: segments.slice(chain.readableCount),
  }
}

/** Writes a descriptor of a split ring or of its indirect tables. */
export function splitDescriptor(
  memory: RingMemory,
  index: number,
  [iova, length]: [bigint, number],
  flags = 0,
  next = 0,
): void {
  const at = index * 16
  memory.setU32(at, Number(iova & 0xffff_ffffn))
  memory.setU32(at + 4, Number(iova >> 32n))
  memory.setU32(at + 8, length)
  memory.setU16(at + 12, flags)
  memory.setU16(at + 14, next)
}

/** Writes a descriptor of a packed ring or of its indirect tables. */
export function packedDescriptor(
  memory: RingMemory,
  index: number,
  segment: [bigint, number],
  id: number,
  flags: number,
): void {
  splitDescriptor(memory, index, segment, id, flags)
}

/** The error that a call throws. */
export function errorOf(call: () => unknown): Error & { readonly code: string } {
  try {
    call()
  } catch (error) {
    if (error instanceof Error || typeof error === 'object') return error as Error & { readonly code: string }
  }
  throw new Error('nothing was thrown')
}

/** All verbs of a side, by name. */
export function driverVerbs(driver: DriverRing): Record<string, () => unknown> {
  return {
    begin: () => driver.begin(),
    push: () => driver.push(0, 0, 1, false),
    pushAddress: () => driver.pushAddress(0n, 1, false),
    commit: () => driver.commit(0),
    publish: () => driver.publish(),
    take: () => driver.take(),
    enableCalls: () => driver.enableCalls(),
    disableCalls: () => driver.disableCalls(),
    save: () => driver.save(),
  }
}

export function deviceVerbs(device: DeviceRing): Record<string, () => unknown> {
  return {
    next: () => device.next(),
    rewind: () => device.rewind(),
    complete: () => device.complete(0, 0),
    publish: () => device.publish(),
    enableKicks: () => device.enableKicks(),
    disableKicks: () => device.disableKicks(),
  }
}

/** A driver's ring, and a device that is written out by hand: `use` writes entries at the device's position, then the index. */
export function splitDriverByHand(features: RingFeatures = {}, size = 4, at?: number) {
  const queue = new TestQueue({
    format: 'split',
    size,
    features,
    ...(at === undefined ? {} : { state: { available: at, used: at } }),
  })
  const driver = queue.driver()
  const { descriptor, driver: available, device: used } = queue.areas
  let index = at ?? 0
  const use = (...entries: [id: number, length: number][]) => {
    for (const [entry, [id, length]] of entries.entries()) {
      used.setU32(4 + 8 * ((index + entry) % size), id)
      used.setU32(8 + 8 * ((index + entry) % size), length)
    }
    index = (index + entries.length) & 0xffff
    used.store16(2, index)
  }
  return { queue, driver, descriptor, available, used, use }
}

/** A device's ring, and a driver that is written out by hand: `offer` writes entries at the driver's position, then the index. */
export function splitDeviceByHand(features: RingFeatures = {}, size = 4, at?: number) {
  const queue = new TestQueue({
    format: 'split',
    size,
    features,
    ...(at === undefined ? {} : { state: { available: at, used: at } }),
  })
  const device = queue.device()
  const { descriptor, driver: available, device: used } = queue.areas
  let index = at ?? 0
  const offer = (...heads: number[]) => {
    for (const head of heads) available.setU16(4 + 2 * (index++ % size), head)
    available.store16(2, index)
  }
  return { queue, device, descriptor, available, used, offer }
}
