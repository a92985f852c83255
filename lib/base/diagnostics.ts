// What the package tells on Node's diagnostics_channel: the channels, and when their subscribers are called. Silent where there are none.

import { channel, type Channel } from 'node:diagnostics_channel'

/** The names of the channels; docs/diagnostics.md says what comes on each. */
export const diagnosticsChannels = {
  /** A request (ioctl) that ended: `RequestMessage`. */
  request: 'vhost-vdpa:request',
  /** IOTLB messages that were written: `IotlbWriteMessage`. */
  iotlb: 'vhost-vdpa:iotlb',
  /** A device changed its state: `StateMessage`. */
  state: 'vhost-vdpa:state',
  /** `config`, `needsReset` or `close` of a device: `EventMessage`. */
  event: 'vhost-vdpa:event',
  /** A queue was kicked: `QueueMessage`. */
  kick: 'vhost-vdpa:kick',
  /** A queue's device interrupted: `QueueMessage`. */
  call: 'vhost-vdpa:call',
  /** A device asked for a translation: `MissChannelMessage`. */
  miss: 'vhost-vdpa:miss',
  /** A simulated device saw its driver break a rule: `{ path, violation }`. */
  violation: 'vhost-vdpa:violation',
  /** A vhost-user server refused something: `{ path, error }`. */
  vhostUserRefusal: 'vhost-vdpa:vhost-user-refusal',
} as const

/** A request that ended, well or not. */
export interface RequestMessage {
  /** The node. */
  readonly path: string
  /** The number that ioctl(2) took. */
  readonly number: number
  /** The kernel's name of it, `'VHOST_VDPA_SET_STATUS'`; undefined for a number that is in no table. */
  readonly request: string | undefined
  /** The argument as it was asked: bytes, a copy, or a number. */
  readonly argument: Uint8Array | number
  /** The argument as it was left, a copy; undefined for a number. */
  readonly answer: Uint8Array | undefined
  /** What ioctl(2) returned; undefined where it was refused. */
  readonly returned: number | undefined
  /** Why it was refused. */
  readonly error: unknown
  /** Whether it was asked off the event loop's thread. */
  readonly isAsync: boolean
  /** Milliseconds from asking to the end, by the monotonic clock. */
  readonly took: number
}

/** IOTLB messages that were written, one after another. */
export interface IotlbWriteMessage {
  /** The node. */
  readonly path: string
  /** Records of 72 bytes, a copy. */
  readonly records: Uint8Array
  /** How many were taken; undefined where that is not known. */
  readonly completed: number | undefined
  /** What ended the sequence before its end. */
  readonly error: unknown
  /** Whether they were written off the event loop's thread. */
  readonly isAsync: boolean
  /** Milliseconds from asking to the end, by the monotonic clock. */
  readonly took: number
}

/** A device went from one state to another (`DeviceStateName`). */
export interface StateMessage {
  /** The node. */
  readonly path: string
  /** Where it stood. */
  readonly from: string
  /** Where it stands. */
  readonly to: string
}

/** What a device told by itself. */
export interface EventMessage {
  /** The node. */
  readonly path: string
  /** Which of them. */
  readonly event: 'config' | 'needsReset' | 'close'
}

/** A notification of a queue, one way or the other. */
export interface QueueMessage {
  /** The node. */
  readonly path: string
  /** The virtqueue's number. */
  readonly queue: number
}

/** A translation that a device asked for. */
export interface MissChannelMessage {
  /** The node. */
  readonly path: string
  /** The address space. */
  readonly asid: number
  /** The address that has none. */
  readonly iova: bigint
  /** What the device wants to do there. */
  readonly access: string
}

/** The channels for publishing: `hasSubscribers` is asked before a message is made. */
export const diagnostics = {
  request: channel(diagnosticsChannels.request),
  iotlb: channel(diagnosticsChannels.iotlb),
  state: channel(diagnosticsChannels.state),
  event: channel(diagnosticsChannels.event),
  kick: channel(diagnosticsChannels.kick),
  call: channel(diagnosticsChannels.call),
  miss: channel(diagnosticsChannels.miss),
} as const

/**
 * Publishes in a microtask, in the order of publishing: subscribers are the program's, and what they call or close must not happen in the midst of a
 * procedure. What they throw goes to 'uncaughtException', as Node has it.
 */
export function publish(on: Channel, message: object): void {
  queueMicrotask(() => on.publish(message))
}
