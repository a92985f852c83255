// A lock of a whole file, as QEMU and cloud-hypervisor lock their images: who opens the same file with any of them finds it in use.

import { systemError } from '../base/errors.js'
import { errno, errnoName, errnoText } from '../uapi/errno.js'
import { loadAddon } from './addon.js'

/**
 * Locks the file behind `fd`, shared or for oneself alone, for as long as what opened it stays open; the kernel takes it back from a process that dies. EAGAIN where somebody else has
 * a lock, EBADF where `fd` is not open for that; ERR_VDPA_NO_ADDON.
 */
export function lockFile(fd: number, isExclusive: boolean, path: string): void {
  const result = loadAddon().lockFile(fd, isExclusive)
  if (result >= 0) return
  const inUse = result === -errno.EAGAIN
  throw systemError(errnoName(-result), -result, inUse ? 'another program uses the file' : errnoText(-result), {
    syscall: 'fcntl',
    path,
    ...(inUse && { hint: '`lsof` says who; two that write the same disk destroy it' }),
  })
}
