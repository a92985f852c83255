// The end of a call as data: what it counts as, and what its bytes were. What recording and replaying say in the same way.

import { isVdpaError, type VdpaError } from '../base/errors.js'
import type { MemoryRegion } from '../memory/memory-region.js'
import type { WriteEachOutcome } from './backend.js'
import type { Op, ShownCall } from './call.js'

/** How a call ended. A call that returns nothing returned 0, as does one that made an object; memory that was made returns its length. */
export type Outcome = { readonly returned: number } | Refusal

/** A refusal by the system (`errno`, negative) or by the package (`ERR_VDPA_…`); `completed` counts the records written before it. */
export interface Refusal {
  /** The error's `code`: an errno's name or `ERR_VDPA_…`. */
  readonly failed: string
  /** Negative, as errors have it; absent on refusals of the package. */
  readonly errno?: number
  /** Records that a writeEach wrote before it; absent on other calls. */
  readonly completed?: number
}

/** True for bytes of whichever realm. */
export function isBytes(value: unknown): value is Uint8Array {
  return Object.prototype.toString.call(value) === '[object Uint8Array]'
}

/** The bytes that go into a call, which the call may change. Not checked: they are what the caller gave. */
export function bytesOf(call: ShownCall): Uint8Array | undefined {
  if ('bytes' in call) return call.bytes
  return call.op === 'ioctl' && typeof call.argument !== 'number' ? call.argument : undefined
}

/** How a call that returned `result` ended. */
export function outcomeOf(op: Op, result: unknown): Outcome {
  if (op !== 'writeEach') return { returned: countOf(op, result) }
  const outcome = result as WriteEachOutcome
  const { completed, failure } = outcome
  if (!('failure' in outcome)) return { returned: completed ?? 0 }
  // What the program threw ended the writing as an abort does.
  const refusal: Refusal = isVdpaError(failure) ? refusalOf(failure) : { failed: 'ERR_VDPA_CANCELED' }
  return { ...refusal, ...(completed !== undefined && { completed }) }
}

/** What a call returned, as a number. */
function countOf(op: Op, result: unknown): number {
  if (typeof result === 'number') return result
  if (op === 'allocate' || op === 'adopt') return (result as MemoryRegion).length
  return op === 'receive' && isBytes(result) ? result.byteLength : 0
}

/** A refusal as data. */
export function refusalOf(error: VdpaError): Refusal {
  const { code, errno } = error
  return { failed: code, ...(errno !== undefined && { errno }) }
}
