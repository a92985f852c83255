// Opening a device: the place that knows both the control plane and the kernel behind it.

import { checkInteger, checkString, typeError } from './base/checks.js'
import type { Backend } from './backend/backend.js'
import type { ClaimOptions } from './device/claim.js'
import type { VdpaDevice as Device } from './device/vdpa-device.js'
import { FeatureSet } from './device/feature-set.js'
import { VdpaDevice } from './device/vdpa-device.js'
import { KernelBackend } from './kernel/kernel-backend.js'
import { channelBackend } from './open-channel.js'
import { backendFeatureBits } from './uapi/vhost-types.js'
import type { DeviceKind } from './uapi/virtio-ids.js'
import { CHANNEL_SCHEME } from './vfio-channel/channel-backend.js'

/**
 * A device by its node, or by a descriptor that somebody opened and passed (QEMU, libvirt, a container's manager); the device then owns it. `vfio-channel:/run/x.sock` is a model in another process
 * (serveVfioChannel()).
 */
export type DeviceTarget = string | { readonly fd: number; readonly path?: string }

/** How to open a device: how to claim it, and from which system. */
export interface OpenOptions<K extends DeviceKind = DeviceKind> extends ClaimOptions<K> {
  /** What stands for the operating system: the kernel by default, a Simulator in tests, or a decorator around either. */
  readonly backend?: Backend
}

/**
 * Opens a vhost-vdpa device and takes ownership of it, off the event loop's thread. Errors: the open's own (ENOENT, EACCES, EBUSY: somebody else has it open),
 * ERR_VDPA_WRONG_DEVICE, ERR_VDPA_NO_OWNER, ERR_VDPA_FEATURES, ERR_VDPA_NO_ADDON. After an error nothing is left open.
 *
 * Behind a channel (`vfio-channel:SOCKET`) the device's memory is that of `device.backend`, and register-like calls wait on this thread: the model must be served on another, or in another
 * process. ECONNREFUSED, ENOENT; ERR_VDPA_TIMEOUT; a connection that ended is ENODEV, as a device that was taken away.
 */
export async function openDevice<K extends DeviceKind = DeviceKind>(
  target: DeviceTarget,
  options: OpenOptions<K> = {},
): Promise<Device<K>> {
  checkTarget(target)
  const { backend, claim } = lookThrough(target, options)
  const handle = typeof target === 'string' ? await openNode(backend, target) : backend.openFd(target.fd, target.path)
  return VdpaDevice.claimAsync(backend, handle, claim)
}

/** A program's own backend may know no way but the one on this thread. */
function openNode(backend: Pick<Backend, 'open'> & Partial<Pick<Backend, 'openAsync'>>, path: string) {
  return backend.openAsync === undefined ? backend.open(path) : backend.openAsync(path)
}

/** openDevice() on the calling thread. */
export function openDeviceSync<K extends DeviceKind = DeviceKind>(
  target: DeviceTarget,
  options: OpenOptions<K> = {},
): Device<K> {
  checkTarget(target)
  const { backend, claim } = lookThrough(target, options)
  const handle = typeof target === 'string' ? backend.open(target) : backend.openFd(target.fd, target.path)
  return VdpaDevice.claim(backend, handle, claim)
}

/** What was asked for at the call. */
function lookThrough<K extends DeviceKind>(
  target: DeviceTarget,
  options: OpenOptions<K>,
): { readonly backend: Backend; readonly claim: ClaimOptions<K> } {
  if (typeof options !== 'object' || options === null) throw typeError('options', 'an object', options)
  const { backend = new KernelBackend(), backendFeatures } = options
  if (typeof (backend as Partial<Backend> | null)?.open !== 'function')
    throw typeError('options.backend', 'a Backend', backend)
  const isChannel = typeof target === 'string' && target.startsWith(CHANNEL_SCHEME)
  return {
    backend: isChannel ? channelBackend(backend) : backend,
    claim: {
      ...options,
      ...(backendFeatures !== undefined && {
        backendFeatures: FeatureSet.of(backendFeatures, backendFeatureBits).bits,
      }),
    },
  }
}

function checkTarget(target: DeviceTarget): void {
  if (typeof target === 'string') {
    checkString(target, 'target')
    return
  }
  if (typeof target !== 'object' || target === null)
    throw typeError('target', 'a path, or an object with an fd', target)
  checkInteger(target.fd, 'target.fd', 0, 0x7fff_ffff)
}
