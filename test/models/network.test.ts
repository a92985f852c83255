import { describe, expect, test } from '@jest/globals'
import { RingMemory } from '../../lib/memory/ring-memory.js'
import { networkDevice, pair } from '../../lib/models/network.js'
import type { NetworkDeviceOptions } from '../../lib/models/network-options.js'
import { openDevice } from '../../lib/open.js'
import { Simulator } from '../../lib/simulator/simulator.js'
import { netFeatureBits as net, transportFeatureBits as transport } from '../../lib/uapi/virtio-features.js'
import { parseMac } from '../../lib/uapi/virtio-net.js'
import { netCommands, type NetCommandName } from '../../lib/uapi/virtio-net-commands.js'
import { drive, type Driven, type Segments } from './support.js'
import { send } from '../simulator/support.js'
import { splitDescriptor } from '../virtqueue/support.js'

const MAC = '02:00:00:00:00:01'
const FRAME = 0x2_0000
const BUFFER = 0x3_0000
const COMMAND = 0x2_8000
const ACK = 0x2_8800
const CONTROL = 2

function network(options: NetworkDeviceOptions = {}) {
  const device = networkDevice({ mac: MAC, ...options })
  return { device, ...drive(device, { memory: 0x8_0000 }) }
}

/** Writes a frame with its 12-byte header and returns the chain that sends it. */
function frame(bytes: Uint8Array, to: string, length = 64, at = FRAME): Segments {
  bytes.fill(0, at, at + 12)
  bytes.set(parseMac(to), at + 12)
  for (let index = 6; index < length; index++) bytes[at + 12 + index] = index & 255
  return [[BigInt(at), 12 + length, false]]
}

function command(driven: Driven, name: NetCommandName, payload: Uint8Array, queue = CONTROL): number | undefined {
  const { bytes } = driven
  const { class: commandClass, command: number } = netCommands[name]
  bytes.set([commandClass, number, ...payload], COMMAND)
  bytes[ACK] = 255
  driven.exchange(queue, [
    [BigInt(COMMAND), 2 + payload.length, false],
    [BigInt(ACK), 1, true],
  ])
  return bytes[ACK]
}

/** Sends one frame and says how many bytes came back, if any. */
function loop(driven: Driven, to: string, length = 64): number | undefined {
  const [receive, transmit] = driven.queues
  if (receive === undefined || transmit === undefined) throw new Error('no queues')
  send(receive, [[BigInt(BUFFER), 2048, true]], 9)
  send(transmit, frame(driven.bytes, to, length), 8)
  driven.simulator.drain()
  expect(transmit.ring.take()).toBe(8)
  return receive.ring.take() < 0 ? undefined : receive.ring.usedLength
}

const [NEXT, WRITE] = [1, 2]
const RING_SIZE = 64

/** Puts descriptors into a split ring as they are, from slot `head` on, and kicks. */
function putRaw(
  driven: Driven,
  index: number,
  descriptors: readonly (readonly [address: number, length: number, flags: number, next: number])[],
  head = 0,
): void {
  const ring = new RingMemory(driven.memory.buffer, index * 0x8000)
  for (const [slot, [address, length, flags, next]] of descriptors.entries())
    splitDescriptor(ring, head + slot, [BigInt(address), length], flags, next)
  const availableAt = RING_SIZE * 16
  const position = ring.u16(availableAt + 2)
  ring.setU16(availableAt + 4 + 2 * (position % RING_SIZE), head)
  ring.setU16(availableAt + 2, position + 1)
  driven.queues[index]?.kick.signal()
  driven.simulator.drain()
}

