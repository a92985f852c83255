// A real guest, User Mode Linux with the kernel's own drivers, on real devices that are bridged to it: what it writes, sends and sets arrives there.

import { afterEach, beforeEach, describe, expect, it } from '@jest/globals'
import { mkdirSync, writeFileSync } from 'node:fs'
import { networkInterfaces } from 'node:os'
import type { AuditEvent } from '../../lib/control/shadow-policy'
import { KernelBackend } from '../../lib/kernel/kernel-backend'
import { openDevice } from '../../lib/open'
import { bridgeVhostUser, type BridgeVhostUserOptions } from '../../lib/serve'
import { describeGuest, filled, Guest } from '../guests/guest'
import { TemporaryFolder } from '../native/support'
import { rxFilter } from './lab-wire'
import { labVariable, restoreMac } from './support'
import { run } from './vduse-support'

// A Linux in a process of an emulated machine: it boots in minutes when the machine has little of its own to run on.
const TIME = 3_600_000
/** Milliseconds that a device has for a command there. */
const PATIENCE = 60_000

const opened = (variable: string) => openDevice(labVariable(variable), { backend: new KernelBackend() })

/** The card behind an IOMMU: the one with several queue pairs, where the lab could make it. */
const card =
  process.env['VHOST_VDPA_PCI_MQ'] === undefined
    ? { name: 'vp0', node: 'VHOST_VDPA_PCI', peer: 'LAB_PEER_PCI', more: [] }
    : { name: 'vp2', node: 'VHOST_VDPA_PCI_MQ', peer: 'LAB_PEER_PCI_MQ', more: ['MQ_VQ_PAIRS_SET'] }

/** The address of the card's neighbour. */
function neighbour(): string {
  const found = networkInterfaces()[labVariable(card.peer)]?.find(({ family }) => family === 'IPv4')
  if (found === undefined) throw new Error('the peer has no address of IPv4')
  return found.address
}

/**
 * A guest whose card has another address, a VLAN with one of its own, and takes every frame; whose other one, `loop`, loops frames back; and whose disk, /dev/vda,
 * gets a small file system. Linux names the two in an order of its own.
 */
const script = (mac: { readonly card: string; readonly loop: string }) => `
card=$(grep -l ${mac.card} /sys/class/net/*/address | cut -d/ -f5)
loop=$(grep -l ${mac.loop} /sys/class/net/*/address | cut -d/ -f5)
say cards $card $loop
ip link set $card address 02:00:00:00:00:77
ip link set $card up
ip addr add ${neighbour().replace(/\d+$/, '77')}/24 dev $card
n=0; until ping -c 1 -W 10 ${neighbour()} > /ping || [ $n = 60 ]; do n=$((n+1)); done
say pinged $(grep -c ' 0% packet loss' /ping) of 1 after $n, $(ip neigh | tr '\\n' ' '), $(grep $card /proc/net/dev)
vconfig add $card 5 > /dev/null
ip link set $card.5 address 02:00:00:00:00:78
ip link set $card.5 up
ip link set $card promisc on
say set $?
ip link set $loop address 02:00:00:00:00:66
say denied $?
ip link set $loop address 02:00:00:00:00:55
say allowed $?
ip link set $loop up
ip addr add 10.0.0.1/24 dev $loop
n=0; until [ $(cat /sys/class/net/$loop/statistics/rx_packets) -gt 0 ] || [ $n = 60 ]; do ping -c 1 -W 1 10.0.0.2 > /dev/null; n=$((n+1)); done
say own $(cat /sys/class/net/$loop/address)
say received $(cat /sys/class/net/$loop/statistics/rx_packets)
mke2fs /dev/vda 8192 > /dev/null 2>&1
say made $?
mount -t ext2 /dev/vda /mnt
cp /bin/busybox /mnt/copy
say sum $(sha256sum < /mnt/copy)
umount /mnt
say unmounted $?
mount -t ext2 /dev/vda /mnt
say after $(sha256sum < /mnt/copy)
umount /mnt`

