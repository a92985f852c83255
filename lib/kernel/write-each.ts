// Long sequences of writes off the event loop's thread: progress, abort, and what is said when they end early.

import { onAbort } from '../base/abort-listeners.js'
import type { WriteEachOptions, WriteEachOutcome } from '../backend/backend.js'
import { canceledAfter } from '../backend/write-each.js'
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

/** `Handle.writeEachAsync` on the addon, its arguments checked. A listener that throws stops the writing, and what it threw is the failure. */
export async function writeEachAsync(
  { native, path, refuse }: WriteTarget,
  records: Uint8Array,
  stride: number,
  options: WriteEachOptions,
): Promise<WriteEachOutcome> {
  const { signal, onProgress } = options
  const isAborted = () => signal?.aborted === true
  if (isAborted()) return canceledAfter(0, path, signal)
  const writing = native.writeEachAsync(records, stride)
  let thrown: { readonly failure: unknown } | undefined
  const report = (completed: number) => {
    try {
      if (thrown === undefined) onProgress?.(completed)
    } catch (failure) {
      thrown = { failure }
      writing.stop()
    }
  }
  const timer = onProgress === undefined ? undefined : setInterval(() => report(writing.written()), progressInterval)
  const takeOff = signal && onAbort(signal, writing.stop)
  let written: Written
  try {
    written = await writing.done
  } finally {
    clearInterval(timer)
    takeOff?.()
  }
  if (typeof written === 'number') report(written)
  const [completed, errno] = typeof written === 'number' ? [written] : written
  if (thrown !== undefined) return { completed, ...thrown }
  if (errno === 0 && isAborted()) return canceledAfter(completed, path, signal)
  return outcomeOf(written, path, refuse)
}

/** What the addon says of a sequence, as the seam says it. */
export function outcomeOf(written: Written, path: string, refuse: Refuse): WriteEachOutcome {
  if (typeof written === 'number') return { completed: written }
  const [completed, errno] = written
  const call = { syscall: 'write', path }
  // write(2) has no errno for a part that was not taken; EIO is what programs use.
  const failure =
    errno === 0 ? refuse(-5, { ...call, text: `record ${completed} was taken only in part` }) : refuse(errno, call)
  return { completed, failure }
}
