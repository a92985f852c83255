// The address spaces of one device: the mappings that messages make, what the device sees of them (the state before an open batch), and DMA through
// the latter.

import { vdpaError, type VdpaError } from '../base/errors.js'
import { dmaAccess, type Dma } from '../models/device-ops.js'
import { RingMemory } from '../memory/ring-memory.js'
import type { TableLocation } from '../virtqueue/virtqueue.js'
import { IotlbTable } from './iotlb-table.js'
import type { MemoryWindow, ProcessMemory } from './process-memory.js'

// Constants of this module: an imported name would be a property load each time it is used.
const { READ, WRITE } = dmaAccess

/** One address space. `tracked` is what messages are checked against; `visible` what DMA goes through. Outside batches they are one. */
export class AddressSpace {
  /** The mappings that messages made. */
  tracked = new IotlbTable()
  /** The mappings that the device sees. */
  visible = this.tracked

  /** To be called before a change of `tracked`: the device goes on with what it sees, until publish(). */
  fork(): void {
    if (this.visible === this.tracked) this.tracked = this.tracked.copy()
  }

  /** Has the device see what messages made. */
  publish(): void {
    this.visible = this.tracked
  }

  /** The device forgets; the tracked mappings stay. */
  hide(): void {
    this.visible = new IotlbTable()
  }
}

/** Copies up to here with a loop, of bytes or of words, because a call and the view that it needs would cost more. */
const LOOP_BYTES_LAST = 160
const LOOP_WORD_BYTES_LAST = 768

/** Bytes and the same bytes as words, as far as they are whole; no words where the bytes do not begin at one. */
interface Words {
  bytes: Uint8Array
  words: Int32Array
}

const noWords = new Int32Array(0)

function wordsOf(bytes: Uint8Array): Int32Array {
  return bytes.byteOffset % 4 === 0 ? new Int32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength >>> 2) : noWords
}

function copy(source: Words, from: number, target: Words, to: number, length: number): void {
  const { bytes: sourceBytes, words: sourceWords } = source
  const { bytes: targetBytes, words: targetWords } = target
  let done = 0
  if (length > LOOP_WORD_BYTES_LAST) {
    targetBytes.set(sourceBytes.subarray(from, from + length), to)
    return
  }
  if (((from | to) & 3) === 0 && sourceWords.length > 0 && targetWords.length > 0) {
    const fromWord = from >>> 2
    const toWord = to >>> 2
    const words = length >>> 2
    for (let index = 0; index < words; index++) targetWords[toWord + index] = sourceWords[fromWord + index] as number
    done = words << 2
  } else if (length > LOOP_BYTES_LAST) {
    targetBytes.set(sourceBytes.subarray(from, from + length), to)
    return
  }
  for (; done < length; done++) targetBytes[to + done] = sourceBytes[from + done] as number
}

/** A piece of memory that DMA went to last: from IOVA (high, first) to (high, last) in one address space. */
interface Window {
  /** -1: none. */
  asid: number
  high: number
  first: number
  last: number
  perm: number
  region: MemoryWindow | undefined
  /** Where `first` lies in the region. */
  offset: number
  /** Bytes that the region had: memory may be freed behind a mapping's back. */
  regionBytes: number
}

function noWindow(): Window {
  return { asid: -1, high: 0, first: 0, last: 0, perm: 0, region: undefined, offset: 0, regionBytes: 0 }
}

/** A program freed memory that it had mapped by messages of its own, which nothing holds. On hardware the device would go on in memory that is somebody else's. */
function memoryGone(asid: number, high: number, low: number): VdpaError {
  const iova = ((BigInt(high) << 32n) | BigInt(low)).toString(16)
  return vdpaError(
    'ERR_VDPA_RING_BROKEN',
    `the memory mapped at IOVA 0x${iova} of asid ${asid} was freed under a ring`,
    {
      hint: 'invalidate mappings before their memory is closed',
    },
  )
}

