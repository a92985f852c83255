// The served page: who gets it, who is refused, and what it says when the device is gone.

import { request } from 'node:http'
import { connect } from 'node:net'
import { afterEach, describe, expect, test } from '@jest/globals'
import { openDevice } from '../../lib/open.js'
import { networkDevice, Simulator } from '../../lib/simulator/index.js'
import { serveTopology } from '../../lib/topology/serve.js'
import type { WebServer } from '../../lib/topology/web-server.js'

const path = '/dev/vhost-vdpa-0'
const open: AsyncDisposable[] = []
afterEach(async () => {
  for (const one of open.splice(0).reverse()) await one[Symbol.asyncDispose]()
})

async function served() {
  const backend = new Simulator()
  backend.add(networkDevice({ path }))
  const device = await openDevice(path, { backend })
  open.push(device)
  await device.negotiate(['VIRTIO_NET_F_CTRL_VQ'])
  const web = await serveTopology(device)
  open.push(web)
  return { backend, device, web }
}

interface Answer {
  readonly status: number
  readonly headers: Readonly<Record<string, unknown>>
  readonly body: string
}

function ask(
  web: WebServer,
  options: { method?: string; path?: string; headers?: Record<string, string> } = {},
): Promise<Answer> {
  const url = new URL(options.path ?? '', web.url)
  return new Promise((resolve, reject) => {
    const asked = request(url, { agent: false, method: 'GET', ...options, path: url.pathname }, (response) => {
      let body = ''
      response.setEncoding('utf8')
      response.on('data', (text: string) => (body += text))
      response.on('end', () => resolve({ status: response.statusCode ?? 0, headers: response.headers, body }))
    })
    asked.on('error', reject)
    asked.end()
  })
}

describe('who knows the address', () => {
  test('gets the page, and looks that follow the device', async () => {
    const { backend, device, web } = await served()
    const page = await ask(web)
    expect(page).toMatchObject({
      status: 200,
      headers: { 'cache-control': 'no-store', 'referrer-policy': 'no-referrer' },
    })
    expect(page.headers['content-security-policy']).toMatch(/^default-src 'none'; script-src 'sha256-/)
    expect(page.body).toContain('"isLive":true')
    const region = backend.allocate(4096)
    await device.addressSpace(0).map({ iova: 0x1000n, region })
    const { body } = await ask(web, { path: 'look' })
    expect(JSON.parse(body)).toMatchObject({
      topology: { spaces: [{ mappings: [{ first: '0x1000', last: '0x1fff' }] }, { mappings: [] }] },
      picture: expect.stringContaining('0x1000') as unknown,
    })
  })

  test('is told when the device was closed', async () => {
    const { device, web } = await served()
    await device.close()
    const { status, body } = await ask(web, { path: 'look' })
    expect(status).toBe(410)
    expect(JSON.parse(body)).toMatchObject({ error: expect.stringContaining('ERR_VDPA_CLOSED') as unknown })
  })

  test('is answered where the browser leaves the port out, as it does for port 80', async () => {
    const { web } = await served()
    for (const host of ['127.0.0.1', 'localhost']) expect((await ask(web, { headers: { host } })).status).toBe(200)
  })
})

describe('the server refuses', () => {
  test.each(['POST', 'PUT', 'DELETE', 'OPTIONS'])('%s', async (method) => {
    const { web } = await served()
    expect(await ask(web, { method })).toMatchObject({ status: 405, headers: { allow: 'GET, HEAD' } })
  })

  test.each(['/', '/look', `/${'0'.repeat(32)}/`, `/${'é'.repeat(16)}/`, '/../'])(
    '%s, which lacks the token',
    async (wrong) => {
      const { web } = await served()
      expect((await ask(web, { path: wrong })).status).toBe(404)
    },
  )

  test('what there is not beside the page', async () => {
    const { web } = await served()
    expect((await ask(web, { path: 'else' })).status).toBe(404)
  })

  test.each([{ host: 'evil.example' }, { host: 'evil.example:80' }, { 'sec-fetch-site': 'cross-site' }])(
    '%j: a page of somebody else asks',
    async (headers) => {
      const { web } = await served()
      expect((await ask(web, { headers })).status).toBe(403)
    },
  )

  test('all but loopback, and everybody after close()', async () => {
    const { web } = await served()
    const { hostname, port } = new URL(web.url)
    expect(hostname).toBe('127.0.0.1')
    expect(new URL(web.url).pathname).toMatch(/^\/[0-9a-f]{32}\/$/)
    expect((await served()).web.url.slice(-33)).not.toBe(web.url.slice(-33))
    await web.close()
    await web.close()
    await expect(
      new Promise((resolve, reject) => connect(Number(port), hostname, () => resolve('open')).on('error', reject)),
    ).rejects.toMatchObject({ code: 'ECONNREFUSED' })
  })

  test('a device whose features are not negotiated', async () => {
    const backend = new Simulator()
    backend.add(networkDevice({ path }))
    await using device = await openDevice(path, { backend })
    await expect(serveTopology(device)).rejects.toMatchObject({ code: 'ERR_VDPA_STATE' })
    await device.negotiate([])
    await expect(serveTopology(device, { port: 70_000 })).rejects.toThrow(RangeError)
  })
})
