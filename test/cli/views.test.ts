// Commands that look at one device, watch all, draw one, and record what is asked of one.

import { once } from 'node:events'
import { mkdtempSync, readFileSync, statSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { createServer, type AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it, test } from '@jest/globals'
import { simulatedHost, type Host } from '../../lib/cli/host'
import { run } from '../../lib/cli/program'
import { VdpaFamily } from '../../lib/management/vdpa-family'
import { openDevice } from '../../lib/open'
import { networkDevice, Simulator } from '../../lib/simulator/index'
import { withoutWordsFor } from '../management/support'
import { Browser, hasBrowser, whyNoBrowser } from '../browser'
import { parseOpenMetrics } from '../observe/open-metrics-parser'
import { until } from '../until'

interface Ran {
  readonly code: number
  readonly out: string
  readonly err: string
}

async function command(words: string, host?: Host, isTTY = false, signal?: AbortSignal): Promise<Ran> {
  let out = ''
  let err = ''
  const code = await run(words.split(' '), {
    stdout: { write: (text) => (out += text), isTTY },
    stderr: { write: (text) => (err += text) },
    environment: {},
    ...(host !== undefined && { host }),
    ...(signal !== undefined && { interrupt: () => signal }),
  })
  return { code, out, err }
}

async function documents(words: string, host?: Host): Promise<Record<string, unknown>[]> {
  const { out, err } = await command(`${words} --json`, host)
  expect(err).toBe('')
  return out
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as Record<string, unknown>)
}

/** `monitor --web`, and where its page is. */
async function servedMonitor(host: Host): Promise<AsyncDisposable & { readonly url: string }> {
  const ending = new AbortController()
  let out = ''
  const ran = run(['monitor', '--web', '--json', '--interval', '20'], {
    stdout: { write: (text) => (out += text) },
    stderr: { write: (text) => (out += text) },
    environment: {},
    host,
    interrupt: () => ending.signal,
  })
  await until(() => out.includes('\n'))
  const close = async () => {
    ending.abort()
    await ran
  }
  return { url: (JSON.parse(out) as { url: string }).url, [Symbol.asyncDispose]: close }
}

/** A host whose only device no management device made. */
function unmanagedHost(simulator = new Simulator()): Host {
  simulator.add(networkDevice({ path: '/dev/vhost-vdpa-3' }))
  return { name: 'a host', isSimulated: true, backend: () => simulator, files: simulator.management.files }
}

let folder = ''
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'vhost-vdpa-cli-'))
})
afterAll(() => rmSync(folder, { recursive: true }))

describe('features, status and config', () => {
  it('do without what the kernel has no words for', async () => {
    const host = await simulatedHost()
    withoutWordsFor(host.backend() as Simulator, 'blk0')
    expect(await command('show blk0', host)).toMatchObject({
      code: 0,
      out: expect.stringContaining('made by'),
      err: '',
    })
    expect(await command('status blk0', host)).toMatchObject({ code: 0, err: '' })
    for (const words of ['config blk0', 'features blk0']) {
      const [{ error } = {}] = await documents(words, host)
      expect(error).toMatchObject({
        code: 'ERR_VDPA_NOT_SUPPORTED',
        message: expect.stringContaining('no configuration of a device of kind block'),
        hint: expect.stringContaining('vhost-vdpa topology'),
      })
    }
  })

  it('say what is offered and what was taken, and do not disturb', async () => {
    const host = await simulatedHost()
    expect((await command('features net0', host)).out).toContain('negotiated nothing yet')
    expect(await command('status net0', host)).toMatchObject({ code: 0, err: '' })
    const device = await openDevice('/dev/vhost-vdpa-0', { backend: host.backend() })
    await device.negotiate(['VIRTIO_NET_F_CTRL_VQ'])
    const { out } = await command('features net0', host)
    expect(out).toMatch(/VIRTIO_NET_F_CTRL_VQ +yes/)
    expect(out).toMatch(/VIRTIO_NET_F_MAC +no/)
    const held = await command('status net0', host)
    expect(held.code).toBe(1)
    expect(held.out).toContain(`pid ${process.pid}`)
    expect(await documents('status net0', host)).toMatchObject([{ version: 1, state: 'held', isNegotiated: true }])
    expect(device.features?.has('VIRTIO_NET_F_CTRL_VQ')).toBe(true)
    await device.close()
  })

  it('tell a device without a driver, or with one that makes no node', async () => {
    const host = await simulatedHost()
    await command('unbind net0', host)
    expect(await documents('status net0', host)).toMatchObject([{ state: 'unbound' }])
    await command('bind net0 virtio_vdpa', host)
    expect(await documents('status net0', host)).toMatchObject([{ state: 'without a node' }])
  })

  it('show the configuration of a disk', async () => {
    expect((await command('config blk0 --simulator')).out).toMatch(/blk0 \(block\)\n {2}capacity +262144/)
    expect(await documents('config net0 --simulator')).toMatchObject([
      { kind: 'net', network: { mac: '02:00:00:00:00:01' } },
    ])
  })

  it('say that nobody tells of a device that no management device made', async () => {
    const host = unmanagedHost()
    for (const verb of ['features', 'config']) {
      const { code, err } = await command(`${verb} vdpa3`, host)
      expect(code).toBe(1)
      expect(err).toContain('ERR_VDPA_NOT_SUPPORTED')
    }
    expect((await command('status vdpa3', host)).code).toBe(0)
  })
})

