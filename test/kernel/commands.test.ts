// Every command of the table on QEMU's network device, through vp_vdpa: those that it offers do what they say, as QEMU's monitor and the configuration tell; the others are refused here.

import { describe, expect, test } from '@jest/globals'
import { NetControlQueue } from '../../lib/control/net-control-queue.js'
import type { VdpaDevice } from '../../lib/device/vdpa-device.js'
import { KernelBackend } from '../../lib/kernel/kernel-backend.js'
import { openDevice } from '../../lib/open.js'
import {
  netCommands,
  type NetCommand,
  type NetCommandName,
  type NetCommandPayload,
} from '../../lib/uapi/virtio-net-commands.js'
import { netHashTypes, netStatus } from '../../lib/uapi/virtio-net.js'
import { netFeatureBits } from '../../lib/uapi/virtio-features.js'
import { until } from '../until.js'
import { qmp, rxFilter, type RxFilter } from './lab-wire.js'
import { labVariable } from './support.js'

const refused = expect.objectContaining({ code: 'ERR_VDPA_REFUSED' })

interface Tried {
  readonly device: VdpaDevice<'net'>
  readonly control: NetControlQueue
}

const filter = () => rxFilter('vp2')

/** What the device itself answers to a command, whatever this end thinks of it. */
async function ack<N extends NetCommandName>(control: NetControlQueue, name: N, payload: NetCommandPayload<N>) {
  const entry = netCommands[name] as unknown as NetCommand<NetCommandPayload<N>>
  return (await control.sendRaw(entry.class, entry.command, entry.encode(payload))).ack
}

/** What a switch does to one word of the filters, there and back. */
const switches =
  (name: NetCommandName, field: keyof RxFilter, on: unknown, off: unknown) =>
  async ({ control }: Tried): Promise<void> => {
    for (const isOn of [true, false, true, false]) {
      await control.send(name, isOn)
      expect((await filter())[field]).toEqual(isOn ? on : off)
    }
  }

const unicast = (count: number) => Array.from({ length: count }, (_, at) => `02:00:00:00:01:${(at + 16).toString(16)}`)
const multicast = (count: number) => unicast(count).map((mac) => `03${mac.slice(2)}`)
const key = Uint8Array.from({ length: 40 }, (_, at) => at)
const TSO = 1n << BigInt(netFeatureBits.VIRTIO_NET_F_GUEST_TSO4)
const CSUM = 1n << BigInt(netFeatureBits.VIRTIO_NET_F_GUEST_CSUM)
const hashTypes = netHashTypes.VIRTIO_NET_RSS_HASH_TYPE_IPv4 | netHashTypes.VIRTIO_NET_RSS_HASH_TYPE_UDPv4

