// DPDK's testpmd as a peer: its virtio-user is a driver in a process of its own, at a vhost-user socket or at a node of vhost-vdpa.

import { describe, expect } from '@jest/globals'
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readFileSync } from 'node:fs'
import type { NetworkDevice } from '../lib/serve'
import { until } from './until'

/** Where its own frames (`flowgen`) go to: the address of a device that is to give them back. */
export const FLOW_MAC = '00:01:02:03:04:01'

const PROGRAM = '/usr/bin/dpdk-testpmd'

/** A suite that needs it; `mend` is how it comes to where this runs. Where it `isLong`, it runs when VHOST_VDPA_LONG is set. */
export function describeTestpmd(title: string, mend: string, body: () => void, isLong = false): void {
  const lacks = existsSync(PROGRAM) ? '' : ` (skipped: there is no ${PROGRAM}: ${mend})`
  const waits = isLong && process.env.VHOST_VDPA_LONG === undefined ? ` (skipped: it takes minutes: ${mend})` : ''
  const suite = lacks + waits === '' ? describe : describe.skip
  suite(`${title}${lacks || waits}`, body)
}

/** The processors that this process may use, as the kernel lists them. */
const processors = () => /^Cpus_allowed_list:\s*(\S+)/m.exec(readFileSync('/proc/self/status', 'latin1'))?.[1] ?? '0'

/** Another program, with what it said. It is killed at the end of the block that made it. */
export class PeerProgram {
  readonly #child: ChildProcess
  readonly #ended: Promise<unknown>
  said = ''

  constructor(command: string, words: readonly string[]) {
    // Below it DPDK keeps what its processes share.
    const env = { ...process.env, XDG_RUNTIME_DIR: '/tmp' }
    this.#child = spawn(command, words, { stdio: ['ignore', 'pipe', 'pipe'], env })
    for (const stream of [this.#child.stdout, this.#child.stderr])
      stream?.on('data', (bytes: Buffer) => (this.said += bytes.toString('latin1')))
    this.#ended = once(this.#child, 'close')
  }

  get hasEnded(): boolean {
    return this.#child.exitCode !== null || this.#child.signalCode !== null
  }

  /** Waits for what it brings about; rejects with what it said when it ends before. */
  async until(isSo: () => boolean, milliseconds: number): Promise<void> {
    try {
      await until(() => isSo() || this.hasEnded, milliseconds)
    } catch (failure) {
      throw new Error(`it did not come to that:\n${this.said.slice(-4000)}`, { cause: failure })
    }
    if (!isSo()) throw new Error(`it ended:\n${this.said.slice(-4000)}`)
  }

  /** Resolves when it is gone, and all that it said is here. */
  async end(signal: 'SIGINT' | 'SIGKILL'): Promise<void> {
    if (!this.hasEnded) this.#child.kill(signal)
    await this.#ended
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.end('SIGKILL')
  }
}

/** Sends frames as fast as it can from when it runs, and takes what comes back. `more` are properties of its device, `forwarding` words of its own. */
export function startTestpmd(path: string, more = '', forwarding: readonly string[] = []): PeerProgram {
  return new PeerProgram(PROGRAM, [
    ...['--lcores', `(0,1)@(${processors()})`, '--no-pci', '--no-telemetry', '--no-huge', '-m', '256'],
    // Several at once, each with files of its own name.
    ...['--iova-mode=va', '--file-prefix', `peer${process.pid}-${count++}`],
    ...[`--vdev=net_virtio_user0,path=${path},mac=${FLOW_MAC}${more}`, '--'],
    ...['--forward-mode=flowgen', '--nb-cores=1', '--total-num-mbufs=4096', '--auto-start', '--stats-period=5'],
    ...forwarding,
  ])
}
let count = 0

/** Both ends agree on the frames of one that was ended on the way. */
export function expectSameCounts(testpmd: PeerProgram, { counters }: NetworkDevice): void {
  const { sent, received } = countsOf(testpmd)
  // On the way to and fro: what it gave the device may not have been taken yet, and so what the device gave it.
  expect(sent).toBeGreaterThanOrEqual(counters.txPackets)
  expect(counters.txPackets).toBeGreaterThanOrEqual(counters.rxPackets)
  expect(counters.rxPackets).toBeGreaterThanOrEqual(received)
  expect(received).toBeGreaterThan(0)
}

/** The frames that one that has ended gave its device, and those that it took from it. */
function countsOf({ said }: PeerProgram): { readonly sent: number; readonly received: number } {
  const [, all = ''] = /Accumulated forward statistics for all ports(.*)/s.exec(said) ?? []
  const numberOf = (name: string) => Number(new RegExp(`${name}: (\\d+)`).exec(all)?.[1])
  return { sent: numberOf('TX-packets'), received: numberOf('RX-packets') }
}
