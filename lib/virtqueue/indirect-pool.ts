// Indirect tables of a driver: which are free, where they lie, and how a staged chain is written into one. The device only reads them.

import { checkInteger, rangeError, toU64 } from '../base/checks.js'
import { rangeOf } from '../base/ranges.js'
import type { RingBytes } from '../memory/parted-ring-memory.js'
import type { RingMemory } from '../memory/ring-memory.js'
import * as layout from './layout.js'
import type { StagedChain } from './staged-chain.js'
import type { ChainSegment, IndirectTables, RingFormat } from './virtqueue.js'

// Constants of this module: an imported name would be a property load each time it is used.
const { DESCRIPTOR_BYTES, NEXT, WRITE } = layout

/** The tables of one ring, in one memory, one after the other. */
export class IndirectPool {
  /** Descriptors a table. */
  readonly tableSize: number
  /** How many there are. */
  readonly tables: number
  /** The upper 32 bits of the IOVA of each table. */
  readonly iovaHigh: Uint32Array
  /** The lower 32 bits of the same. */
  readonly iovaLow: Uint32Array
  readonly #memory: RingMemory
  readonly #isPacked: boolean
  // A stack: the table freed last is the one that is still in the cache.
  readonly #free: Uint32Array
  #freeCount = 0
  // Descriptors in each table.
  readonly #counts: Uint32Array

  constructor(format: RingFormat, options: IndirectTables) {
    checkInteger(options.tableSize, 'indirect.tableSize', 1, 0x7fff_ffff / DESCRIPTOR_BYTES)
    const iova = toU64(options.iova, 'indirect.iova')
    const bytes = options.tableSize * DESCRIPTOR_BYTES
    this.tableSize = options.tableSize
    this.tables = Math.floor(options.memory.byteLength / bytes)
    if (this.tables === 0)
      throw rangeError('indirect.memory', `at least ${bytes} bytes long`, options.memory.byteLength)
    if (rangeOf(iova, BigInt(this.tables * bytes)) === undefined)
      throw rangeError('indirect.iova', 'such that the tables end at 2^64-1 or before', iova)
    this.#memory = options.memory
    this.#isPacked = format === 'packed'
    this.#free = new Uint32Array(this.tables)
    this.#counts = new Uint32Array(this.tables)
    this.iovaHigh = new Uint32Array(this.tables)
    this.iovaLow = new Uint32Array(this.tables)
    for (let table = 0; table < this.tables; table++) {
      const address = iova + BigInt(table * bytes)
      this.iovaHigh[table] = Number(address >> 32n)
      this.iovaLow[table] = Number(address & 0xffff_ffffn)
    }
    this.reset()
  }

  /** A table that was free, or -1. */
  take(): number {
    if (this.#freeCount === 0) return -1
    return this.#free[--this.#freeCount] as number
  }

  /** Gives a table back; -1 stands for none. */
  release(table: number): void {
    if (table < 0) return
    this.#free[this.#freeCount++] = table
  }

  /** All free. */
  reset(): void {
    this.#freeCount = 0
    for (let table = this.tables - 1; table >= 0; table--) this.release(table)
  }

  /** What write() wrote into a table. */
  read(table: number): ChainSegment[] {
    const memory = this.#memory
    const first = table * this.tableSize * DESCRIPTOR_BYTES
    return Array.from({ length: this.#counts[table] as number }, (_, index) =>
      readSegment(memory, first + index * DESCRIPTOR_BYTES, this.#isPacked ? 14 : 12),
    )
  }

  /** Writes a chain: linked by `next` in a split ring's table (section 2.7.5.3), by position in a packed ring's, where only WRITE is valid (section 2.8.7). */
  write(table: number, chain: StagedChain): void {
    const memory = this.#memory
    let at = table * this.tableSize * DESCRIPTOR_BYTES
    const last = chain.count - 1
    this.#counts[table] = chain.count
    for (let index = 0; index <= last; index++, at += DESCRIPTOR_BYTES) {
      const write = index < chain.readableCount ? 0 : WRITE
      memory.setU32(at, chain.iovaLow[index] as number)
      memory.setU32(at + 4, chain.iovaHigh[index] as number)
      memory.setU32(at + 8, chain.lengths[index] as number)
      if (this.#isPacked) memory.setU32(at + 12, write * 0x1_0000)
      else memory.setU32(at + 12, index === last ? write : write | NEXT | ((index + 1) << 16))
    }
  }
}

/** A descriptor that lies in memory, as it was pushed; its flags are at byte 12 (split) or 14 (packed). */
export function readSegment(memory: RingBytes, at: number, flagsAt: number): ChainSegment {
  return {
    iovaHigh: memory.u32(at + 4),
    iovaLow: memory.u32(at),
    length: memory.u32(at + 8),
    deviceWrites: (memory.u16(at + flagsAt) & WRITE) !== 0,
  }
}