describe('groups, topology and bench', () => {
  it('show groups', async () => {
    expect(await documents('groups net0 --simulator')).toMatchObject([
      { groups: 2, addressSpaces: 2, queues: [{ role: 'receive', group: 0 }, {}, { role: 'control', group: 1 }] },
    ])
    expect((await command('groups blk0 --simulator')).out).toContain('request')
  })

  it.each([
    ['text', 'group 1: control 2'],
    ['mermaid', 'flowchart LR'],
    ['svg', '<svg xmlns='],
  ])('draw as %s, with the control queue apart', async (format, words) => {
    const { code, out } = await command(`topology net0 --simulator --format ${format}`)
    expect(code).toBe(0)
    expect(out).toContain(words)
  })

  it('leave the device closed, and the control queue where it is when it cannot be apart', async () => {
    const simulator = new Simulator()
    simulator.add(networkDevice({ groups: [0, 0, 0] }))
    const host: Host = {
      name: 'a host',
      isSimulated: true,
      backend: () => simulator,
      files: simulator.management.files,
    }
    expect(await documents('topology vdpa0', host)).toMatchObject([{ topology: { groups: [{ asid: 0 }] } }])
    expect((await command('bench vdpa0 --time 1', host)).out).toContain('VHOST_VDPA_GET_STATUS')
    expect(simulator.descriptors).toEqual([])
  })

  it('name the next step where there is no node', async () => {
    const host = await simulatedHost()
    await command('unbind net0', host)
    for (const verb of ['groups', 'topology', 'bench'])
      expect((await command(`${verb} net0`, host)).err).toContain('`vhost-vdpa bind net0 vhost_vdpa` gives it one')
  })
})

describe('monitor', () => {
  it('gives a JSON line for each look, with rates and events', async () => {
    const host = await simulatedHost()
    const device = await openDevice('/dev/vhost-vdpa-0', { backend: host.backend() })
    await device.negotiate(['VIRTIO_NET_F_CTRL_VQ'])
    let looksAtTheBus = 0
    const files: Host['files'] = {
      ...host.files,
      list: async (path) => {
        if (path.endsWith('bus/vdpa/devices') && ++looksAtTheBus === 2) {
          await device.close()
          await using family = VdpaFamily.open(host.backend())
          await family.delete('blk0')
        }
        return host.files.list(path)
      },
    }
    const [first, second, ...more] = await documents('monitor --count 2 --interval 1', { ...host, files })
    expect(more).toEqual([])
    expect(first).toMatchObject({ version: 1, events: [] })
    expect(second?.events).toEqual(expect.arrayContaining(['blk0 is gone']))
    expect(first).toMatchObject({ devices: [{ name: 'blk0' }, { name: 'net0', queues: [{ counters: {} }, {}, {}] }] })
  })

  it('draws a table anew on a terminal, and ends when it is told', async () => {
    const host = await simulatedHost()
    const { out, code } = await command('monitor --count 2 --interval 1', host, true)
    expect(code).toBe(0)
    expect(out.split('\u001b[H\u001b[J')).toHaveLength(3)
    expect(out).toContain('(Ctrl-C ends)')
    const controller = new AbortController()
    setImmediate(() => controller.abort())
    expect((await command('monitor --interval 1000000', host, false, controller.signal)).code).toBe(0)
    expect(await documents('monitor --count 1', unmanagedHost())).toMatchObject([
      { devices: [{ name: 'vdpa3', silence: 'no management device made it' }] },
    ])
  })
})

