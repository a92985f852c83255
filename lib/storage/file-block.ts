// A disk that is a file: the store and the device that has it, opened and closed as one.

import type { Closeable } from '../base/closeable.js'
import { storedBlockDevice, type StoredBlockDevice, type StoredBlockOptions } from '../models/stored-block.js'
import type { FileStorage } from './file-storage.js'
import { openFileStorage, type FileStorageOptions } from './open-file.js'

/** What a disk on a file is to be like. */
export type FileBlockOptions = FileStorageOptions & StoredBlockOptions

/** A disk that is a file. Its host comes first when both are closed. */
export interface FileBlockDevice extends StoredBlockDevice, Closeable {
  /** The file. */
  readonly store: FileStorage
  /**
   * Makes the file, and so the disk, so many bytes long, or takes the length that somebody else has given the file; the driver is told by a configuration interrupt. What is beyond the end of a
   * disk that shrinks is lost. Errors of `store.resize()`; the disk is as it was then. Since 0.1.0.
   */
  resize(bytes?: number): Promise<void>
}

/**
 * A disk that is a file, for any host: the simulator, `serveVhostUser()`, or `serveVduse()`, which takes it from a module on a thread of its own. Writes are in the page cache when they are
 * answered, or past it with `isDirect`; a flush is answered when fdatasync(2) is done. For a driver that did not negotiate VIRTIO_BLK_F_FLUSH each write is.
 * A full or broken disk is IOERR for the driver, and a sentence in `store.failures`.
 *
 * `close()` waits for what is under way, flushes and closes the file; requests are answered IOERR from then on. Errors of openFileStorage(); TypeError and RangeError. Since 0.1.0.
 */
export async function fileBlockDevice(options: FileBlockOptions): Promise<FileBlockDevice> {
  // What no disk can be like is refused before a file is made for it.
  storedBlockDevice(noStore, options)
  const store = await openFileStorage(options)
  try {
    const device = storedBlockDevice(store, options)
    const close = () => store.close()
    return Object.defineProperties(device, {
      store: { value: store, enumerable: true },
      isClosed: { get: () => store.isClosed },
      resize: { value: (bytes?: number) => store.resize(bytes).then(() => device.takeSize()) },
      close: { value: close },
      [Symbol.asyncDispose]: { value: close },
    }) as FileBlockDevice
  } catch (error) {
    await store.close()
    throw error
  }
}

const nothing = () => Promise.resolve()
const noStore = { size: 0, read: nothing, write: nothing, clear: nothing, flush: nothing }
