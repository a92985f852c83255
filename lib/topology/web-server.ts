// A small web server that shows and changes nothing: loopback alone, GET alone, and only for who knows its random token.

import { randomBytes, timingSafeEqual } from 'node:crypto'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { checkInteger } from '../base/checks.js'

/** What is shown. */
export interface WebViews {
  /** The page, as it is now. */
  page(): string
  /** What the page asks for again and again, as JSON. */
  look(): string
  /** What the page may load and run. */
  readonly policy: string
}

/** Where it listens. */
export interface WebOptions {
  /** The port on 127.0.0.1; 0, the default, lets the system choose. */
  readonly port?: number
}

const HOST = '127.0.0.1'
const TOKEN_BYTES = 16

/** A server that listens. It does not keep the process alive by itself unless it is asked to by `ref()`. */
export class WebServer implements AsyncDisposable {
  readonly #server: Server
  readonly #token = randomBytes(TOKEN_BYTES).toString('hex')
  readonly #views: WebViews
  #end: Promise<void> | undefined

  private constructor(views: WebViews) {
    this.#views = views
    this.#server = createServer((request, response) => this.#answer(request, response))
    this.#server.unref()
  }

  /** Listens on loopback. EADDRINUSE, EACCES as Node's own errors. */
  static async listen(views: WebViews, { port = 0 }: WebOptions = {}): Promise<WebServer> {
    checkInteger(port, 'port', 0, 0xffff)
    const web = new WebServer(views)
    await new Promise<void>((resolve, reject) => {
      web.#server.once('error', reject)
      web.#server.listen(port, HOST, () => {
        web.#server.off('error', reject)
        resolve()
      })
    })
    return web
  }

  /** The address with the token, for a browser on this machine. */
  get url(): string {
    return `http://${HOST}:${this.#port}/${this.#token}/`
  }

  /** Keeps the process alive while it listens. */
  ref(): void {
    this.#server.ref()
  }

  /** Whether close() was called. */
  get isClosed(): boolean {
    return this.#end !== undefined
  }

  /** Ends it, and every connection. */
  close(): Promise<void> {
    this.#end ??= new Promise((resolve) => {
      this.#server.close(() => resolve())
      this.#server.closeAllConnections()
    })
    return this.#end
  }

  /** close(). */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  get #port(): number {
    return (this.#server.address() as AddressInfo | null)?.port ?? 0
  }

  #answer(request: IncomingMessage, response: ServerResponse): void {
    const status = this.#refusal(request)
    if (status !== undefined) return send(response, status, 'text/plain', 'no\n')
    const path = request.url?.slice(TOKEN_BYTES * 2 + 2)
    try {
      if (path === '') return send(response, 200, 'text/html', this.#views.page(), this.#views.policy)
      if (path === 'look') return send(response, 200, 'application/json', this.#views.look())
    } catch (failure) {
      // What is shown may be gone, while the page goes on asking.
      const error = failure instanceof Error ? failure.message : String(failure)
      return send(response, 410, 'application/json', JSON.stringify({ error }))
    }
    send(response, 404, 'text/plain', 'no\n')
  }

  /** Why a request is not answered, as a status; undefined where it is. */
  #refusal({ method, headers, url = '' }: IncomingMessage): number | undefined {
    // A page elsewhere that had its own name point to this machine would come with that name.
    // It leaves port 80 out.
    const names = [HOST, 'localhost'].flatMap((name) => [name, `${name}:${this.#port}`])
    if (headers.host === undefined || !names.includes(headers.host)) return 403
    const site = headers['sec-fetch-site']
    if (site !== undefined && site !== 'same-origin' && site !== 'none') return 403
    if (!this.#isTokenIn(url)) return 404
    return method === 'GET' || method === 'HEAD' ? undefined : 405
  }

  #isTokenIn(url: string): boolean {
    const start = Buffer.from(url.slice(0, TOKEN_BYTES * 2 + 2).padEnd(TOKEN_BYTES * 2 + 2))
    const expected = Buffer.from(`/${this.#token}/`)
    return start.length === expected.length && timingSafeEqual(start, expected)
  }
}

function send(
  response: ServerResponse,
  status: number,
  type: string,
  body: string,
  policy = "default-src 'none'",
): void {
  response.writeHead(status, {
    'content-type': `${type}; charset=utf-8`,
    'content-security-policy': `${policy}; frame-ancestors 'none'`,
    'cache-control': 'no-store',
    'referrer-policy': 'no-referrer',
    'x-content-type-options': 'nosniff',
    ...(status === 405 && { allow: 'GET, HEAD' }),
  })
  response.end(body)
}
