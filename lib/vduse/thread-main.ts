// The thread of a VDUSE device: loads the module that makes the model, and serves it until it is told to close.

import { parentPort, workerData } from 'node:worker_threads'
import { CloseStack } from '../base/closeable.js'
import { KernelBackend } from '../kernel/kernel-backend.js'
import type { DeviceOps } from '../models/device-ops.js'
import { hostVduse, type VduseHost } from './host.js'
import { makeModel } from './model-module.js'
import { sendable, type ThreadData, type ThreadMessage } from './threaded.js'

const { url, name, argument, options } = workerData as ThreadData
function say(message: ThreadMessage): void {
  parentPort?.postMessage(message)
}

/** The device, and what is to be closed with it, the model last. */
async function begin(): Promise<{ readonly host: VduseHost; readonly stack: CloseStack }> {
  const onRefusal = (error: Error) => say({ kind: 'refusal', error: sendable(error) })
  const model: DeviceOps & Partial<AsyncDisposable> = await makeModel({ url, name, argument })
  const stack = new CloseStack()
  stack.push(async () => model[Symbol.asyncDispose]?.())
  try {
    const host = await hostVduse(model, new KernelBackend(), { ...options, onRefusal })
    stack.push(() => host.close())
    return { host, stack }
  } catch (error) {
    // What stands in the way is the failure; what its undoing met is not.
    await stack.close().catch(() => undefined)
    throw error
  }
}

function end(error?: unknown): void {
  say(error === undefined ? { kind: 'closed' } : { kind: 'closed', error: sendable(error) })
  parentPort?.close()
}

begin().then(
  ({ host, stack }) => {
    const { apiVersion, features, wasTakenOver } = host
    parentPort?.once('message', () => {
      stack.close().then(() => end(), end)
    })
    say({ kind: 'ready', apiVersion, features, wasTakenOver })
  },
  (error: unknown) => say({ kind: 'failed', error: sendable(error) }),
)
