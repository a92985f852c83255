// Opening a vhost-net device: the place that knows both it and the kernel behind it.

import { checkObject } from './base/checks.js'
import type { Backend } from './backend/backend.js'
import { KernelBackend } from './kernel/kernel-backend.js'
import type { TapTarget, VhostNetOptions } from './vhost-net/options.js'
import { VhostNet } from './vhost-net/vhost-net.js'

/** How to open a vhost-net device, and from which system. */
export interface OpenVhostNetOptions extends VhostNetOptions {
  /** What stands for the operating system; the kernel by default. */
  readonly backend?: Backend
}

/**
 * Opens `/dev/vhost-net` in front of a tap device, and starts it: its rings are in this process's memory, and translated for it as it misses it. Errors: those of the two opens
 * (EACCES, ENOENT, EPERM without CAP_NET_ADMIN, EBUSY), ERR_VDPA_FEATURES where the kernel cannot translate, ERR_VDPA_NOT_MAPPED or ERR_VDPA_TIMEOUT where a translator of
 * the program does not know the used rings, ERR_VDPA_NO_ADDON. After an error nothing is left open.
 */
export async function openVhostNet(tap: TapTarget, options: OpenVhostNetOptions = {}): Promise<VhostNet> {
  checkObject(options, 'options')
  const { backend = new KernelBackend(), ...rest } = options
  return VhostNet.open(backend, tap, rest)
}
