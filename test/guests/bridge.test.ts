// A real guest's drivers on vDPA devices of a simulator, through the bridge: what the guest sets is seen at the device, by the shadow of its control queue.

import { expect, it } from '@jest/globals'
import { openDevice } from '../../lib/open'
import { bridgeVhostUser } from '../../lib/serve'
import { blockDevice, networkDevice, pair, Simulator } from '../../lib/simulator'
import { transportFeatureBits as transport } from '../../lib/uapi/virtio-features'
import type { AuditEvent } from '../../lib/control/shadow-policy'
import { openDescriptors, TemporaryFolder, untilNoneIsOpen } from '../native/support'
import { describeGuest, filled, Guest } from './guest'
import { fillsDisk, filters, hearsStream, looksAtDisk, pings, ringFeatures, sendsStream } from './scripts'
import { until } from '../until'

const MAC = '02:00:00:00:00:01'

describeGuest('a guest on a bridged network device', () => {
  it.each([
    ['split rings', []],
    ['split rings with indirect descriptors and event index', ringFeatures],
    ['packed rings', [transport.VIRTIO_F_RING_PACKED, ...ringFeatures]],
  ])('reaches another guest over a wire by pings and by a TCP stream, by %s', async (_name, features) => {
    const before = openDescriptors()
    {
      using folder = new TemporaryFolder()
      const simulator = new Simulator()
      const models = [1, 2].map((last) =>
        networkDevice({ mac: `02:00:00:00:00:0${last}`, moreFeatures: [...filters, ...features] }),
      )
      const [one, other] = models as [(typeof models)[0], (typeof models)[0]]
      pair(one, other)
      await using first = await openDevice(simulator.add(one), { backend: simulator, expect: 'net' })
      await using second = await openDevice(simulator.add(other), { backend: simulator, expect: 'net' })
      await using a = await bridgeVhostUser(first, { socket: folder.file('first') })
      await using b = await bridgeVhostUser(second, { socket: folder.file('second') })
      await using guest = new Guest(`${pings('10.0.0.1', '10.0.0.2')}\n${hearsStream}`, [`${a.path}:1`])
      await using peer = new Guest(`${pings('10.0.0.2', '10.0.0.1')}\n${sendsStream('10.0.0.1')}`, [`${b.path}:1`])
      expect(await Promise.all([guest.saying('address'), peer.saying('address')])).toEqual([one.mac, other.mac])
      expect(await Promise.all([guest.saying('pinged'), peer.saying('pinged')])).toEqual(['0', '0'])
      expect(await guest.saying('heard')).toBe(await peer.saying('sent'))
      await Promise.all([guest.end(), peer.end()])
      expect([a.refusals, b.refusals]).toEqual([[], []])
      expect(one.violations).toEqual([])
    }
    await untilNoneIsOpen(before)
  })

  it('sets addresses, filters, VLANs and queue pairs at the device, which the next driver does not have', async () => {
    using folder = new TemporaryFolder()
    const simulator = new Simulator()
    const model = networkDevice({ mac: MAC, moreFeatures: [...filters, ...ringFeatures], queuePairs: 2 })
    await using device = await openDevice(simulator.add(model), { backend: simulator, expect: 'net' })
    const heard: AuditEvent[] = []
    await using bridge = await bridgeVhostUser(device, {
      socket: folder.file('net'),
      onAudit: (event) => heard.push(event),
    })
    expect(bridge.isolation).toMatchObject({ isolated: true })
    await using guest = new Guest(
      `ip link set eth0 address 02:00:00:00:00:77
ip link set eth0 promisc on
ip link set eth0 up
vconfig add eth0 5
say set
n=0; while [ "$(cat /sys/class/net/eth0/carrier)" = 1 ] && [ $n -lt 100 ]; do sleep 0.1; n=$((n+1)); done
say carrier $(cat /sys/class/net/eth0/carrier)
unload
say unloaded
load
say again $(cat /sys/class/net/eth0/address)`,
      [`${bridge.path}:1`],
    )
    await guest.saying('set')
    expect(model.mac).toBe('02:00:00:00:00:77')
    expect(model.control.isPromiscuous).toBe(true)
    expect([...model.control.vlans]).toContain(5)
    expect(model.control.table.multicast.length).toBeGreaterThan(0)
    const names = new Set(heard.map(({ name, outcome }) => `${name ?? '?'} ${outcome}`))
    for (const name of ['MQ_VQ_PAIRS_SET', 'MAC_ADDR_SET', 'MAC_TABLE_SET', 'RX_PROMISC', 'VLAN_ADD'])
      expect(names).toContain(`VIRTIO_NET_CTRL_${name} forwarded`)
    model.changeConfig(6, Uint8Array.of(0, 0))
    expect(await guest.saying('carrier')).toBe('0')
    await guest.saying('unloaded')
    await guest.saying('again')
    expect(model.control.isPromiscuous).toBe(false)
    await guest.end()
    expect(bridge.refusals).toEqual([])
    expect(heard.filter(({ ack }) => ack !== 0)).toEqual([])
  })

  it('is told that it may not have another address', async () => {
    using folder = new TemporaryFolder()
    const simulator = new Simulator()
    const model = networkDevice({ mac: MAC, moreFeatures: filters })
    await using device = await openDevice(simulator.add(model), { backend: simulator, expect: 'net' })
    await using bridge = await bridgeVhostUser(device, {
      socket: folder.file('net'),
      policy: ({ name }) => (name === 'VIRTIO_NET_CTRL_MAC_ADDR_SET' ? 'deny' : 'allow'),
    })
    await using guest = new Guest(
      `ip link set eth0 address 02:00:00:00:00:77
say changed $?
say address $(cat /sys/class/net/eth0/address)`,
      [`${bridge.path}:1`],
    )
    expect(await guest.saying('changed')).not.toBe('0')
    expect(await guest.saying('address')).toBe(MAC)
    expect(model.mac).toBe(MAC)
    await guest.end()
  })

  it('leaves a device for the next one, when it is killed', async () => {
    using folder = new TemporaryFolder()
    const simulator = new Simulator()
    const model = networkDevice({ mac: MAC, moreFeatures: ringFeatures })
    await using device = await openDevice(simulator.add(model), { backend: simulator, expect: 'net' })
    await using bridge = await bridgeVhostUser(device, { socket: folder.file('net') })
    for (const way of ['killed', 'killed again', 'switched off']) {
      const before = openDescriptors()
      await using guest = new Guest('ip link set eth0 up; say up; [ -e /never ] || sleep 2', [`${bridge.path}:1`])
      await guest.saying('up')
      expect([bridge.frontEnds, bridge.isRunning]).toEqual([1, true])
      if (way === 'switched off') await guest.end()
      else await guest.kill()
      await until(() => bridge.frontEnds === 0 && !bridge.isRunning)
      await until(() => device.addressSpace(0).size === 0)
      await untilNoneIsOpen(before)
    }
  })
})

