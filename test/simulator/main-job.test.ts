import { describe, expect, test } from '@jest/globals'
import { networkDevice } from '../../lib/models/network.js'
import { Simulator } from '../../lib/simulator/simulator.js'
import { Client, MAC, VERSION_AND_PLATFORM, codeOf, makeQueue, send } from './support.js'

const MAP = 2
const CONTROL_IOVA = 0x100_0000n

function start(profile: 'strict' | 'linux-6.12') {
  const simulator = new Simulator({ profile, scheduler: 'manual' })
  const device = networkDevice({ mac: MAC })
  simulator.add(device)
  const client = new Client(simulator).owner()
  client.set('VHOST_SET_BACKEND_FEATURES', client.get('VHOST_GET_BACKEND_FEATURES'))
  client.set('VHOST_VDPA_SET_STATUS', 3)
  client.set('VHOST_SET_FEATURES', client.get('VHOST_GET_FEATURES'))
  client.set('VHOST_VDPA_SET_STATUS', 11)
  expect(client.vring('VHOST_VDPA_GET_VRING_GROUP', 2)).toBe(1)
  client.vring('VHOST_VDPA_SET_GROUP_ASID', 1, 1)
  const [guest, own] = [simulator.allocate(0x10_0000), simulator.allocate(0x1_0000)]
  client.map(0, 0n, guest)
  client.map(1, CONTROL_IOVA, own)
  const rx = makeQueue(client, 0, guest, [0n, 0])
  const tx = makeQueue(client, 1, guest, [0n, 0x4000])
  const control = makeQueue(client, 2, own, [CONTROL_IOVA, 0])
  client.set('VHOST_VDPA_SET_STATUS', 15)
  return { simulator, device, client, guest, own, rx, tx, control }
}

describe.each(['strict', 'linux-6.12'] as const)('the main job, profile %s', (profile) => {
  test('sets the MAC through a control queue in an address space of its own', () => {
    const { simulator, device, client, own, control } = start(profile)
    new Uint8Array(own.buffer).set([1, 1, 2, 0, 0, 0, 0, 1], 0x8000)
    new Uint8Array(own.buffer)[0x8010] = 0xff
    send(
      control,
      [
        [CONTROL_IOVA + 0x8000n, 2, false],
        [CONTROL_IOVA + 0x8002n, 6, false],
        [CONTROL_IOVA + 0x8010n, 1, true],
      ],
      7,
    )
    simulator.drain()
    expect(control.call.take()).toBe(1)
    expect(control.ring.take()).toBe(7)
    expect(control.ring.usedLength).toBe(1)
    expect(new Uint8Array(own.buffer)[0x8010]).toBe(0)
    expect(device.mac).toBe('02:00:00:00:00:01')
    expect([...client.config(0, 6)]).toEqual([2, 0, 0, 0, 0, 1])
  })

  test('a command of an unknown class is refused; 6.12 answers it as the command before it', () => {
    const { simulator, own, control } = start(profile)
    const bytes = new Uint8Array(own.buffer)
    bytes.set([1, 1, 2, 0, 0, 0, 0, 1], 0x8000)
    bytes.set([4, 0, 1, 0], 0x8020)
    bytes.fill(0xff, 0x8010, 0x8013)
    const sendAt = (at: bigint, length: number, ackAt: bigint) =>
      send(control, [
        [CONTROL_IOVA + at, length, false],
        [CONTROL_IOVA + ackAt, 1, true],
      ])
    sendAt(0x8000n, 8, 0x8010n)
    sendAt(0x8020n, 4, 0x8011n)
    simulator.drain()
    sendAt(0x8020n, 4, 0x8012n)
    simulator.drain()
    expect([...bytes.subarray(0x8010, 0x8013)]).toEqual(profile === 'strict' ? [0, 1, 1] : [0, 0, 1])
  })

  test('a command whose buffer only the guest can reach gets no acknowledgement and no interrupt', () => {
    const { simulator, device, guest, control } = start(profile)
    new Uint8Array(guest.buffer).set([1, 1, 2, 0, 0, 0, 0, 1], 0x8000)
    send(control, [
      [0x8000n, 8, false],
      [CONTROL_IOVA + 0x8010n, 1, true],
    ])
    simulator.drain()
    expect(control.call.take()).toBe(0)
    expect(control.ring.take()).toBe(-1)
    expect(device.mac).toBe(MAC)
  })

  test('a frame to the device itself comes back', () => {
    const { simulator, device, guest, rx, tx } = start(profile)
    const bytes = new Uint8Array(guest.buffer)
    bytes.set([0, 0x11, 0x22, 0x33, 0x44, 0x55, 1, 2, 3], 0x2_000c)
    send(rx, [[0x3_0000n, 1526, true]], 1)
    send(
      tx,
      [
        [0x2_0000n, 12, false],
        [0x2_000cn, 64, false],
      ],
      2,
    )
    simulator.drain()
    expect(tx.ring.take()).toBe(2)
    expect(rx.ring.take()).toBe(1)
    expect(rx.ring.usedLength).toBe(76)
    expect([...bytes.subarray(0x3_000c, 0x3_0015)]).toEqual([0, 0x11, 0x22, 0x33, 0x44, 0x55, 1, 2, 3])
    expect(bytes[0x3_000a]).toBe(profile === 'strict' ? 1 : 0)
    expect(device.counters).toMatchObject({ txPackets: 1, rxPackets: 1, rxDrops: 0 })
  })

  test('a frame to somebody else is dropped, one to all comes back', () => {
    const { simulator, device, guest, rx, tx } = start(profile)
    const bytes = new Uint8Array(guest.buffer)
    bytes.set([2, 2, 2, 2, 2, 2], 0x2_000c)
    bytes.set([255, 255, 255, 255, 255, 255], 0x2_100c)
    send(rx, [[0x3_0000n, 1526, true]], 1)
    send(tx, [[0x2_0000n, 76, false]], 2)
    send(tx, [[0x2_1000n, 76, false]], 3)
    simulator.drain()
    expect([tx.ring.take(), tx.ring.take(), rx.ring.take(), rx.ring.take()]).toEqual([2, 3, 1, -1])
    expect(device.counters).toMatchObject({ txPackets: 2, rxPackets: 1, rxDrops: 1 })
  })
})

test('nothing is served before the device runs, and messages are refused without an owner', () => {
  const simulator = new Simulator()
  simulator.add(networkDevice())
  const client = new Client(simulator)
  expect(client.get('VHOST_GET_FEATURES') & VERSION_AND_PLATFORM).toBe(VERSION_AND_PLATFORM)
  expect(codeOf(() => client.message(MAP, { size: 4096n }))).toBe('EFAULT')
  expect(codeOf(() => client.vring('VHOST_SET_VRING_NUM', 0, 16))).toBe('EPERM')
})
