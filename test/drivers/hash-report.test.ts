// The hash that a device reports in a header of 20 bytes (VIRTIO_NET_F_HASH_REPORT), from the model's computing it to what a handler is shown.

import { afterEach, describe, expect, test } from '@jest/globals'
import { NetDriver } from '../../lib/drivers/net-driver.js'
import { netFeatureBits as net } from '../../lib/uapi/virtio-features.js'
import { netHashReports as reports, netHashTypes as types, virtioNetHdrV1Hash } from '../../lib/uapi/virtio-net.js'
import { extraNetFeatures } from '../../lib/simulator/index.js'
import type { FeatureName } from './features.js'
import { wireUp } from './wire.js'
import { mac, run as runDriver, type Running, type Setup } from './support.js'

const key = Uint8Array.from(
  Buffer.from('6d5a56da255b0ec24167253d43a38fb0d0ca2bcbae7b30b477cb2da38030f20c6a42b73bbeac01fa', 'hex'),
)
const running: Running[] = []

afterEach(async () => {
  for (const { device } of running.splice(0)) await device.close()
})

/** A driver whose device reports hashes, and its control queue. */
async function run(features: readonly FeatureName[], setup: Setup = {}) {
  const result = await runDriver({
    features: ['VIRTIO_NET_F_CTRL_VQ', 'VIRTIO_NET_F_HASH_REPORT', ...features],
    hasControl: true,
    device: { moreFeatures: [...extraNetFeatures, net.VIRTIO_NET_F_HASH_REPORT, net.VIRTIO_NET_F_RSS], queuePairs: 2 },
    ...setup,
  })
  running.push(result)
  if (result.control === undefined) throw new Error('no control queue')
  return { ...result, control: result.control }
}

/** A packet from 66.9.149.187:2794 to 161.142.100.80:1766 (a published vector of the hash), `length` bytes. */
function packet(protocol: number, length = 64): Uint8Array {
  const frame = new Uint8Array(length)
  frame.set(mac.split(':').map((part) => parseInt(part, 16)))
  frame.set([8, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, protocol, 0, 0, 66, 9, 149, 187, 161, 142, 100, 80], 12)
  frame.set([2794 >> 8, 2794 & 255, 1766 >> 8, 1766 & 255], 34)
  return frame
}

const all = types.VIRTIO_NET_RSS_HASH_TYPE_IPv4 | types.VIRTIO_NET_RSS_HASH_TYPE_TCPv4
const [OF_ADDRESSES, OF_PORTS] = [0x323e8fc2, 0x51ccc178]

/** Sends a frame, and gives the hash that came with it and whether it came whole. */
async function exchange({ driver, simulator }: Running, frame: Uint8Array, pairs = 1) {
  expect(driver.send(frame)).toBe(true)
  const seen: [value: number, report: number, isWhole: boolean][] = []
  for (let turn = 0; turn < 10 && seen.length === 0; turn++) {
    simulator.drain()
    await new Promise((resolve) => setImmediate(resolve))
    for (let pair = 0; pair < pairs; pair++)
      driver.receive(
        (bytes, header) => seen.push([header.hashValue, header.hashReport, Buffer.compare(bytes, frame) === 0]),
        undefined,
        pair,
      )
  }
  return seen
}

describe.each([
  ['split', []],
  ['packed', ['VIRTIO_F_RING_PACKED']],
] as const)('%s', (_name, features) => {
  test('the header has 20 bytes, no hash before one was asked for, and what it is of afterwards', async () => {
    const setting = await run([...features])
    const { driver, control } = setting
    expect([driver.headerBytes, virtioNetHdrV1Hash.size]).toEqual([20, 20])
    const none = [0, reports.VIRTIO_NET_HASH_REPORT_NONE, true]
    expect(await exchange(setting, packet(6))).toEqual([none])
    await control.send('VIRTIO_NET_CTRL_MQ_HASH_CONFIG', { hashTypes: all, key })
    expect(await exchange(setting, packet(6))).toEqual([[OF_PORTS, reports.VIRTIO_NET_HASH_REPORT_TCPv4, true]])
    expect(await exchange(setting, packet(1))).toEqual([[OF_ADDRESSES, reports.VIRTIO_NET_HASH_REPORT_IPv4, true]])
    const other = packet(6)
    other[12] = 0x88
    expect(await exchange(setting, other)).toEqual([none])
    await control.send('VIRTIO_NET_CTRL_MQ_HASH_CONFIG', { hashTypes: 0, key: new Uint8Array(0) })
    expect(await exchange(setting, packet(6))).toEqual([none])
  })
})

