// QEMU as somebody asks it who moves its guest: its monitor's socket (QMP), one command after another.

import { connect, type Socket } from 'node:net'
import { createInterface } from 'node:readline'
import { until } from '../until'

/** What a monitor says: an answer, an event, or its greeting. */
interface Said {
  readonly return?: unknown
  readonly error?: { readonly desc: string }
  readonly event?: string
  readonly data?: { readonly status?: string }
}

/** The monitor of one QEMU. */
export class Monitor {
  /** The last word of a migration. */
  status = 'none'
  readonly #socket: Socket
  readonly #answers: Said[] = []

  private constructor(socket: Socket) {
    this.#socket = socket
    createInterface(socket).on('line', (line) => {
      const said = JSON.parse(line) as Said
      if (said.return !== undefined || said.error !== undefined) this.#answers.push(said)
      if (said.event === 'MIGRATION') this.status = said.data?.status ?? this.status
    })
  }

  /** Connects to a QEMU, once it listens. */
  static async at(path: string): Promise<Monitor> {
    let socket = await connected(path)
    while (socket === undefined) socket = await connected(path)
    const monitor = new Monitor(socket)
    await monitor.ask('qmp_capabilities')
    return monitor
  }

  /** One command; what it returns. */
  async ask(execute: string, words: object = {}): Promise<unknown> {
    this.#socket.write(`${JSON.stringify({ execute, arguments: words })}\n`)
    await until(() => this.#answers.length > 0)
    const answer = this.#answers.shift()
    if (answer?.error !== undefined) throw new Error(`${execute}: ${answer.error.desc}`)
    return answer?.return
  }

  /** Resolves once the migration is so; rejects when it has failed. */
  async is(status: string): Promise<void> {
    await until(() => [status, 'failed'].includes(this.status))
    if (this.status === 'failed') throw new Error(`not moved: ${JSON.stringify(await this.ask('query-migrate'))}`)
  }

  [Symbol.dispose](): void {
    this.#socket.destroy()
  }
}

/** Undefined where nobody listens yet. */
function connected(path: string): Promise<Socket | undefined> {
  return new Promise((resolve) => {
    const socket = connect(path)
    socket.once('connect', () => resolve(socket))
    socket.once('error', () => setTimeout(resolve, 5, undefined))
  })
}

/** How a guest is moved. */
export interface MigrateOptions {
  /** The way from one QEMU to the other. */
  readonly socket: string
  /** The guest runs, and its memory is being sent, slowly until this is over. */
  readonly whileItRuns: () => Promise<void>
  /** The guest stands still. */
  readonly beforeItGoesOn: () => void
}

/** `from` sends its guest to `to`, which waits for one. */
export async function migrate(from: Monitor, to: Monitor, options: MigrateOptions): Promise<void> {
  const uri = `unix:${options.socket}`
  const capabilities = (...names: string[]) => ({
    capabilities: names.map((capability) => ({ capability, state: true })),
  })
  await from.ask('migrate-set-capabilities', capabilities('events', 'pause-before-switchover'))
  await to.ask('migrate-set-capabilities', capabilities('events'))
  await to.ask('migrate-incoming', { uri })
  await from.ask('migrate-set-parameters', { 'max-bandwidth': 4096, 'downtime-limit': 60_000 })
  await from.ask('migrate', { uri })
  await from.is('active')
  await options.whileItRuns()
  await from.ask('migrate-set-parameters', { 'max-bandwidth': 2 ** 40 })
  await from.is('pre-switchover')
  options.beforeItGoesOn()
  await from.ask('migrate-continue', { state: 'pre-switchover' })
  await from.is('completed')
  await to.is('completed')
}
