// `vhost-vdpa/serve`: devices for virtual machines: models, which are those of the simulator, and vDPA devices that are bridged.
/// <reference types="node" preserve="true" />

import { checkObject } from './base/checks.js'
import { bridgeOn, type BridgeVhostUserOptions, type VhostUserBridge } from './bridge/bridge.js'
import { checkDevice } from './device/check-device.js'
import type { VdpaDevice } from './device/vdpa-device.js'
import { KernelBackend } from './kernel/kernel-backend.js'
import { serveOn, type ServedModel, type ServeVhostUserOptions, type VhostUserServer } from './vhost-user/server.js'

export type { VduseHost, VduseOptions } from './vduse/host.js'
export type { ModelModule } from './vduse/threaded.js'
export { serveVduse, type ServeVduseOptions, type VduseServer } from './serve-vduse.js'
export {
  serveVfioChannel,
  serveVfioMailbox,
  type ChannelProtocol,
  type ServeVfioChannelOptions,
  type ServeVfioMailboxOptions,
  type VfioMailbox,
} from './serve-channel.js'
export {
  connectVfioChannel,
  connectVfioMailbox,
  type ConnectVfioChannelOptions,
  type ConnectVfioMailboxOptions,
} from './open-channel.js'
export type { VfioChannelServer } from './vfio-channel/server.js'
export type { DraftClient } from './vfio-channel/draft-client.js'
export { quirks as channelQuirks, type Quirk as ChannelQuirk } from './vfio-channel/quirks.js'
export type { ServedModel, ServeVhostUserOptions, VhostUserServer } from './vhost-user/server.js'
export type { BridgeVhostUserOptions, VhostUserBridge } from './bridge/bridge.js'
export type { DirtyLogVerdict } from './bridge/offer.js'
export { networkDevice, pair } from './models/network.js'
export type { NetworkDevice, NetworkDeviceOptions } from './models/network-options.js'
export { blockDevice, type BlockDevice, type BlockDeviceOptions } from './models/block.js'
export { storedBlockDevice, STORED_BLOCK_FEATURES } from './models/stored-block.js'
export type { StoredBlockDevice, StoredBlockOptions } from './models/stored-block.js'
export type { BlockStore } from './models/block-store.js'
export type { BlockCounters } from './models/block.js'
export { fileBlockDevice, type FileBlockDevice, type FileBlockOptions } from './storage/file-block.js'
export { openFileStorage, type FileStorageOptions } from './storage/open-file.js'
export type { FileStorage } from './storage/file-storage.js'
export {
  parentDevice,
  type ParentDeviceOptions,
  type ParentOperations,
  type ParentState,
  type ParentVring,
} from './models/parent-device.js'
export { customDevice, type ChainServer, type CustomDeviceOptions } from './models/custom.js'

/**
 * Serves a device model to virtual machines by vhost-user: QEMU, cloud-hypervisor, User Mode Linux or DPDK's virtio-user connect to `options.socket`, and
 * their guests find the device. `model` is one device, which has one front end at a time and is as new for the next, or a function that makes a device for each.
 * ACCESS_PLATFORM and what else the protocol does not carry is masked from the guest. Where a front end keeps its guest's control queue to itself, as QEMU and DPDK do, a network
 * device takes as many queue pairs as are enabled, and frames for any address: nobody tells it which is the guest's.
 *
 * What front ends do cannot harm this process or each other: what they send is checked, what they pass is owned and given back, memory that they cut off reads as
 * zeroes and ends their connection. Everything refused has a name (`onRefusal`, `refusals`, the diagnostics channel `vhost-vdpa:vhost-user-refusal`).
 *
 * Errors: EADDRINUSE, EACCES, ENOENT of the socket; ERR_VDPA_NO_ADDON; ERR_VDPA_NOT_SUPPORTED; TypeError and RangeError. Since 0.1.0.
 */
export function serveVhostUser(model: ServedModel, options: ServeVhostUserOptions): VhostUserServer {
  checkObject(options, 'options')
  return serveOn(model, options.backend ?? new KernelBackend(), options)
}

/**
 * Gives a vDPA device to a virtual machine by vhost-user: the front end's memory is mapped in address space 0, its rings and eventfds go straight to the device, and its
 * control queue is served by a ShadowControlQueue in address space 1, with `options.policy`. The device is one that was just opened, of the kernel or of a simulator, and
 * stays the program's to close; while it is bridged it belongs to the bridge.
 *
 * What cannot be carried is masked from the guest: ACCESS_PLATFORM; the control queue and all that needs it, where the device cannot isolate it (`bridge.isolation`
 * says why) and `options.mode` does not allow it beside the guest's memory. Where a front end keeps its guest's control queue to itself, as QEMU does, the device is made promiscuous and given as many queue pairs as are enabled. A device
 * is started and stopped as a whole. Interrupts go through this process where the front end passes a socket instead of an eventfd, as User Mode Linux does, and both
 * directions on a simulator.
 *
 * A front end that migrates has a dirty log where the device can be suspended, resumed, and have rings enabled meanwhile (`bridge.dirtyLog`): the data queues are shadowed here while it wants one
 * (`bridge.isLogging`). What the control queue has set goes from one bridge or served model to another by DEVICE_STATE; `options.policy` is asked about what comes so.
 *
 * Errors: ERR_VDPA_STATE for a device that is negotiated, or bridged already; those of serveVhostUser() for the socket; what the device refuses. Since 0.1.0.
 */
export async function bridgeVhostUser(device: VdpaDevice, options: BridgeVhostUserOptions): Promise<VhostUserBridge> {
  checkDevice(device, 'device')
  checkObject(options, 'options')
  return bridgeOn(device, options.backend ?? new KernelBackend(), options)
}