test('monitor serves a page, read-only, until its end', async () => {
  const host = await simulatedHost()
  const ending = new AbortController()
  let out = ''
  const ran = run(['monitor', '--web', '--json', '--interval', '20'], {
    stdout: { write: (text) => (out += text) },
    stderr: { write: (text) => (out += text) },
    environment: {},
    host,
    interrupt: () => ending.signal,
  })
  while (!out.includes('\n')) await new Promise((resolve) => setTimeout(resolve, 5))
  const { url } = JSON.parse(out) as { url: string }
  const page = await (await fetch(url)).text()
  expect(page).toContain('<h1>vDPA devices</h1>')
  expect(page).toContain('"name":"net0"')
  expect(await (await fetch(`${url}look`)).json()).toMatchObject({ devices: [{ name: 'blk0' }, { name: 'net0' }] })
  expect((await fetch(url, { method: 'POST' })).status).toBe(405)
  expect((await fetch(new URL('/', url))).status).toBe(404)
  ending.abort()
  expect(await ran).toBe(0)
  await expect(fetch(url)).rejects.toThrow()
  expect((await command('monitor --web 70000', host)).code).toBe(2)
})

test('monitor says that its port is taken, and what to do', async () => {
  const other = createServer()
  await once(other.listen(0, '127.0.0.1'), 'listening')
  const { port } = other.address() as AddressInfo
  expect(await documents(`monitor --simulator --web ${port}`)).toEqual([
    {
      version: 1,
      error: {
        code: 'EADDRINUSE',
        message: `EADDRINUSE: listen on 127.0.0.1:${port}: address in use`,
        hint: 'end what listens there, or leave the port out: one that is free is taken',
      },
    },
  ])
  other.close()
})

test('monitor keeps what happened for a page that asks later', async () => {
  const host = await simulatedHost()
  await using page = await servedMonitor(host)
  const looked = async () =>
    (await (await fetch(`${page.url}look`)).json()) as { at: string; happened: { number: number; text: string }[] }
  const family = VdpaFamily.open(host.backend())
  const turn = async () => {
    const { at } = await looked()
    while ((await looked()).at === at) await new Promise((resolve) => setTimeout(resolve, 5))
  }
  await family.delete('blk0')
  await turn()
  await turn()
  await family.add({ name: 'net7', managementDevice: 'vdpasim_net' })
  await turn()
  await turn()
  expect((await looked()).happened).toMatchObject([
    { number: 1, text: 'blk0 is gone' },
    { number: 2, text: 'net7 appeared' },
  ])
  await family.close()
})

const inBrowser = hasBrowser ? test : test.skip
inBrowser(`the page of monitor follows the host in a browser, and can be read${whyNoBrowser}`, async () => {
  const host = await simulatedHost()
  await using page = await servedMonitor(host)
  await using browser = await Browser.start()
  await browser.open(page.url)
  const shown = () => browser.value('document.body.innerText')
  expect(await shown()).toMatch(/blk0[^]*net0\s+\/dev\/vhost-vdpa-0, free, EAGAIN/)
  await browser.value('window.isTheSame = true')
  await using device = await openDevice('/dev/vhost-vdpa-0', { backend: host.backend() })
  await device.negotiate([])
  await browser.until(`document.querySelectorAll('section[aria-label="net0"] table').length === 1`)
  await using family = VdpaFamily.open(host.backend())
  await family.delete('blk0')
  // A look that saw the counters may have seen the holders before: who opened net0 is told of after what is gone then.
  await browser.until(`document.getElementById('events').innerText.includes('blk0 is gone')`)
  expect(await shown()).toMatch(/^(?![^]*blk0\s+\/dev)[^]*0 receive\s+rx packets\s+0/)
  expect(await browser.value('window.isTheSame')).toBe(true)
  const { origin } = new URL(page.url)
  await browser.open(`${origin}/${'0'.repeat(32)}/`)
  expect(await shown()).toBe('no\n')
})

test('monitor says what it counts in the OpenMetrics form', async () => {
  const host = await simulatedHost()
  await using device = await openDevice('/dev/vhost-vdpa-0', { backend: host.backend() })
  await device.negotiate([])
  const { code, out } = await command('monitor --count 1 --openmetrics', host)
  expect(code).toBe(0)
  const samples = parseOpenMetrics(out)
  expect(samples).toContainEqual({
    name: 'vhost_vdpa_device_held',
    labels: { device: 'net0', node: '/dev/vhost-vdpa-0' },
    value: '1',
  })
  expect(samples).toContainEqual({
    name: 'vhost_vdpa_queue_tx_packets_total',
    labels: { device: 'net0', queue: '1', kind: 'transmit' },
    value: '0',
  })
})

