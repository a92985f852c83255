// What a disk may be kept in that takes its time: a file, or whatever a program has. The disk's device is in stored-block.ts.

/**
 * Bytes that are read and written while the event loop goes on. A promise that is rejected is a request answered IOERR; the disk calls nothing for the same bytes
 * twice at a time, but for several queues at once.
 */
export interface BlockStore {
  /** Bytes, a multiple of 512. The device is told of another size by its `takeSize()`. */
  readonly size: number
  /** Nothing can be written. Default false. */
  readonly isReadOnly?: boolean
  /** Bytes of the blocks that suit it best, a power of two from 512 on; smaller requests must do as well. Default 512. */
  readonly blockSize?: number
  /** Fills `target` with the bytes from `position` on where they are at hand, and never waits; false where read() is due. Its failure is a request answered IOERR. Default: never. */
  readNow?(position: number, target: Uint8Array): boolean
  /** Fills `target` with the bytes from `position` on. */
  read(position: number, target: Uint8Array): Promise<void>
  /** Writes all bytes of `source` at `position`. They may be lost until flush() resolves. */
  write(position: number, source: Uint8Array): Promise<void>
  /** Makes bytes zero. They may be as before until flush() resolves. */
  clear(position: number, length: number): Promise<void>
  /** Resolves when all that was written before is where it outlives a crash of the system. */
  flush(): Promise<void>
  /** Memory for `length` bytes as the store likes it best. Default: any. */
  buffer?(length: number): Uint8Array
}
