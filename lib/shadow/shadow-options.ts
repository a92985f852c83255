// What a shadowed queue is made of: the guest's ring, and what the program wishes.

import { checkFunction, checkInteger, checkMethods, checkObject, toU64 } from '../base/checks.js'
import type { Eventfd } from '../backend/backend.js'
import type { AddressSpace } from '../device/address-space.js'
import type { MemoryRegion } from '../memory/memory-region.js'
import type { RingState } from '../virtqueue/virtqueue.js'
import type { DirtyLog, GuestPieces } from './dirty-log.js'

/** A guest's data queue, as the guest set it up under the features that the device has negotiated. */
export interface GuestDataRing {
  /** Where its addresses lie: a GuestMemory. */
  readonly memory: GuestPieces
  /** Descriptors. */
  readonly size: number
  /** The guest's addresses of the three areas. */
  readonly addresses: { readonly descriptor: bigint; readonly driver: bigint; readonly device: bigint }
  /** The guest's notifications; given to the device while it serves the queue itself. */
  readonly kick: Eventfd
  /** What interrupts the guest; given to the device likewise. What its signal() throws here goes to 'uncaughtException'; the guest is served on. */
  readonly call: Eventfd
  /** Where the ring stands. Default: as a new one. */
  readonly state?: RingState
}

/** How a shadow is made. */
export interface ShadowQueueOptions {
  /** The virtqueue's number, from 0. */
  readonly index: number
  /** The guest's queue. */
  readonly guest: GuestDataRing
  /** The address space in which the device finds the guest's memory: that of the queue's group. */
  readonly space: AddressSpace
  /** The address space of the group of the queue's descriptors, where that is another (DESC_ASID): the shadow's ring lies there, out of the reach of the guest's buffers. */
  readonly descriptorSpace?: AddressSpace
  /** Where what is written to the guest's memory is marked while the queue is shadowed. */
  readonly log?: DirtyLog
  /** Memory that the device can reach, for guest memory that is not mapped in `space`: what lies there is copied. It is the caller's to close, after close(). */
  readonly bounce?: MemoryRegion
  /** Is told once when guest or device broke a rule of its ring, or the memory went away: the queue is served no more. */
  readonly onBroken?: (failure: unknown) => void
  /** Milliseconds that begin() and end() look for a moment at which it is known what is in flight; default 1000. */
  readonly patience?: number
}

/** How shadowing begins. */
export interface BeginShadowOptions {
  /** Where the guest's ring stands, before start() only; default: where this shadow left it, or found it. */
  readonly state?: RingState
}

const PATIENCE_LAST = 0x7fff_ffff

/** RangeError and TypeError for options that are none, and a copy. What is asked of the device is not looked at. */
export function checkShadowOptions(options: ShadowQueueOptions): ShadowQueueOptions {
  checkObject(options, 'options')
  const { guest, patience = 1000, log, space, descriptorSpace, onBroken } = options
  checkObject(guest, 'guest')
  checkInteger(guest.size, 'guest.size', 1, 0x8000)
  checkMethods(guest.memory, 'guest.memory', 'a GuestMemory', ['pieces'])
  checkMethods(guest.kick, 'guest.kick', 'an Eventfd', ['onSignal'])
  checkMethods(guest.call, 'guest.call', 'an Eventfd', ['signal'])
  checkObject(guest.addresses, 'guest.addresses')
  const addresses = { ...guest.addresses }
  for (const name of ['descriptor', 'driver', 'device'] as const)
    addresses[name] = toU64(addresses[name], `guest.addresses.${name}`)
  checkMethods(space, 'space', 'an AddressSpace', ['lookup'])
  if (descriptorSpace !== undefined) checkMethods(descriptorSpace, 'descriptorSpace', 'an AddressSpace', ['lookup'])
  checkInteger(patience, 'patience', 0, PATIENCE_LAST)
  if (log !== undefined) checkMethods(log, 'log', 'a DirtyLog', ['mark'])
  if (onBroken !== undefined) checkFunction(onBroken, 'onBroken')
  return { ...options, guest: { ...guest, addresses } }
}
