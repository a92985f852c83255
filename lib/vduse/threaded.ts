// The same on a thread of its own: the model, the loop that answers the kernel, and nothing of the program, which may wait for its own device meanwhile.

import { once } from 'node:events'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { Worker } from 'node:worker_threads'
import { checkObject, checkString, typeError } from '../base/checks.js'
import { isVdpaError, VdpaError, vdpaError } from '../base/errors.js'
import { KeptErrors } from '../base/kept-errors.js'
import { throwUncaught } from '../base/program-calls.js'
import { errno } from '../uapi/errno.js'
import type { Backend } from '../backend/backend.js'
import { checkVduseOptions, type VduseHost, type VduseOptions } from './host.js'
import { CONTROL_PATH, ControlNode, devicePath, isRefusal } from './nodes.js'

/** A module whose function makes a model: it is called on the thread that serves it. */
export interface ModelModule {
  /** A file's path or URL, or a package's name as `require.resolve()` gives it. CommonJS or ESM. */
  readonly module: string | URL
  /** What the module exports it as; default `'default'`. It is called with `argument` and returns a model, or a promise of one. What has `Symbol.asyncDispose` is disposed of after its device. */
  readonly export?: string
  /** Anything that can be cloned (structuredClone). */
  readonly argument?: unknown
}

/** What the thread is started with. */
export interface ThreadData {
  readonly url: string
  readonly name: string
  readonly argument: unknown
  readonly options: VduseOptions
}

/** An error as the thread sends it: an errno is lost when it is cloned. */
export interface SentError {
  readonly name: string
  readonly message: string
  readonly code?: string
  readonly errno?: number
  readonly syscall?: string
  readonly path?: string
  readonly hint?: string
}

/** What the thread says. */
export type ThreadMessage =
  | {
      readonly kind: 'ready'
      readonly apiVersion: number
      readonly features: bigint
      readonly wasTakenOver: boolean
    }
  | { readonly kind: 'refusal' | 'failed'; readonly error: SentError }
  | { readonly kind: 'closed'; readonly error?: SentError }

/** An error for the way between threads. */
export function sendable(error: unknown): SentError {
  if (!(error instanceof Error)) return { name: 'Error', message: String(error) }
  const { name, message } = error
  if (!isVdpaError(error)) return { name, message }
  const { code, errno, syscall, path, hint } = error
  return {
    name,
    message,
    code,
    ...(errno !== undefined && { errno }),
    ...(syscall !== undefined && { syscall }),
    ...(path !== undefined && { path }),
    ...(hint !== undefined && { hint }),
  }
}

function received({ name, message, code, errno, syscall, path, hint }: SentError): Error {
  if (code === undefined) return Object.assign(new Error(message), { name })
  return new VdpaError(code, message, {
    ...(errno !== undefined && { errno }),
    ...(syscall !== undefined && { syscall }),
    ...(path !== undefined && { path }),
    ...(hint !== undefined && { hint }),
  })
}

/** Checks a module's description. */
export function checkModelModule(model: ModelModule): ModelModule {
  checkObject(model, 'model')
  const { module, export: name = 'default', argument } = model
  if (typeof module !== 'string' && !(module instanceof URL)) throw typeError('model.module', 'a path or a URL', module)
  checkString(name, 'model.export')
  return { module, export: name, argument }
}

function urlOf(module: string | URL): string {
  if (module instanceof URL) return module.href
  return /^(file|data):/.test(module) ? module : pathToFileURL(module).href
}

const threadMain = join(__dirname, 'thread-main.js')

/** A thread that serves. */
interface Serving {
  readonly worker: Worker
  /** Where the device is destroyed that a thread left behind. */
  readonly backend: Pick<Backend, 'openAsync'>
  readonly name: string
  readonly refusals: readonly string[]
  /** Hears that the thread is gone. */
  readonly onRefusal: (error: Error) => void
}

class ThreadedHost implements VduseHost {
  readonly name: string
  readonly path: string
  readonly apiVersion: number
  readonly features: bigint
  readonly wasTakenOver: boolean
  readonly refusals: readonly string[]
  readonly #serving: Serving
  #closing: Promise<void> | undefined
  #hasEnded = false

