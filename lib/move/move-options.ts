// What is said of a move, and what comes of it.

import type { NetControlQueue } from '../control/net-control-queue.js'
import type { ShadowControlQueue } from '../control/shadow-queue.js'
import type { AddressSpace } from '../device/address-space.js'
import type { VdpaDevice } from '../device/vdpa-device.js'
import type { BlockDriver } from '../drivers/block-driver.js'
import type { NetDriver } from '../drivers/net-driver.js'
import type { ShadowQueue } from '../shadow/shadow-queue.js'
import type { QueueEventfds } from './arrive.js'
import type { CopiedMemory } from './memory-copy.js'
import type { MoveReport } from './stopwatch.js'

/** What moves with a device. */
export interface MoveOptions {
  /** The driver of its data queues; ended by the move, and in the answer another goes on in its place. */
  readonly driver?: NetDriver | BlockDriver
  /** The control queue, where it is driven from here; likewise. */
  readonly control?: NetControlQueue
  /** The shadow of a guest's control queue, in place of `control`: the guest is served by another like it, after the same policy. */
  readonly shadowControl?: ShadowControlQueue<AddressSpace>
  /** Shadows of a guest's data queues: the target serves the guest's rings by itself, and may be shadowed anew. */
  readonly shadows?: readonly ShadowQueue[]
  /** A guest's memory that the target has for itself, and that is copied. Default: both devices reach the same memory. */
  readonly memory?: CopiedMemory
  /** The eventfds of queues that somebody else drives. */
  readonly eventfds?: readonly QueueEventfds[]
  /** Milliseconds that the device has for a command of the control queue; default 10,000. */
  readonly timeout?: number
}

/** How moveDevice() moves. */
export interface MoveDeviceOptions extends MoveOptions {
  /** Rounds in which memory is copied while the source runs; 8 by default, fewer where one has little to copy. Not where nothing follows what is written. */
  readonly rounds?: number
}

/** What goes on in place of what was given under a name: of the same kind, where something surely was. */
type GoesOn<Wish extends MoveOptions, Name extends 'driver' | 'control' | 'shadowControl'> =
  Wish extends Readonly<Record<Name, infer Given>> ? Given : MoveOptions[Name]

/** Where the guest runs now, and what goes on in place of what was given. */
export interface MoveResult<Wish extends MoveOptions = MoveOptions> {
  /** Whether it runs on the target. Otherwise it goes on where it was, and `failure` says why. */
  readonly isMoved: boolean
  /** What failed once the source was stopped; the failure of closing the source where it was moved all the same. */
  readonly failure: unknown
  /** The device that runs. */
  readonly device: VdpaDevice
  /** The driver that goes on; the one that was given where nothing but a resume was needed. */
  readonly driver: GoesOn<Wish, 'driver'>
  /** The control queue; likewise. */
  readonly control: GoesOn<Wish, 'control'>
  /** The shadow of the guest's control queue; likewise. */
  readonly shadowControl: GoesOn<Wish, 'shadowControl'>
  /** The guest's data queues that were shadowed, on the device that runs. */
  readonly shadows: readonly ShadowQueue[]
  /** How long each step took. */
  readonly report: MoveReport
}
