// What a guest may be offered of a device, and what the device is told of what the guest took: some features belong to this process.

import { bit } from '../base/bits.js'
import { vdpaError } from '../base/errors.js'
import type { IsolationVerdict } from '../device/groups.js'
import type { VdpaDevice } from '../device/vdpa-device.js'
import { missingFeatureNeed } from '../uapi/feature-needs.js'
import { deviceIds } from '../uapi/virtio-ids.js'
import { featureNames, netFeatureBits, transportFeatureBits } from '../uapi/virtio-features.js'
import { MASKED } from '../vhost-user/served-device.js'

const CONTROL_QUEUE = bit(netFeatureBits.VIRTIO_NET_F_CTRL_VQ)
const FILTERS = bit(netFeatureBits.VIRTIO_NET_F_CTRL_RX)
const MULTIQUEUE = bit(netFeatureBits.VIRTIO_NET_F_MQ)
const PACKED = bit(transportFeatureBits.VIRTIO_F_RING_PACKED)
const VERSION_1 = bit(transportFeatureBits.VIRTIO_F_VERSION_1)

/** Without which a running device is not shadowed. */
const SWITCHING = [
  'VHOST_BACKEND_F_SUSPEND',
  'VHOST_BACKEND_F_RESUME',
  'VHOST_BACKEND_F_ENABLE_AFTER_DRIVER_OK',
] as const

/** Whether front ends are offered a dirty log, and if not, why. */
export type DirtyLogVerdict =
  | { readonly isOffered: true }
  | {
      readonly isOffered: false
      /** Why, as a sentence without its full stop. */
      readonly reason: string
    }

/** What a device is good for behind a bridge. */
export interface Offer {
  /** What guests may be offered. */
  readonly features: bigint
  /** Whether the control queue can be alone; undefined where there is none. */
  readonly control: IsolationVerdict | undefined
  /** Whether the device's control queue is put to use: one that is alone, or that may be with the guest's memory. */
  readonly hasControl: boolean
  readonly dirtyLog: DirtyLogVerdict
}

/** Asks a device that is new or reset, and leaves it reset. A control queue that cannot be alone is used where it `mayShare`. ERR_VDPA_STATE for another device. */
export async function offerOf(device: VdpaDevice, mayShare = false): Promise<Offer> {
  if (device.state !== 'claimed')
    throw vdpaError('ERR_VDPA_STATE', `a device is bridged before it is negotiated, and it is ${device.state}`, {
      path: device.path,
      hint: 'call reset() first',
    })
  const control = await isolationOf(device)
  let features = device.offeredFeatures.bits & ~MASKED
  // Without SUSPEND nobody can say where a packed ring stands.
  if (!device.backendFeatures.has('VHOST_BACKEND_F_SUSPEND')) features &= ~PACKED
  const hasControl = control !== undefined && (control.isolated || mayShare)
  if (!hasControl) features = withoutControlQueue(features, device.deviceId)
  return { features, control, hasControl, dirtyLog: dirtyLogOf(device) }
}

/** A log is kept by shadowing the queues of a device while it runs. */
function dirtyLogOf({ backendFeatures }: VdpaDevice): DirtyLogVerdict {
  const missing = SWITCHING.filter((name) => !backendFeatures.has(name))
  if (missing.length === 0) return { isOffered: true }
  return { isOffered: false, reason: `the device does not offer ${missing.join(', ')}` }
}

async function isolationOf(device: VdpaDevice): Promise<IsolationVerdict | undefined> {
  if (device.deviceId !== deviceIds.net || (device.offeredFeatures.bits & CONTROL_QUEUE) === 0n) return undefined
  await device.negotiate(CONTROL_QUEUE, { optional: bit(netFeatureBits.VIRTIO_NET_F_MQ) })
  try {
    const { controlQueueIndex } = device
    return controlQueueIndex === undefined ? undefined : device.groups.isolation(controlQueueIndex)
  } finally {
    await device.reset()
  }
}

/** What is left when there is no control queue: not those that need it either. */
function withoutControlQueue(features: bigint, deviceId: number): bigint {
  const names = featureNames(deviceId)
  let left = deviceId === deviceIds.net ? features & ~CONTROL_QUEUE : features
  for (;;) {
    const [name = ''] = missingFeatureNeed(left, deviceId)?.what.split(' ') ?? []
    const number = names[name]
    if (number === undefined) return left
    left &= ~bit(number)
  }
}

/** What the device is told: what the guest took, and the control queue where we need it. */
export function featuresForDevice(taken: bigint, { features, hasControl }: Offer, deviceId: number): bigint {
  if (deviceId !== deviceIds.net || !hasControl) return taken
  // Without it the device's control queue is another one, which may share its group with queues of the guest.
  const told = taken | (features & MULTIQUEUE)
  if (hasControlQueue(taken, deviceId)) return told
  // The front end keeps its guest's control queue to itself, and filters frames itself: the device is to let all through.
  return told | CONTROL_QUEUE | (features & FILTERS)
}

/** Whether the guest's driver has a control queue. */
export function hasControlQueue(taken: bigint, deviceId: number): boolean {
  return deviceId === deviceIds.net && (taken & CONTROL_QUEUE) !== 0n
}

/** What is wrong with what a guest took, in a sentence. */
export function problemWith(taken: bigint, { features }: Offer): string | undefined {
  const strange = taken & ~features
  if (strange !== 0n) return `0x${strange.toString(16)} was not offered`
  // A vDPA device has no legacy driver.
  if ((features & VERSION_1) !== 0n && (taken & VERSION_1) === 0n) return 'VIRTIO_F_VERSION_1 was not accepted'
  return undefined
}
