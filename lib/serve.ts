// `vhost-vdpa/serve`: device models for others than this process. The models themselves are those of the simulator.
/// <reference types="node" preserve="true" />

import { KernelBackend } from './kernel/kernel-backend.js'
import { serveOn, type ServedModel, type ServeVhostUserOptions, type VhostUserServer } from './vhost-user/server.js'

export type { ServedModel, ServeVhostUserOptions, VhostUserServer } from './vhost-user/server.js'
export { networkDevice, pair } from './models/network.js'
export type { NetworkDevice, NetworkDeviceOptions } from './models/network-options.js'
export { blockDevice, type BlockDevice, type BlockDeviceOptions } from './models/block.js'
export { customDevice, type ChainServer, type CustomDeviceOptions } from './models/custom.js'

/**
 * Serves a device model to virtual machines by vhost-user: QEMU, cloud-hypervisor, User Mode Linux or DPDK's virtio-user connect to `options.socket`, and
 * their guests find the device. `model` is one device, which has one front end at a time and is as new for the next, or a function that makes a device for each.
 * ACCESS_PLATFORM and what else the protocol does not carry is masked from the guest.
 *
 * What front ends do cannot harm this process or each other: what they send is checked, what they pass is owned and given back, memory that they cut off reads as
 * zeroes and ends their connection. Everything refused has a name (`onRefusal`, `refusals`, the diagnostics channel `vhost-vdpa:vhost-user-refusal`).
 *
 * Errors: EADDRINUSE, EACCES, ENOENT of the socket; ERR_VDPA_NO_ADDON; ERR_VDPA_NOT_SUPPORTED; TypeError and RangeError. Since 0.1.0.
 */
export function serveVhostUser(model: ServedModel, options: ServeVhostUserOptions): VhostUserServer {
  return serveOn(model, options.backend ?? new KernelBackend(), options)
}
