// Every verb of the drivers and of the control queue, each of its arguments replaced by what is none: the error has a code, and is a RangeError or a TypeError
// in the one grammar, or a refusal of the package's own. Nothing is lost by it: the device goes on afterwards.

import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { isVdpaError } from '../../lib/base/errors.js'
import { ControlQueue } from '../../lib/control/control-queue.js'
import { NetControlQueue } from '../../lib/control/net-control-queue.js'
import type { VdpaDevice } from '../../lib/device/vdpa-device.js'
import { BlockDriver } from '../../lib/drivers/block-driver.js'
import { NetDriver } from '../../lib/drivers/net-driver.js'
import type { PacketHeader } from '../../lib/drivers/net-header.js'
import { openDevice } from '../../lib/open.js'
import { blockDevice, extraNetFeatures, networkDevice, Simulator } from '../../lib/simulator/index.js'

const odd: readonly unknown[] = [
  null,
  0,
  -1,
  1.5,
  NaN,
  1e300,
  5n,
  -5n,
  1n << 70n,
  '',
  'no such',
  true,
  Symbol('s'),
  [],
  [null],
  {},
  Object.create(null),
  () => undefined,
  new Uint8Array(0),
  new Float64Array(2),
  new Date(NaN),
  new Proxy({}, { get: () => undefined }),
]
const netPath = '/dev/vhost-vdpa-0'
const blockPath = '/dev/vhost-vdpa-1'
const nothing = () => undefined

interface Things {
  net: VdpaDevice<'net'>
  block: VdpaDevice<'block'>
  driver: NetDriver
  control: NetControlQueue
  disk: BlockDriver
  fresh: VdpaDevice<'net'>
  freshBlock: VdpaDevice<'block'>
}
type Call = (things: Things, ...args: never[]) => unknown
/** A verb, and arguments with which it ends well, or is refused by name. */
type Row = readonly [name: string, args: readonly unknown[], call: Call]

const frame = new Uint8Array(60)
const headerFields = ['flags', 'gsoType', 'headerLength', 'gsoSize', 'checksumStart', 'checksumOffset'] as const
const headerOf = (values: readonly number[]) =>
  Object.fromEntries(headerFields.map((field, at) => [field, values[at]])) as unknown as PacketHeader
