// The bytes of an open file as a disk's store. It opens nothing: see open-file.ts.

import type { FileHandle } from 'node:fs/promises'
import { fileError } from '../backend/file-errors.js'
import { checkInteger, rangeError } from '../base/checks.js'
import { CloseStack, type Closeable } from '../base/closeable.js'
import { isVdpaError, vdpaError, type VdpaError } from '../base/errors.js'
import { KeptErrors } from '../base/kept-errors.js'
import type { BlockStore } from '../models/block-store.js'
import { SECTOR_BYTES } from '../uapi/virtio-blk.js'

const ZEROES_BYTES = 131_072

/** What is needed of an open file. */
export type OpenFile = Pick<FileHandle, 'read' | 'write' | 'datasync' | 'truncate' | 'stat' | 'close'>

/** The way past the page cache. */
export interface DirectFile {
  readonly file: OpenFile
  /** Bytes that positions, lengths and addresses are multiples of. */
  readonly alignment: number
  /** Memory at such an address, and what frees it. */
  readonly allocate: (length: number) => { readonly bytes: Uint8Array; readonly free: () => void }
}

/** What a file is stored in. */
export interface FileStorageParts {
  readonly path: string
  readonly size: number
  readonly isReadOnly: boolean
  readonly file: OpenFile
  readonly direct?: DirectFile
  /** Reads what is in memory. Not with `direct`. */
  readonly readCached?: (position: number, target: Uint8Array) => boolean
  /** Hears of what failed. */
  readonly onFailure?: (error: VdpaError) => void
}

/** The length of a file, which must be that of a disk. ERR_VDPA_NOT_SUPPORTED. */
export function wholeSectors(size: number, path: string): number {
  if (size % SECTOR_BYTES === 0) return size
  throw vdpaError('ERR_VDPA_NOT_SUPPORTED', `it has ${size} bytes, no whole sectors of ${SECTOR_BYTES}`, { path })
}

/** A file that keeps a disk. */
export class FileStorage implements BlockStore, Closeable {
  /** The file's path. */
  readonly path: string
  readonly isReadOnly: boolean
  readonly blockSize: number
  #size: number
  readonly #kept = new KeptErrors<VdpaError>()
  readonly #file: OpenFile
  readonly #direct: DirectFile | undefined
  readonly #readCached: FileStorageParts['readCached']
  readonly #onFailure: FileStorageParts['onFailure']
  readonly #stack = new CloseStack()
  readonly #aligned = new WeakSet<ArrayBufferLike>()
  #zeroes: Uint8Array | undefined
  #isDirty = false
  /** The fdatasync(2) under way, and the one that comes after it. */
  #syncing: Promise<void> | undefined
  #syncingNext: Promise<void> | undefined
  readonly #underWay = new Set<Promise<void>>()
  // Why no flush can be believed any more.
  #lost: VdpaError | undefined

  constructor({ path, size, isReadOnly, file, direct, readCached, onFailure }: FileStorageParts) {
    this.path = path
    this.#size = size
    this.isReadOnly = isReadOnly
    this.blockSize = direct?.alignment ?? 512
    this.#file = file
    this.#direct = direct
    this.#readCached = readCached
    this.#onFailure = onFailure
    this.#stack.push(() => file.close())
    if (direct !== undefined) this.#stack.push(() => direct.file.close())
    this.#stack.push(() => this.#flushLast())
  }

  /** Bytes, as they were when the file was opened or resize() was called last. */
  get size(): number {
    return this.#size
  }

  /** The first 100 failures, as sentences. */
  get failures(): readonly string[] {
    return this.#kept.sentences
  }

  /** How many there were. */
  get failureCount(): number {
    return this.#kept.count
  }

  get isClosed(): boolean {
    return this.#stack.isClosed
  }

  /** Fills `target` where the page cache has all of its bytes; false where read() is due. */
  readNow(position: number, target: Uint8Array): boolean {
    return !this.isClosed && this.#readCached?.(position, target) === true
  }

