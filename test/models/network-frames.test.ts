// Frames through the network model with every filter, cut and queue pair; the model's other answers are in network.test.ts.

import { describe, expect, test } from '@jest/globals'
import { networkDevice, pair } from '../../lib/models/network.js'
import { extraNetFeatures, type NetworkDevice } from '../../lib/models/network-options.js'
import { Simulator } from '../../lib/simulator/simulator.js'
import { netFeatureBits as net, transportFeatureBits as transport } from '../../lib/uapi/virtio-features.js'
import { netCommands, parseMac, type NetCommandName, type NetCommandPayload } from '../../lib/uapi/virtio-net.js'
import { MAC, send, VERSION_AND_PLATFORM } from '../simulator/support.js'
import { drive, type Driven } from './support.js'

interface HostOptions {
  readonly simulator?: Simulator
  /** Bit numbers besides VERSION_1 and ACCESS_PLATFORM. */
  readonly features?: readonly number[]
  readonly size?: number
}

const HEADER = 12
const TX = 0x10_0000
const RX = 0x20_0000
const COMMAND = 0x30_0000
const ALL = 'ff:ff:ff:ff:ff:ff'
const OTHER = '02:aa:bb:cc:dd:ee'
const GROUP = '01:00:5e:00:00:01'
const CONTROL: readonly number[] = [net.VIRTIO_NET_F_CTRL_VQ, net.VIRTIO_NET_F_CTRL_MAC_ADDR]
const FILTERS = [...CONTROL, net.VIRTIO_NET_F_CTRL_RX, net.VIRTIO_NET_F_CTRL_RX_EXTRA, net.VIRTIO_NET_F_CTRL_VLAN]

function frame(to: string, length = 60, tag?: number): Uint8Array {
  const bytes = Uint8Array.from({ length }, (_, index) => index & 0xff)
  bytes.set(parseMac(to))
  if (tag === undefined) bytes.set([0x08, 0x00], 12)
  else bytes.set([0x81, 0, tag >> 8, tag & 0xff], 12)
  return bytes
}

class Host {
  readonly running: Driven
  readonly #control: number

  constructor(device: NetworkDevice, { features = [], ...options }: HostOptions = {}) {
    const word = features.reduce((bits, number) => bits | (1n << BigInt(number)), VERSION_AND_PLATFORM)
    this.running = drive(device, { size: 256, ...options, features: word, memory: 0x40_0000 })
    this.#control = device.queueCount - 1
  }

  queue(index: number) {
    const queue = this.running.queues[index]
    if (queue === undefined) throw new Error(`no queue ${index}`)
    return queue
  }

  /** Gives the device receive buffers of the same size. */
  offer(count: number, size = 2048, queue = 0): void {
    for (let index = 0; index < count; index++)
      send(this.queue(queue), [[BigInt(RX + index * size), size, true]], index)
  }

  transmit(bytes: Uint8Array, queue = 1): void {
    this.running.bytes.fill(0, TX, TX + HEADER)
    this.running.bytes.set(bytes, TX + HEADER)
    send(this.queue(queue), [
      [BigInt(TX), HEADER, false],
      [BigInt(TX + HEADER), bytes.byteLength, false],
    ])
    this.running.simulator.drain()
    while (this.queue(queue).ring.take() >= 0);
  }

  /** Frames received so far, without their headers, in buffers of `size`. */
  received(size = 2048, queue = 0): Uint8Array[] {
    const frames: Uint8Array[] = []
    const { ring } = this.queue(queue)
    for (let token = ring.take(); token >= 0; token = ring.take()) {
      const at = RX + token * size
      frames.push(this.running.bytes.slice(at + HEADER, at + ring.usedLength))
    }
    return frames
  }

  /** Whether a frame comes back. */
  loops(bytes: Uint8Array): boolean {
    this.offer(1)
    this.transmit(bytes)
    const [back] = this.received()
    if (back !== undefined) expect(Buffer.compare(back, bytes)).toBe(0)
    return back !== undefined
  }

