// How a queue can be kept from the guest: in an address space of its own, in that of the guest, or not at all. What the device can is asked of it, and the answer is said aloud.

import { checkObject, checkOneOf, typeError } from '../base/checks.js'
import { vdpaError } from '../base/errors.js'
import type { AddressSpace } from '../device/address-space.js'
import type { VdpaDevice } from '../device/vdpa-device.js'

/**
 * `'isolated'`: what the program keeps for the queue lies in an address space where no buffer of the guest can be named. `'shared'`: it lies in the guest's address space, at addresses that the
 * guest is not told, but could name in a queue that the device serves by itself. `'pass-through'`: the guest's ring is the device's, and nothing of it is seen.
 */
export type ShadowMode = 'isolated' | 'shared' | 'pass-through'

/** How a queue is to be shadowed. */
export interface ShadowPlanOptions {
  /** The address space of the guest's memory. */
  readonly guest: AddressSpace
  /** One that is kept from the guest. Without it nothing is isolated. */
  readonly own?: AddressSpace
  /** `'auto'` (default): isolated where the device can, shared otherwise. A mode by name is that or an error. */
  readonly mode?: ShadowMode | 'auto'
}

/** How a queue is shadowed. */
export interface ShadowPlan {
  /** What became of the wish. */
  readonly mode: ShadowMode
  /** Why it is this mode, as a sentence without its full stop: for the log of a program that accepts what it gets. */
  readonly reason: string
  /** The address space of the queue's buffers: `space` of a ShadowControlQueue or ShadowQueue. */
  readonly space: AddressSpace
  /** The address space of its ring: `descriptorSpace` of a ShadowQueue. */
  readonly descriptorSpace: AddressSpace
}

/**
 * Chooses how a queue is shadowed, and puts its groups where that wants them: after negotiate(), before anything is made of the queue and before start(). The buffers of a control queue are the
 * program's own, so all of it is isolated where its group can be alone; those of a data queue are the guest's, and its ring alone is isolated, by the group of its descriptors. ERR_VDPA_NOT_SUPPORTED with the reason
 * where `'isolated'` was asked for and cannot be, or there is no control queue; ERR_VDPA_STATE once the device runs. (VHOST_VDPA_GET_VRING_GROUP, _GET_VRING_DESC_GROUP, _SET_GROUP_ASID)
 */
export function planShadow(device: VdpaDevice, queue: number | 'control', options: ShadowPlanOptions): ShadowPlan {
  checkObject(options, 'options')
  const { guest, own, mode = 'auto' } = options
  checkOneOf(mode, 'mode', ['auto', 'isolated', 'shared', 'pass-through'])
  checkObject(guest, 'guest')
  if (own === guest) throw typeError('own', 'another address space than the guest', own)
  const index = queue === 'control' ? device.controlQueueIndex : queue
  if (index === undefined) throw unsupported(device, 'there is no control queue under the negotiated features')
  const isControl = index === device.controlQueueIndex
  if (mode === 'pass-through' || mode === 'shared') {
    for (const group of groupsOf(device, index)) device.groups.assign(group, guest)
    return { mode, reason: `${mode} was asked for`, space: guest, descriptorSpace: guest }
  }
  const reason =
    own === undefined ? 'there is no address space that is kept from the guest' : whyNot(device, index, isControl)
  if (reason === undefined && own !== undefined) return isolate(device, index, isControl, guest, own)
  if (mode === 'isolated') throw unsupported(device, `queue ${index} cannot be isolated: ${reason}`)
  return { mode: 'shared', reason: reason ?? '', space: guest, descriptorSpace: guest }
}

function isolate(
  device: VdpaDevice,
  index: number,
  isControl: boolean,
  guest: AddressSpace,
  own: AddressSpace,
): ShadowPlan {
  if (isControl) {
    device.groups.assign(device.groups.isolation(index), own)
    const reason = `the group of queue ${index} is alone in ${own.toString()}`
    return { mode: 'isolated', reason, space: own, descriptorSpace: own }
  }
  const group = device.groups.descriptorGroupOf(index) ?? 0
  device.groups.assign(group, own)
  const reason = `the descriptors of queue ${index} are of group ${group}, which is in ${own.toString()}`
  return { mode: 'isolated', reason, space: guest, descriptorSpace: own }
}

/** Why a queue cannot be isolated, as a sentence; undefined where it can. */
function whyNot(device: VdpaDevice, index: number, isControl: boolean): string | undefined {
  if (isControl) {
    const verdict = device.groups.isolation(index)
    return verdict.isolated ? undefined : verdict.reason
  }
  if (!device.backendFeatures.has('VHOST_BACKEND_F_DESC_ASID'))
    return 'the backend feature VHOST_BACKEND_F_DESC_ASID is not there: rings lie where the buffers do'
  const group = device.groups.descriptorGroupOf(index)
  if (group === undefined) return `the descriptors of queue ${index} have no group of their own`
  // Without a control queue nothing says which queues are in use.
  const last = device.controlQueueIndex ?? (device.queueCount ?? index + 1) - 1
  for (let other = 0; other <= last; other++)
    if (device.groups.of(other) === group)
      return `the descriptors of queue ${index} share group ${group} with the buffers of queue ${other}`
  return device.groups.whyImmovable([group])
}

function groupsOf(device: VdpaDevice, index: number): number[] {
  const groups = [device.groups.of(index), device.groups.descriptorGroupOf(index)]
  return groups.filter((group) => group !== undefined)
}

function unsupported(device: VdpaDevice, text: string): Error {
  return vdpaError('ERR_VDPA_NOT_SUPPORTED', text, { path: device.path })
}
