// The bytes of a simulated disk: a chunk exists when something that is not zero was written to it.

import { SECTOR_BYTES } from '../uapi/virtio-blk.js'

const CHUNK_SECTORS = 128
const CHUNK_BYTES = CHUNK_SECTORS * SECTOR_BYTES
const noBytes = new Uint8Array(CHUNK_BYTES)

function isZero(bytes: Uint8Array, from: number, to: number): boolean {
  const part = bytes.subarray(from, to)
  return Buffer.compare(part, noBytes.subarray(0, part.length)) === 0
}

/** Bytes by their offset on the disk, all zero at first. It knows no capacity: its user stays within the disk. */
export class BlockStorage {
  readonly #chunks = new Map<number, Uint8Array>()

  /** Bytes that exist. */
  get allocated(): number {
    return this.#chunks.size * CHUNK_BYTES
  }

  /** Copies `length` bytes from `byteOffset` on to the start of `target`. */
  read(byteOffset: number, target: Uint8Array, length: number): void {
    this.#each(byteOffset, length, (chunk, at, done, count) => {
      const bytes = this.#chunks.get(chunk)
      if (bytes === undefined) target.fill(0, done, done + count)
      else target.set(bytes.subarray(at, at + count), done)
    })
  }

  /** Copies the first `length` bytes of `source` to `byteOffset`. */
  write(byteOffset: number, source: Uint8Array, length: number): void {
    this.#each(byteOffset, length, (chunk, at, done, count) => {
      let bytes = this.#chunks.get(chunk)
      if (bytes === undefined) {
        if (isZero(source, done, done + count)) return
        bytes = new Uint8Array(CHUNK_BYTES)
        this.#chunks.set(chunk, bytes)
      }
      bytes.set(source.subarray(done, done + count), at)
    })
  }

  /** Makes the bytes zero; whole chunks cease to exist. It costs what there is to clear, however long the range. */
  clear(byteOffset: number, length: number): void {
    const firstWhole = Math.ceil(byteOffset / CHUNK_BYTES)
    const endWhole = Math.floor((byteOffset + length) / CHUNK_BYTES)
    if (endWhole - firstWhole <= this.#chunks.size) {
      this.#clearEach(byteOffset, length)
      return
    }
    for (const chunk of this.#chunks.keys()) if (chunk >= firstWhole && chunk < endWhole) this.#chunks.delete(chunk)
    this.#clearEach(byteOffset, firstWhole * CHUNK_BYTES - byteOffset)
    this.#clearEach(endWhole * CHUNK_BYTES, byteOffset + length - endWhole * CHUNK_BYTES)
  }

  #clearEach(byteOffset: number, length: number): void {
    this.#each(byteOffset, length, (chunk, at, _done, count) => {
      if (count === CHUNK_BYTES) this.#chunks.delete(chunk)
      else this.#chunks.get(chunk)?.fill(0, at, at + count)
    })
  }

  #each(
    byteOffset: number,
    length: number,
    visit: (chunk: number, at: number, done: number, count: number) => void,
  ): void {
    for (let done = 0; done < length;) {
      const position = byteOffset + done
      const chunk = Math.floor(position / CHUNK_BYTES)
      const at = position - chunk * CHUNK_BYTES
      const count = Math.min(CHUNK_BYTES - at, length - done)
      visit(chunk, at, done, count)
      done += count
    }
  }
}
