// What is carried from one run of a device to the next: who drives which queue, the drivers' books, and what becomes of them where nobody goes on.

import { vdpaError } from '../base/errors.js'
import type { GuestControlRing } from '../control/guest-ring.js'
import type { NetControlQueue } from '../control/net-control-queue.js'
import type { ShadowControlQueue } from '../control/shadow-queue.js'
import type { AddressSpace } from '../device/address-space.js'
import type { DeviceQueue } from '../device/device-queue.js'
import type { VdpaDevice } from '../device/vdpa-device.js'
import { BlockDriver, type BlockDriverOptions, type BlockSnapshot } from '../drivers/block-driver.js'
import { NetDriver, type NetDriverOptions, type NetDriverSnapshot } from '../drivers/net-driver.js'
import { leaveTo } from '../drivers/saved-queues.js'

/** What a driver left, of either kind. */
export type SavedDriver = NetDriverSnapshot | BlockSnapshot

/** A driver whose books are lost, and that begins with empty queues. */
export type NewDriver = { readonly net: NetDriverOptions } | { readonly block: BlockDriverOptions }

/** How the driver of a device goes on. */
export type DriverToGoOn = SavedDriver | NewDriver

const DRIVERS: readonly string[] = ['a NetDriver', 'a BlockDriver']
const CONTROL = 'a NetControlQueue'

/** Queues that are driven from here and that no driver has: those of createQueue(). By index. */
export function looseQueues(device: VdpaDevice): DeviceQueue[] {
  const queues = device.drivenQueues.filter(({ owner }) => owner !== CONTROL && !DRIVERS.includes(owner))
  return queues.sort((a, b) => a.index - b.index)
}

/** The guest of a shadow that serves it no more, with where its ring stands; undefined where there is none, or its ring is broken. */
export async function guestOf(
  shadow: ShadowControlQueue<AddressSpace> | undefined,
): Promise<GuestControlRing | undefined> {
  const guest = shadow?.guest
  const state = await shadow?.detach()
  return guest === undefined || state === undefined ? undefined : { ...guest, state }
}

/** Who was given to go on with a device. */
export interface Given {
  readonly driver?: NetDriver | BlockDriver | undefined
  readonly control?: NetControlQueue | undefined
  readonly shadowControl?: ShadowControlQueue<AddressSpace> | undefined
}

/** ERR_VDPA_STATE where somebody who drives a queue was not given, or another one that did before, and where one was given that drives none: it is another device's, or has ended. */
export function checkGiven(device: VdpaDevice, { driver, control, shadowControl }: Given): void {
  const queues = device.drivenQueues
  const { path } = device
  for (const queue of queues) {
    const { index, owner } = queue
    if (owner !== CONTROL && !DRIVERS.includes(owner)) continue
    const one = owner === CONTROL ? (control ?? shadowControl?.control) : driver
    if (one?.drives(queue) === true) continue
    const which = one === undefined ? 'which was not given' : 'and not by the one that was given'
    throw vdpaError('ERR_VDPA_STATE', `queue ${index} is driven by ${owner}, ${which}`, { path })
  }
  for (const [name, one] of Object.entries({ driver, control, shadowControl: shadowControl?.control }))
    if (one !== undefined && !queues.some((queue) => one.drives(queue)))
      throw vdpaError('ERR_VDPA_STATE', `the ${name} that was given drives no queue of the device`, { path })
}

/** Nobody will go on with it: who waits is told, and its memory is freed, with a device of `devices` where that did not let go of it. */
export function giveUp(saved: SavedDriver | undefined, devices: readonly VdpaDevice[]): void {
  if (saved === undefined) return
  for (const device of devices) leaveTo(device, saved.queues)
  if ('lanes' in saved) BlockDriver.abandon(saved)
  else NetDriver.abandon(saved)
}
