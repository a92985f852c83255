// Serving a model by the vhost-vfio channel: the place that knows the channel, the simulator whose law it speaks, and the kernel's sockets.

import { checkObject, checkOneOf, rangeError, typeError } from './base/checks.js'
import type { Releasable } from './base/closeable.js'
import type { Backend } from './backend/backend.js'
import { KernelBackend } from './kernel/kernel-backend.js'
import type { MemoryRegion } from './memory/memory-region.js'
import type { DeviceOps } from './models/device-ops.js'
import type { Profile } from './simulator/profiles.js'
import { Simulator } from './simulator/simulator.js'
import type { Draft } from './vfio-channel/codec.js'
import { DraftServer } from './vfio-channel/draft-server.js'
import { openFarEnd } from './vfio-channel/far-end.js'
import { checkMailbox, MailboxServer } from './vfio-channel/mailbox.js'
import { quirks, type Quirk } from './vfio-channel/quirks.js'
import type { ChannelRegion } from './vfio-channel/region.js'
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
  const { makeRegion } = channelOf(model, options)
  return new ChannelServer(makeRegion, options.backend ?? new KernelBackend(), options)
}

/** How a model is served in shared memory. */
export interface ServeVfioMailboxOptions extends Pick<ServeVfioChannelOptions, 'imitates' | 'profile'> {
  /** Memory that the client has, too (a memfd; `adopt()` it). Its first 16 KiB are the mailbox, the rest is the client's for DMA. It stays the program's. */
  readonly memory: MemoryRegion
  /** The draft that is spoken. */
  readonly protocol: Draft
}

/** A model at a mailbox. */
export interface VfioMailbox extends Releasable {
  /** Carries out the call that lies there; false when none does. To be called when the client says so, by an eventfd as a rule. */
  serve(): boolean
}

/**
 * Serves a device model by a draft of vhost-vfio in shared memory: for ends that have nothing but a file between them. No eventfd passes there, so that the client looks at its
 * used rings for itself. Errors: TypeError and RangeError. Since 0.1.0.
 */
export function serveVfioMailbox(model: DeviceOps, options: ServeVfioMailboxOptions): VfioMailbox {
  checkObject(options, 'options')
  const { memory, protocol } = options
  checkOneOf(protocol, 'options.protocol', ['2018', '2019'])
  checkMailbox(memory)
  const region = channelOf(model, options).makeRegion()
  const server = new MailboxServer(memory, region)
  const close = () => region.close()
  return {
    serve: () => !region.isClosed && server.serve(),
    get isClosed() {
      return region.isClosed
    },
    close,
    [Symbol.dispose]: close,
  }
}

/** A model behind a simulator's vhost-vdpa, as each client finds it. */
function channelOf(
  model: DeviceOps,
  { protocol = 'today', imitates = [], profile = 'strict' }: Omit<ServeVfioChannelOptions, 'socket'>,
): { readonly makeRegion: () => ChannelRegion } {
  if (typeof model !== 'object' || model === null || typeof model.attach !== 'function')
    throw typeError('model', 'a device model', model)
  checkOneOf(protocol, 'options.protocol', protocols)
  const own = [...imitates]
  for (const quirk of own) checkOneOf(quirk, 'options.imitates', Object.keys(quirks) as Quirk[])
  if (own.length > 0 && protocol === 'today')
    throw rangeError('options.imitates', 'empty without a draft', own.join(', '))
  const simulator = new Simulator({ profile })
  const path = simulator.add(model)
  const makeRegion = () => {
    const far = openFarEnd(simulator, path)
    return protocol === 'today' ? new TodayServer(far) : new DraftServer(far, { draft: protocol, imitates: own })
  }
  return { makeRegion }
}
