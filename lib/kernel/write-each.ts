// Long sequences of writes off the event loop's thread: progress, abort, and what is said when they end early.

import { typeError } from '../base/checks.js'
import { vdpaError, type VdpaError } from '../base/errors.js'
import type { WriteEachFailure, WriteEachOptions } from '../backend/backend.js'
import type { NativeDescriptor, Written } from './native.js'
import type { Refuse } from './refusal.js'

// Progress is looked up rather than sent: nothing waits for the event loop, and a blocked loop costs the writing nothing.
const progressInterval = 10

/** The parts of a handle that this needs. */
export interface WriteTarget {
  readonly native: Pick<NativeDescriptor, 'writeEachAsync'>
  readonly path: string
  readonly refuse: Refuse
}

/** `Handle.writeEachAsync` on the addon. A listener that throws stops the writing, and its error is the rejection. */
export async function writeEachAsync(
  { native, path, refuse }: WriteTarget,
  records: Uint8Array,
  stride: number,
  options: WriteEachOptions,
): Promise<number> {
  const { signal, onProgress } = options
  if (onProgress !== undefined && typeof onProgress !== 'function')
    throw typeError('options.onProgress', 'a function', onProgress)
  const isAborted = () => signal?.aborted === true
  if (isAborted()) throw canceled(0, path, signal)
  const writing = native.writeEachAsync(records, stride)
  let thrown: { readonly error: unknown } | undefined
  const report = (completed: number) => {
    try {
      if (thrown === undefined) onProgress?.(completed)
    } catch (error) {
      thrown = { error }
      writing.stop()
    }
  }
  const timer = onProgress === undefined ? undefined : setInterval(() => report(writing.written()), progressInterval)
  signal?.addEventListener('abort', writing.stop, { once: true })
  let written: Written
  try {
    written = await writing.done
  } finally {
    clearInterval(timer)
    signal?.removeEventListener('abort', writing.stop)
  }
  if (typeof written === 'number') report(written)
  if (thrown !== undefined) throw thrown.error
  if (typeof written === 'number') return written
  const [completed, errno] = written
  if (errno === 0 && isAborted()) throw canceled(completed, path, signal)
  throw writeEachFailed(written, path, refuse)
}

/** The error of a sequence that ended early, with `completed`. */
export function writeEachFailed(
  [completed, errno]: readonly [completed: number, errno: number],
  path: string,
  refuse: Refuse,
): VdpaError & WriteEachFailure {
  const call = { syscall: 'write', path }
  // write(2) has no errno for a part that was not taken; EIO is what programs use.
  const error =
    errno === 0 ? refuse(-5, { ...call, text: `record ${completed} was taken only in part` }) : refuse(errno, call)
  return Object.assign(error, { completed })
}

function canceled(completed: number, path: string, signal: AbortSignal | undefined): VdpaError & WriteEachFailure {
  const text = `canceled after ${completed} records`
  return Object.assign(vdpaError('ERR_VDPA_CANCELED', text, { path, syscall: 'write', cause: signal?.reason }), {
    completed,
  })
}