describe('trace', () => {
  it('records a probe, shows it, and replays it', async () => {
    const file = join(folder, 'probe.jsonl')
    const host = await simulatedHost()
    expect(await command(`trace record ${file} net0`, host)).toMatchObject({ code: 0, err: '' })
    expect((await command(`trace show ${file}`)).out).toContain(
      'VHOST_VDPA_GET_VRING_GROUP /dev/vhost-vdpa-0 {index: 2, num: 0} → {index: 2, num: 1} = 0',
    )
    expect((await command(`trace replay ${file} net0`, host)).out).toContain('answers all')
    const simulator = new Simulator()
    simulator.add(networkDevice({ groups: [0, 0, 0] }))
    const other: Host = {
      name: 'a host',
      isSimulated: true,
      backend: () => simulator,
      files: simulator.management.files,
    }
    const [said] = await documents(`trace replay ${file} vdpa0`, other)
    expect(said).toMatchObject({
      difference: { expected: expect.any(String) as unknown, came: expect.any(String) as unknown },
    })
    const { code, out } = await command(`trace replay ${file} vdpa0`, other)
    expect({ code, out }).toEqual({
      code: 1,
      out: expect.stringMatching(/^call \d+ was answered otherwise: .*\n {2}expected .*\n {2}came .*\n$/) as unknown,
    })
    expect(simulator.descriptors).toEqual([])
  })

  it('keeps times, and is drawn for Perfetto', async () => {
    const file = join(folder, 'timed.jsonl')
    const host = await simulatedHost()
    await command(`trace record ${file} net0`, host)
    expect((await command(`trace show ${file}`)).out).toMatch(/^\+\d+\.\d{3} ms {2}open .* = h0 .*\(\d+\.\d{3} ms\)\n/)
    const drawn = join(folder, 'timed.pftrace')
    expect(await documents(`trace convert ${file} ${drawn} --perfetto`)).toMatchObject([
      { format: 'perfetto', bytes: statSync(drawn).size, hasTimes: true },
    ])
    // Field 1 of a Trace, a packet.
    expect(readFileSync(drawn)[0]).toBe(0x0a)
    expect((await command(`trace convert ${file} ${drawn} --trace-events`)).code).toBe(0)
    expect(JSON.parse(readFileSync(drawn, 'utf8'))).toHaveProperty('traceEvents')
    expect((await command(`trace convert ${file} ${drawn} --trace-events --perfetto`)).code).toBe(2)
    expect(await documents(`trace convert ${file} ${folder}/no/such`)).toMatchObject([{ error: { code: 'ENOENT' } }])
    const before = readFileSync(file)
    for (const same of [file, `${folder}/../${basename(folder)}/${basename(file)}`])
      expect(await command(`trace convert ${file} ${same}`)).toMatchObject({ code: 2, out: '' })
    expect(readFileSync(file)).toEqual(before)
  })

  it('says what is wrong with a file', async () => {
    const file = join(folder, 'broken.jsonl')
    writeFileSync(file, 'nonsense\n')
    expect(await documents(`trace show ${file}`)).toMatchObject([{ error: { code: 'ERR_VDPA_TRACE' } }])
    expect(await documents(`trace show ${folder}/none`)).toMatchObject([{ error: { code: 'ENOENT' } }])
    expect(await documents(`trace record ${folder}/no/such net0 --simulator`)).toMatchObject([
      { error: { code: 'ENOENT' } },
    ])
    expect(readFileSync(file, 'utf8')).toBe('nonsense\n')
    truncateSync(file, 3 * 2 ** 30)
    expect(await documents(`trace show ${file}`)).toMatchObject([
      { error: { code: 'ERR_VDPA_TRACE', message: expect.stringContaining(`${file}: it is longer than`) as unknown } },
    ])
  })
})

describe('misuse', () => {
  it.each([
    'features',
    'topology net0 --format gif',
    'monitor --interval 0',
    'monitor --count x',
    'trace',
    'trace frob',
    'trace replay x',
    'bench net0 --time 0',
    'bind net0 --timeout 9999999999',
    'remove net0 --timeout 0',
    'serve block --vhost-user x --size 0',
  ])('%j ends with exit code 2 and words on stderr', async (words) => {
    const { code, out, err } = await command(words)
    expect({ code, out }).toEqual({ code: 2, out: '' })
    expect(err).not.toBe('')
  })
})