/** The suite, in a lab that runs nothing else: skipped otherwise, with the reason. */
export function describeBridgedGuests(): void {
  // How many entries the memory takes depends on how far it is in pieces, which hours of other tests leave it.
  const isLong = process.env['VHOST_VDPA_LONG'] === '1'
  const suite = isLong ? describeGuest : describe.skip
  const why = isLong ? '' : ' (skipped: run the lab with --env VHOST_VDPA_LONG=1 --test kernel/bridge)'
  suite(`a guest on vp_vdpa, vdpa_sim_net and vdpa_sim_blk, which are bridged${why}`, () => {
    // A device behind an IOMMU pins the whole of a guest's memory: 96 MiB, where the limit is 8.
    const setLimit = (limit: string) => run('prlimit', '--pid', String(process.pid), `--memlock=${limit}`)
    let limit = ''
    let folder: TemporaryFolder
    let memory = ''
    beforeEach(() => {
      const words = ['--pid', String(process.pid), '--memlock', '--raw', '--noheadings', '--output', 'SOFT,HARD']
      limit = run('prlimit', ...words)
        .trim()
        .split(/\s+/)
        .join(':')
      setLimit('unlimited')
      folder = new TemporaryFolder()
      // By pages of 4 KiB a guest's memory may take more entries than the 2048 that vhost_vdpa has (max_iotlb_entries): one for each run of them.
      memory = folder.file('memory')
      mkdirSync(memory)
      // What lies in the way of huge pages is put elsewhere.
      for (const name of ['drop_caches', 'compact_memory']) writeFileSync(`/proc/sys/vm/${name}`, '1')
      run('mount', '-t', 'tmpfs', '-o', 'huge=always,size=128m', 'none', memory)
      process.env['VHOST_VDPA_UML_MEMORY'] = memory
    })
    afterEach(async () => {
      delete process.env['VHOST_VDPA_UML_MEMORY']
      run('umount', memory)
      folder[Symbol.dispose]()
      setLimit(limit)
      await restoreMac()
    })

    it(
      'reaches a neighbour, sets by the shadow what it may and not what it may not, hears its own frames, and finds what it wrote',
      async () => {
        const heard: { readonly first: AuditEvent[]; readonly second: AuditEvent[] } = { first: [], second: [] }
        const settings = (name: string, more: Partial<BridgeVhostUserOptions> = {}) => ({
          socket: folder.file(name),
          ...more,
        })
        await using pci = await opened(card.node)
        await using loop = await opened('VHOST_VDPA_NET')
        await using disk = await opened('VHOST_VDPA_BLOCK')
        await using first = await bridgeVhostUser(
          pci,
          settings('pci', { mode: 'auto', timeout: PATIENCE, onAudit: (event) => heard.first.push(event) }),
        )
        await using second = await bridgeVhostUser(
          loop,
          settings('loop', {
            policy: ({ name, payload }) =>
              name === 'VIRTIO_NET_CTRL_MAC_ADDR_SET' && payload[5] === 0x66 ? 'deny' : 'allow',
            timeout: PATIENCE,
            onAudit: (event) => heard.second.push(event),
          }),
        )
        await using third = await bridgeVhostUser(disk, settings('disk'))
        expect([first.isolation, second.isolation]).toMatchObject([{ isolated: false }, { isolated: true }])
        const macs = { card: pci.config.net().mac, loop: loop.config.net().mac }
        const sockets = [`${first.path}:1`, `${second.path}:1`, `${third.path}:2`]
        await using guest = new Guest(script(macs), sockets)
        const says = async (beginning: string) => {
          const said = await guest.saying(beginning)
          // The lab ends a machine of which nothing is heard.
          process.stderr.write(`the guest said: ${beginning} ${said}\n`)
          return said
        }
        await says('ready')
        await says('cards')
        expect([first, second, third].map(({ refusals, isRunning }) => [refusals, isRunning])).toEqual(
          [1, 2, 3].map(() => [[], true]),
        )
        expect(await says('pinged')).toMatch(/^1 of 1 /)
        expect(await says('set')).toBe('0')
        expect(await rxFilter(card.name)).toMatchObject({
          ...{
            'main-mac': '02:00:00:00:00:77',
            promiscuous: true,
            'vlan-table': expect.arrayContaining([5]) as unknown,
          },
          'unicast-table': expect.arrayContaining(['02:00:00:00:00:78']) as unknown,
          // Whoever has IPv4 is one of all hosts, 224.0.0.1.
          'multicast-table': expect.arrayContaining(['01:00:5e:00:00:01']) as unknown,
        })
        expect(await says('denied')).not.toBe('0')
        expect(await says('allowed')).toBe('0')
        expect(await says('own')).toBe('02:00:00:00:00:55')
        expect(Number(await says('received'))).toBeGreaterThan(0)
        for (const step of ['made', 'sum', 'unmounted']) await says(step)
        await filled(guest)
        const outcomes = (events: readonly AuditEvent[]) =>
          new Set(events.map(({ name, outcome }) => `${name ?? '?'} ${outcome}`))
        for (const name of ['MAC_ADDR_SET', 'MAC_TABLE_SET', 'RX_PROMISC', 'VLAN_ADD', ...card.more])
          expect(outcomes(heard.first)).toContain(`VIRTIO_NET_CTRL_${name} forwarded`)
        for (const outcome of ['denied', 'forwarded'])
          expect(outcomes(heard.second)).toContain(`VIRTIO_NET_CTRL_MAC_ADDR_SET ${outcome}`)
        expect(heard.first.filter(({ ack }) => ack !== 0)).toEqual([])
        expect([first, second, third].map(({ refusals }) => refusals)).toEqual([[], [], []])
      },
      TIME,
    )
  })
}
