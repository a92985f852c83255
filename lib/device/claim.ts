// Taking an open node into possession: ownership, the facts of the device, and the backend features. Nothing here is kept when it fails.

import { Fifo } from '../base/fifo.js'
import { Serial } from '../base/serial.js'
import { isVdpaError, vdpaError } from '../base/errors.js'
import { U64_LAST } from '../base/ranges.js'
import { sleeping, type Steps } from '../base/steps.js'
import type { Backend } from '../backend/backend.js'
import type { VhostVdpaTransport } from '../transport/vhost-vdpa.js'
import { backendFeatureBits, type BackendFeature } from '../uapi/vhost-types.js'
import { deviceIds, deviceKind, type DeviceKind } from '../uapi/virtio-ids.js'
import { checkOneOf } from '../base/checks.js'
import type { DeviceContext, DeviceFacts } from './context.js'
import { DeviceState } from './device-state.js'
import { FeatureSet, type FeatureWish } from './feature-set.js'
import { absent } from './groups.js'
import { forgetEarlierUse } from './known-state.js'
import { QueueBook } from './queue-book.js'

/** How a device is opened. */
export interface ClaimOptions<K extends DeviceKind = DeviceKind> {
  /** The kind of device it must be; another one throws ERR_VDPA_WRONG_DEVICE and nothing is left open. */
  readonly expect?: K
  /** Backend features to acknowledge, of those offered; all that this package understands by default. */
  readonly backendFeatures?: FeatureWish<BackendFeature>
}

/** What a device is made of. */
export interface Claimed {
  readonly context: DeviceContext
  readonly offeredBackendFeatures: FeatureSet<BackendFeature>
  readonly configSize: number | undefined
}

export function* claimSteps(backend: Backend, transport: VhostVdpaTransport, options: ClaimOptions): Steps<Claimed> {
  const { path } = transport.handle
  const deviceId = readDeviceId(transport)
  checkKind(path, deviceId, options.expect)
  const wasOwned = takeOwnership(transport)
  // A descriptor that somebody passed may come with the remains of another program's negotiation.
  if (wasOwned || transport.status() !== 0)
    yield* sleeping({ now: () => transport.setStatus(0), later: () => transport.setStatusAsync(0) })
  const facts: DeviceFacts = {
    path,
    deviceId,
    queueCount: absent(() => transport.vqsCount()),
    maxQueueSize: transport.maxVringNum(),
    iovaRange: absent(() => transport.iovaRange()) ?? { first: 0n, last: U64_LAST },
    groupCount: absent(() => transport.groupNum()) ?? 1,
    addressSpaceCount: absent(() => transport.asNum()) ?? 1,
    pageSize: backend.pageSize,
    isServedByProgram: transport.handle.isServedByProgram === true,
  }
  const offered = new FeatureSet<BackendFeature>(absent(() => transport.backendFeatures()) ?? 0n, backendFeatureBits)
  if (wasOwned) yield* forgetEarlierUse(transport, facts, offered.bits)
  const backendFeatures = acknowledge(transport, offered, options.backendFeatures)
  const context: DeviceContext = {
    backend,
    transport,
    facts,
    backendFeatures,
    serial: new Serial(path),
    state: new DeviceState(path),
    changes: new Fifo(),
    doesPin: undefined,
    asidOfGroup: new Map(),
    writtenConfig: new Map(),
    spaces: new Map(),
    vrings: new Map(),
    queues: new QueueBook(),
  }
  return { context, offeredBackendFeatures: offered, configSize: absent(() => transport.configSize()) }
}

/** The first request of all: what is no vhost-vdpa node does not know it. */
function readDeviceId(transport: VhostVdpaTransport): number {
  try {
    return transport.deviceId()
  } catch (cause) {
    if (!isVdpaError(cause) || cause.code !== 'ENOTTY') throw cause
    const { path } = transport.handle
    throw vdpaError('ERR_VDPA_WRONG_DEVICE', 'this is not a vhost-vdpa device', {
      path,
      request: 'VHOST_VDPA_GET_DEVICE_ID',
      cause,
    })
  }
}

/** That a device is of the kind that is expected, where one is. ERR_VDPA_WRONG_DEVICE, naming both. */
export function checkKind(path: string, deviceId: number, expect: DeviceKind | undefined): void {
  if (expect === undefined) return
  checkOneOf(expect, 'expect', Object.keys(deviceIds) as DeviceKind[])
  if (deviceId === deviceIds[expect]) return
  const actual = deviceKind(deviceId)
  throw vdpaError(
    'ERR_VDPA_WRONG_DEVICE',
    `a ${expect} device (id ${deviceIds[expect]}) was expected, and this is ${actual === undefined ? 'one of an unknown kind' : `a ${actual} device`} (id ${deviceId})`,
    { path, request: 'VHOST_VDPA_GET_DEVICE_ID' },
  )
}

/** SET_OWNER. Whether this very process owned the descriptor already (it was passed around). */
function takeOwnership(transport: VhostVdpaTransport): boolean {
  try {
    transport.setOwner()
    return false
  } catch (failure) {
    if (!isVdpaError(failure) || failure.code !== 'EBUSY') throw failure
    checkOwner(transport)
    return true
  }
}

/** The kernel looks at the owner of a request about a queue before anything else, and this one it answers itself: EPERM is the only answer that tells. */
function checkOwner(transport: VhostVdpaTransport): void {
  try {
    transport.vringBusyloopTimeout(0)
  } catch (cause) {
    if (!isVdpaError(cause) || cause.code !== 'EPERM') return
    throw vdpaError('ERR_VDPA_NO_OWNER', 'another process owns the device', {
      path: transport.handle.path,
      request: 'VHOST_SET_OWNER',
      hint: 'the descriptor must be passed before its first owner calls VHOST_SET_OWNER',
      cause,
    })
  }
}

/** Only bits that this package gives a meaning to are acknowledged: an unknown one could change what a reset or a message does. */
function acknowledge(
  transport: VhostVdpaTransport,
  offered: FeatureSet<BackendFeature>,
  wish: FeatureWish<BackendFeature> | undefined,
): FeatureSet<BackendFeature> {
  const known = FeatureSet.of<BackendFeature>(Object.keys(backendFeatureBits) as BackendFeature[], backendFeatureBits)
  const wanted = wish === undefined ? offered.and(known) : FeatureSet.of(wish, backendFeatureBits)
  const missing = wanted.without(offered)
  if (missing.bits !== 0n) {
    throw vdpaError('ERR_VDPA_FEATURES', `the backend does not offer ${missing.names.join(', ')}`, {
      path: transport.handle.path,
      request: 'VHOST_SET_BACKEND_FEATURES',
    })
  }
  if (offered.bits !== 0n) transport.setBackendFeatures(wanted.bits)
  return wanted
}
