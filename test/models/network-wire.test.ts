// Two network devices on a wire: each has its own header, blame, buffers and drops; and what a header may ask for.

import { describe, expect, test } from '@jest/globals'
import { networkDevice, pair } from '../../lib/models/network.js'
import { rssQueue } from '../../lib/models/network-rss.js'
import { extraNetFeatures } from '../../lib/models/network-options.js'
import { Simulator } from '../../lib/simulator/simulator.js'
import { netFeatureBits as net, transportFeatureBits as transport } from '../../lib/uapi/virtio-features.js'
import { decodeNetConfig, netHashTypes, virtioNetConfig } from '../../lib/uapi/virtio-net.js'
import { MAC, send } from '../simulator/support.js'
import { CONTROL, frame, HEADER, Host, OTHER, RX, TX } from './net-host.js'

const SEGMENTS = [net.VIRTIO_NET_F_CSUM, net.VIRTIO_NET_F_HOST_TSO4]

const wire = (features: readonly number[], otherFeatures: readonly number[], size = 256) => {
  const simulator = new Simulator({ scheduler: 'manual' })
  const moreFeatures = [...extraNetFeatures, net.VIRTIO_NET_F_HASH_REPORT, net.VIRTIO_NET_F_MTU, net.VIRTIO_NET_F_CSUM]
  const [first, second] = [
    networkDevice({ mac: MAC, moreFeatures: [...moreFeatures, net.VIRTIO_NET_F_HOST_TSO4, net.VIRTIO_NET_F_HOST_ECN] }),
    networkDevice({
      mac: OTHER,
      moreFeatures: [
        ...moreFeatures,
        net.VIRTIO_NET_F_GUEST_CSUM,
        net.VIRTIO_NET_F_GUEST_TSO4,
        net.VIRTIO_NET_F_GUEST_ECN,
        net.VIRTIO_NET_F_CTRL_GUEST_OFFLOADS,
      ],
    }),
  ]
  pair(first, second)
  const one = new Host(first, { simulator, features })
  return { simulator, first, second, one, two: new Host(second, { simulator, features: otherFeatures, size }) }
}

