// Bytes of a file that the page cache has: read at once, by who would otherwise wait for a thread that finds them there.

import { errno } from '../uapi/errno.js'
import { tryLoadAddon } from './addon.js'

/** Fills `target` with the bytes from `position` on where all of them are in memory; false where they are not, and where a file cannot tell. */
export type CachedRead = (position: number, target: Uint8Array) => boolean

/** Reads of the file behind `fd`, which has to stay open; undefined without the addon. Nothing of it waits (preadv2(2), RWF_NOWAIT; Linux 4.14). */
export function cachedRead(fd: number): CachedRead | undefined {
  const { addon } = tryLoadAddon()
  if (addon === undefined) return undefined
  let canTell = true
  return (position, target) => {
    if (!canTell) return false
    const count = addon.readCached(fd, position, target)
    if (count === target.byteLength) return true
    if (count < 0 && count !== -errno.EAGAIN) canTell = false
    return false
  }
}
