// A real guest's virtio_net driver on our network model: what it sets is seen here, and two guests hear each other over a wire.

import { expect, it } from '@jest/globals'
import { networkDevice, pair, serveVhostUser, type NetworkDevice, type VhostUserServer } from '../../lib/serve'
import { transportFeatureBits as transport } from '../../lib/uapi/virtio-features'
import { leftOpen, openDescriptors, TemporaryFolder, untilNoneIsOpen } from '../native/support'
import { describeGuest, Guest } from './guest'
import { filters, hearsStream, pings, ringFeatures, sendsStream } from './scripts'
import { until } from '../until'

function served(folder: TemporaryFolder, name: string, device: NetworkDevice): VhostUserServer {
  return serveVhostUser(device, { socket: folder.file(name) })
}

describeGuest('a guest on a network device', () => {
  it.each([
    ['split rings', []],
    ['split rings with indirect descriptors and event index', ringFeatures],
    ['packed rings', [transport.VIRTIO_F_RING_PACKED]],
    ['packed rings with indirect descriptors and event index', [transport.VIRTIO_F_RING_PACKED, ...ringFeatures]],
  ])('reaches another guest over a wire by pings and by a TCP stream, by %s', async (_name, features) => {
    const before = openDescriptors()
    {
      using folder = new TemporaryFolder()
      const moreFeatures = [...filters, ...features]
      const devices = ['02:00:00:00:00:01', '02:00:00:00:00:02'].map((mac) => networkDevice({ mac, moreFeatures }))
      const [one, other] = devices as [NetworkDevice, NetworkDevice]
      pair(one, other)
      using first = served(folder, 'first', one)
      using second = served(folder, 'second', other)
      await using a = new Guest(`${pings('10.0.0.1', '10.0.0.2')}\n${hearsStream}`, [`${first.path}:1`])
      await using b = new Guest(`${pings('10.0.0.2', '10.0.0.1')}\n${sendsStream('10.0.0.1')}`, [`${second.path}:1`])
      expect(await Promise.all([a.saying('address'), b.saying('address')])).toEqual([one.mac, other.mac])
      expect(await Promise.all([a.saying('pinged'), b.saying('pinged')])).toEqual(['0', '0'])
      expect(await a.saying('heard')).toBe(await b.saying('sent'))
      await Promise.all([a.end(), b.end()])
      expect([first.refusals, second.refusals]).toEqual([[], []])
      expect(one.counters.rxPackets).toBeGreaterThan(40)
      expect(one.violations).toEqual([])
    }
    await untilNoneIsOpen(before)
  })

  it('sets its address, filters and VLANs, which outlive no driver, and is told of the link', async () => {
    using folder = new TemporaryFolder()
    const device = networkDevice({
      mac: '02:00:00:00:00:01',
      moreFeatures: [...filters, ...ringFeatures],
      queuePairs: 2,
    })
    using server = served(folder, 'net', device)
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
      [`${server.path}:1`],
    )
    await guest.saying('set')
    expect(device.mac).toBe('02:00:00:00:00:77')
    expect(device.control.isPromiscuous).toBe(true)
    expect([...device.control.vlans]).toContain(5)
    expect(device.control.table.multicast.length).toBeGreaterThan(0)
    device.changeConfig(6, Uint8Array.of(0, 0))
    expect(await guest.saying('carrier')).toBe('0')
    await guest.saying('unloaded')
    await guest.saying('again')
    expect(device.control.isPromiscuous).toBe(false)
    await guest.end()
    expect(server.refusals).toEqual([])
    expect(device.counters.commandErrors).toBe(0)
  })

  it('leaves a device for the next one, when it is killed', async () => {
    using folder = new TemporaryFolder()
    const device = networkDevice({ mac: '02:00:00:00:00:01', moreFeatures: ringFeatures })
    using server = served(folder, 'net', device)
    for (const way of ['killed', 'killed again', 'switched off']) {
      const before = openDescriptors()
      await using guest = new Guest('ip link set eth0 up; say up; [ -e /never ] || sleep 2', [`${server.path}:1`])
      await guest.saying('up')
      expect(server.frontEnds).toBe(1)
      if (way === 'switched off') await guest.end()
      else await guest.kill()
      await until(() => server.frontEnds === 0 && leftOpen(before).length === 0)
    }
  })
})