describe('two devices on a wire', () => {
  test('receive what the other sends, each with its own filter, and lose it when nobody is there', () => {
    const simulator = new Simulator({ scheduler: 'manual' })
    const [first, second] = [networkDevice({ mac: MAC }), networkDevice({ mac: OTHER })]
    pair(first, second)
    const one = new Host(first, { simulator })
    one.transmit(frame(OTHER))
    expect(first.counters).toMatchObject({ txPackets: 1, rxPackets: 0 })
    const two = new Host(second, { simulator })
    two.offer(4)
    one.offer(4)
    one.transmit(frame(OTHER))
    one.transmit(frame(MAC))
    two.transmit(frame(MAC))
    expect(two.received()).toHaveLength(1)
    expect(one.received()).toHaveLength(1)
    // The first was sent before anybody was there.
    expect(second.counters).toMatchObject({ rxPackets: 1, rxDrops: 2, txPackets: 1 })
  })

  test('pass 300 frames that wait together after one kick', () => {
    const simulator = new Simulator({ scheduler: 'manual' })
    const [first, second] = [
      networkDevice({ mac: MAC, maxQueueSize: 1024 }),
      networkDevice({ mac: OTHER, maxQueueSize: 1024 }),
    ]
    pair(first, second)
    const one = new Host(first, { simulator, size: 1024 })
    const two = new Host(second, { simulator, size: 1024 })
    two.offer(300)
    simulator.drain()
    one.running.bytes.set(frame(OTHER), TX + HEADER)
    for (let token = 0; token < 300; token++)
      send(
        one.queue(1),
        [
          [BigInt(TX), HEADER, false],
          [BigInt(TX + HEADER), 60, false],
        ],
        token,
      )
    simulator.drain()
    expect([first.counters.txPackets, second.counters.rxPackets]).toEqual([300, 300])
  })

  test('spread what comes over the receive queues as RSS was told', () => {
    const simulator = new Simulator({ scheduler: 'manual' })
    const first = networkDevice({ mac: MAC })
    const second = networkDevice({ mac: OTHER, queuePairs: 4, moreFeatures: [net.VIRTIO_NET_F_RSS] })
    pair(first, second)
    const one = new Host(first, { simulator })
    const two = new Host(second, { simulator, features: [net.VIRTIO_NET_F_CTRL_VQ, net.VIRTIO_NET_F_RSS] })
    const space = new Uint8Array(virtioNetConfig.size)
    second.readConfig(0, space)
    expect(decodeNetConfig(space)).toMatchObject({ rssMaxKeySize: 40, rssMaxIndirectionTableLength: 0x8000 })
    const key = Uint8Array.from({ length: 40 }, (_, at) => (at * 73 + 11) & 0xff)
    const config = {
      hashTypes: netHashTypes.VIRTIO_NET_RSS_HASH_TYPE_IPv4,
      indirectionTable: [0, 1, 2, 3],
      unclassifiedQueue: 3,
      maxTxVq: 4,
      key,
    }
    expect(two.command('VIRTIO_NET_CTRL_MQ_RSS_CONFIG', config)).toBe(0)
    const placed = [0, 0, 0, 0]
    const expected = [0, 0, 0, 0]
    for (let last = 0; last < 40; last++) {
      const bytes = frame(OTHER, 60)
      // IPv4 from 10.0.0.<last>, and some that are no IP at all.
      if (last % 5 === 4) bytes.set([0x88, 0xb5], 12)
      else bytes.set([0x08, 0x00, 0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, last, 10, 0, 0, 200], 12)
      const queue = rssQueue(config, bytes, 0, bytes.length)
      expected[queue] = (expected[queue] ?? 0) + 1
      for (const at of [0, 1, 2, 3]) send(two.queue(2 * at), [[BigInt(RX + at * 2048), 2048, true]], at)
      one.transmit(bytes)
      for (const at of [0, 1, 2, 3]) {
        const { ring } = two.queue(2 * at)
        while (ring.take() >= 0) placed[at] = (placed[at] ?? 0) + 1
      }
    }
    expect(placed).toEqual(expected)
    expect(placed.every((count) => count > 0)).toBe(true)
  })

  test('bring a frame out at the last enabled pair where its own was disabled while it waited, and nobody can say how many are used', () => {
    const simulator = new Simulator({ scheduler: 'manual' })
    const [first, second] = [networkDevice({ mac: MAC, queuePairs: 4 }), networkDevice({ mac: OTHER, queuePairs: 4 })]
    pair(first, second)
    const features = [...CONTROL, net.VIRTIO_NET_F_MQ]
    const [one, two] = [new Host(first, { simulator, features }), new Host(second, { simulator, features })]
    // A host that keeps the control queue to itself never lets it run: what counts is which pairs are enabled.
    Object.assign(second.host, { mayKeepControlQueue: true })
    second.setQueueReady(8, false)
    expect(one.command('VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET', 4)).toBe(0)
    for (const index of [0, 2, 4, 6]) two.offer(2, 2048, index)
    simulator.drain()
    const passOn = (disabled?: number) => {
      one.running.bytes.set(frame(OTHER), TX + HEADER)
      const { txPackets } = first.counters
      send(one.queue(7), [[BigInt(TX), HEADER + 60, false]])
      while (first.counters.txPackets === txPackets) expect(simulator.step()).toBeDefined()
      // It is on the wire, and not yet received.
      if (disabled !== undefined) second.setQueueReady(disabled, false)
      simulator.drain()
      return [0, 2, 4, 6].filter((index) => two.queue(index).ring.take() >= 0)
    }
    expect(passOn()).toEqual([6])
    expect(passOn(6)).toEqual([4])
    // Those that are enabled behind one that is not are not counted.
    expect(passOn(2)).toEqual([0])
    expect(second.counters).toMatchObject({ rxPackets: 3, rxOverruns: 0, rxDrops: 0 })
  })

  const HASH = [net.VIRTIO_NET_F_CTRL_VQ, net.VIRTIO_NET_F_HASH_REPORT]

  test.each<[string, readonly number[], readonly number[]]>([
    ['12 and 12', [], []],
    ['12 and 20', [], HASH],
    ['20 and 12', HASH, []],
    ['20 and 20', HASH, HASH],
  ])('have each a header of their own: %s bytes', (_, features, others) => {
    const { one, two, simulator } = wire(features, others)
    const [sent, received] = [features, others].map((list) => (list.length > 0 ? 20 : 12)) as [number, number]
    two.offer(1)
    const bytes = frame(OTHER)
    one.running.bytes.fill(0, TX, TX + sent)
    one.running.bytes.set(bytes, TX + sent)
    send(one.queue(1), [[BigInt(TX), sent + bytes.length, false]])
    simulator.drain()
    expect(two.queue(0).ring.take()).toBe(0)
    expect(two.queue(0).ring.usedLength).toBe(received + bytes.length)
    expect(two.running.bytes.slice(RX + received, RX + received + bytes.length)).toEqual(bytes)
    expect([...two.running.bytes.subarray(RX, RX + received)]).toEqual(
      Array.from({ length: received }, (_byte, index) => (index === 10 ? 1 : 0)),
    )
  })

  test('answer for their own drivers: one that breaks a rule does not break the other', () => {
    const { one, first, second, two, simulator } = wire([], [])
    const ring = new DataView(two.running.bytes.buffer)
    ring.setUint16(256 * 16 + 4, 999, true)
    ring.setUint16(256 * 16 + 2, 1, true)
    one.transmit(frame(OTHER))
    simulator.drain()
    expect([first.status(), second.status()]).toEqual([0x0f, 0x4f])
    expect(second.violations[0]).toContain('names descriptor 999')
    one.transmit(frame(OTHER))
    expect([first.status(), first.counters.txPackets, second.counters.rxDrops]).toEqual([0x0f, 2, 1])
  })

  test.each<[string, readonly number[]]>([
    ['split', []],
    ['split, event index', [transport.VIRTIO_F_RING_EVENT_IDX]],
    ['packed, event index', [transport.VIRTIO_F_RING_PACKED, transport.VIRTIO_F_RING_EVENT_IDX]],
  ])('%s: go on after frames for which there was no buffer', (_, features) => {
    const { one, second, two } = wire(features, features)
    two.offer(2)
    for (let count = 0; count < 5; count++) one.transmit(frame(OTHER))
    expect(two.received()).toHaveLength(2)
    two.offer(4)
    for (let count = 0; count < 4; count++) one.transmit(frame(OTHER))
    expect(two.received()).toHaveLength(4)
    expect(second.counters).toMatchObject({ rxPackets: 6, rxOverruns: 3 })
    expect(one.queue(1).ring.inFlight).toBe(0)
  })

  test('wait for one another instead of losing what was sent at once', () => {
    const { one, second, simulator } = wire([], [])
    for (let round = 0; round < 8; round++) {
      for (let count = 0; count < 200; count++) {
        one.queue(1).ring.begin()
        one.queue(1).ring.pushAddress(BigInt(TX), 72, false)
        one.queue(1).ring.commit(count)
      }
      one.queue(1).ring.publish()
      one.queue(1).kick.signal()
      simulator.drain()
      while (one.queue(1).ring.take() >= 0);
    }
    const { rxDrops, rxOverruns } = second.counters
    expect(rxDrops + rxOverruns).toBe(1600)
  })

  test('compute the checksum for a driver that does not, and leave it to one that does', () => {
    const through = (features: readonly number[]) => {
      const { one, two } = wire([net.VIRTIO_NET_F_CSUM], features)
      two.offer(1)
      const bytes = frame(OTHER, 62)
      one.running.bytes.fill(0, TX, TX + HEADER)
      one.running.bytes.set([1, 0, 0, 0, 0, 0, 34, 0, 16, 0], TX)
      one.running.bytes.set(bytes, TX + HEADER)
      send(one.queue(1), [[BigInt(TX), HEADER + bytes.length, false]])
      one.running.simulator.drain()
      const [back] = two.received()
      return { header: [...two.running.bytes.subarray(RX, RX + 10)], bytes: back ?? new Uint8Array(0) }
    }
    const left = through([net.VIRTIO_NET_F_GUEST_CSUM])
    expect(left.header).toEqual([1, 0, 0, 0, 0, 0, 34, 0, 16, 0])
    const done = through([])
    expect(done.header).toEqual(new Array(10).fill(0))
    // Over what was there, the sum was what the checksum now is the complement of.
    const sum = (bytes: Uint8Array) => {
      let total = 0
      for (let at = 34; at < bytes.length; at += 2) total += ((bytes[at] ?? 0) << 8) | (bytes[at + 1] ?? 0)
      while (total > 0xffff) total = (total & 0xffff) + (total >> 16)
      return total
    }
    const written = ((done.bytes[50] ?? 0) << 8) | (done.bytes[51] ?? 0)
    expect(written).toBe(~sum(left.bytes) & 0xffff)
  })

  test.each<[number, number | undefined, boolean]>([
    [1514, undefined, true],
    [1515, undefined, false],
    [1518, 5, true],
    [1519, 5, false],
  ])('with an MTU of 1500 negotiated, a frame of %i bytes with tag %p passes: %p', (length, tag, passes) => {
    const receiver = wire([], [net.VIRTIO_NET_F_MTU])
    receiver.two.offer(1)
    receiver.one.transmit(frame(OTHER, length, tag))
    expect(receiver.two.received()).toHaveLength(passes ? 1 : 0)
    expect(receiver.second.counters.rxDrops).toBe(passes ? 0 : 1)
    const sender = wire([net.VIRTIO_NET_F_MTU], [])
    sender.two.offer(1)
    sender.one.transmit(frame(OTHER, length, tag))
    expect(sender.two.received()).toHaveLength(passes ? 1 : 0)
    expect(sender.first.counters.txErrors).toBe(passes ? 0 : 1)
    expect(sender.first.violations).toEqual(
      passes ? [] : [`a frame of ${length} bytes was sent, the MTU is 1500, against virtio 1.2 section 5.1.4.2`],
    )
  })
})

