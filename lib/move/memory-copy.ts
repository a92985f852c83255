// A guest's memory that the target has for itself: what the source may have written is copied, in rounds while it runs and for the last time when it stands still.

import { checkMethods, checkObject, rangeError } from '../base/checks.js'
import { countBefore } from '../base/sorted.js'
import { copyBytes } from '../memory/copy-bytes.js'
import type { GuestMemory, GuestPiece } from '../memory/guest-memory.js'
import type { MemoryRegion } from '../memory/memory-region.js'
import { dirtyRanges, type DirtyLog, type DirtyRange } from '../shadow/dirty-log.js'

/** A guest's memory on both sides. */
export interface CopiedMemory {
  /** Where the source has it. */
  readonly from: GuestMemory
  /** Where the target has it: at the same guest addresses at least. */
  readonly to: GuestMemory
  /**
   * Follows what is written to `from`: by the shadows of the source's queues, and by the guest itself, whose writes the program marks. Without it everything is copied when the source
   * stands still.
   */
  readonly log?: DirtyLog
}

/** Where in the target's memory something is. */
interface Place {
  readonly region: MemoryRegion
  readonly offset: number
}

/** Bytes in one turn of the event loop. */
const BYTES_A_TURN = 8 << 20

export class MemoryCopy {
  readonly #from: GuestMemory
  readonly #to: GuestMemory
  readonly #log: DirtyLog | undefined
  #isBegun = false

  /** RangeError where the target has no memory at an address of the source's. */
  constructor(copied: CopiedMemory) {
    checkObject(copied, 'memory')
    const { from, to, log } = copied
    checkMethods(from, 'memory.from', 'a GuestMemory', ['pieces', 'slices'])
    checkMethods(to, 'memory.to', 'a GuestMemory', ['pieces', 'slices'])
    if (log !== undefined) checkMethods(log, 'memory.log', 'a DirtyLog', ['take'])
    this.#from = from
    this.#to = to
    this.#log = log
    for (const { address, size } of from.pieces())
      if (found(to, address, size) === undefined)
        throw rangeError('memory.to', `such that it has the ${size} bytes at 0x${address.toString(16)}`, to.size)
  }

  /** Whether a round copies less than all. */
  get isFollowed(): boolean {
    return this.#log !== undefined
  }

  /**
   * Tells, by the memory of now, where the target has what a region of the source has at `offset`; undefined for memory that is no guest's, and where the target has it in
   * several pieces.
   */
  places(): (region: MemoryRegion, offset: number, size: number) => Place | undefined {
    const byRegion = new Map<MemoryRegion, GuestPiece[]>()
    for (const piece of this.#from.pieces()) {
      const known = byRegion.get(piece.region)
      if (known === undefined) byRegion.set(piece.region, [piece])
      else known.push(piece)
    }
    for (const pieces of byRegion.values()) pieces.sort((one, other) => one.offset - other.offset)
    return (region, offset, size) => {
      const piece = pieceWith(byRegion.get(region) ?? [], offset, size)
      if (piece === undefined) return undefined
      const [there, ...more] = found(this.#to, piece.address + BigInt(offset - piece.offset), size) ?? []
      return there === undefined || more.length > 0 ? undefined : { region: there.region, offset: there.offset }
    }
  }

  /** Copies what was written since the last round, all of it the first time. Returns how many bytes that were. */
  async round(): Promise<number> {
    const log = this.#log
    const isWhole = !this.#isBegun || log === undefined
    const taken = log?.take() ?? []
    // Until it has ended, what was taken of the log is nowhere else: a round that fails is made again, with all.
    this.#isBegun = false
    const bytes = isWhole
      ? await this.#copyAll(this.#from, this.#to)
      : await this.#copy(this.#from, this.#to, dirtyRanges(taken))
    this.#isBegun = true
    return bytes
  }

  /** The target ran, and what it wrote counts. */
  async back(): Promise<void> {
    await this.#copyAll(this.#to, this.#from)
  }

  #copyAll(from: GuestMemory, to: GuestMemory): Promise<number> {
    return this.#copy(from, to, this.#from.pieces())
  }

  async #copy(from: GuestMemory, to: GuestMemory, ranges: Iterable<DirtyRange>): Promise<number> {
    const turns = new Turns()
    for (const { address, size } of ranges) await turns.copy(from, to, address, size)
    return turns.bytes
  }
}

/** Copies so much in one turn of the event loop. */
class Turns {
  bytes = 0
  #left = BYTES_A_TURN

  async copy(from: GuestMemory, to: GuestMemory, address: bigint, size: number): Promise<void> {
    for (let done = 0; done < size;) {
      const count = Math.min(size - done, this.#left)
      copyRange(from, to, address + BigInt(done), count)
      done += count
      this.bytes += count
      this.#left -= count
      if (this.#left > 0) continue
      this.#left = BYTES_A_TURN
      await new Promise((resolve) => setImmediate(resolve))
    }
  }
}

function copyRange(from: GuestMemory, to: GuestMemory, address: bigint, size: number): void {
  for (const source of from.slices(address, size)) {
    let at = 0
    for (const target of to.slices(source.address, source.size)) {
      const bytes = source.region.view(source.offset + at, target.size)
      copyBytes(bytes, 0, target.region.view(target.offset, target.size), 0, target.size)
      at += target.size
    }
  }
}

/** The piece of a region, by offset, that has so many bytes. A guest may see the same bytes in several places: only then all are looked at. */
function pieceWith(pieces: readonly GuestPiece[], offset: number, size: number): GuestPiece | undefined {
  const has = (one: GuestPiece) => offset >= one.offset && offset + size <= one.offset + one.size
  const nearest = pieces[countBefore(pieces, (one) => one.offset <= offset) - 1]
  return nearest !== undefined && has(nearest) ? nearest : pieces.find(has)
}

function found(memory: GuestMemory, address: bigint, size: number): GuestPiece[] | undefined {
  try {
    return memory.slices(address, size)
  } catch {
    return undefined
  }
}