/** What each command does on this device; 'not offered' by any QEMU that there is. */
const acts: Record<NetCommandName, ((tried: Tried) => Promise<void>) | 'not offered'> = {
  VIRTIO_NET_CTRL_RX_PROMISC: switches('VIRTIO_NET_CTRL_RX_PROMISC', 'promiscuous', true, false),
  VIRTIO_NET_CTRL_RX_ALLMULTI: switches('VIRTIO_NET_CTRL_RX_ALLMULTI', 'multicast', 'all', 'normal'),
  VIRTIO_NET_CTRL_RX_ALLUNI: switches('VIRTIO_NET_CTRL_RX_ALLUNI', 'unicast', 'all', 'normal'),
  VIRTIO_NET_CTRL_RX_NOMULTI: switches('VIRTIO_NET_CTRL_RX_NOMULTI', 'multicast', 'none', 'normal'),
  VIRTIO_NET_CTRL_RX_NOUNI: switches('VIRTIO_NET_CTRL_RX_NOUNI', 'unicast', 'none', 'normal'),
  // QEMU's monitor shows the switch itself under this name: true says that none are let in.
  VIRTIO_NET_CTRL_RX_NOBCAST: switches('VIRTIO_NET_CTRL_RX_NOBCAST', 'broadcast-allowed', true, false),
  VIRTIO_NET_CTRL_MAC_TABLE_SET: async ({ control }) => {
    await control.setMacTable({ unicast: unicast(5), multicast: multicast(3) })
    const seen = await filter()
    expect([...seen['unicast-table']].sort()).toEqual(unicast(5))
    expect([...seen['multicast-table']].sort()).toEqual(multicast(3))
    expect([seen['unicast-overflow'], seen['multicast-overflow']]).toEqual([false, false])
    // More than it keeps: it lets all of them in.
    await control.setMacTable({ unicast: unicast(80), multicast: [] })
    expect((await filter())['unicast-overflow']).toBe(true)
    await control.setMacTable({ unicast: [], multicast: [] })
    expect(await filter()).toMatchObject({ 'unicast-table': [], 'multicast-table': [], 'unicast-overflow': false })
  },
  VIRTIO_NET_CTRL_MAC_ADDR_SET: async ({ control, device }) => {
    const { mac } = device.config.net()
    await control.setMacAddress('02:00:00:00:00:42')
    expect([(await filter())['main-mac'], device.config.net().mac]).toEqual(['02:00:00:00:00:42', '02:00:00:00:00:42'])
    await control.setMacAddress(mac)
    expect((await filter())['main-mac']).toBe(mac)
  },
  VIRTIO_NET_CTRL_VLAN_ADD: async ({ control }) => {
    for (const vlan of [7, 4094]) await control.addVlan(vlan)
    expect([...(await filter())['vlan-table']].sort()).toEqual([4094, 7])
  },
  VIRTIO_NET_CTRL_VLAN_DEL: async ({ control }) => {
    await control.removeVlan(7)
    expect((await filter())['vlan-table']).toEqual([4094])
    await control.removeVlan(4094)
    expect((await filter())['vlan-table']).toEqual([])
  },
  VIRTIO_NET_CTRL_ANNOUNCE_ACK: async ({ control, device }) => {
    const isAsked = () => ((device.config.net().status ?? 0) & netStatus.VIRTIO_NET_S_ANNOUNCE) !== 0
    // There is nothing to acknowledge.
    await expect(control.acknowledgeAnnouncement()).rejects.toThrow(refused)
    await qmp({ execute: 'announce-self', arguments: { initial: 50, max: 50, rounds: 1, step: 0 } })
    await until(isAsked)
    await control.acknowledgeAnnouncement()
    expect(isAsked()).toBe(false)
  },
  VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET: async ({ control }) => {
    for (const pairs of [4, 2, 1]) await control.setQueuePairs(pairs)
    // More than its configuration says, which is refused before it is sent, and by the device as well.
    await expect(control.setQueuePairs(5)).rejects.toThrow(RangeError)
    expect(await ack(control, 'VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET', 5)).toBe(1)
  },
  VIRTIO_NET_CTRL_MQ_RSS_CONFIG: async ({ control }) => {
    const config = { hashTypes, indirectionTable: [0, 1, 2, 3], unclassifiedQueue: 0, maxTxVq: 4, key }
    await control.configureRss(config)
    // No such queue.
    await expect(control.configureRss({ ...config, unclassifiedQueue: 9 })).rejects.toThrow(RangeError)
    expect(await ack(control, 'VIRTIO_NET_CTRL_MQ_RSS_CONFIG', { ...config, unclassifiedQueue: 9 })).toBe(1)
    await control.configureRss({ ...config, hashTypes: 0 })
  },
  VIRTIO_NET_CTRL_MQ_HASH_CONFIG: async ({ control }) => {
    await control.configureHash({ hashTypes, key })
    await control.configureHash({ hashTypes: 0, key: new Uint8Array(0) })
  },
  VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET: async ({ control }) => {
    for (const offloads of [CSUM | TSO, CSUM, 0n]) await control.setGuestOffloads(offloads)
    // It looks at them: one that was not negotiated is refused, by the device itself.
    expect(await ack(control, 'VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET', 0xffff_ffff_ffff_ffffn)).toBe(1)
  },
  VIRTIO_NET_CTRL_NOTF_COAL_TX_SET: 'not offered',
  VIRTIO_NET_CTRL_NOTF_COAL_RX_SET: 'not offered',
  VIRTIO_NET_CTRL_NOTF_COAL_VQ_SET: 'not offered',
  VIRTIO_NET_CTRL_NOTF_COAL_VQ_GET: 'not offered',
  VIRTIO_NET_CTRL_HASH_TUNNEL_SET: 'not offered',
  VIRTIO_NET_CTRL_STATS_QUERY: 'not offered',
  VIRTIO_NET_CTRL_STATS_GET: 'not offered',
  VIRTNET_RSS_CTX_CTRL_CAP_GET: 'not offered',
  VIRTNET_RSS_CTX_CTRL_ADD: 'not offered',
  VIRTNET_RSS_CTX_CTRL_MOD: 'not offered',
  VIRTNET_RSS_CTX_CTRL_DEL: 'not offered',
}

const wanted = [
  'VIRTIO_NET_F_MAC',
  'VIRTIO_NET_F_STATUS',
  'VIRTIO_NET_F_CTRL_VQ',
  'VIRTIO_NET_F_CTRL_RX',
  'VIRTIO_NET_F_CTRL_RX_EXTRA',
  'VIRTIO_NET_F_CTRL_VLAN',
  'VIRTIO_NET_F_CTRL_MAC_ADDR',
  'VIRTIO_NET_F_GUEST_ANNOUNCE',
  'VIRTIO_NET_F_MQ',
  'VIRTIO_NET_F_RSS',
  'VIRTIO_NET_F_HASH_REPORT',
  'VIRTIO_NET_F_CTRL_GUEST_OFFLOADS',
  'VIRTIO_NET_F_GUEST_CSUM',
  'VIRTIO_NET_F_GUEST_TSO4',
] as const

if (process.env['VHOST_VDPA_PCI_MQ'] === undefined) {
  // eslint-disable-next-line jest/no-disabled-tests -- the title says what makes it run
  test.skip('every control command (skipped: VHOST_VDPA_PCI_MQ is not set; the lab makes the device when it runs as root, with /dev/net/tun)', () =>
    expect(process.env['VHOST_VDPA_PCI_MQ']).toBeDefined())
} else {
  describe('every control command of a device of QEMU', () => {
    test('does what it says, or is not offered', async () => {
      const backend = new KernelBackend()
      const device = await openDevice(labVariable('VHOST_VDPA_PCI_MQ'), { backend, expect: 'net' })
      try {
        await device.negotiate(wanted)
        const control = await NetControlQueue.start(device, device.addressSpace(0), { timeout: 60_000 })
        await device.start()
        await control.setPromiscuous(false)
        for (const [name, act] of Object.entries(acts) as [NetCommandName, (typeof acts)[NetCommandName]][]) {
          const { class: group, command, feature } = netCommands[name]
          if (act !== 'not offered') {
            await act({ device, control })
            continue
          }
          expect([name, device.offeredFeatures.names.map(String).includes(feature)]).toEqual([name, false])
          // The device knows no such command either.
          expect([name, (await control.sendRaw(group, command, new Uint8Array(8))).ack]).toEqual([name, 1])
        }
      } finally {
        await device.close()
      }
    })
  })
}
