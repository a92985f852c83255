// What is told on diagnostics channels: every request and event, in order, after the procedure that it is a part of; nothing where nobody listens.

import { channel, subscribe, unsubscribe } from 'node:diagnostics_channel'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, describe, expect, test } from '@jest/globals'
import {
  diagnosticsChannels,
  type IotlbWriteMessage,
  type RequestMessage,
  type StateMessage,
} from '../../lib/base/diagnostics.js'
import { NetDriver } from '../../lib/drivers/net-driver.js'
import { RegionTranslator } from '../../lib/misses/region-translator.js'
import { MissServer } from '../../lib/misses/miss-server.js'
import { openDevice } from '../../lib/open.js'
import { networkDevice, Simulator } from '../../lib/simulator/index.js'
import { VhostVdpaTransport } from '../../lib/transport/vhost-vdpa.js'

const path = '/dev/vhost-vdpa-0'

type Name = keyof typeof diagnosticsChannels
const endings: (() => void)[] = []
afterEach(() => {
  for (const end of endings.splice(0)) end()
})

/** What comes on a channel from now on, until the test ends. */
function listen(name: Name, then: (message: unknown) => void = () => undefined): unknown[] {
  const messages: unknown[] = []
  const listener = (message: unknown): void => {
    messages.push(message)
    then(message)
  }
  subscribe(diagnosticsChannels[name], listener)
  endings.push(() => unsubscribe(diagnosticsChannels[name], listener))
  return messages
}

function world() {
  const simulator = new Simulator()
  const model = networkDevice({ path, mac: '02:00:00:00:00:01' })
  simulator.add(model)
  return { simulator, model }
}

const turn = () => new Promise((resolve) => setImmediate(resolve))

describe('requests', () => {
  test('are told with their bytes, their end and their time, in order', async () => {
    const requests = listen('request') as RequestMessage[]
    const { simulator } = world()
    const handle = simulator.open(path)
    const transport = new VhostVdpaTransport(handle)
    transport.setOwner()
    transport.setStatus(1)
    expect(() => transport.setFeatures(1n << 63n)).toThrow('EINVAL')
    const status = transport.statusAsync()
    expect(requests).toEqual([])
    await status
    await turn()
    expect(requests.map(({ request, isAsync }) => [request, isAsync])).toEqual([
      ['VHOST_SET_OWNER', false],
      ['VHOST_VDPA_SET_STATUS', false],
      ['VHOST_SET_FEATURES', false],
      ['VHOST_VDPA_GET_STATUS', true],
    ])
    const [owner, set, refused, got] = requests
    expect(owner).toMatchObject({ path, argument: 0, answer: undefined, returned: 0, error: undefined })
    expect(set).toMatchObject({ argument: Uint8Array.of(1), answer: Uint8Array.of(1) })
    expect(refused).toMatchObject({ returned: undefined, error: { code: 'EINVAL' } })
    expect(got).toMatchObject({ argument: Uint8Array.of(0), answer: Uint8Array.of(1), returned: 0 })
    for (const { took } of requests) expect(took).toBeGreaterThanOrEqual(0)
    await handle.close()
  })

  test('and IOTLB messages of a device are all told', async () => {
    const [requests, writes] = [listen('request') as RequestMessage[], listen('iotlb') as IotlbWriteMessage[]]
    const { simulator } = world()
    const region = simulator.allocate(8192)
    const device = await openDevice(path, { backend: simulator })
    await device.negotiate([])
    await device.addressSpace(0).map({ iova: 0n, region })
    device.addressSpace(0).unmapAllSync()
    await device.close()
    await turn()
    expect(requests.map(({ request }) => request)).toEqual(
      expect.arrayContaining(['VHOST_SET_OWNER', 'VHOST_SET_FEATURES', 'VHOST_VDPA_GET_DEVICE_ID']),
    )
    expect(writes.map(({ isAsync, completed, records, error }) => [isAsync, completed, records.length, error])).toEqual(
      [
        [true, writes[0]?.completed, 72 * (writes[0]?.completed ?? 0), undefined],
        [false, writes[1]?.completed, 72 * (writes[1]?.completed ?? 0), undefined],
      ],
    )
    region.close()
  })

  test('of a subscriber that closes the device come after the procedure', async () => {
    const { simulator } = world()
    const device = await openDevice(path, { backend: simulator })
    const seen: string[] = []
    listen('request', (message) => {
      if ((message as RequestMessage).request !== 'VHOST_SET_FEATURES') return
      seen.push(device.state)
      device.closeSync()
    })
    device.negotiateSync([])
    expect(device.state).toBe('negotiated')
    await turn()
    expect(seen).toEqual(['negotiated'])
    expect(device.state).toBe('closed')
    expect(simulator.descriptors).toEqual([])
  })
})

describe('events', () => {
  test('states, configuration, kicks and calls are told', async () => {
    const [states, events, kicks, calls] = [listen('state'), listen('event'), listen('kick'), listen('call')]
    const { simulator, model } = world()
    const device = await openDevice(path, { backend: simulator, expect: 'net' })
    await device.negotiate(['VIRTIO_NET_F_STATUS'])
    const net = await NetDriver.start(device)
    await device.start()
    net.kickReceive()
    const received = new Promise<void>((resolve) => net.onFrame(() => resolve()))
    net.send(Uint8Array.of(2, 0, 0, 0, 0, 1, ...new Uint8Array(54)))
    await received
    const changed = new Promise((resolve) => device.events.once('config', () => resolve(undefined)))
    model.changeConfig(6, Uint8Array.of(0, 0))
    await changed
    await device.close()
    await turn()
    expect((states as StateMessage[]).map(({ from, to }) => `${from} ${to}`)).toEqual([
      'claimed negotiated',
      'negotiated running',
      'running closing',
      'closing closed',
    ])
    expect(events).toEqual([
      { path, event: 'config' },
      { path, event: 'close' },
    ])
    expect(kicks).toEqual(
      expect.arrayContaining([
        { path, queue: 0 },
        { path, queue: 1 },
      ]),
    )
    expect(calls).toEqual(expect.arrayContaining([{ path, queue: 0 }]))
  })

  test('misses are told', async () => {
    const misses = listen('miss')
    const simulator = new Simulator()
    const region = simulator.allocate(4096)
    const port = simulator.demandIotlb()
    const server = new MissServer(port, new RegionTranslator([{ iova: 0x1000n, region }]))
    await port.readMemory(0x1000n, 1)
    expect(misses).toMatchObject([{ asid: 0, iova: 0x1000n, access: 'ro' }])
    server.close()
  })
})

test('nobody listens by default, and the page names every channel', () => {
  const page = readFileSync(join(__dirname, '../../docs/diagnostics.md'), 'utf8')
  const named = Array.from(page.matchAll(/^\| `(vhost-vdpa:[a-z-]+)` /gm), ([, name]) => name)
  expect(named).toEqual(Object.values(diagnosticsChannels))
  for (const name of named) expect(channel(name ?? '').hasSubscribers).toBe(false)
})