/** The device's way to memory. */
export class DeviceDma implements Dma {
  readonly #memory: ProcessMemory
  readonly #spaces: (AddressSpace | undefined)[] = []
  readonly #versions: number[] = []
  /** Address spaces that were never mapped, or were cleared by a reset, pass addresses of the process through unchanged (an oddity of vdpa_sim). */
  readonly #passesThrough: boolean[] = []
  readonly #imitatesPassthrough: boolean
  /** Whether what is mapped is pinned: whole pages, counted by the process. */
  readonly pinsMemory: boolean
  readonly #location: { memory: RingMemory; offset: number } = { memory: new RingMemory(new ArrayBuffer(0)), offset: 0 }
  // The bytes outside guest memory that were used last: models keep a few arrays.
  readonly #outside: Words = { bytes: new Uint8Array(0), words: noWords }
  // What was read last and what was written last: a device that moves bytes from one queue's buffers to another's goes back and forth between two mappings.
  readonly #readWindow = noWindow()
  readonly #writeWindow = noWindow()
  // Whether #resolve found a mapping of memory that was freed.
  #isGone = false
  // The answer of #resolve.
  #region: MemoryWindow | undefined
  #offset = 0
  #length = 0

  constructor(memory: ProcessMemory, options: { readonly pinsMemory: boolean; readonly imitatesPassthrough: boolean }) {
    this.#memory = memory
    this.pinsMemory = options.pinsMemory
    // Behind an IOMMU what is not mapped cannot be reached; only addresses of the process pass through.
    this.#imitatesPassthrough = options.imitatesPassthrough && !options.pinsMemory
  }

