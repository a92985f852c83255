// A browser for tests of pages: headless chromium, which is told what to do through its own pipe, as a person would do it with keys.

import { spawn, spawnSync, type ChildProcess } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Readable, Writable } from 'node:stream'
import { until } from './until.js'

/** Whether there is one on this machine. */
export const hasBrowser = spawnSync('chromium', ['--version']).status === 0
/** For the title of a test that is skipped where there is none. */
export const whyNoBrowser = hasBrowser ? '' : ' (skipped: there is no chromium; `apt-get install chromium` brings it)'

interface Answer {
  readonly id?: number
  readonly result?: Record<string, unknown>
  readonly error?: { readonly message: string }
}

/** Keys that a test presses, by name, and what the browser wants to know of each. */
const keys = {
  Tab: { key: 'Tab', code: 'Tab', windowsVirtualKeyCode: 9 },
  Enter: { key: 'Enter', code: 'Enter', windowsVirtualKeyCode: 13, text: '\r' },
  Plus: { key: '+', code: 'NumpadAdd', windowsVirtualKeyCode: 107, text: '+' },
  Minus: { key: '-', code: 'Minus', windowsVirtualKeyCode: 189, text: '-' },
  ArrowRight: { key: 'ArrowRight', code: 'ArrowRight', windowsVirtualKeyCode: 39 },
  Home: { key: 'Home', code: 'Home', windowsVirtualKeyCode: 36 },
} as const

/** One browser with one page. */
export class Browser implements AsyncDisposable {
  readonly #folder = mkdtempSync(join(tmpdir(), 'vhost-vdpa-browser-'))
  readonly #process: ChildProcess
  readonly #waiting = new Map<number, (answer: Answer) => void>()
  readonly #ended: Promise<void>
  #session: string | undefined
  #asked = 0

  private constructor() {
    const options = ['--headless', '--no-sandbox', '--disable-gpu', '--no-first-run', '--remote-debugging-pipe']
    // It reads what it is told from descriptor 3, and answers on 4.
    this.#process = spawn('chromium', [...options, `--user-data-dir=${this.#folder}`, '--window-size=1200,1000'], {
      stdio: ['ignore', 'ignore', 'ignore', 'pipe', 'pipe'],
    })
    this.#ended = new Promise((resolve) => {
      this.#process.once('close', () => {
        for (const answer of this.#waiting.values()) answer({ error: { message: 'the browser has ended' } })
        resolve()
      })
    })
    let rest = ''
    const output = this.#process.stdio[4] as Readable
    output.setEncoding('utf8')
    output.on('data', (text: string) => {
      const lines = (rest + text).split('\0')
      rest = lines.pop() ?? ''
      for (const line of lines) this.#take(JSON.parse(line) as Answer)
    })
  }

  /** Starts it, with an empty page. */
  static async start(): Promise<Browser> {
    const browser = new Browser()
    const { targetId } = await browser.#ask('Target.createTarget', { url: 'about:blank' })
    const { sessionId } = await browser.#ask('Target.attachToTarget', { targetId, flatten: true })
    browser.#session = String(sessionId)
    return browser
  }

  /** Opens an address, and waits until its document is complete. */
  async open(url: string): Promise<void> {
    const { errorText } = await this.#ask('Page.navigate', { url })
    if (errorText !== undefined) throw new Error(`${url}: ${JSON.stringify(errorText)}`)
    await this.until(`location.href === ${JSON.stringify(url)} && document.readyState === 'complete'`)
  }

  /** The value of an expression in the page; it is no script of the page's, so that the page's policy need not allow it. */
  async value(expression: string): Promise<unknown> {
    const { result, exceptionDetails } = await this.#ask('Runtime.evaluate', { expression, returnByValue: true })
    if (exceptionDetails !== undefined) throw new Error(`${expression}: ${JSON.stringify(exceptionDetails)}`)
    return (result as { readonly value?: unknown }).value
  }

  /** Waits until an expression is true in the page. */
  async until(expression: string): Promise<void> {
    let isSo = false
    let failure: unknown
    let isAsking = false
    await until(() => {
      if (!isAsking && !isSo) {
        isAsking = true
        this.value(expression).then(
          (value) => ((isSo = value === true), (isAsking = false)),
          (reason: unknown) => (failure = reason),
        )
      }
      return isSo || failure !== undefined
    })
    if (failure !== undefined) throw failure as Error
  }

  /** Presses and lets go of a key. */
  async press(name: keyof typeof keys): Promise<void> {
    await this.#ask('Input.dispatchKeyEvent', { type: 'keyDown', ...keys[name] })
    await this.#ask('Input.dispatchKeyEvent', { type: 'keyUp', ...keys[name] })
  }

  /** As if the person liked light or dark. */
  async prefer(scheme: 'light' | 'dark'): Promise<void> {
    await this.#ask('Emulation.setEmulatedMedia', { features: [{ name: 'prefers-color-scheme', value: scheme }] })
  }

  /** The page as a PNG, for eyes. */
  async screenshot(): Promise<Buffer> {
    const { data } = await this.#ask('Page.captureScreenshot', { captureBeyondViewport: true })
    return Buffer.from(String(data), 'base64')
  }

  /** Ends it, and leaves nothing behind. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#session = undefined
    await this.#ask('Browser.close').catch(() => undefined)
    await this.#ended
    rmSync(this.#folder, { recursive: true, force: true, maxRetries: 5 })
  }

  async #ask(method: string, params: object = {}): Promise<Record<string, unknown>> {
    const id = ++this.#asked
    const session = this.#session === undefined ? {} : { sessionId: this.#session }
    const answered = new Promise<Answer>((resolve) => this.#waiting.set(id, resolve))
    const input = this.#process.stdio[3] as Writable
    input.write(`${JSON.stringify({ id, method, params, ...session })}\0`)
    const { result, error } = await answered
    if (error !== undefined) throw new Error(`${method}: ${error.message}`)
    return result ?? {}
  }

  #take(answer: Answer): void {
    if (answer.id === undefined) return
    this.#waiting.get(answer.id)?.(answer)
    this.#waiting.delete(answer.id)
  }
}
