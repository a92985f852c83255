// How a transport asks its handle: each call passes here, and is told of on a diagnostics channel where somebody listens. Without a listener it is the call itself.

import { diagnostics, publish } from '../base/diagnostics.js'
import type { Handle, WriteEachOptions, WriteEachOutcome } from '../backend/backend.js'
import { requestByNumber } from '../uapi/vhost.js'

type Asked = Pick<Handle, 'path' | 'ioctl' | 'ioctlAsync' | 'writeEach' | 'writeEachAsync'>

/** handle.ioctl(). */
export function ask(handle: Asked, request: number, argument: Uint8Array | number): number {
  if (!diagnostics.request.hasSubscribers) return handle.ioctl(request, argument)
  const tell = tellRequest(handle.path, request, argument, false)
  try {
    const returned = handle.ioctl(request, argument)
    tell(returned, undefined)
    return returned
  } catch (error) {
    tell(undefined, error)
    throw error
  }
}

/** handle.ioctlAsync(). */
export function askAsync(handle: Asked, request: number, argument: Uint8Array | number): Promise<number> {
  if (!diagnostics.request.hasSubscribers) return handle.ioctlAsync(request, argument)
  const tell = tellRequest(handle.path, request, argument, true)
  return handle.ioctlAsync(request, argument).then(
    (returned) => {
      tell(returned, undefined)
      return returned
    },
    (error: unknown) => {
      tell(undefined, error)
      throw error
    },
  )
}

/** handle.writeEach(). A program's own backend may answer with the bare count of a sequence that came to its end. */
export function writeRecords(handle: Asked, records: Uint8Array, stride: number): WriteEachOutcome {
  if (!diagnostics.iotlb.hasSubscribers) return outcomeOf(handle.writeEach(records, stride))
  const tell = tellWrite(handle.path, records, false)
  try {
    const outcome = outcomeOf(handle.writeEach(records, stride))
    tell(outcome, undefined)
    return outcome
  } catch (error) {
    tell(undefined, error)
    throw error
  }
}

/** handle.writeEachAsync(). */
export async function writeRecordsAsync(
  handle: Asked,
  records: Uint8Array,
  stride: number,
  options: WriteEachOptions | undefined,
): Promise<WriteEachOutcome> {
  const tell = diagnostics.iotlb.hasSubscribers ? tellWrite(handle.path, records, true) : undefined
  try {
    const outcome = outcomeOf(await handle.writeEachAsync(records, stride, options))
    tell?.(outcome, undefined)
    return outcome
  } catch (error) {
    tell?.(undefined, error)
    throw error
  }
}

function outcomeOf(answer: WriteEachOutcome | number): WriteEachOutcome {
  return typeof answer === 'number' ? { completed: answer } : answer
}

type Tell<T> = (result: T | undefined, error: unknown) => void

function tellRequest(path: string, number: number, argument: Uint8Array | number, isAsync: boolean): Tell<number> {
  const asked = typeof argument === 'number' ? argument : argument.slice()
  const request = requestByNumber(number)?.name
  const start = performance.now()
  return (returned, error) => {
    const took = performance.now() - start
    // The transport's buffers are used again: a subscriber gets what is its own.
    const answer = typeof argument === 'number' ? undefined : argument.slice()
    publish(diagnostics.request, { path, number, request, argument: asked, answer, returned, error, isAsync, took })
  }
}

function tellWrite(path: string, written: Uint8Array, isAsync: boolean): Tell<WriteEachOutcome> {
  const records = written.slice()
  const start = performance.now()
  return (outcome, thrown) => {
    const took = performance.now() - start
    const { completed, failure } = outcome ?? {}
    publish(diagnostics.iotlb, { path, records, completed, error: thrown ?? failure, isAsync, took })
  }
}
