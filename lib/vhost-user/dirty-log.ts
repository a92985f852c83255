// The bitmap in which a migration is told of the pages that were written: one bit for 4 KiB, by guest address.

import { fstatSync } from 'node:fs'
import type { Backend } from '../backend/backend.js'
import type { PassedFile } from '../backend/sockets.js'
import type { MemoryRegion } from '../memory/memory-region.js'
import { protocolError } from './codec.js'

const PAGE_SHIFT = 12
/** With what is before it in its first page: one window of memory. The bits of 32 TiB of guest. */
const BYTES_LAST = 2n ** 30n

/** A log that the front end shares. Pages beyond its end are not marked: they are none of the migration's. */
export class DirtyLog {
  readonly #region: MemoryRegion
  readonly #bytes: Uint8Array

  /** `bytes` of the region belong to the log, from `offset` on. */
  constructor(region: MemoryRegion, offset: number, bytes: number) {
    this.#region = region
    this.#bytes = region.view(offset, bytes)
  }

  /** The log of SET_LOG_BASE; the file stays the caller's to close. ERR_VDPA_PROTOCOL where the file does not have it. */
  static of(file: PassedFile, { offset, size }: { readonly offset: bigint; readonly size: bigint }, backend: Backend) {
    const refused = (text: string) => protocolError('SET_LOG_BASE', text)
    const skipped = offset % BigInt(backend.pageSize)
    if (size === 0n || skipped + size > BYTES_LAST)
      throw refused(`a log of ${size} bytes at ${offset}, which is none, or above ${BYTES_LAST}`)
    const status = fstatSync(file.fd, { bigint: true })
    if (!status.isFile()) throw refused('the log is in a descriptor that is no file')
    // What is beyond the end of a file can be mapped, and not touched.
    if (offset + size > status.size)
      throw refused(`a log of ${size} bytes at ${offset} of a file that has ${status.size}`)
    const options = { offset: offset - skipped, length: Number(skipped + size), guarded: true }
    return new DirtyLog(backend.adopt(file.fd, options), Number(skipped), Number(size))
  }

  /** Whether the front end made its file shorter. */
  get isTorn(): boolean {
    return this.#region.isTorn === true
  }

  /** Marks the pages of a range that was written: in one step, since a guest may have 4 GiB of it in each of its chains. */
  mark(address: number, length: number): void {
    const bytes = this.#bytes
    const first = Math.floor(address / (1 << PAGE_SHIFT))
    const last = Math.min(Math.floor((address + length - 1) / (1 << PAGE_SHIFT)), 8 * bytes.byteLength - 1)
    if (length <= 0 || first > last) return
    const [firstByte, lastByte] = [Math.floor(first / 8), Math.floor(last / 8)]
    const [head, tail] = [(0xff << (first % 8)) & 0xff, 0xff >>> (7 - (last % 8))]
    // The front end takes bits away meanwhile, so those of a byte that has others are set atomically.
    if (firstByte === lastByte) return void Atomics.or(bytes, firstByte, head & tail)
    Atomics.or(bytes, firstByte, head)
    bytes.fill(0xff, firstByte + 1, lastByte)
    Atomics.or(bytes, lastByte, tail)
  }

  close(): void {
    this.#region.close()
  }
}