describe('a frame that fits no buffer whole', () => {
  test.each<[string, readonly number[]]>([
    ['split', []],
    ['split in order', [transport.VIRTIO_F_IN_ORDER]],
    ['packed', [transport.VIRTIO_F_RING_PACKED]],
  ])('%s: is lost and counted, and its buffers serve the next', (_, features) => {
    const device = networkDevice({ mac: MAC, moreFeatures: extraNetFeatures })
    const host = new Host(device, { features: [net.VIRTIO_NET_F_MRG_RXBUF, ...features] })
    host.offer(4, 512)
    host.transmit(frame(MAC, 4000))
    expect(device.counters).toMatchObject({ rxPackets: 0, rxBytes: 0, rxOverruns: 1 })
    expect(host.queue(0).ring.take()).toBe(-1)
    host.transmit(frame(MAC, 1000))
    const lengths: number[] = []
    while (host.queue(0).ring.take() >= 0) lengths.push(host.queue(0).ring.usedLength)
    expect(lengths).toEqual([512, 500])
    expect(device.status()).toBe(15)
  })
})

describe('what the receiving driver accepts', () => {
  const SENDER = [...SEGMENTS, net.VIRTIO_NET_F_HOST_ECN]
  const RECEIVER = [net.VIRTIO_NET_F_GUEST_CSUM, net.VIRTIO_NET_F_GUEST_TSO4]
  const COMMANDS = [...CONTROL, net.VIRTIO_NET_F_CTRL_GUEST_OFFLOADS]
  const [checksum, segment] = [
    [1, 0, 0, 0, 0, 0, 34, 0, 16],
    [1, 1, 0, 0, 100, 0, 34, 0, 16],
  ]

  /** Sends frames of which the headers are given; the first two bytes of the headers of those that come. */
  function through({ one, two }: ReturnType<typeof wire>, headers: readonly (readonly number[] | undefined)[]) {
    const found: number[][] = []
    for (const header of headers) {
      if (two.queue(0).ring.inFlight === 0) two.offer(1)
      const bytes = frame(OTHER, 400)
      one.running.bytes.fill(0, TX, TX + HEADER)
      one.running.bytes.set(header ?? [], TX)
      one.running.bytes.set(bytes, TX + HEADER)
      send(one.queue(1), [[BigInt(TX), HEADER + bytes.length, false]])
      one.running.simulator.drain()
      if (two.received().length > 0) found.push([...two.running.bytes.subarray(RX, RX + 2)])
    }
    return found
  }

  test('segments with ECN come to who accepted GUEST_ECN, and are lost for others', () => {
    const ecn = [1, 0x81, 0, 0, 100, 0, 34, 0, 16]
    expect(through(wire(SENDER, [...RECEIVER, net.VIRTIO_NET_F_GUEST_ECN]), [ecn])).toEqual([[1, 0x81]])
    const without = wire(SENDER, RECEIVER)
    expect(through(without, [ecn])).toEqual([])
    expect(without.second.counters.rxDrops).toBe(1)
    expect(without.first.violations).toEqual([])
  })

  test('offloads are on after the negotiation, and off when a command leaves them out', () => {
    const both = wire(SENDER, [...RECEIVER, ...COMMANDS])
    expect(through(both, [checksum, segment])).toEqual([
      [1, 0],
      [1, 1],
    ])
    expect(both.two.command('VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET', 2n)).toBe(0)
    expect(through(both, [checksum])).toEqual([[1, 0]])
    expect(both.two.command('VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET', 0n)).toBe(0)
    // The device computes the checksum itself.
    expect(through(both, [checksum])).toEqual([[0, 0]])
    expect(through(both, [segment])).toEqual([])
    expect(both.second.counters.rxDrops).toBe(1)
  })
})

