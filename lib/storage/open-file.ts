// Opens the file of a disk: found or made, locked, and tried once where it is to be used past the page cache.

import { constants } from 'node:fs'
import { open, unlink, type FileHandle } from 'node:fs/promises'
import type { Backend } from '../backend/backend.js'
import { fileError, fileFailure } from '../backend/file-errors.js'
import { checkBoolean, checkFunction, checkInteger, checkObject, checkString, rangeError } from '../base/checks.js'
import { CloseStack } from '../base/closeable.js'
import { vdpaError, type VdpaError } from '../base/errors.js'
import { cachedRead } from '../kernel/cached-read.js'
import { lockFile } from '../kernel/file-lock.js'
import { KernelBackend } from '../kernel/kernel-backend.js'
import { SECTOR_BYTES } from '../uapi/virtio-blk.js'
import { FileStorage, wholeSectors, type DirectFile } from './file-storage.js'

/** How a file is opened that keeps a disk. */
export interface FileStorageOptions {
  /** Its path. Its length is the disk's, and a multiple of 512. */
  readonly file: string
  /** Makes the file with so many bytes where it is not there, a multiple of 512: they are zeroes, and take no space. Default: ENOENT. */
  readonly createBytes?: number
  /** Opens it for reading only, which others may do at the same time. Default false. */
  readonly isReadOnly?: boolean
  /** Past the page cache (O_DIRECT). Needs the addon. Default false: by way of it. */
  readonly isDirect?: boolean
  /** Locks it against others that do, QEMU and cloud-hypervisor among them. Needs the addon. Default true. */
  readonly isLocked?: boolean
  /** Hears of reads, writes and flushes that failed, of which the driver hears IOERR. What it throws goes to 'uncaughtException'. */
  readonly onFailure?: (error: VdpaError) => void
}

/** Where the memory for O_DIRECT comes from. */
export type AlignedMemory = Pick<Backend, 'allocate'>

function checked(options: FileStorageOptions): FileStorageOptions {
  checkObject(options, 'options')
  checkString(options.file, 'options.file')
  for (const name of ['isReadOnly', 'isDirect', 'isLocked'] as const)
    if (options[name] !== undefined) checkBoolean(options[name], `options.${name}`)
  const { createBytes, isReadOnly = false, onFailure } = options
  if (onFailure !== undefined) checkFunction(onFailure, 'options.onFailure')
  if (createBytes === undefined) return options
  checkInteger(createBytes, 'options.createBytes', 0, Number.MAX_SAFE_INTEGER)
  if (createBytes % SECTOR_BYTES !== 0)
    throw rangeError('options.createBytes', `a multiple of ${SECTOR_BYTES}`, createBytes)
  if (isReadOnly) throw rangeError('options.createBytes', 'absent for a file that is only read', createBytes)
  return options
}

/**
 * Opens a file that keeps a disk. Errors: those of open(2); EAGAIN where another program has locked it; ERR_VDPA_NOT_SUPPORTED for what is no file, has no whole sectors, or cannot be used past
 * the page cache; ERR_VDPA_NO_ADDON for a lock or O_DIRECT without the addon. A file that was made is gone again then. Since 0.1.0.
 */
export async function openFileStorage(options: FileStorageOptions, memory?: AlignedMemory): Promise<FileStorage> {
  const { file: path, isReadOnly = false, isDirect = false, isLocked = true, onFailure } = checked(options)
  const stack = new CloseStack()
  try {
    const file = await openOrMake(options, stack)
    if (!(await file.stat()).isFile()) throw vdpaError('ERR_VDPA_NOT_SUPPORTED', 'it is no ordinary file', { path })
    if (isLocked) lockFile(file.fd, !isReadOnly, path)
    const size = wholeSectors((await file.stat()).size, path)
    const direct = isDirect ? await openDirect(file, options, memory ?? new KernelBackend(), stack) : undefined
    const readCached = isDirect ? undefined : cachedRead(file.fd)
    return new FileStorage({
      path,
      size,
      isReadOnly,
      file,
      ...(readCached !== undefined && { readCached }),
      ...(direct !== undefined && { direct }),
      ...(onFailure !== undefined && { onFailure }),
    })
  } catch (error) {
    // What stands in the way is the failure; what its undoing met is not.
    await stack.close().catch(() => undefined)
    throw error
  }
}

/** O_NONBLOCK: the opening of a FIFO would wait for who writes to it. */
function flagsOf({ isReadOnly = false }: FileStorageOptions): number {
  return (isReadOnly ? constants.O_RDONLY : constants.O_RDWR) | constants.O_NONBLOCK
}

async function openOrMake(options: FileStorageOptions, stack: CloseStack): Promise<FileHandle> {
  const { file: path, createBytes } = options
  const flags = flagsOf(options)
  const opened = (handle: FileHandle) => {
    stack.push(() => handle.close())
    return handle
  }
  try {
    return opened(await open(path, flags))
  } catch (failure) {
    if (createBytes === undefined || (failure as NodeJS.ErrnoException).code !== 'ENOENT')
      throw fileError(path, failure)
  }
  const made = opened(await open(path, flags | constants.O_CREAT | constants.O_EXCL, 0o600).catch(fileFailure(path)))
  stack.push(() => unlink(path))
  await made.truncate(createBytes).catch(fileFailure(path))
  return made
}

/** The same file once more, whatever its path leads to by now. */
async function openDirect(
  file: FileHandle,
  options: FileStorageOptions,
  memory: AlignedMemory,
  stack: CloseStack,
): Promise<DirectFile> {
  const { file: path } = options
  const refusal = (cause: unknown) =>
    vdpaError('ERR_VDPA_NOT_SUPPORTED', 'its file system does not go past the page cache (O_DIRECT)', { path, cause })
  const direct = await open(`/proc/self/fd/${file.fd}`, flagsOf(options) | constants.O_DIRECT).catch(
    (failure: unknown) => {
      throw refusal(failure)
    },
  )
  stack.push(() => direct.close())
  const allocate = (length: number) => {
    const region = memory.allocate(length)
    return { bytes: new Uint8Array(region.buffer, 0, length), free: () => region.close() }
  }
  const { bytes, free } = allocate(PROBED_LAST)
  try {
    for (let alignment = SECTOR_BYTES; alignment <= PROBED_LAST; alignment *= 2)
      if (await reads(direct, bytes.subarray(0, alignment))) return { file: direct, alignment, allocate }
  } catch (failure) {
    throw fileError(path, failure)
  } finally {
    free()
  }
  throw refusal(undefined)
}

/** The largest blocks that a disk below a file system has. */
const PROBED_LAST = 4096

/** Whether a piece of that size can be read; what is too small is EINVAL. */
async function reads(file: FileHandle, bytes: Uint8Array): Promise<boolean> {
  try {
    await file.read(bytes, 0, bytes.byteLength, bytes.byteLength)
    return true
  } catch (failure) {
    if ((failure as NodeJS.ErrnoException).code === 'EINVAL') return false
    throw failure
  }
}
