// Serving a model by the vhost-vfio channel: the place that knows the channel, the simulator whose law it speaks, and the kernel's sockets.

import { checkObject, checkOneOf, rangeError, typeError } from './base/checks.js'
import type { Backend } from './backend/backend.js'
import { KernelBackend } from './kernel/kernel-backend.js'
import type { DeviceOps } from './models/device-ops.js'
import type { Profile } from './simulator/profiles.js'
import { Simulator } from './simulator/simulator.js'
import { DraftServer } from './vfio-channel/draft-server.js'
import { openFarEnd } from './vfio-channel/far-end.js'
import { quirks, type Quirk } from './vfio-channel/quirks.js'
import { ChannelServer, type ChannelServerOptions, type VfioChannelServer } from './vfio-channel/server.js'
import { TodayServer } from './vfio-channel/today-server.js'

const protocols = ['today', '2018', '2019'] as const

/** What is spoken on a channel: one of the drafts, or all of vhost-vdpa on top of their messages. */
export type ChannelProtocol = (typeof protocols)[number]

/** How a model is served by a channel. */
export interface ServeVfioChannelOptions extends ChannelServerOptions {
  /** Default `'today'`: all of vhost-vdpa, for openDevice(). `'2018'`, `'2019'`: a draft as it was proposed, for connectVfioChannel(). */
  readonly protocol?: ChannelProtocol
  /** Oddities of the server of the time to show, with a draft. Default: none. */
  readonly imitates?: readonly Quirk[]
  /** How the vhost-vdpa in front of the model behaves: a profile of the simulator. Default `'strict'`. */
  readonly profile?: Profile
  /** Default: the kernel. One without `sockets` is refused (ERR_VDPA_NOT_SUPPORTED). */
  readonly backend?: Backend
}

/**
 * Serves a device model to another process by the messages of the vhost-vfio proposals of 2018 and 2019. The protocol was never merged: no VMM and no
 * kernel speaks it; serve a VMM by vhost-user and the kernel by VDUSE. What it is good for here: `openDevice('vfio-channel:/run/x.sock')` in another process, or on another thread, drives the model
 * as it would drive a vhost-vdpa node. One client at a time; the next one finds the device as new.
 *
 * What clients do cannot harm this process: what they send is checked, what they pass is owned and given back, memory that they cut off reads as zeroes.
 * Everything refused has a name (`onRefusal`, `refusals`).
 *
 * Errors: EADDRINUSE, EACCES, ENOENT of the socket; ERR_VDPA_NO_ADDON; ERR_VDPA_NOT_SUPPORTED; TypeError and RangeError. Since 0.1.0.
 */
export function serveVfioChannel(model: DeviceOps, options: ServeVfioChannelOptions): VfioChannelServer {
  checkObject(options, 'options')
  const { protocol = 'today', imitates = [], profile = 'strict' } = options
  if (typeof model !== 'object' || model === null || typeof model.attach !== 'function')
    throw typeError('model', 'a device model', model)
  checkOneOf(protocol, 'options.protocol', protocols)
  for (const quirk of imitates) checkOneOf(quirk, 'options.imitates', Object.keys(quirks) as Quirk[])
  if (imitates.length > 0 && protocol === 'today')
    throw rangeError('options.imitates', 'empty without a draft', imitates.join(', '))
  const backend = options.backend ?? new KernelBackend()
  const simulator = new Simulator({ profile })
  const path = simulator.add(model)
  const own = [...imitates]
  const makeRegion = () => {
    const far = openFarEnd(simulator, path)
    return protocol === 'today' ? new TodayServer(far) : new DraftServer(far, { draft: protocol, imitates: own })
  }
  return new ChannelServer(makeRegion, backend, options)
}