const request = [0, 0, 512, nothing] as const
const options = { signal: AbortSignal.timeout(1) }
const rows: readonly Row[] = [
  ['NetDriver.start', ['net', {}], (t, _, o) => NetDriver.start(t.fresh, o)],
  ['NetDriver.abandon', [{}], (_, s) => NetDriver.abandon(s)],
  ['NetDriver.usePairs', [0, 1, {}], (t, c, n, o) => t.driver.usePairs(c, n, o)],
  ['NetDriver.send', [frame, 0, {}], (t, f, p, h) => t.driver.send(f, p, h)],
  [
    'NetDriver.send, each field of the header',
    [0, 0, 0, 0, 0, 0],
    (t, ...values) => t.driver.send(frame, 0, headerOf(values)),
  ],
  ['NetDriver.sendInPlace', [60, nothing, 0, {}], (t, n, w, p, h) => t.driver.sendInPlace(n, w, p, h)],
  ['NetDriver.sendBatch', [[frame], 0], (t, f, p) => t.driver.sendBatch(f, p)],
  ['NetDriver.reclaim', [0], (t, p) => t.driver.reclaim(p)],
  ['NetDriver.room', [options], (t, o) => t.driver.room(o)],
  ['NetDriver.receive', [nothing, 1, 0], (t, h, b, p) => t.driver.receive(h, b, p)],
  ['NetDriver.receiveParts', [nothing, 1, 0], (t, h, b, p) => t.driver.receiveParts(h, b, p)],
  ['NetDriver.onFrame', [nothing, 0, nothing], (t, h, p, f) => t.driver.onFrame(h, p, f)()],
  ['NetDriver.nextFrame', [options], (t, o) => t.driver.nextFrame(o)],
  ['NetDriver.frames', [options], (t, o) => t.driver.frames(o).next()],
]
const moreRows: readonly Row[] = [
  ['NetControlQueue.start', [0, {}], (t, s, o) => NetControlQueue.start(t.fresh, s, o)],
  ['NetControlQueue.send', ['VIRTIO_NET_CTRL_RX_PROMISC', true, options], (t, n, p, o) => t.control.send(n, p, o)],
  ['NetControlQueue.sendRaw', [0, 0, new Uint8Array(1), {}], (t, c, n, p, o) => t.control.sendRaw(c, n, p, o)],
  ['NetControlQueue.replay', [[], {}], (t, c, o) => t.control.replay(c, o)],
  ['NetControlQueue.setMacAddress', ['02:00:00:00:00:01', {}], (t, m, o) => t.control.setMacAddress(m, o)],
  ['NetControlQueue.setMacTable', [{ unicast: [], multicast: [] }, {}], (t, m, o) => t.control.setMacTable(m, o)],
  ['NetControlQueue.setPromiscuous', [true, {}], (t, m, o) => t.control.setPromiscuous(m, o)],
  ['NetControlQueue.setAllMulticast', [true, {}], (t, m, o) => t.control.setAllMulticast(m, o)],
  ['NetControlQueue.addVlan', [1, {}], (t, m, o) => t.control.addVlan(m, o)],
  ['NetControlQueue.removeVlan', [1, {}], (t, m, o) => t.control.removeVlan(m, o)],
  ['NetControlQueue.setQueuePairs', [1, {}], (t, m, o) => t.control.setQueuePairs(m, o)],
  ['NetControlQueue.setGuestOffloads', [0n, {}], (t, m, o) => t.control.setGuestOffloads(m, o)],
  ['NetControlQueue.acknowledgeAnnouncement', [{}], (t, o) => t.control.acknowledgeAnnouncement(o)],
  ['NetControlQueue.configureRss', [{}, {}], (t, m, o) => t.control.configureRss(m, o)],
  ['NetControlQueue.configureHash', [{}, {}], (t, m, o) => t.control.configureHash(m, o)],
  ['NetControlQueue.setTunnels', [0, {}], (t, m, o) => t.control.setTunnels(m, o)],
  [
    'NetControlQueue.setCoalescing',
    [0, { maxPackets: 1, maxUsecs: 1 }, {}],
    (t, q, c, o) => t.control.setCoalescing(q, c, o),
  ],
  ['NetControlQueue.coalescing', [0, {}], (t, q, o) => t.control.coalescing(q, o)],
  ['NetControlQueue.statistics', [[{ queue: 0, types: 1n }], {}], (t, q, o) => t.control.statistics(q, o)],
  ['NetControlQueue.statisticsKinds', [{}], (t, o) => t.control.statisticsKinds(o)],
  ['ControlQueue', [{}, netPath, 1, {}], (_, p, path, n, h) => new ControlQueue(p, path, n, h)],
]
const blockRows: readonly Row[] = [
  ['BlockDriver.start', ['block', {}], (t, _, o) => BlockDriver.start(t.freshBlock, o)],
  ['BlockDriver.abandon', [{}], (_, s) => BlockDriver.abandon(s)],
  ['BlockDriver.read', [0, 1, {}], (t, s, n, o) => t.disk.read(s, n, o)],
  ['BlockDriver.readInto', [0, new Uint8Array(512), {}], (t, s, b, o) => t.disk.readInto(s, b, o)],
  ['BlockDriver.write', [0, new Uint8Array(512), {}], (t, s, b, o) => t.disk.write(s, b, o)],
  ['BlockDriver.flush', [{}], (t, o) => t.disk.flush(o)],
  ['BlockDriver.setWriteCache', [true], (t, o) => t.disk.setWriteCache(o)],
  ['BlockDriver.discard', [0, 8, {}], (t, s, n, o) => t.disk.discard(s, n, o)],
  ['BlockDriver.writeZeroes', [0, 8, {}], (t, s, n, o) => t.disk.writeZeroes(s, n, o)],
  ['BlockDriver.getId', [{}], (t, o) => t.disk.getId(o)],
  ['BlockQueue.release', [0], (t, s) => t.disk.queues[0]?.release(s)],
  ['BlockQueue.data', [0], (t, s) => t.disk.queues[0]?.data(s)],
  ['BlockQueue.read', request, (t, s, at, n, d) => t.disk.queues[0]?.read(s, at, n, d)],
  ['BlockQueue.write', request, (t, s, at, n, d) => t.disk.queues[0]?.write(s, at, n, d)],
  ['BlockQueue.flush', [0, nothing], (t, s, d) => t.disk.queues[0]?.flush(s, d)],
  ['BlockQueue.poll', [1], (t, b) => t.disk.queues[0]?.poll(b)],
  ['BlockQueue.errorOf', [0, 1], (t, s, b) => t.disk.queues[0]?.errorOf(s, b)],
]