  /** The acknowledgement of a command. */
  command<N extends NetCommandName>(name: N, value: NetCommandPayload<N>): number {
    const entry = netCommands[name]
    return this.raw(Uint8Array.of(entry.class, entry.command), entry.encode(value as never))
  }

  raw(head: Uint8Array, payload: Uint8Array): number {
    const { bytes, simulator } = this.running
    bytes.set(head, COMMAND)
    bytes.set(payload, COMMAND + 16)
    bytes[COMMAND + 0x8000] = 0xff
    const segments: [bigint, number, boolean][] = [[BigInt(COMMAND), head.byteLength, false]]
    if (payload.byteLength > 0) segments.push([BigInt(COMMAND + 16), payload.byteLength, false])
    segments.push([BigInt(COMMAND + 0x8000), 1, true])
    send(this.queue(this.#control), segments)
    simulator.drain()
    expect(this.queue(this.#control).ring.take()).toBe(0)
    return bytes[COMMAND + 0x8000] ?? 0xff
  }
}

describe('loopback', () => {
  test.each([
    ['split', []],
    ['split, in order, event index', [transport.VIRTIO_F_IN_ORDER, transport.VIRTIO_F_RING_EVENT_IDX]],
    ['packed', [transport.VIRTIO_F_RING_PACKED]],
    ['packed, event index', [transport.VIRTIO_F_RING_PACKED, transport.VIRTIO_F_RING_EVENT_IDX]],
  ])('%s: a thousand frames come back in order, byte for byte', (_name, features) => {
    const device = networkDevice({ mac: MAC, moreFeatures: extraNetFeatures })
    const host = new Host(device, { features, size: 16 })
    let next = 0
    for (let round = 0; round < 250; round++) {
      host.offer(4)
      for (let index = 0; index < 4; index++) {
        const bytes = frame(MAC, 14 + ((next * 7) % 1400))
        bytes[13] = next & 0xff
        host.transmit(bytes)
        next++
      }
      const frames = host.received()
      expect(frames.map((back) => back[13])).toEqual([4, 3, 2, 1].map((back) => (next - back) & 0xff))
      expect(frames.map(({ byteLength }) => byteLength)).toEqual(
        [4, 3, 2, 1].map((back) => 14 + (((next - back) * 7) % 1400)),
      )
    }
    expect(device.counters).toMatchObject({ txPackets: 1000, rxPackets: 1000, rxDrops: 0, rxErrors: 0, txErrors: 0 })
  })

  test('without a buffer the frame is lost and counted', () => {
    const device = networkDevice({ mac: MAC })
    const host = new Host(device)
    host.transmit(frame(MAC))
    expect(device.counters).toMatchObject({ txPackets: 1, rxPackets: 0, rxOverruns: 1 })
  })

  test('a frame larger than its buffer is lost, or spread over several with MRG_RXBUF', () => {
    const without = new Host(networkDevice({ mac: MAC }))
    without.offer(8, 256)
    without.transmit(frame(MAC, 1000))
    expect(without.received(256)).toHaveLength(0)
    const device = networkDevice({ mac: MAC, moreFeatures: extraNetFeatures })
    const host = new Host(device, { features: [net.VIRTIO_NET_F_MRG_RXBUF] })
    host.offer(8, 256)
    host.transmit(frame(MAC, 1000))
    const { ring } = host.queue(0)
    const lengths: number[] = []
    while (ring.take() >= 0) lengths.push(ring.usedLength)
    expect(lengths).toEqual([256, 256, 256, 244])
    const back = host.running.bytes.slice(RX, RX + HEADER + 1000)
    expect([back[10], back[11]]).toEqual([4, 0])
    expect(Buffer.compare(back.subarray(HEADER), frame(MAC, 1000))).toBe(0)
    expect(device.counters.rxPackets).toBe(1)
  })

  test('the count of merged buffers is written where the header lies, however it is cut', () => {
    const host = new Host(networkDevice({ mac: MAC, moreFeatures: extraNetFeatures }), {
      features: [net.VIRTIO_NET_F_MRG_RXBUF],
    })
    send(host.queue(0), [
      [BigInt(RX), 11, true],
      [BigInt(RX + 0x100), 100, true],
    ])
    send(host.queue(0), [[BigInt(RX + 0x1000), 2048, true]])
    host.running.bytes.fill(0xee, RX, RX + 0x200)
    host.transmit(frame(MAC, 500))
    expect([...host.running.bytes.subarray(RX + 10, RX + 13)]).toEqual([2, 0xee, 0xee])
    expect(host.running.bytes[RX + 0x100]).toBe(0)
  })
})

describe('the receive filter', () => {
  test('by default passes the own address and groups', () => {
    const host = new Host(networkDevice({ mac: MAC }))
    expect([MAC, OTHER, ALL, GROUP].map((to) => host.loops(frame(to)))).toEqual([true, false, true, true])
  })

  test('follows the commands of CTRL_RX and CTRL_RX_EXTRA', () => {
    const pass = (commands: readonly NetCommandName[]) => {
      const host = new Host(networkDevice({ mac: MAC, moreFeatures: extraNetFeatures }), { features: FILTERS })
      for (const name of commands) expect(host.command(name, true)).toBe(0)
      return [MAC, OTHER, ALL, GROUP].map((to) => host.loops(frame(to)))
    }
    expect(pass(['VIRTIO_NET_CTRL_RX_PROMISC'])).toEqual([true, true, true, true])
    expect(pass(['VIRTIO_NET_CTRL_RX_ALLUNI'])).toEqual([true, true, true, true])
    expect(pass(['VIRTIO_NET_CTRL_RX_NOUNI'])).toEqual([false, false, true, true])
    expect(pass(['VIRTIO_NET_CTRL_RX_NOMULTI'])).toEqual([true, false, true, false])
    expect(pass(['VIRTIO_NET_CTRL_RX_NOBCAST'])).toEqual([true, false, false, true])
  })

  test('passes the addresses of the table', () => {
    const host = new Host(networkDevice({ mac: MAC, moreFeatures: extraNetFeatures }), { features: FILTERS })
    expect(host.command('VIRTIO_NET_CTRL_RX_ALLMULTI', false)).toBe(0)
    expect([OTHER, GROUP].map((to) => host.loops(frame(to)))).toEqual([false, false])
    expect(host.command('VIRTIO_NET_CTRL_MAC_TABLE_SET', { unicast: [OTHER], multicast: [GROUP] })).toBe(0)
    expect([OTHER, GROUP, '02:00:00:00:00:01'].map((to) => host.loops(frame(to)))).toEqual([true, true, false])
  })

  test('with CTRL_VLAN passes the VLANs that were added, and frames without a tag', () => {
    const host = new Host(networkDevice({ mac: MAC, moreFeatures: extraNetFeatures }), { features: FILTERS })
    const loops = () => [undefined, 5, 6].map((tag) => host.loops(frame(MAC, 60, tag)))
    expect(loops()).toEqual([true, false, false])
    expect(host.command('VIRTIO_NET_CTRL_VLAN_ADD', 5)).toBe(0)
    expect(loops()).toEqual([true, true, false])
    expect(host.command('VIRTIO_NET_CTRL_VLAN_DEL', 5)).toBe(0)
    expect(host.command('VIRTIO_NET_CTRL_VLAN_DEL', 5)).toBe(1)
    expect(host.command('VIRTIO_NET_CTRL_VLAN_ADD', 4096)).toBe(1)
    expect(loops()).toEqual([true, false, false])
    // Without the feature tags are nothing to the device.
    expect(new Host(networkDevice({ mac: MAC })).loops(frame(MAC, 60, 6))).toBe(true)
  })
})

describe('the control queue', () => {
  test('sets the address, which config and filter then have', () => {
    const device = networkDevice({ mac: MAC })
    const host = new Host(device, { features: CONTROL })
    expect(host.command('VIRTIO_NET_CTRL_MAC_ADDR_SET', OTHER)).toBe(0)
    expect(device.mac).toBe(OTHER)
    expect([...host.running.client.config(0, 6)]).toEqual([...parseMac(OTHER)])
    expect([MAC, OTHER].map((to) => host.loops(frame(to)))).toEqual([false, true])
  })

  test('refuses what was not negotiated, is unknown, or is malformed', () => {
    const host = new Host(networkDevice({ mac: MAC, moreFeatures: extraNetFeatures }), { features: CONTROL })
    expect(host.command('VIRTIO_NET_CTRL_RX_PROMISC', true)).toBe(1)
    expect(host.command('VIRTIO_NET_CTRL_VLAN_ADD', 1)).toBe(1)
    expect(host.command('VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET', 1)).toBe(1)
    expect(host.raw(Uint8Array.of(77, 0), Uint8Array.of(1))).toBe(1)
    expect(host.raw(Uint8Array.of(1, 1), new Uint8Array(5))).toBe(1)
    expect(host.raw(Uint8Array.of(1, 1), new Uint8Array(7))).toBe(1)
    expect(host.raw(Uint8Array.of(1, 1), parseMac(OTHER))).toBe(0)
  })

  test('takes offloads, coalescing, and the acknowledgement of an announcement, which ends it', () => {
    const more = [net.VIRTIO_NET_F_CTRL_GUEST_OFFLOADS, net.VIRTIO_NET_F_NOTF_COAL, net.VIRTIO_NET_F_GUEST_ANNOUNCE]
    const device = networkDevice({ mac: MAC, moreFeatures: more })
    const host = new Host(device, { features: [...CONTROL, ...more] })
    expect(host.command('VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET', 0x83n)).toBe(0)
    expect(host.command('VIRTIO_NET_CTRL_NOTF_COAL_RX_SET', { maxPackets: 8, maxUsecs: 50 })).toBe(0)
    expect(device.control).toMatchObject({ offloads: 0x83n, receiveCoalescing: { maxPackets: 8, maxUsecs: 50 } })
    host.running.simulator.faults.changeConfig(host.running.client.handle.path, 6, Uint8Array.of(3))
    expect(host.command('VIRTIO_NET_CTRL_ANNOUNCE_ACK', undefined)).toBe(0)
    expect(host.running.client.config(6, 1)[0]).toBe(1)
    expect(device.control.announceAcknowledged).toBe(1)
  })

  test('is forgotten by a reset, but for the address', () => {
    const device = networkDevice({ mac: MAC, moreFeatures: extraNetFeatures })
    const host = new Host(device, { features: FILTERS })
    host.command('VIRTIO_NET_CTRL_RX_NOBCAST', true)
    host.command('VIRTIO_NET_CTRL_VLAN_ADD', 5)
    host.command('VIRTIO_NET_CTRL_MAC_ADDR_SET', OTHER)
    host.running.client.set('VHOST_VDPA_SET_STATUS', 0)
    expect(device.control).toMatchObject({ refusesBroadcast: false, isPromiscuous: false })
    expect(device.control.vlans.size).toBe(0)
    expect(device.mac).toBe(OTHER)
  })
})

describe('several queue pairs', () => {
  const MQ = [...CONTROL, net.VIRTIO_NET_F_MQ]

  test('are of use after VQ_PAIRS_SET, each looping to its own receive queue', () => {
    const device = networkDevice({ mac: MAC, queuePairs: 4 })
    expect(device.queueCount).toBe(9)
    const host = new Host(device, { features: MQ })
    const through = (pairIndex: number) => {
      send(host.queue(2 * pairIndex), [[BigInt(RX + pairIndex * 0x1000), 2048, true]], pairIndex)
      host.transmit(frame(MAC), 2 * pairIndex + 1)
      return host.queue(2 * pairIndex).ring.take()
    }
    expect([0, 1].map(through)).toEqual([0, -1])
    expect(host.command('VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET', 0)).toBe(1)
    expect(host.command('VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET', 5)).toBe(1)
    expect(host.command('VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET', 4)).toBe(0)
    // What pair 1 was given before is moved now, when something wakes the device.
    expect([2, 3, 0].map(through)).toEqual([2, 3, 0])
    expect(host.queue(2).ring.take()).toBe(1)
  })
})

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
    expect(second.counters).toMatchObject({ rxPackets: 1, rxDrops: 1, txPackets: 1 })
  })
})
