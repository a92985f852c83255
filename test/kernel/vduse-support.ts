// What the suites of VDUSE share: bytes and their sums, disks that appear, and servers in processes of their own.

import { execFileSync, spawn, type ChildProcess } from 'node:child_process'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { existsSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { until } from '../until'

export const pattern = (length: number, seed: number) => Uint8Array.from({ length }, (_, at) => (at * 7 + seed) & 0xff)

/** Of bytes, whose difference would take the emulated machine minutes to show. */
export const sumOf = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex')

/** Runs a program that nothing of this thread has to answer. */
export const run = (command: string, ...words: string[]) => execFileSync(command, words, { encoding: 'utf8' })

/** The disk that was not there before. */
export async function newDisk(before: readonly string[]): Promise<string> {
  let disk = ''
  await until(() => {
    disk = `/dev/${readdirSync('/sys/block').find((name) => !before.includes(name)) ?? 'none'}`
    return existsSync(disk)
  })
  return disk
}

/** Files of many lengths in some folders, and the sum of each. */
export function writeTree(folder: string): Map<string, string> {
  const sums = new Map<string, string>()
  for (let count = 0; count < 40; count++) {
    const bytes = pattern(1 + count * 4001, count)
    const name = `d${count % 5}/file${count}`
    mkdirSync(join(folder, `d${count % 5}`), { recursive: true })
    writeFileSync(join(folder, name), bytes)
    sums.set(name, sumOf(bytes))
  }
  return sums
}

/** Milliseconds in which a program of Node has begun on any machine. */
const STARTS_IN = 400_000

/** `vhost-vdpa serve …` in a process of its own. */
export class ServingProcess {
  readonly #child: ChildProcess
  readonly #ended: Promise<unknown>
  #out = ''
  #err = ''

  private constructor(words: readonly string[]) {
    this.#child = spawn(process.execPath, [
      require.resolve('../../lib/cli/main'),
      '--json',
      'serve',
      ...words,
      '--timeout',
      '60000',
    ])
    this.#child.stdout?.on('data', (bytes: Buffer) => (this.#out += bytes.toString()))
    this.#child.stderr?.on('data', (bytes: Buffer) => (this.#err += bytes.toString()))
    this.#ended = once(this.#child, 'close')
  }

  /** Starts one and waits until it serves. */
  static async start(...words: string[]): Promise<ServingProcess> {
    const serving = new ServingProcess(words)
    const serves = () => serving.#out.includes('\n')
    await until(() => serves() || serving.#hasEnded, STARTS_IN)
    // A refusal is a line of its own on stdout, as what it serves is.
    if (!serves() || 'error' in serving.begun) {
      // What it said may still be in its pipes when it is gone.
      await serving.#ended
      throw new Error(`it ended: ${serving.#out}${serving.#err}`)
    }
    return serving
  }

  get #hasEnded(): boolean {
    return this.#child.exitCode !== null || this.#child.signalCode !== null
  }

  /** What it said first. */
  get begun(): Readonly<Record<string, unknown>> {
    return JSON.parse(this.#out.split('\n')[0] ?? '') as Record<string, unknown>
  }

  /** What it said on stderr. */
  get complaints(): string {
    return this.#err
  }

  /** Ends it: its exit code, and what it said last. */
  async end(signal: 'SIGTERM' | 'SIGINT' | 'SIGKILL'): Promise<readonly [code: number | null, last: string]> {
    this.#child.kill(signal)
    await this.#ended
    return [this.#child.exitCode, this.#out.trimEnd().split('\n').at(-1) ?? '']
  }

  /** Ends one that was not. */
  async kill(): Promise<void> {
    if (!this.#hasEnded) await this.end('SIGKILL')
  }
}
