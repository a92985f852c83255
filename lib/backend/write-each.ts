// What every implementation of `Handle.writeEach` says in the same way: what it refuses as misuse, and how a canceled sequence ends.

import { checkBytes, checkInteger, rangeError, trueLength, typeError } from '../base/checks.js'
import { vdpaError } from '../base/errors.js'
import type { WriteEachOptions, WriteEachOutcome } from './backend.js'

/** Refuses what is no whole number of records. */
export function checkRecords(records: Uint8Array, stride: number): void {
  checkBytes(records, 'records')
  checkInteger(stride, 'stride', 1, 0x7fff_f000)
  const length = trueLength(records)
  if (length % stride !== 0) throw rangeError('records', `a multiple of ${stride} bytes long`, length)
}

/** Refuses options that could not be watched, before anything is begun that would have to be ended. */
export function checkWriteEachOptions(options: WriteEachOptions): void {
  if (typeof options !== 'object' || options === null) throw typeError('options', 'an object', options)
  const { signal, onProgress } = options
  if (onProgress !== undefined && typeof onProgress !== 'function')
    throw typeError('options.onProgress', 'a function', onProgress)
  if (signal !== undefined && !isSignal(signal)) throw typeError('options.signal', 'an AbortSignal', signal)
}

// Not by instanceof: a signal of another realm (a test runner's, a frame's) is as good.
function isSignal(signal: unknown): boolean {
  if (typeof signal !== 'object' || signal === null) return false
  const { aborted, addEventListener, removeEventListener } = signal as Partial<AbortSignal>
  return (
    typeof aborted === 'boolean' && typeof addEventListener === 'function' && typeof removeEventListener === 'function'
  )
}

/** How a sequence ends that its signal stopped after `completed` records. */
export function canceledAfter(completed: number, path: string, signal: AbortSignal | undefined): WriteEachOutcome {
  const details = { path, syscall: 'write', cause: signal?.reason as unknown }
  return { completed, failure: vdpaError('ERR_VDPA_CANCELED', `canceled after ${completed} records`, details) }
}
