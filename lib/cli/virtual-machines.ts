// `bridge`: a vDPA device for virtual machines, at a vhost-user socket, until an interrupt.

import { once } from 'node:events'
import { openDevice } from '../open.js'
import { bridgeVhostUser, type BridgeVhostUserOptions } from '../serve.js'
import type { Host } from './host.js'
import { nodeOf } from './opened.js'
import { jsonLine, type Report, type Sink } from './output.js'

/** How long to go on, and where to say so. */
export interface ListeningOptions {
  readonly stdout: Sink
  readonly stderr: Sink
  readonly isJson: boolean
  /** Ends it. */
  readonly signal: AbortSignal
}

/** Where a bridge listens, and where the device's control queue may lie. */
export type BridgeWords = Pick<BridgeVhostUserOptions, 'socket' | 'mode'>

/** A vDPA device for a virtual machine. Errors of openDevice() and bridgeVhostUser(). */
export async function bridge(host: Host, name: string, words: BridgeWords, options: ListeningOptions): Promise<Report> {
  await using device = await openDevice(await nodeOf(host, name), { backend: host.backend() })
  await using bridge = await bridgeVhostUser(device, words)
  const { isolation, dirtyLog } = bridge
  const where =
    words.mode === 'auto' ? "the control queue lies with the guest's memory" : 'guests have no control queue'
  const control = isolation?.isolated === false ? `; ${where}: ${isolation.reason}` : ''
  const log = dirtyLog.isOffered ? '' : `; front ends have no dirty log to migrate with: ${dirtyLog.reason}`
  const data = { device: name, socket: bridge.path, isolation, dirtyLog }
  await listen(`${name} is at ${bridge.path}${control}${log}`, data, options)
  return ended(bridge)
}

/** Says that it began, and waits for the interrupt. */
export async function listen(
  sentence: string,
  data: Record<string, unknown>,
  options: ListeningOptions,
): Promise<void> {
  const { stdout, isJson, signal } = options
  stdout.write(isJson ? jsonLine(data) : `${sentence}\n`)
  if (!signal.aborted) await once(signal, 'abort')
}

/** What is said at the end: what was refused. */
export function ended({
  refusals,
  refusalCount,
}: {
  readonly refusals: readonly string[]
  readonly refusalCount: number
}): Report {
  return { data: { refusals, refusalCount }, lines: refusals.map((refusal) => `refused: ${refusal}`) }
}
