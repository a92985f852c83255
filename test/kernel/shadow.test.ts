// A guest's control queue shadowed onto a real device, vp_vdpa's, whose filters are looked at from outside: by QEMU's monitor.

import { expect, test } from '@jest/globals'
import { ShadowControlQueue } from '../../lib/control/shadow-queue.js'
import { KernelBackend } from '../../lib/kernel/kernel-backend.js'
import { openDevice } from '../../lib/open.js'
import { Guest, kinds } from '../control/guest.js'
import { qmp } from './lab-wire.js'
import { labVariable } from './support.js'

interface RxFilter {
  readonly name: string
  readonly promiscuous: boolean
  readonly multicast: string
  readonly 'main-mac': string
  readonly 'unicast-table': readonly string[]
  readonly 'vlan-table': readonly number[]
}

async function filter(): Promise<RxFilter | undefined> {
  return ((await qmp({ execute: 'query-rx-filter' })) as RxFilter[]).find(({ name }) => name === 'vp0')
}

test.each(kinds)('what a guest with a ring that is %s sets is in the filters of the device', async (_, kind) => {
  const backend = new KernelBackend()
  const device = await openDevice(labVariable('VHOST_VDPA_PCI'), { backend, expect: 'net' })
  const guest = new Guest({ simulator: backend }, kind)
  try {
    await device.negotiate([
      'VIRTIO_NET_F_CTRL_VQ',
      'VIRTIO_NET_F_CTRL_RX',
      'VIRTIO_NET_F_CTRL_VLAN',
      'VIRTIO_NET_F_CTRL_MAC_ADDR',
    ])
    const shadow = await ShadowControlQueue.start(device, {
      space: device.addressSpace(0),
      guest: guest.queue(),
      macTableEntries: 3,
      timeout: 5000,
    })
    await device.start()
    const before = (await filter())?.['main-mac'] ?? ''
    const table = (count: number) => ({
      unicast: Array.from({ length: count }, (_, index) => `02:00:00:00:01:0${index}`),
      multicast: [],
    })
    const send = async (...[name, value]: Parameters<Guest['command']>) => (await guest.command(name, value)).ack
    expect(await send('VIRTIO_NET_CTRL_MAC_ADDR_SET', '02:00:00:00:00:42')).toBe(0)
    expect(await send('VIRTIO_NET_CTRL_RX_PROMISC', false)).toBe(0)
    expect(await send('VIRTIO_NET_CTRL_RX_ALLMULTI', true)).toBe(0)
    expect(await send('VIRTIO_NET_CTRL_MAC_TABLE_SET', table(2))).toBe(0)
    expect(await send('VIRTIO_NET_CTRL_VLAN_ADD', 77)).toBe(0)
    const seen = await filter()
    expect(seen).toMatchObject({ promiscuous: false, multicast: 'all', 'main-mac': '02:00:00:00:00:42' })
    expect([...(seen?.['unicast-table'] ?? [])].sort()).toEqual(table(2).unicast)
    expect(seen?.['vlan-table']).toContain(77)
    expect(await send('VIRTIO_NET_CTRL_MAC_TABLE_SET', table(4))).toBe(0)
    expect((await filter())?.promiscuous).toBe(true)
    expect(await send('VIRTIO_NET_CTRL_MAC_TABLE_SET', table(1))).toBe(0)
    expect((await filter())?.promiscuous).toBe(false)
    expect(shadow.commands().length).toBe(5)
    await shadow.control.setMacAddress(before)
  } finally {
    await device.close()
    for (const eventfd of [guest.kick, guest.call]) eventfd.close()
    for (const region of guest.regions) region.close()
  }
})