describe('a network device', () => {
  test('has the shape of vdpa_sim_net', () => {
    const device = networkDevice()
    expect(device).toMatchObject({ deviceId: 1, queueCount: 3, groupCount: 2, addressSpaceCount: 2, configSize: 24 })
    expect([0, 1, 2].map((index) => device.queueGroup?.(index))).toEqual([0, 0, 1])
    expect(device.features()).toBe(0x3_0883_0028n)
  })

  test.each([
    ['split', []],
    ['split with event index', [transport.VIRTIO_F_RING_EVENT_IDX]],
    ['packed', [transport.VIRTIO_F_RING_PACKED]],
    ['packed with event index', [transport.VIRTIO_F_RING_PACKED, transport.VIRTIO_F_RING_EVENT_IDX]],
    ['split in order', [transport.VIRTIO_F_IN_ORDER]],
    ['packed in order', [transport.VIRTIO_F_RING_PACKED, transport.VIRTIO_F_IN_ORDER]],
  ])('loops 300 frames over %s rings', (_, moreFeatures) => {
    const driven = network({ moreFeatures })
    for (let count = 0; count < 300; count++) expect(loop(driven, MAC, 60 + count)).toBe(72 + count)
    expect(driven.device.counters).toMatchObject({ txPackets: 300, rxPackets: 300, rxDrops: 0, rxOverruns: 0 })
    expect([...driven.bytes.subarray(BUFFER + 10, BUFFER + 18)]).toEqual([1, 0, ...parseMac(MAC)])
  })

  test('loses a frame for which there is no buffer, and goes on when there is one', () => {
    const driven = network()
    expect(driven.exchange(1, frame(driven.bytes, MAC))).toBe(0)
    expect(driven.device.counters).toMatchObject({ rxOverruns: 1, rxPackets: 0 })
    expect(loop(driven, MAC)).toBe(76)
  })

  test('drops a frame that is too long for a buffer, and keeps the buffer', () => {
    const driven = network()
    const [receive, transmit] = driven.queues
    if (receive === undefined || transmit === undefined) throw new Error('no queues')
    send(receive, [[BigInt(BUFFER), 100, true]], 1)
    send(transmit, frame(driven.bytes, MAC, 200), 2)
    driven.simulator.drain()
    expect([transmit.ring.take(), receive.ring.take()]).toEqual([2, -1])
    send(transmit, frame(driven.bytes, MAC, 80), 3)
    driven.simulator.drain()
    expect([receive.ring.take(), receive.ring.usedLength]).toEqual([1, 92])
  })

  test('spreads it over several with MRG_RXBUF, and says how many', () => {
    const driven = network({ moreFeatures: [net.VIRTIO_NET_F_MRG_RXBUF] })
    const [receive, transmit] = driven.queues
    if (receive === undefined || transmit === undefined) throw new Error('no queues')
    for (let index = 0; index < 4; index++) send(receive, [[BigInt(BUFFER + index * 100), 100, true]], index)
    send(transmit, frame(driven.bytes, MAC, 200), 9)
    driven.simulator.drain()
    const used: number[] = []
    while (receive.ring.take() >= 0) used.push(receive.ring.usedLength)
    expect(used).toEqual([100, 100, 12])
    expect([...driven.bytes.subarray(BUFFER + 10, BUFFER + 12)]).toEqual([3, 0])
    expect(driven.bytes.slice(BUFFER + 12, BUFFER + 212)).toEqual(driven.bytes.slice(FRAME + 12, FRAME + 212))
  })

  test('filters by what commands say', () => {
    const driven = network({
      moreFeatures: [net.VIRTIO_NET_F_CTRL_RX, net.VIRTIO_NET_F_CTRL_RX_EXTRA],
    })
    const other = '02:00:00:00:00:99'
    const group = '01:00:5e:00:00:01'
    expect(loop(driven, other)).toBeUndefined()
    expect(command(driven, 'VIRTIO_NET_CTRL_RX_PROMISC', Uint8Array.of(1))).toBe(0)
    // The buffer of the dropped frame is still there, so two are now.
    expect(loop(driven, other)).toBe(76)
    expect(command(driven, 'VIRTIO_NET_CTRL_RX_PROMISC', Uint8Array.of(0))).toBe(0)
    expect(loop(driven, other)).toBeUndefined()
    const table = netCommands.VIRTIO_NET_CTRL_MAC_TABLE_SET.encode({ unicast: [other], multicast: [group] })
    expect(command(driven, 'VIRTIO_NET_CTRL_MAC_TABLE_SET', table)).toBe(0)
    expect(loop(driven, other)).toBe(76)
    expect(loop(driven, group)).toBe(76)
    expect(command(driven, 'VIRTIO_NET_CTRL_RX_ALLMULTI', Uint8Array.of(0))).toBe(0)
    expect(loop(driven, '01:00:5e:00:00:02')).toBeUndefined()
    expect(command(driven, 'VIRTIO_NET_CTRL_RX_NOBCAST', Uint8Array.of(1))).toBe(0)
    expect(loop(driven, 'ff:ff:ff:ff:ff:ff')).toBeUndefined()
    expect(command(driven, 'VIRTIO_NET_CTRL_RX_NOUNI', Uint8Array.of(1))).toBe(0)
    expect(loop(driven, MAC)).toBeUndefined()
    expect(command(driven, 'VIRTIO_NET_CTRL_RX_ALLUNI', Uint8Array.of(1))).toBe(0)
    expect(loop(driven, other)).toBeUndefined()
    expect(command(driven, 'VIRTIO_NET_CTRL_RX_NOUNI', Uint8Array.of(0))).toBe(0)
    expect(loop(driven, other)).toBe(76)
  })

  test('answers ERR to what it does not know, was not negotiated, or is malformed', () => {
    const driven = network()
    expect(command(driven, 'VIRTIO_NET_CTRL_MAC_ADDR_SET', parseMac('02:00:00:00:00:07'))).toBe(0)
    expect(driven.device.mac).toBe('02:00:00:00:00:07')
    expect(command(driven, 'VIRTIO_NET_CTRL_MAC_ADDR_SET', Uint8Array.of(1, 2, 3))).toBe(1)
    expect(command(driven, 'VIRTIO_NET_CTRL_MAC_ADDR_SET', new Uint8Array(7))).toBe(1)
    expect(command(driven, 'VIRTIO_NET_CTRL_VLAN_ADD', Uint8Array.of(1, 0))).toBe(1)
    expect(command(driven, 'VIRTIO_NET_CTRL_MQ_RSS_CONFIG', new Uint8Array(20))).toBe(1)
    expect(driven.device.mac).toBe('02:00:00:00:00:07')
    expect(driven.device.counters).toMatchObject({ commands: 5, commandErrors: 4 })
  })

  test('keeps VLANs and acknowledges announcements', () => {
    const driven = network({ moreFeatures: [net.VIRTIO_NET_F_CTRL_VLAN, net.VIRTIO_NET_F_GUEST_ANNOUNCE] })
    expect(command(driven, 'VIRTIO_NET_CTRL_VLAN_ADD', Uint8Array.of(7, 0))).toBe(0)
    expect(command(driven, 'VIRTIO_NET_CTRL_VLAN_ADD', Uint8Array.of(0, 0x10))).toBe(1)
    expect([...driven.device.control.vlans]).toEqual([7])
    expect(command(driven, 'VIRTIO_NET_CTRL_VLAN_DEL', Uint8Array.of(7, 0))).toBe(0)
    expect(command(driven, 'VIRTIO_NET_CTRL_VLAN_DEL', Uint8Array.of(7, 0))).toBe(1)
    expect(command(driven, 'VIRTIO_NET_CTRL_ANNOUNCE_ACK', new Uint8Array(0))).toBe(0)
    expect(driven.device.control.announceAcknowledged).toBe(1)
  })

  test('with several queue pairs uses as many as the driver says', () => {
    const driven = network({ queuePairs: 2 })
    const control = 4
    expect(driven.client.get('VHOST_VDPA_GET_VQS_COUNT')).toBe(5n)
    const transmit = driven.queues[3]
    const receive = driven.queues[2]
    if (transmit === undefined || receive === undefined) throw new Error('no queues')
    const at = 0x5_0000
    send(receive, [[BigInt(BUFFER), 2048, true]], 1)
    send(transmit, frame(driven.bytes, MAC, 64, at), 2)
    driven.simulator.drain()
    expect(transmit.ring.take()).toBe(-1)
    expect(command(driven, 'VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET', Uint8Array.of(3, 0), control)).toBe(1)
    expect(command(driven, 'VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET', Uint8Array.of(2, 0), control)).toBe(0)
    expect([transmit.ring.take(), receive.ring.take()]).toEqual([2, 1])
  })

  test('paired with another one sends to it', () => {
    const simulator = new Simulator({ scheduler: 'manual' })
    const [a, b] = [networkDevice({ mac: MAC }), networkDevice({ mac: '02:00:00:00:00:02' })]
    pair(a, b)
    const [first, second] = [a, b].map((device) => drive(device, { simulator, memory: 0x8_0000 }))
    if (first === undefined || second === undefined) throw new Error('no devices')
    const receive = second.queues[0]
    if (receive === undefined) throw new Error('no queue')
    send(receive, [[BigInt(BUFFER), 2048, true]], 5)
    expect(first.exchange(1, frame(first.bytes, MAC))).toBe(0)
    expect(first.exchange(1, frame(first.bytes, '02:00:00:00:00:02'))).toBe(0)
    expect([receive.ring.take(), receive.ring.usedLength]).toEqual([5, 76])
    expect(receive.call.take()).toBe(1)
    expect(b.counters).toMatchObject({ rxPackets: 1, rxDrops: 1 })
    // A wire whose other end is gone loses frames.
    second.client.handle.closeSync()
    expect(first.exchange(1, frame(first.bytes, '02:00:00:00:00:02'))).toBe(0)
    expect(b.counters.rxPackets).toBe(1)
  })

  test('refuses features that need a queue which was not negotiated', () => {
    const driven = networkDevice({ moreFeatures: [net.VIRTIO_NET_F_CTRL_RX] })
    expect(driven.setFeatures((1n << 32n) | (1n << 33n) | (1n << 18n))).toBe(false)
    expect(driven.setFeatures((1n << 32n) | (1n << 33n) | (1n << 18n) | (1n << 17n))).toBe(true)
  })

  test('refuses options that contradict each other', () => {
    expect(() => networkDevice({ groups: [0, 1] })).toThrow(RangeError)
    expect(() => networkDevice({ mac: 'x' })).toThrow(RangeError)
    expect(() => networkDevice({ mtu: 10 })).toThrow(RangeError)
    expect(() => networkDevice({ features: 1n << 32n, queuePairs: 2 })).toThrow(
      /^features must be given with VIRTIO_NET_F_CTRL_VQ among them, by which a driver puts 2 queue pairs to use \(section 5.1.3.1\); without it, queuePairs is 1/,
    )
    expect(networkDevice({ features: 1n << 32n, moreFeatures: [net.VIRTIO_NET_F_CTRL_VQ], queuePairs: 2 }).mac).toBe(
      networkDevice().mac,
    )
    expect(() => networkDevice({ features: (1n << 32n) | (1n << BigInt(net.VIRTIO_NET_F_MQ)) })).toThrow(
      /^features must be an offer without contradiction: VIRTIO_NET_F_MQ needs VIRTIO_NET_F_CTRL_VQ \(section 5.1.3.1\)/,
    )
    const defaults = networkDevice().features()
    expect(() => networkDevice({ features: defaults | (1n << BigInt(net.VIRTIO_NET_F_HOST_TSO4)) })).toThrow(
      /VIRTIO_NET_F_HOST_TSO4 needs VIRTIO_NET_F_CSUM/,
    )
  })

  test('offers more than it may where it is told to, and takes none of it without what that needs', async () => {
    const { VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_RSC_EXT } = net
    const backend = new Simulator()
    backend.add(networkDevice({ path: '/dev/a', moreFeatures: [VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_RSC_EXT] }))
    await using device = await openDevice('/dev/a', { backend, expect: 'net' })
    await expect(device.negotiate(['VIRTIO_NET_F_RSC_EXT'])).rejects.toThrow(/VIRTIO_NET_F_RSC_EXT needs/)
    await expect(device.negotiate(['VIRTIO_NET_F_HOST_TSO4'])).rejects.toThrow(/HOST_TSO4 needs VIRTIO_NET_F_CSUM/)
    await device.negotiate(['VIRTIO_NET_F_CTRL_VQ'])
  })
})

