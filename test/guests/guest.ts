// A real guest, as tests hold it: booted by scripts/guests/run.mjs, with what it says line by line; and a suite that is skipped, with the reason, where there is none.

import { describe, expect } from '@jest/globals'
import { spawn, spawnSync, type ChildProcess } from 'node:child_process'
import { join } from 'node:path'
import { packageRoot } from '../native/support'

const runner = join(packageRoot(), 'scripts/guests/run.mjs')

/** User Mode Linux, or QEMU, which emulates a PC; the third is one whose IOMMU is the device, and the fourth one whose
 * devices are nodes of vhost-vdpa. */
export type Machine = 'uml' | 'qemu' | 'iommu' | 'vdpa'

/** A suite that needs guests, of these machines. */
export function describeGuest(title: string, body: () => void, machines: readonly Machine[] = ['uml']): void {
  const check = (machine: Machine) =>
    spawnSync(process.execPath, [runner, '--machine', machine, '--check'], { encoding: 'utf8' })
  const checks = machines.map(check)
  const { status, stderr } = checks.find((each) => each.status !== 0) ?? { status: 0, stderr: '' }
  const suite = status === 0 ? describe : describe.skip
  suite(status === 0 ? title : `${title} (skipped: ${stderr.trim()})`, () => {
    body()
  })
}

/**
 * One guest that runs a script. `devices` are `<socket>:<virtio device id>`, with properties behind it where the machine is QEMU. It is killed at the end of the
 * block that made it.
 */
export class Guest {
  readonly #process: ChildProcess
  readonly #ended: Promise<void>
  readonly #waiters = new Set<() => void>()
  #hasEnded = false
  #output = ''

  /** `more` words are the machine's own: `--monitor`, `--incoming`. */
  constructor(script: string, devices: readonly string[], machine: Machine = 'uml', more: readonly string[] = []) {
    const words = [runner, '--machine', machine, ...more, '--script', script, ...devices]
    // The environment as the test sees it: without being told, a child has that of jest.
    this.#process = spawn(process.execPath, words, { env: process.env })
    const hear = (chunk: Buffer) => {
      this.#output += chunk.toString('latin1')
      this.#wake()
    }
    this.#process.stdout?.on('data', hear)
    this.#process.stderr?.on('data', hear)
    this.#ended = new Promise((resolve) => {
      this.#process.once('close', () => {
        this.#hasEnded = true
        this.#wake()
        resolve()
      })
    })
  }

  /** All that was printed. */
  get output(): string {
    return this.#output
  }

  /** What the script said, line by line. */
  get said(): string[] {
    return [...this.#output.matchAll(/^guest: (.*?)\r*\n/gm)].map(([, line]) => line ?? '')
  }

  /** Resolves with the line that begins so, once it was said; rejects when the guest ends before. */
  async saying(beginning: string): Promise<string> {
    for (;;) {
      const line = this.said.find((each) => each.startsWith(beginning))
      if (line !== undefined) return line.slice(beginning.length).trim()
      if (this.#hasEnded)
        throw new Error(`the guest ended before it said "${beginning}":\n${this.#output.slice(-4000)}`)
      await new Promise<void>((resolve) => {
        const waiter = () => {
          this.#waiters.delete(waiter)
          resolve()
        }
        this.#waiters.add(waiter)
      })
    }
  }

  /** Resolves with all that it said, once it was switched off. */
  async end(): Promise<string[]> {
    await this.saying('done')
    await this.#ended
    return this.said
  }

  /** As kill -9, with its devices' connections. */
  async kill(): Promise<void> {
    this.#process.kill('SIGTERM')
    await this.#ended
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#hasEnded) await this.kill()
  }

  #wake(): void {
    for (const waiter of [...this.#waiters]) waiter()
  }
}

/** The end of a guest that ran `fillsDisk`: resolves with the checksum of what it wrote, which it found again. */
export async function filled(guest: Guest): Promise<string> {
  expect(await guest.saying('made')).toBe('0')
  const sum = await guest.saying('sum')
  expect(sum).toMatch(/^[0-9a-f]{64}/)
  expect(await guest.saying('unmounted')).toBe('0')
  expect(await guest.saying('after')).toBe(sum)
  await guest.end()
  return sum
}
