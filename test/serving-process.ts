// The command where it serves a device, in a process of its own that tests end and kill.

import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { until } from './until'

/** Milliseconds in which a program of Node has begun on any machine. */
const STARTS_IN = 400_000

/** `vhost-vdpa serve …`, or `bridge …`, in a process of its own. */
export class ServingProcess {
  readonly #child: ChildProcess
  readonly #ended: Promise<unknown>
  #out = ''
  #err = ''

  private constructor(main: string, words: readonly string[]) {
    this.#child = spawn(process.execPath, [main, '--json', ...words])
    this.#child.stdout?.on('data', (bytes: Buffer) => (this.#out += bytes.toString()))
    this.#child.stderr?.on('data', (bytes: Buffer) => (this.#err += bytes.toString()))
    this.#ended = once(this.#child, 'close')
  }

  /** Starts one by the command's file and its words, and waits until it serves. */
  static async start(main: string, words: readonly string[]): Promise<ServingProcess> {
    const serving = new ServingProcess(main, words)
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

  [Symbol.asyncDispose](): Promise<void> {
    return this.kill()
  }
}