describe('in the profile linux-6.12', () => {
  function vdpaSim(mac: string) {
    const device = networkDevice({ mac })
    return { device, ...drive(device, { options: { profile: 'linux-6.12' }, memory: 0x8_0000 }) }
  }

  test('addresses are compared as strings', () => {
    expect(loop(vdpaSim('00:11:22:33:44:55'), '00:99:99:99:99:99')).toBe(76)
    expect(loop(vdpaSim('02:11:22:33:44:55'), '02:99:99:99:99:99')).toBeUndefined()
  })

  test('a command may be longer than it should, and an acknowledgement that cannot be written is a length', () => {
    const driven = vdpaSim(MAC)
    expect(command(driven, 'VIRTIO_NET_CTRL_MAC_ADDR_SET', Uint8Array.of(2, 0, 0, 0, 0, 9, 1))).toBe(0)
    expect(driven.device.mac).toBe('02:00:00:00:00:09')
    const control = driven.queues[CONTROL]
    if (control === undefined) throw new Error('no queue')
    send(control, [
      [BigInt(COMMAND), 8, false],
      [0xf000_0000n, 1, true],
    ])
    driven.simulator.drain()
    // Our driver cuts what cannot be: the chain has one writable byte.
    expect([control.ring.take(), control.ring.usedLength]).toEqual([0, 1])
    expect(control.call.take()).toBeGreaterThan(0)
  })

  test('a frame is cut to 4096 bytes, and to its buffer', () => {
    const driven = vdpaSim(MAC)
    expect(loop(driven, MAC, 3000)).toBe(2048)
  })

  test('a chain of the wrong direction is taken and never used', () => {
    const driven = vdpaSim(MAC)
    frame(driven.bytes, MAC)
    expect(
      driven.exchange(1, [
        [BigInt(FRAME), 76, false],
        [BigInt(BUFFER), 4, true],
      ]),
    ).toBeUndefined()
    expect(driven.client.vring('VHOST_GET_VRING_BASE', 1)).toBe(1)
  })

  test('and so is one with a segment of the wrong direction that has no bytes', () => {
    const driven = vdpaSim(MAC)
    frame(driven.bytes, MAC)
    putRaw(driven, 1, [
      [FRAME, 76, NEXT, 1],
      [BUFFER, 0, WRITE, 0],
    ])
    expect([driven.client.vring('VHOST_GET_VRING_BASE', 1), driven.device.counters.txErrors]).toEqual([1, 1])
  })

  test('a chain that breaks a rule is lost, its descriptors may come again, and the device asks for no reset', () => {
    const driven = vdpaSim(MAC)
    const { client, bytes, device } = driven
    putRaw(driven, CONTROL, [[COMMAND, 8, NEXT, 0]])
    expect([client.vring('VHOST_GET_VRING_BASE', CONTROL), client.get('VHOST_VDPA_GET_STATUS')]).toEqual([1, 15n])
    bytes.set([1, 1, 2, 0, 0, 0, 0, 9], COMMAND)
    putRaw(driven, CONTROL, [
      [COMMAND, 8, NEXT, 1],
      [BUFFER, 1, WRITE, 0],
    ])
    expect([client.vring('VHOST_GET_VRING_BASE', CONTROL), device.mac]).toEqual([2, '02:00:00:00:00:09'])
  })

  test('a frame for a chain that cannot be followed is lost, and the chain behind it waits for the next frame', () => {
    const driven = vdpaSim(MAC)
    frame(driven.bytes, MAC)
    putRaw(driven, 0, [[BUFFER, 2048, WRITE | NEXT, 0]])
    putRaw(driven, 0, [[BUFFER, 2048, WRITE, 0]], 5)
    const before = driven.device.counters.rxPackets
    expect(driven.exchange(1, [[BigInt(FRAME), 76, false]])).toBe(0)
    expect(driven.client.vring('VHOST_GET_VRING_BASE', 0)).toBe(1)
    expect(driven.exchange(1, [[BigInt(FRAME), 76, false]])).toBe(0)
    expect([driven.client.vring('VHOST_GET_VRING_BASE', 0), driven.device.counters.rxPackets]).toEqual([2, before + 1])
  })

  test('a queue whose used ring cannot be written is served, and goes on where it stood when it can be', () => {
    const driven = vdpaSim(MAC)
    const { client, memory } = driven
    client.message(3, { asid: 0, size: BigInt(memory.length) })
    client.map(0, 0n, memory, 1)
    const set = Uint8Array.of(2, 0, 0, 0, 0, 9)
    expect(command(driven, 'VIRTIO_NET_CTRL_MAC_ADDR_SET', set)).toBe(255)
    expect(driven.device.mac).toBe('02:00:00:00:00:09')
    expect(client.vring('VHOST_GET_VRING_BASE', CONTROL)).toBe(1)
    client.message(3, { asid: 0, size: BigInt(memory.length) })
    client.map(0, 0n, memory)
    expect(command(driven, 'VIRTIO_NET_CTRL_MAC_ADDR_SET', set)).toBe(0)
    expect(driven.queues[CONTROL]?.ring.inFlight).toBe(1)
  })
})