/** What a verb gives, or fails with, within some turns: what has nothing wrong with it may wait for ever. */
async function soon(answer: unknown): Promise<void> {
  Promise.resolve(answer).catch(nothing)
  let isOver = false
  const over = Promise.resolve(answer).finally(() => (isOver = true))
  over.catch(nothing)
  for (let turn = 0; turn < 10 && !isOver; turn++) await new Promise((resolve) => setImmediate(resolve))
  if (isOver) await over
}

/** What of a failure is no answer of ours. */
function strangenessOf(failure: unknown): string | undefined {
  if (isVdpaError(failure)) return undefined
  const { name, code, message } = failure as { name: string; code?: string; message: string }
  if (
    (name === 'TypeError' || name === 'RangeError') &&
    typeof code === 'string' &&
    / must be .* \(got /s.test(message)
  )
    return undefined
  return `${name}: ${message}`
}

describe.each([...rows, ...moreRows, ...blockRows])('%s()', (name, args, call) => {
  let things: Things

  beforeAll(async () => {
    const simulator = new Simulator()
    simulator.add(
      networkDevice({ path: netPath, mac: '02:11:22:33:44:55', moreFeatures: extraNetFeatures, queuePairs: 2 }),
    )
    simulator.add(networkDevice({ path: '/dev/vhost-vdpa-2', moreFeatures: extraNetFeatures }))
    simulator.add(blockDevice({ path: blockPath, capacity: 64, moreFeatures: [11] }))
    simulator.add(blockDevice({ path: '/dev/vhost-vdpa-3', capacity: 64 }))
    const open = { backend: simulator }
    const net = await openDevice(netPath, { ...open, expect: 'net' })
    const block = await openDevice(blockPath, { ...open, expect: 'block' })
    const fresh = await openDevice('/dev/vhost-vdpa-2', { ...open, expect: 'net' })
    const freshBlock = await openDevice('/dev/vhost-vdpa-3', { ...open, expect: 'block' })
    const all = [
      'CTRL_VQ',
      'CTRL_RX',
      'CTRL_VLAN',
      'CTRL_MAC_ADDR',
      'MQ',
      'RSS',
      'HASH_REPORT',
      'CTRL_GUEST_OFFLOADS',
    ] as const
    const most = ['VQ_NOTF_COAL', 'GUEST_ANNOUNCE', 'CSUM', 'HASH_TUNNEL', 'DEVICE_STATS'] as const
    const optional = [...all, ...most].map((word) => `VIRTIO_NET_F_${word}` as const)
    await net.negotiate([], { optional: optional as never })
    await fresh.negotiate(['VIRTIO_NET_F_CTRL_VQ'])
    await block.negotiate([
      'VIRTIO_BLK_F_FLUSH',
      'VIRTIO_BLK_F_CONFIG_WCE',
      'VIRTIO_BLK_F_DISCARD',
      'VIRTIO_BLK_F_WRITE_ZEROES',
    ])
    await freshBlock.negotiate([])
    const driver = await NetDriver.start(net, { pairs: 2 })
    const control = await NetControlQueue.start(net, net.addressSpace(0))
    const disk = await BlockDriver.start(block)
    await Promise.all([net.start(), block.start()])
    things = { net, block, driver, control, disk, fresh, freshBlock }
  })

  afterAll(async () => {
    for (const device of [things.net, things.block, things.fresh, things.freshBlock]) await device.close()
  })

  test('has an answer of its own for every argument that is none', async () => {
    const strange: string[] = []
    for (let place = 0; place < args.length; place++) {
      for (const value of odd) {
        const given = args.map((arg, at) => (at === place ? value : arg))
        try {
          const queue = things.disk.queues[0]
          if (name.startsWith('BlockQueue') && place > 0) given[0] = queue?.acquire()
          await soon((call as (things: Things, ...args: unknown[]) => unknown)(things, ...given))
        } catch (failure) {
          const what = strangenessOf(failure)
          if (what !== undefined)
            strange.push(`argument ${place}, ${typeof value} ${Object.prototype.toString.call(value)}: ${what}`)
        }
      }
    }
    expect([...new Set(strange)]).toEqual([])
  })
})