  constructor(serving: Serving, ready: ThreadMessage & { kind: 'ready' }) {
    const { worker, name, refusals } = serving
    this.#serving = serving
    this.name = name
    this.path = devicePath(name)
    this.apiVersion = ready.apiVersion
    this.features = ready.features
    this.wasTakenOver = ready.wasTakenOver
    this.refusals = refusals
    // What ends the thread by itself is a model that threw, and nobody of the program called it.
    worker.on('error', (error) => {
      this.#hasEnded = true
      throwUncaught(error)
    })
    // Or one that called process.exit(), which ends its thread.
    worker.once('exit', (code) => this.#ended(code))
  }

  get isClosed(): boolean {
    return this.#closing !== undefined
  }

  close(): Promise<void> {
    this.#closing ??= this.#close()
    return this.#closing
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  #ended(code: number): void {
    const isToldOf = this.#hasEnded || this.isClosed
    this.#hasEnded = true
    if (isToldOf) return
    const text = `the thread of the device ended by itself, with exit code ${code}: nobody serves it any more`
    this.#serving.onRefusal(vdpaError('ERR_VDPA_STATE', text, { path: this.path }))
  }

  async #close(): Promise<void> {
    if (this.#hasEnded) return this.#destroyLeft()
    const { worker } = this.#serving
    const ended = once(worker, 'exit')
    const answer = nextOf(worker, 'closed')
    worker.postMessage('close')
    const message = await Promise.race([answer, ended.then(() => undefined)])
    if (message?.kind !== 'closed') return this.#destroyLeft()
    // A timer of the module's would keep the thread, and the process, for ever.
    await worker.terminate()
    if (message.error !== undefined) throw received(message.error)
  }

  /** A thread that ended by itself destroyed nothing. */
  async #destroyLeft(): Promise<void> {
    const control = new ControlNode(await this.#serving.backend.openAsync(CONTROL_PATH))
    try {
      await control.destroy(this.name)
    } catch (error) {
      // Somebody else did.
      if (!isRefusal(error, errno.EINVAL)) throw error
    } finally {
      await control.close()
    }
  }
}

function nextOf(worker: Worker, ...kinds: ThreadMessage['kind'][]): Promise<ThreadMessage> {
  return new Promise((resolve) => {
    const listener = (message: ThreadMessage) => {
      if (!kinds.includes(message.kind)) return
      worker.off('message', listener)
      resolve(message)
    }
    worker.on('message', listener)
  })
}

/**
 * Makes what a module makes a device of VDUSE, served on a thread of its own, by the kernel's backend. `backend` destroys the device of a thread that ended by itself. Errors as of hostVduse(), and
 * what the module throws.
 */
export async function hostVduseOnThread(
  model: ModelModule,
  backend: Pick<Backend, 'openAsync'>,
  options: VduseOptions,
): Promise<VduseHost> {
  const { onRefusal, ...checked } = checkVduseOptions(options)
  const { module, export: name = 'default', argument } = checkModelModule(model)
  const data: ThreadData = { url: urlOf(module), name, argument, options: checked }
  const worker = new Worker(threadMain, { workerData: data })
  const kept = new KeptErrors()
  const refused = (error: Error) => kept.add(error, onRefusal)
  worker.on('message', (message: ThreadMessage) => {
    if (message.kind === 'refusal') refused(received(message.error))
  })
  const begun = new Promise<ThreadMessage>((resolve, reject) => {
    worker.once('error', reject)
    worker.once('exit', () =>
      reject(vdpaError('ERR_VDPA_STATE', 'the thread that was to serve the device ended before it did')),
    )
    void nextOf(worker, 'ready', 'failed').then((message) => {
      worker.off('error', reject)
      resolve(message)
    })
  })
  const message = await begun
  if (message.kind === 'ready')
    return new ThreadedHost(
      { worker, backend, name: checked.name, refusals: kept.sentences, onRefusal: refused },
      message,
    )
  // What the module left at work is not to keep the process.
  await worker.terminate()
  throw message.kind === 'failed' ? received(message.error) : new Error('the thread said something else')
}
