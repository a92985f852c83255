// The backend of the real operating system, and the only maker of errno errors in this room.

import { readlinkSync } from 'node:fs'
import type { Backend } from '../backend/backend.js'
import { checkInteger, checkObject, checkString, rangeError } from '../base/checks.js'
import { systemError, vdpaError, type VdpaError } from '../base/errors.js'
import type { AdoptOptions, AllocateOptions, MemoryRegion } from '../memory/memory-region.js'
import { errno, errnoName, errnoText } from '../uapi/errno.js'
import { requestByNumber } from '../uapi/vhost.js'
import { loadAddon } from './addon.js'
import { KernelEventfd } from './kernel-eventfd.js'
import { KernelHandle } from './kernel-handle.js'
import { KernelMemory, type KernelRegion } from './kernel-memory.js'
import { KernelNetlinkSocket } from './kernel-netlink.js'
import { KernelSockets } from './kernel-sockets.js'
import { readIotlbEntryLimit, readMemlock, type Memlock } from './memlock.js'
import { isRefused, type NativeAddon } from './native.js'
import { openHint } from './open-hints.js'
import { madeOr, type RefusedCall } from './refusal.js'

/**
 * The kernel. Has no state of its own: any number may be made. Without an addon the constructor throws ERR_VDPA_NO_ADDON, and only the
 * simulator works.
 */
export class KernelBackend implements Backend {
  readonly name = 'kernel'
  readonly pageSize: number
  readonly #addon: NativeAddon
  /** UNIX stream sockets whose messages carry descriptors. */
  readonly sockets: KernelSockets
  readonly #memory: KernelMemory
  #iotlbEntryLimit: number | undefined

  constructor(addon: NativeAddon = loadAddon()) {
    this.#addon = addon
    this.#memory = new KernelMemory(addon, refused)
    this.sockets = new KernelSockets(addon, refused)
    this.pageSize = addon.pageSize
  }

  /** Opens O_RDWR | O_CLOEXEC | O_NONBLOCK. Errors: ENOENT, EACCES, EBUSY, ENXIO …, with a hint for the nodes that this package is about. */
  open(path: string): KernelHandle {
    checkString(path, 'path')
    return new KernelHandle(madeOr(this.#addon.open(path), refused, { path }), path, refused)
  }

  /** The same on a thread of the pool: the open of a device's node resets the device. */
  async openAsync(path: string): Promise<KernelHandle> {
    checkString(path, 'path')
    return new KernelHandle(madeOr(await this.#addon.openAsync(path), refused, { path }), path, refused)
  }

  /**
   * Takes over an fd that somebody passed, and makes it close-on-exec and non-blocking, as `open` does. EBADF, which
   * leaves nothing to close. ERR_VDPA_STATE when something of this thread owns it already.
   */
  openFd(fd: number, path = `fd ${fd}`): KernelHandle {
    checkInteger(fd, 'fd', 0, 0x7fff_ffff)
    checkString(path, 'path')
    const made = this.#addon.takeOver(fd)
    if (isRefused(made) && made[0] === -errno.EBUSY)
      throw vdpaError('ERR_VDPA_STATE', `fd ${fd} is owned already by something that this program has open`, { path })
    return new KernelHandle(madeOr(made, refused, { path }), path, refused)
  }

  allocate(length: number, options?: AllocateOptions): KernelRegion {
    return this.#memory.allocate(length, options)
  }

  adopt(fd: number, options: AdoptOptions): KernelRegion {
    return this.#memory.adopt(fd, options)
  }

  /** Memory of the operating system has a file: what has none lies at an address of somebody's own numbering. */
  reaches(region: MemoryRegion): boolean {
    checkObject(region, 'region')
    return typeof region.fd === 'number'
  }

  /** A new eventfd, or a duplicate of the caller's own. EMFILE, EBADF; RangeError when the fd is no eventfd. */
  eventfd(fd?: number): KernelEventfd {
    if (fd !== undefined) checkEventfd(fd)
    return new KernelEventfd(
      madeOr(this.#addon.eventfd(fd), refused, { path: fd === undefined ? 'a new eventfd' : `fd ${fd}` }),
      refused,
    )
  }

  /** Opens a netlink socket of `protocol`, 0..31. EPROTONOSUPPORT when this kernel has no such protocol. */
  netlink(protocol: number): KernelNetlinkSocket {
    checkInteger(protocol, 'protocol', 0, 31)
    return new KernelNetlinkSocket(
      madeOr(this.#addon.netlink(protocol), refused, { path: `netlink ${protocol}` }),
      refused,
    )
  }

  memlock(): Memlock {
    return readMemlock()
  }

  /**
   * Entries that one address space may have: max_iotlb_entries of the module vhost_vdpa, undefined while that is not loaded. Read once, because it is
   * fixed while the module is loaded.
   */
  get iotlbEntryLimit(): number | undefined {
    return (this.#iotlbEntryLimit ??= readIotlbEntryLimit())
  }
}

/** The error of a refused call. `negative` is -errno, as the addon returns it. */
function refused(negative: number, call: RefusedCall): VdpaError {
  const { syscall, path, request, text, hint } = call
  const number = -negative
  const code = errnoName(number)
  const advice = hint ?? (syscall === 'open' && path !== undefined ? openHint(code, path) : undefined)
  return systemError(code, number, text ?? errnoText(number), {
    syscall,
    ...(path !== undefined && { path }),
    ...(request !== undefined && { request: requestByNumber(request)?.name ?? `ioctl 0x${request.toString(16)}` }),
    ...(advice !== undefined && { hint: advice }),
  })
}

/** A file of another kind would be read and written as if it were a counter. An fd that is not open is the kernel's to refuse. */
function checkEventfd(fd: number): void {
  checkInteger(fd, 'fd', 0, 0x7fff_ffff)
  let target: string
  try {
    target = readlinkSync(`/proc/self/fd/${fd}`)
  } catch {
    return
  }
  if (target !== 'anon_inode:[eventfd]') throw rangeError('fd', 'an eventfd', `fd ${fd}, which is ${target}`)
}
