// Bytes of a file that are in memory: read at once, by who would otherwise wait for a thread that finds them there.

import { readSync, statfsSync } from 'node:fs'
import { errno } from '../uapi/errno.js'
import { tryLoadAddon } from './addon.js'

/** Fills `target` with the bytes from `position` on where all of them are in memory; false where they are not, and where a file cannot tell. */
export type CachedRead = (position: number, target: Uint8Array) => boolean

const TMPFS_MAGIC = 0x0102_1994

/**
 * Reads of the file behind `fd`, which has to stay open; undefined without the addon. Nothing of it waits for a disk (preadv2(2), RWF_NOWAIT; Linux 4.14). A file in tmpfs
 * has no such reading, and is in memory.
 */
export function cachedRead(fd: number): CachedRead | undefined {
  const { addon } = tryLoadAddon()
  if (addon === undefined) return undefined
  const fromCache: CachedRead = (position, target) => {
    const count = addon.readCached(fd, position, target)
    if (count < 0 && count !== -errno.EAGAIN) read = isInTmpfs(fd) ? fromTmpfs(fd) : never
    return count === target.byteLength || (count < 0 && read !== fromCache && read(position, target))
  }
  let read = fromCache
  return (position, target) => read(position, target)
}

const never: CachedRead = () => false

function fromTmpfs(fd: number): CachedRead {
  return (position, target) => {
    try {
      return readSync(fd, target, 0, target.byteLength, position) === target.byteLength
    } catch {
      // Who waits for it hears why.
      return false
    }
  }
}

function isInTmpfs(fd: number): boolean {
  try {
    return statfsSync(`/proc/self/fd/${fd}`).type === TMPFS_MAGIC
  } catch {
    return false
  }
}