test('where RSS was negotiated its configuration says what is reported, and not that of the report', async () => {
  const setting = await run(['VIRTIO_NET_F_RSS'], { pairs: 2 })
  const { control } = setting
  await control.send('VIRTIO_NET_CTRL_MQ_HASH_CONFIG', { hashTypes: all, key })
  expect(await exchange(setting, packet(6), 2)).toEqual([[0, 0, true]])
  const hashTypes = types.VIRTIO_NET_RSS_HASH_TYPE_IPv4
  const rss = { hashTypes, indirectionTable: [0, 1], unclassifiedQueue: 0, maxTxVq: 2, key }
  await control.send('VIRTIO_NET_CTRL_MQ_RSS_CONFIG', rss)
  expect(await exchange(setting, packet(6), 2)).toEqual([[OF_ADDRESSES, reports.VIRTIO_NET_HASH_REPORT_IPv4, true]])
})

test('a key that is too short, and types that the device does not know, are refused', async () => {
  const { control } = await run([])
  const refusal = expect.objectContaining({ code: 'ERR_VDPA_REFUSED' })
  await expect(
    control.send('VIRTIO_NET_CTRL_MQ_HASH_CONFIG', { hashTypes: all, key: key.subarray(1) }),
  ).rejects.toEqual(refusal)
  // By the driver before it asks, and by the device.
  await expect(control.send('VIRTIO_NET_CTRL_MQ_HASH_CONFIG', { hashTypes: 1 << 9, key })).rejects.toThrow(
    'supported_hash_types',
  )
  const bytes = Buffer.alloc(13 + key.length)
  bytes.writeUInt32LE(1 << 9)
  bytes[12] = key.length
  bytes.set(key, 13)
  expect(await control.sendRaw(4, 2, bytes)).toMatchObject({ ack: 1 })
  bytes.writeUInt32LE(all)
  expect(await control.sendRaw(4, 2, bytes)).toMatchObject({ ack: 0 })
})

test('a reset has the device forget what it was told to report', async () => {
  const first = await run([])
  const { device } = first
  await first.control.send('VIRTIO_NET_CTRL_MQ_HASH_CONFIG', { hashTypes: all, key })
  await device.reset()
  await device.negotiate(['VIRTIO_NET_F_MAC', 'VIRTIO_NET_F_CTRL_VQ', 'VIRTIO_NET_F_HASH_REPORT'])
  const driver = await NetDriver.start(device)
  await device.start()
  driver.kickReceive()
  expect(await exchange({ ...first, driver }, packet(6))).toEqual([[0, 0, true]])
})

test('a frame over several buffers has the hash in the first of them', async () => {
  const { sender, receiver } = await wireUp([
    'VIRTIO_NET_F_CTRL_VQ',
    'VIRTIO_NET_F_HASH_REPORT',
    'VIRTIO_NET_F_MRG_RXBUF',
  ])
  running.push(sender, receiver)
  await receiver.control?.send('VIRTIO_NET_CTRL_MQ_HASH_CONFIG', { hashTypes: all, key })
  const frame = packet(6, 2000)
  expect(sender.driver.send(frame)).toBe(true)
  const seen: unknown[] = []
  for (let turn = 0; turn < 10 && seen.length === 0; turn++) {
    await new Promise((resolve) => setImmediate(resolve))
    receiver.driver.receive((bytes, { hashValue, hashReport, numBuffers }) =>
      seen.push([hashValue, hashReport, numBuffers, Buffer.compare(bytes, frame)]),
    )
  }
  expect(seen).toEqual([[OF_PORTS, reports.VIRTIO_NET_HASH_REPORT_TCPv4, 4, 0]])
})
