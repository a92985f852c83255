// From a wish to negotiated features: acknowledge, offer, FEATURES_OK, read back (spec section 3.1.1, steps 2 to 6). A failure leaves the device reset.

import { isVdpaError, vdpaError } from '../base/errors.js'
import { sleeping, type Steps } from '../base/steps.js'
import { missingFeatureNeed } from '../uapi/feature-needs.js'
import { virtioStatus } from '../uapi/virtio-status.js'
import { refusal, type DeviceContext } from './context.js'
import type { FeatureSet } from './feature-set.js'

/** Feature bits without which this interface cannot be used; added to every wish that a device can grant. */
export const alwaysWanted: readonly string[] = ['VIRTIO_F_VERSION_1', 'VIRTIO_F_ACCESS_PLATFORM']

/** Bits of the status byte, one step of the sequence. */
export function* addStatus(context: DeviceContext, bits: number): Steps<void> {
  const status = context.status | bits
  const { transport } = context
  try {
    yield* sleeping({ now: () => transport.setStatus(status), later: () => transport.setStatusAsync(status) })
  } catch (cause) {
    throw brokenDevice(context, cause)
  }
  context.status = status
}

/** The kernel refuses a status that takes NEEDS_RESET away; that the device broke down is the reason, and no EINVAL says it. */
function brokenDevice(context: DeviceContext, cause: unknown): unknown {
  const { transport, facts } = context
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

export function* negotiationSteps(context: DeviceContext, features: FeatureSet): Steps<void> {
  const { transport } = context
  try {
    yield* addStatus(context, virtioStatus.ACKNOWLEDGE)
    yield* addStatus(context, virtioStatus.DRIVER)
    transport.setFeatures(features.bits)
    yield* addStatus(context, virtioStatus.FEATURES_OK)
    const status = transport.status()
    if ((status & virtioStatus.FEATURES_OK) === 0) {
      throw refusal(
        context,
        'ERR_VDPA_FEATURES',
        `the device does not accept ${features.toString()}`,
        'VHOST_SET_FEATURES',
      )
    }
    context.features = features
  } catch (failure) {
    yield* resetSteps(context)
    throw failure
  }
}

/** Status 0: features are gone and groups are back in address space 0; mappings stay in the kernel. */
export function* resetSteps(context: DeviceContext): Steps<void> {
  const { transport } = context
  yield* sleeping({ now: () => transport.setStatus(0), later: () => transport.setStatusAsync(0) })
  context.status = 0
  context.features = undefined
  context.isSuspended = false
  context.asidOfGroup.clear()
}
