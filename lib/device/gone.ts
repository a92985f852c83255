// Whether a device is still there, told from how it refuses. A device that was taken away says so by many errnos, and refuses IOTLB messages by EFAULT as always.

import { isVdpaError } from '../base/errors.js'
import type { DeviceContext } from './context.js'

const gone: readonly string[] = ['ENODEV', 'ENXIO', 'ESHUTDOWN']

/** Whether a refusal, or what led to it, says that the device was taken away. */
export function saysGone(failure: unknown): boolean {
  return isVdpaError(failure) && (gone.includes(failure.code) || saysGone(failure.cause))
}

/** Whether a refusal met while the device is closed comes from there being none any more; it is lost from then on. */
export function isOfGoneDevice(context: DeviceContext, failure: unknown): boolean {
  const { state } = context
  if (!isOfSystem(failure)) return false
  if (state.phase === 'lost') return true
  // EIO: the process behind the device died (VDUSE), or hardware does not answer.
  if (!saysGone(failure) && !isCausedBy(failure, 'EIO') && hasStatus(context)) return false
  state.lost(failure)
  return true
}

function hasStatus({ transport }: DeviceContext): boolean {
  try {
    return transport.status() !== 0xff
  } catch {
    return false
  }
}

/** Whether the operating system refused, or that led to it. */
function isOfSystem(failure: unknown): boolean {
  return isVdpaError(failure) && (failure.errno !== undefined || isOfSystem(failure.cause))
}

function isCausedBy(failure: unknown, code: string): boolean {
  return isVdpaError(failure) && (failure.code === code || isCausedBy(failure.cause, code))
}
