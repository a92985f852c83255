// From a wish to negotiated features: acknowledge, offer, FEATURES_OK, read back (spec section 3.1.1, steps 2 to 6). A failure leaves the device reset.

import { isVdpaError, vdpaError } from '../base/errors.js'
import { sleeping, type Steps } from '../base/steps.js'
import { missingFeatureNeed } from '../uapi/feature-needs.js'
import { virtioStatus } from '../uapi/virtio-status.js'
import { refusal, type DeviceContext } from './context.js'
import type { FeatureSet } from './feature-set.js'
import { saysGone } from './gone.js'
import { failedAsLost, resetAfter } from './reset.js'

/** Feature bits without which this interface cannot be used; added to every wish that a device can grant. */
export const alwaysWanted: readonly string[] = ['VIRTIO_F_VERSION_1', 'VIRTIO_F_ACCESS_PLATFORM']

/**
 * Added to a wish that lists features, where it is offered: it is this process that drives the rings then, and its accesses to them are ordered as a device that is no
 * program needs it, with full fences (spec section 6.1). A word of bits is what another driver took, and says how that one orders its own.
 */
export const wantedOfLists: readonly string[] = ['VIRTIO_F_ORDER_PLATFORM']

/** The status byte of a device with negotiated features. */
export const negotiatedStatus = virtioStatus.ACKNOWLEDGE | virtioStatus.DRIVER | virtioStatus.FEATURES_OK
const ALL_BITS = 0xff

/** Sets the status byte; `onAsk` is called when it comes to that. */
export function* statusSteps(context: DeviceContext, status: number, onAsk?: () => void): Steps<void> {
  const { transport } = context
  try {
    yield* sleeping({
      now: () => (onAsk?.(), transport.setStatus(status)),
      later: () => (onAsk?.(), transport.setStatusAsync(status)),
    })
  } catch (cause) {
    throw brokenDevice(context, cause)
  }
}

/** The kernel refuses a status that takes NEEDS_RESET away; that the device broke down is the reason, and no EINVAL says it. */
function brokenDevice(context: DeviceContext, cause: unknown): unknown {
  const { transport, facts } = context
  if (saysGone(cause)) return failedAsLost(context, cause)
  if (!isVdpaError(cause) || cause.code !== 'EINVAL' || (transport.status() & virtioStatus.NEEDS_RESET) === 0)
    return cause
  return vdpaError('ERR_VDPA_DEVICE_BROKEN', 'the device broke down and needs a reset', {
    path: facts.path,
    request: 'VHOST_VDPA_SET_STATUS',
    cause,
  })
}

/** Decides what to ask for; throws ERR_VDPA_FEATURES naming what is not offered, or what contradicts itself. */
export function decideFeatures(
  context: DeviceContext,
  offered: FeatureSet,
  wanted: FeatureSet,
  optional: FeatureSet,
): FeatureSet {
  const missing = wanted.without(offered)
  if (missing.bits !== 0n) {
    throw refusal(
      context,
      'ERR_VDPA_FEATURES',
      `the device does not offer ${missing.names.join(', ')}`,
      'VHOST_SET_FEATURES',
    )
  }
  const features = wanted.or(optional.and(offered))
  const lack = missingFeatureNeed(features.bits, context.facts.deviceId)
  if (lack !== undefined) throw refusal(context, 'ERR_VDPA_FEATURES', lack.what, 'VHOST_SET_FEATURES')
  return features
}

/** Acknowledges, offers and reads back. What is done is undone by a reset when a step fails or the call is given up. */
export function* negotiationSteps(context: DeviceContext, features: FeatureSet): Steps<void> {
  const { transport, state } = context
  let isAsked = false
  try {
    yield* statusSteps(context, virtioStatus.ACKNOWLEDGE, () => (isAsked = true))
    yield* statusSteps(context, virtioStatus.ACKNOWLEDGE | virtioStatus.DRIVER)
    transport.setFeatures(features.bits)
    yield* statusSteps(context, negotiatedStatus)
    checkAccepted(context, features, transport.status())
    state.negotiated(features)
  } catch (failure) {
    if (!isAsked) throw failure
    yield* resetAfter(context, failure)
  }
}

function checkAccepted(context: DeviceContext, features: FeatureSet, status: number): void {
  checkPresent(context, status)
  if ((status & virtioStatus.FEATURES_OK) !== 0) return
  const text = `the device does not accept ${features.toString()}`
  throw refusal(context, 'ERR_VDPA_FEATURES', text, 'VHOST_SET_FEATURES')
}

/** A device that was unplugged from its bus answers every read of a register with all bits set. */
export function checkPresent(context: DeviceContext, status: number): void {
  if (status !== ALL_BITS) return
  const text = 'its status reads 0xff: there is no device any more'
  throw failedAsLost(context, refusal(context, 'ERR_VDPA_DEVICE_BROKEN', text, 'VHOST_VDPA_GET_STATUS'))
}