  /** The address space of a message, made when there was none. */
  need(asid: number): AddressSpace {
    const space = (this.#spaces[asid] ??= new AddressSpace())
    return space
  }

  /** The address space of an ASID; undefined when no UPDATE or BATCH_BEGIN was for it. */
  space(asid: number): AddressSpace | undefined {
    return this.#spaces[asid]
  }

  /** Each address space there is, with its ASID. */
  *spaces(): Generator<readonly [asid: number, space: AddressSpace]> {
    for (const [asid, space] of this.#spaces.entries()) if (space !== undefined) yield [asid, space]
  }

  /** Shows the device what messages have changed. */
  publish(asid: number): void {
    this.#spaces[asid]?.publish()
    this.#passesThrough[asid] = false
    this.#changed(asid)
  }

  /** What a reset does to the device's side when mappings are not persistent. */
  hideAll(): void {
    for (const [asid, space] of this.spaces()) {
      space.hide()
      this.#changed(asid)
    }
    this.#passesThrough.length = 0
  }

  /** Forgets all address spaces, and unpins what they had. */
  clear(): void {
    for (const [asid, space] of this.spaces()) {
      if (this.pinsMemory) this.#memory.unpin(space.tracked.bytes)
      this.#changed(asid)
    }
    this.#spaces.length = 0
    this.#passesThrough.length = 0
  }

  version(asid: number): number {
    // Both only grow, so that the sum changes with either: memory may be freed behind a mapping's back.
    return (this.#versions[asid] ?? 0) + this.#memory.closings
  }

  // eslint-disable-next-line max-params -- the hot path: an object for its arguments would be allocated per segment
  read(asid: number, iovaHigh: number, iovaLow: number, target: Uint8Array, offset: number, length: number): boolean {
    let high = iovaHigh
    let low = iovaLow
    let done = 0
    while (done < length) {
      if (!this.#resolve(asid, high, low, READ)) return false
      const count = this.#length < length - done ? this.#length : length - done
      if (this.#region === undefined) return false
      copy(this.#region, this.#offset, this.#wordsOf(target), offset + done, count)
      done += count
      low += count
      if (low > 0xffff_ffff) {
        low -= 0x1_0000_0000
        high++
      }
    }
    return true
  }

  // eslint-disable-next-line max-params -- the hot path: an object for its arguments would be allocated per segment
  write(asid: number, iovaHigh: number, iovaLow: number, source: Uint8Array, offset: number, length: number): boolean {
    let high = iovaHigh
    let low = iovaLow
    let done = 0
    while (done < length) {
      if (!this.#resolve(asid, high, low, WRITE)) return false
      const count = this.#length < length - done ? this.#length : length - done
      if (this.#region === undefined) return false
      copy(this.#wordsOf(source), offset + done, this.#region, this.#offset, count)
      done += count
      low += count
      if (low > 0xffff_ffff) {
        low -= 0x1_0000_0000
        high++
      }
    }
    return true
  }

  locate(asid: number, iovaHigh: number, iovaLow: number, length: number, access: number): TableLocation | undefined {
    this.#isGone = false
    if (!this.#resolve(asid, iovaHigh, iovaLow, access) || this.#region === undefined) {
      if (this.#isGone) throw memoryGone(asid, iovaHigh, iovaLow)
      return undefined
    }
    const region = this.#region
    const offset = this.#offset
    // Mappings that lie side by side in both spaces are one piece.
    for (let reach = this.#length; reach < length; reach += this.#length) {
      const low = iovaLow + reach
      const high = iovaHigh + Math.floor(low / 0x1_0000_0000)
      if (!this.#resolve(asid, high, low % 0x1_0000_0000, access)) return undefined
      if (this.#region !== region || this.#offset !== offset + reach) return undefined
    }
    this.#location.memory = region.ringMemory
    this.#location.offset = offset
    return this.#location
  }

  #wordsOf(bytes: Uint8Array): Words {
    const outside = this.#outside
    if (outside.bytes !== bytes) {
      outside.bytes = bytes
      outside.words = wordsOf(bytes)
    }
    return outside
  }

  /** Finds region, offset and length of the piece that begins at the address; false when the device may not go there. */
  #resolve(asid: number, high: number, low: number, access: number): boolean {
    const window = (access & WRITE) === 0 ? this.#readWindow : this.#writeWindow
    const { region } = window
    if (
      window.asid === asid &&
      window.high === high &&
      low >= window.first &&
      low <= window.last &&
      (window.perm & access) === access &&
      region !== undefined &&
      region.bytes.length === window.regionBytes
    ) {
      this.#region = region
      this.#offset = window.offset + (low - window.first)
      this.#length = window.last - low + 1
      return true
    }
    return this.#lookUp(asid, high, low, access, window)
  }

  /** The same by the table; keeps what it finds in `window`. */
  #lookUp(asid: number, high: number, low: number, access: number, window: Window): boolean {
    const table = this.#spaces[asid]?.visible
    const index = table === undefined ? -1 : table.find(high, low)
    if (table === undefined || index < 0) return this.#resolvePassthrough(asid, high, low)
    if ((table.perm(index) & access) !== access) return false
    const whole = table.region(index)
    const at = table.offsetOf(index, high, low)
    const region = whole.windowAt(at)
    this.#offset = at - region.first
    const inEntry = table.lengthFrom(index, high, low)
    const inRegion = region.bytes.length - this.#offset
    this.#length = inEntry < inRegion ? inEntry : inRegion
    this.#region = region
    if (this.#length <= 0) {
      this.#isGone = whole.isClosed
      return false
    }
    // As much of the entry as lies in the same 4 GiB, and in the same window of the region.
    const before = Math.min(table.lengthBefore(index, high, low), low, this.#offset)
    window.asid = asid
    window.high = high
    window.first = low - before
    window.last = Math.min(low + this.#length - 1, 0xffff_ffff)
    window.perm = table.perm(index)
    window.region = region
    window.offset = this.#offset - before
    window.regionBytes = region.bytes.length
    return true
  }

  #resolvePassthrough(asid: number, high: number, low: number): boolean {
    if (!this.#imitatesPassthrough || this.#passesThrough[asid] === false) return false
    const address = high * 0x1_0000_0000 + low
    const region = this.#memory.at(address)
    if (region === undefined || address < region.start) return false
    const window = region.windowAt(address - region.start)
    this.#region = window
    this.#offset = address - region.start - window.first
    this.#length = window.bytes.length - this.#offset
    return this.#length > 0
  }

  #changed(asid: number): void {
    this.#readWindow.asid = this.#writeWindow.asid = -1
    this.#versions[asid] = (this.#versions[asid] ?? 0) + 1
  }
}
