// What the parts of one open device share: the transport, the device's own facts, and where it stands. Not public.

import type { Range } from '../base/ranges.js'
import { vdpaError, type VdpaError, type VdpaErrorCode } from '../base/errors.js'
import type { Serial } from '../base/serial.js'
import type { Backend } from '../backend/backend.js'
import type { VhostVdpaTransport } from '../transport/vhost-vdpa.js'
import { virtioStatus } from '../uapi/virtio-status.js'
import type { FeatureSet } from './feature-set.js'

/** Facts that do not change while the device is open. */
export interface DeviceFacts {
  readonly path: string
  readonly deviceId: number
  /** Virtqueues; undefined where the kernel is older than VHOST_VDPA_GET_VQS_COUNT (5.18). */
  readonly queueCount: number | undefined
  /** The largest ring size of any queue. */
  readonly maxQueueSize: number
  readonly iovaRange: Range
  /** 1 where the kernel does not say. */
  readonly groupCount: number
  readonly addressSpaceCount: number
  readonly pageSize: number
}

export interface DeviceContext {
  readonly backend: Backend
  readonly transport: VhostVdpaTransport
  readonly facts: DeviceFacts
  readonly backendFeatures: FeatureSet
  /** Keeps procedures on this device in order. */
  readonly serial: Serial
  /** The status byte as last set or read by us. */
  status: number
  /** What was negotiated, while FEATURES_OK stands. */
  features: FeatureSet | undefined
  isSuspended: boolean
  isClosed: boolean
  /** Whether the parent pins what is mapped; undefined until something was mapped. */
  doesPin: boolean | undefined
  /** The address space of each group, by group. */
  readonly asidOfGroup: Map<number, number>
}

export function refusal(context: DeviceContext, code: VdpaErrorCode, text: string, request?: string): VdpaError {
  const { path } = context.facts
  return vdpaError(code, text, request === undefined ? { path } : { path, request })
}

export function checkOpen(context: DeviceContext): void {
  if (context.isClosed) throw refusal(context, 'ERR_VDPA_CLOSED', 'the device is closed')
}

export function isRunning(context: DeviceContext): boolean {
  return (context.status & virtioStatus.DRIVER_OK) !== 0
}

export function checkNegotiated(context: DeviceContext, what: string): FeatureSet {
  checkOpen(context)
  if (context.features === undefined)
    throw refusal(context, 'ERR_VDPA_STATE', `${what} needs negotiated features: call negotiate() first`)
  return context.features
}
