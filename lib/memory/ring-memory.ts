// The bytes of a virtqueue as one side reaches them, and the only code that touches ring bytes. It knows little-endian fields and memory
// order, and nothing of descriptors.

import { checkInteger, rangeError, typeError } from '../base/checks.js'

// Atomics work in the order of the host's bytes, virtio in little-endian (section 1.4).
const isBigEndian = new Uint8Array(Uint16Array.of(1).buffer)[0] === 0

// A word of our own for fence(): what is in it does not matter.
const fenceWord = new Int32Array(new SharedArrayBuffer(4))

function swap16(value: number): number {
  return ((value & 0xff) << 8) | (value >>> 8)
}

function odd(offset: number): RangeError {
  return rangeError('offset', 'even', offset)
}

/**
 * A window on `length` bytes of a buffer at `byteOffset`; offsets below are relative to it. Every access outside, and every access after the
 * buffer was detached, throws (RangeError, TypeError): nothing ever reads `undefined` as a zero. No verb but `bytes`, `slice` and the
 * constructor allocates.
 *
 * Memory order. Plain accesses (`u16`, `setU32` …) are DataView accesses: neither the language nor a weak machine keeps their order.
 * `load16` and `store16` are sequentially consistent Atomics, of which the rings use three consequences:
 * 1. acquire: no access written after a `load16` happens before it, so what an index or a flag announces is read after the announcement;
 * 2. release: no access written before a `store16` happens after it, so an announcement is seen after what it announces;
 * 3. all of them have one order which both sides agree on. When each side stores to one word and then loads the other's (index and event,
 *    sections 2.7.13.4.1 and 2.8.21.3.1), at least one sees the other's store: a notification cannot be lost between them.
 * The optimising compiler keeps the first two for plain accesses as well, because an atomic is an effect that it does not move others across;
 * the machine keeps them because V8 emits `xchg`/`mov` on x64 and `stlr`/`ldar` on arm64.
 */
export class RingMemory {
  /** What the window is on; shared with whoever else has it. */
  readonly buffer: ArrayBufferLike
  /** Where the window begins in `buffer`, in bytes. */
  readonly byteOffset: number
  /** Bytes of the window, as it was made: it does not become 0 when the buffer is detached. */
  readonly byteLength: number
  readonly #view: DataView
  readonly #words: Uint16Array

  /** Default: from `byteOffset` (default 0) to the end of the buffer. An odd `byteOffset` is allowed, but then `load16` and `store16` throw. */
  constructor(buffer: ArrayBufferLike, byteOffset = 0, length?: number) {
    const { byteLength } = (buffer ?? {}) as Partial<ArrayBufferLike>
    if (typeof byteLength !== 'number' || ArrayBuffer.isView(buffer))
      throw typeError('buffer', 'an ArrayBuffer', buffer)
    checkInteger(byteOffset, 'byteOffset', 0, byteLength)
    const bytes = length === undefined ? byteLength - byteOffset : length
    checkInteger(bytes, 'length', 0, byteLength - byteOffset)
    this.buffer = buffer
    this.byteOffset = byteOffset
    this.byteLength = bytes
    this.#view = new DataView(buffer, byteOffset, bytes)
    this.#words = byteOffset % 2 === 0 ? new Uint16Array(buffer, byteOffset, bytes >>> 1) : new Uint16Array(0)
  }

  /** Reads one byte. RangeError past the end, TypeError once the buffer is detached; so do all accesses. */
  u8(offset: number): number {
    return this.#view.getUint8(offset)
  }

  /** Reads 2 bytes, little-endian, at any offset; a plain access, without order. */
  u16(offset: number): number {
    return this.#view.getUint16(offset, true)
  }

  /** Reads 4 bytes, little-endian, at any offset; a plain access, without order. */
  u32(offset: number): number {
    return this.#view.getUint32(offset, true)
  }

  /** Writes the low 8 bits of `value`. */
  setU8(offset: number, value: number): void {
    this.#view.setUint8(offset, value)
  }

  /** Writes the low 16 bits of `value`, little-endian, at any offset; a plain access, without order. */
  setU16(offset: number, value: number): void {
    this.#view.setUint16(offset, value, true)
  }

  /** Writes the low 32 bits of `value`, little-endian, at any offset; a plain access, without order. */
  setU32(offset: number, value: number): void {
    this.#view.setUint32(offset, value, true)
  }

  /** Reads a 16-bit field that the other side announces something with. `offset` must be even. */
  load16(offset: number): number {
    if ((offset & 1) !== 0) throw odd(offset)
    const value = Atomics.load(this.#words, offset >>> 1)
    return isBigEndian ? swap16(value) : value
  }

  /** Writes a 16-bit field that announces what was written before it. `offset` must be even. */
  store16(offset: number, value: number): void {
    if ((offset & 1) !== 0) throw odd(offset)
    Atomics.store(this.#words, offset >>> 1, isBigEndian ? swap16(value) : value)
  }

  /**
   * Orders every access before it before every access after it, plain ones included, as `smp_mb()` does. An atomic read-modify-write is that on
   * x64 (`lock`) and on arm64 with LSE (acquire and release in one instruction). The rings do not need it: consequence 3 above is enough.
   */
  fence(): void {
    Atomics.add(fenceWord, 0, 0)
  }

  /** The bytes themselves, not a copy. A view that was taken before the buffer was detached has length 0 afterwards. */
  bytes(offset = 0, length = this.byteLength - offset): Uint8Array {
    this.#checkPart(offset, length)
    return new Uint8Array(this.buffer, this.byteOffset + offset, length)
  }

  /** A window on a part of this one. */
  slice(offset: number, length: number = this.byteLength - offset): RingMemory {
    this.#checkPart(offset, length)
    return new RingMemory(this.buffer, this.byteOffset + offset, length)
  }

  #checkPart(offset: number, length: number): void {
    if (this.buffer.byteLength < this.byteOffset + this.byteLength) {
      throw typeError('buffer', 'attached', `${this.buffer.byteLength} bytes`)
    }
    checkInteger(offset, 'offset', 0, this.byteLength)
    checkInteger(length, 'length', 0, this.byteLength - offset)
  }
}
