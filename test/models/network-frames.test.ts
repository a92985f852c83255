// Frames through the network model with every filter, cut and queue pair; the model's other answers are in network.test.ts, wires in network-wire.test.ts.

import { describe, expect, test } from '@jest/globals'
import { networkDevice } from '../../lib/models/network.js'
import { extraNetFeatures } from '../../lib/models/network-options.js'
import { netFeatureBits as net, transportFeatureBits as transport } from '../../lib/uapi/virtio-features.js'
import { parseMac } from '../../lib/uapi/virtio-net.js'
import type { NetCommandName } from '../../lib/uapi/virtio-net-commands.js'
import { MAC, send } from '../simulator/support.js'
import { ALL, CONTROL, FILTERS, frame, GROUP, HEADER, Host, OTHER, RX, TX } from './net-host.js'

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

  test('300 frames that wait together need no more than one kick', () => {
    const device = networkDevice({ mac: MAC, maxQueueSize: 1024 })
    const host = new Host(device, { size: 1024 })
    host.offer(300)
    host.running.simulator.drain()
    host.running.bytes.set(frame(MAC), TX + HEADER)
    for (let token = 0; token < 300; token++)
      send(
        host.queue(1),
        [
          [BigInt(TX), HEADER, false],
          [BigInt(TX + HEADER), 60, false],
        ],
        token,
      )
    host.running.simulator.drain()
    expect(device.counters).toMatchObject({ txPackets: 300, rxPackets: 300 })
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
    // The priority above the VLAN's number is no part of it.
    expect(host.loops(frame(MAC, 60, 0xe005))).toBe(true)
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
    const offloads = [net.VIRTIO_NET_F_GUEST_CSUM, net.VIRTIO_NET_F_GUEST_TSO4, net.VIRTIO_NET_F_CTRL_GUEST_OFFLOADS]
    const more = [...offloads, net.VIRTIO_NET_F_NOTF_COAL, net.VIRTIO_NET_F_GUEST_ANNOUNCE]
    const device = networkDevice({ mac: MAC, moreFeatures: more })
    const host = new Host(device, { features: [...CONTROL, ...more] })
    expect(host.command('VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET', 0x82n)).toBe(0)
    expect(host.command('VIRTIO_NET_CTRL_NOTF_COAL_RX_SET', { maxPackets: 8, maxUsecs: 50 })).toBe(0)
    expect(device.control).toMatchObject({ offloads: 0x82n, receiveCoalescing: { maxPackets: 8, maxUsecs: 50 } })
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
