// `bridge` and `serve`: devices for virtual machines, at a vhost-user socket, until an interrupt.

import { once } from 'node:events'
import { openDevice } from '../open.js'
import { blockDevice, bridgeVhostUser, networkDevice, serveVhostUser } from '../serve.js'
import type { Host } from './host.js'
import { nodeOf } from './opened.js'
import { jsonLine, type Report, type Sink } from './output.js'

/** Where to listen, and how long. */
export interface ListeningOptions {
  /** A path of at most 107 bytes. */
  readonly socket: string
  readonly stdout: Sink
  readonly isJson: boolean
  /** Ends it. */
  readonly signal: AbortSignal
}

/** What a model is to be like. */
export interface ModelOptions {
  readonly mac: string
  readonly queuePairs: number
  /** MiB of the disk, which is in memory. */
  readonly size: number
}

const SECTORS_A_MEBIBYTE = 2048

/** A vDPA device for a virtual machine. Errors of openDevice() and bridgeVhostUser(). */
export async function bridge(host: Host, name: string, options: ListeningOptions): Promise<Report> {
  await using device = await openDevice(await nodeOf(host, name), { backend: host.backend() })
  await using bridge = await bridgeVhostUser(device, { socket: options.socket })
  const { isolation } = bridge
  const about = isolation?.isolated === false ? `; guests have no control queue: ${isolation.reason}` : ''
  await listen(`${name} is at ${bridge.path}${about}`, { device: name, socket: bridge.path, isolation }, options)
  return ended(bridge)
}

/** A model for virtual machines, one after another. Errors of serveVhostUser(). */
export async function serve(kind: 'net' | 'block', model: ModelOptions, options: ListeningOptions): Promise<Report> {
  const { mac, queuePairs, size } = model
  const made =
    kind === 'net' ? networkDevice({ mac, queuePairs }) : blockDevice({ capacity: size * SECTORS_A_MEBIBYTE })
  using server = serveVhostUser(made, { socket: options.socket })
  await listen(`a ${kind} device is at ${server.path}`, { kind, socket: server.path }, options)
  return ended(server)
}

async function listen(sentence: string, data: Record<string, unknown>, options: ListeningOptions): Promise<void> {
  const { stdout, isJson, signal } = options
  stdout.write(isJson ? jsonLine(data) : `${sentence}\n`)
  if (!signal.aborted) await once(signal, 'abort')
}

function ended({
  refusals,
  refusalCount,
}: {
  readonly refusals: readonly string[]
  readonly refusalCount: number
}): Report {
  return { data: { refusals, refusalCount }, lines: refusals.map((refusal) => `refused: ${refusal}`) }
}