describe('a header that asks for what was not negotiated', () => {
  test.each<[string, readonly number[], readonly number[], boolean]>([
    ['nothing', [], [0, 0], true],
    ['flags that nobody knows', [], [0xf8, 0], true],
    ['NEEDS_CSUM', [], [1, 0], false],
    ['NEEDS_CSUM', [net.VIRTIO_NET_F_CSUM], [1, 0, 0, 0, 0, 0, 14, 0, 2], true],
    ['a checksum behind the end', [net.VIRTIO_NET_F_CSUM], [1, 0, 0, 0, 0, 0, 200, 0, 2], false],
    ['DATA_VALID', [net.VIRTIO_NET_F_CSUM], [2, 0], false],
    ['a segment type', [net.VIRTIO_NET_F_CSUM], [1, 1, 0, 0, 100, 0, 14, 0, 2], false],
    ['segments without a checksum', [net.VIRTIO_NET_F_CSUM, net.VIRTIO_NET_F_HOST_TSO4], [0, 1, 0, 0, 100], false],
    ['ECN', SEGMENTS, [1, 0x81, 0, 0, 100, 0, 14, 0, 2], false],
    ['ECN of no segments', [...SEGMENTS, net.VIRTIO_NET_F_HOST_ECN], [0, 0x80], false],
    ['a count of buffers', [], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0], false],
  ])('%s, with features %j and header %j: taken %p', (_, features, header, isTaken) => {
    const offered = [...SEGMENTS, net.VIRTIO_NET_F_HOST_ECN]
    const device = networkDevice({ mac: MAC, moreFeatures: offered })
    const host = new Host(device, { features })
    host.offer(1)
    const bytes = frame(MAC)
    host.running.bytes.fill(0, TX, TX + HEADER)
    host.running.bytes.set(header, TX)
    host.running.bytes.set(bytes, TX + HEADER)
    send(host.queue(1), [[BigInt(TX), HEADER + bytes.length, false]])
    host.running.simulator.drain()
    expect(host.queue(1).ring.take()).toBe(0)
    expect(host.received()).toHaveLength(isTaken ? 1 : 0)
    expect(device.violationCount).toBe(isTaken ? 0 : 1)
    expect(device.counters.txErrors).toBe(isTaken ? 0 : 1)
  })
})