describeGuest('a guest on a bridged disk', () => {
  it.each([
    ['split rings', []],
    ['split rings with indirect descriptors and event index', ringFeatures],
    ['packed rings', [transport.VIRTIO_F_RING_PACKED, ...ringFeatures]],
  ])('finds what it wrote, and so does the next guest, of another bridge, by %s', async (_name, moreFeatures) => {
    using folder = new TemporaryFolder()
    const simulator = new Simulator()
    const model = blockDevice({ capacity: 64 * 2048, moreFeatures })
    await using device = await openDevice(simulator.add(model), { backend: simulator, expect: 'block' })
    let sum: string
    {
      await using bridge = await bridgeVhostUser(device, { socket: folder.file('disk') })
      await using guest = new Guest(fillsDisk, [`${bridge.path}:2`])
      sum = await filled(guest)
      expect(bridge.refusals).toEqual([])
    }
    await using bridge = await bridgeVhostUser(device, { socket: folder.file('disk') })
    await using guest = new Guest(looksAtDisk, [`${bridge.path}:2`])
    expect(await guest.saying('sum')).toBe(sum)
    await guest.end()
    expect(model.counters.errors).toBe(0)
  })
})

// QEMU keeps its guest's control queue to itself and tells by which rings it enables what the guest asked for.
describeGuest(
  'a QEMU guest on a bridged network device',
  () => {
    it.each([
      ['split rings', '', ringFeatures],
      ['packed rings', ',packed=on', [transport.VIRTIO_F_RING_PACKED, ...ringFeatures]],
    ])('has two queue pairs and reaches a guest of User Mode Linux, by %s', async (_name, properties, features) => {
      const before = openDescriptors()
      {
        using folder = new TemporaryFolder()
        const simulator = new Simulator()
        const [one, other] = [
          networkDevice({ mac: MAC, queuePairs: 2, moreFeatures: [...filters, ...features] }),
          networkDevice({ mac: '02:00:00:00:00:02', moreFeatures: [...filters, ...features] }),
        ]
        pair(one, other)
        await using first = await openDevice(simulator.add(one), { backend: simulator, expect: 'net' })
        await using second = await openDevice(simulator.add(other), { backend: simulator, expect: 'net' })
        await using a = await bridgeVhostUser(first, { socket: folder.file('first') })
        await using b = await bridgeVhostUser(second, { socket: folder.file('second') })
        const device = `${a.path}:1,mac=${MAC},queues=2${properties}`
        await using guest = new Guest(`${pings('10.0.0.1', '10.0.0.2')}; say waits; sleep 600`, [device], 'qemu')
        await using peer = new Guest(pings('10.0.0.2', '10.0.0.1'), [`${b.path}:1`])
        expect(await Promise.all([guest.saying('address'), peer.saying('address')])).toEqual([one.mac, other.mac])
        expect(await Promise.all([guest.saying('pinged'), peer.saying('pinged')])).toEqual(['0', '0'])
        expect(one.control.queuePairs).toBe(2)
        await peer.end()
        await guest.saying('waits')
        await guest.kill()
        await until(() => a.frontEnds === 0 && first.addressSpace(0).size === 0)
        expect([a.refusals, b.refusals]).toEqual([[], []])
        expect(one.violations).toEqual([])
      }
      await untilNoneIsOpen(before)
    })
  },
  ['qemu', 'uml'],
)