  /** Fills `target`; a file that became shorter meanwhile is a failure (EIO). */
  async read(position: number, target: Uint8Array): Promise<void> {
    await this.#told('read', async () => {
      for (let done = 0; done < target.byteLength;) {
        const file = this.#fileFor(position + done, target, done)
        const { bytesRead } = await file.read(target, done, target.byteLength - done, position + done)
        if (bytesRead === 0) throw this.#broken('read', 'the file has become shorter')
        done += bytesRead
      }
    })
  }

  /** Writes all of `source`, or fails: ENOSPC, EIO, EFBIG, EDQUOT … */
  async write(position: number, source: Uint8Array): Promise<void> {
    await this.#told('write', async () => {
      this.#isDirty = true
      for (let done = 0; done < source.byteLength;) {
        const file = this.#fileFor(position + done, source, done)
        const { bytesWritten } = await file.write(source, done, source.byteLength - done, position + done)
        if (bytesWritten === 0) throw this.#broken('write', 'the file takes nothing more')
        done += bytesWritten
      }
    })
  }

  /** Writes zeroes. */
  async clear(position: number, length: number): Promise<void> {
    this.#zeroes ??= this.buffer(ZEROES_BYTES)
    const zeroes = this.#zeroes
    for (let done = 0; done < length;) {
      const count = Math.min(ZEROES_BYTES, length - done)
      await this.write(position + done, zeroes.subarray(0, count))
      done += count
    }
  }

  /** fdatasync(2) of the file. Once it failed nobody knows what was lost, and all later ones fail with the same. */
  async flush(): Promise<void> {
    if (this.#lost !== undefined) throw this.#lost
    await this.#told('fdatasync', () => this.#sync())
  }

  /**
   * Makes the file so many bytes long, a multiple of 512, or takes the length that somebody else has given it; `size` is that from then on. ERR_VDPA_NOT_SUPPORTED for a length of no whole
   * sectors, and for `bytes` where the file is read only; ERR_VDPA_CLOSED; ENOSPC, EFBIG …; RangeError.
   */
  async resize(bytes?: number): Promise<void> {
    if (bytes !== undefined) {
      checkInteger(bytes, 'bytes', 0, Number.MAX_SAFE_INTEGER)
      if (bytes % SECTOR_BYTES !== 0) throw rangeError('bytes', `a multiple of ${SECTOR_BYTES}`, bytes)
      if (this.isReadOnly)
        throw vdpaError('ERR_VDPA_NOT_SUPPORTED', 'it was opened for reading only', { path: this.path })
    }
    await this.#told('ftruncate', async () => {
      if (bytes !== undefined) {
        this.#isDirty = true
        await this.#file.truncate(bytes)
      }
      this.#size = wholeSectors((await this.#file.stat()).size, this.path)
    })
  }

  buffer(length: number): Uint8Array {
    if (this.#direct === undefined) return new Uint8Array(length)
    const { bytes, free } = this.#direct.allocate(length)
    this.#aligned.add(bytes.buffer)
    // Freed when no call is under way any more, which the closing of the files waits for.
    this.#freed.push(free)
    return bytes
  }

  readonly #freed: (() => void)[] = []

  /** Waits for what is under way, flushes, and closes the file. What it rejects with may be the flush's failure. */
  async close(): Promise<void> {
    try {
      await this.#stack.close()
    } finally {
      for (const free of this.#freed.splice(0)) free()
    }
  }

  /** close(). */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  async #flushLast(): Promise<void> {
    await Promise.allSettled(this.#underWay)
    if (!this.#isDirty || this.#lost !== undefined) return
    await this.#sync().catch((failure: unknown) => {
      throw fileError(this.path, failure)
    })
  }

  /**
   * fdatasync(2), one at a time: the system tells of what it lost once, and who overtook that call would hear of nothing. All that are asked for while one is under way are one more.
   */
  #sync(): Promise<void> {
    if (this.#syncingNext !== undefined) return this.#syncingNext
    if (this.#syncing === undefined) return this.#beginSync()
    this.#syncingNext = this.#syncing
      .catch(() => undefined)
      .then(() => {
        this.#syncingNext = undefined
        return this.#beginSync()
      })
    return this.#syncingNext
  }

  #beginSync(): Promise<void> {
    this.#syncing = this.#syncNow().finally(() => (this.#syncing = undefined))
    return this.#syncing
  }

  async #syncNow(): Promise<void> {
    if (this.#lost !== undefined) throw this.#lost
    this.#isDirty = false
    try {
      await this.#file.datasync()
    } catch (failure) {
      this.#lost = fileError(this.path, failure, 'what was written before may be lost: open the file anew')
      throw failure
    }
  }

  /** Past the page cache goes only what is aligned. */
  #fileFor(position: number, bytes: Uint8Array, done: number): OpenFile {
    const direct = this.#direct
    if (direct === undefined || !this.#aligned.has(bytes.buffer)) return this.#file
    const { alignment, file } = direct
    const isAligned = [position, bytes.byteOffset + done, bytes.byteLength - done].every((at) => at % alignment === 0)
    return isAligned ? file : this.#file
  }

  #broken(syscall: string, why: string): VdpaError {
    return fileError(this.path, Object.assign(new Error(why), { code: 'EIO', syscall }), why)
  }

  /** Failures are kept here, because the driver hears IOERR and no more. */
  async #told(syscall: string, work: () => Promise<void>): Promise<void> {
    if (this.isClosed) throw vdpaError('ERR_VDPA_CLOSED', 'the file is closed', { path: this.path })
    const working = work()
    this.#underWay.add(working)
    try {
      await working
    } catch (failure) {
      const isKnown = isVdpaError(failure)
      if (isKnown && (failure.errno === undefined || failure === this.#lost)) throw failure
      const error = isKnown ? failure : fileError(this.path, Object.assign(failure as Error, { syscall }))
      this.#kept.add(error, this.#onFailure)
      throw error
    } finally {
      this.#underWay.delete(working)
    }
  }
}
