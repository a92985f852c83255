// What a network device makes of commands that are wrong or too many: each is answered, in order, and none stops those behind it.

import { describe, expect, test } from '@jest/globals'
import { openDevice } from '../../lib/open.js'
import { extraNetFeatures, networkDevice, Simulator } from '../../lib/simulator/index.js'
import { netFeatureBits } from '../../lib/uapi/virtio-features.js'
import { netCommands } from '../../lib/uapi/virtio-net-commands.js'
import type { FeatureName } from '../drivers/features.js'

const path = '/dev/vhost-vdpa-0'
const STRIDE = 128
const offered = [
  ...extraNetFeatures,
  netFeatureBits.VIRTIO_NET_F_RSS,
  netFeatureBits.VIRTIO_NET_F_GUEST_CSUM,
  netFeatureBits.VIRTIO_NET_F_GUEST_TSO4,
  netFeatureBits.VIRTIO_NET_F_CTRL_GUEST_OFFLOADS,
]

/** A control queue on which commands are sent as they are: [bytes, writable bytes]. Returns tokens and used lengths in the order of the answers. */
async function begin(features: readonly FeatureName[] = []) {
  const simulator = new Simulator()
  const model = networkDevice({ path, mac: '02:00:00:00:00:0a', queuePairs: 2, moreFeatures: offered })
  simulator.add(model)
  const device = await openDevice(path, { backend: simulator, expect: 'net' })
  await device.negotiate(['VIRTIO_NET_F_CTRL_VQ', 'VIRTIO_NET_F_CTRL_MAC_ADDR', 'VIRTIO_NET_F_MQ', ...features])
  const index = device.controlQueueIndex ?? -1
  const queue = await device.createQueue(index, { addressSpace: device.addressSpace(0), size: 64, bufferBytes: 0x8000 })
  await device.start()
  const send = async (...commands: readonly (readonly [bytes: Uint8Array, writable: number, iova?: bigint])[]) => {
    const bytes = queue.buffers.bytes()
    commands.forEach(([command, writable, iova], token) => {
      const at = token * STRIDE
      bytes.set(command, at)
      bytes.fill(0xee, at + STRIDE - 8, at + STRIDE)
      queue.ring.begin()
      if (command.length > 0) queue.ring.pushAddress(iova ?? queue.buffersIova + BigInt(at), command.length, false)
      if (writable > 0) queue.ring.pushAddress(queue.buffersIova + BigInt(at + STRIDE - 8), writable, true)
      queue.ring.commit(token)
    })
    queue.publish()
    const answers: [token: number, used: number, ack: number][] = []
    for (let turn = 0; turn < 20; turn++) {
      await new Promise((resolve) => setImmediate(resolve))
      for (let token = queue.ring.take(); token >= 0; token = queue.ring.take())
        answers.push([token, queue.ring.usedLength, bytes[token * STRIDE + STRIDE - 8] ?? -1])
    }
    return answers
  }
  return { device, model, send }
}

const setMac = (last: number) => Uint8Array.of(1, 1, 2, 0, 0, 0, 0, last)
const encode = (name: 'VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET', value: bigint) =>
  Uint8Array.of(netCommands[name].class, netCommands[name].command, ...netCommands[name].encode(value))

describe.each([
  [[]],
  [['VIRTIO_F_IN_ORDER']],
  [['VIRTIO_F_RING_PACKED']],
  [['VIRTIO_F_RING_PACKED', 'VIRTIO_F_IN_ORDER']],
] as FeatureName[][][])('with %j', (features) => {
  test('malformed commands are answered VIRTIO_NET_ERR in order, and the next one is served', async () => {
    const { device, model, send } = await begin(features)
    const answers = await send(
      [Uint8Array.of(1), 1],
      [setMac(1), 1],
      [new Uint8Array(0), 1],
      [setMac(3).subarray(0, 5), 1],
      [setMac(4), 1],
    )
    expect(answers.map(([token, , ack]) => [token, ack])).toEqual([
      [0, 1],
      [1, 0],
      [2, 1],
      [3, 1],
      [4, 0],
    ])
    expect(model.mac).toBe('02:00:00:00:00:04')
    expect(model.counters).toMatchObject({ commands: 5, commandErrors: 3 })
    expect(model.status() & 0x40).toBe(0)
    await device.close()
  })

  test('one without a place for its acknowledgement is used with nothing written', async () => {
    const { device, model, send } = await begin(features)
    const answers = await send([setMac(1), 0], [setMac(2), 1])
    expect(answers.map(([token, used]) => [token, used])).toEqual([
      [0, 0],
      [1, 1],
    ])
    expect(model.mac).toBe('02:00:00:00:00:02')
    await device.close()
  })
})

test.each([[[]], [['VIRTIO_F_RING_PACKED']]] as FeatureName[][][])(
  'with %j a command in memory that the device cannot reach is lost, and the next one is served',
  async (features) => {
    const { device, model, send } = await begin(features)
    const answers = await send([setMac(1), 1], [setMac(2), 1, 0xdead_0000n], [setMac(3), 1])
    expect(answers.map(([token, , ack]) => [token, ack])).toEqual([
      [0, 0],
      [2, 0],
    ])
    expect(model.mac).toBe('02:00:00:00:00:03')
    expect(model.counters).toMatchObject({ commands: 3, commandErrors: 1 })
    await device.close()
  },
)

test('offloads that were not negotiated, or are none, are refused', async () => {
  const { device, model, send } = await begin(['VIRTIO_NET_F_GUEST_CSUM', 'VIRTIO_NET_F_CTRL_GUEST_OFFLOADS'])
  const bits = [
    netFeatureBits.VIRTIO_NET_F_GUEST_CSUM,
    netFeatureBits.VIRTIO_NET_F_GUEST_TSO4,
    netFeatureBits.VIRTIO_NET_F_MAC,
  ]
  const answers = await send(
    ...bits.map((number) => [encode('VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET', 1n << BigInt(number)), 1] as const),
  )
  expect(answers.map(([, , ack]) => ack)).toEqual([0, 1, 1])
  expect(model.control.offloads).toBe(2n)
  await device.close()
})

test('an RSS configuration is kept when every queue of it is there, and gone after a reset', async () => {
  const { device, model, send } = await begin(['VIRTIO_NET_F_RSS'])
  const rss = netCommands.VIRTIO_NET_CTRL_MQ_RSS_CONFIG
  const good = { hashTypes: 3, indirectionTable: [0, 1], unclassifiedQueue: 1, maxTxVq: 2, key: new Uint8Array(40) }
  const bytesOf = (config: typeof good) => Uint8Array.of(rss.class, rss.command, ...rss.encode(config))
  for (const wrong of [
    { indirectionTable: [0, 2] },
    { unclassifiedQueue: 2 },
    { maxTxVq: 0 },
    { maxTxVq: 3 },
    { key: new Uint8Array(0) },
    { hashTypes: 0x1000 },
  ]) {
    expect(await send([bytesOf({ ...good, ...wrong }), 1])).toMatchObject([[0, 1, 1]])
    expect(model.control.rss).toBe(undefined)
  }
  expect(await send([bytesOf(good), 1])).toMatchObject([[0, 1, 0]])
  expect(model.control).toMatchObject({ rss: good, queuePairs: 2 })
  await device.reset()
  expect(model.control).toMatchObject({ rss: undefined, queuePairs: 1 })
  await device.close()
})
