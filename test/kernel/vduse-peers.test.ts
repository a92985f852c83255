// Other people's drivers on devices that this process serves by VDUSE, through vhost-vdpa: DPDK's testpmd, and QEMU, whose guest is its own firmware, or what that boots.

import { afterEach, describe, expect, it } from '@jest/globals'
import { existsSync } from 'node:fs'
import { blockDevice, networkDevice, serveVduse, type VduseServer } from '../../lib/serve'
import { describeGuest, filled, Guest } from '../guests/guest'
import { fillsDisk } from '../guests/scripts'
import { describeTestpmd, expectSameCounts, FLOW_MAC, PeerProgram, startTestpmd } from '../testpmd'
import { bootDisk, bootedDisk } from './boot-disk'
import { sumOf } from './vduse-support'

/** Milliseconds for a test, and for what it waits for: an emulated machine starts another program in minutes when it has little of its own to run on. */
const TIME = 900_000
const PATIENCE = 400_000

const servers: VduseServer[] = []

/** Serves a model on this thread, which its drivers leave alone: they are other processes. */
async function served(name: string, model: Parameters<typeof serveVduse>[0]): Promise<VduseServer> {
  const server = await serveVduse(model, { name, driver: 'vhost_vdpa', timeout: 60_000 })
  servers.push(server)
  return server
}

afterEach(async () => {
  for (const server of servers.splice(0)) await server.close()
})

const mend = 'run the lab with --with dpdk --env VHOST_VDPA_LONG=1 --patience 1800'
describeTestpmd(
  "DPDK's testpmd",
  mend,
  () => {
    it(
      'sends frames to the device and has them back, as both count them',
      async () => {
        const model = networkDevice({ mac: FLOW_MAC })
        const server = await served('peer0', model)
        await using testpmd = startTestpmd(server.node ?? '')
        await testpmd.until(() => model.counters.rxPackets > 1000, PATIENCE)
        await testpmd.end('SIGINT')
        expectSameCounts(testpmd, model)
        expect(model.violations).toEqual([])
        expect(server.refusals).toEqual([])
      },
      TIME,
    )
  },
  true,
)

/** What every machine of QEMU here is: its processor is emulated, and its memory is a file that others can map. */
const machine = [
  ...['-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot', '-accel', 'tcg', '-m', '64'],
  ...['-object', 'memory-backend-memfd,id=memory,size=64M,share=on'],
  ...['-machine', 'q35,memory-backend=memory,graphics=off', '-serial', 'stdio'],
]
// Without MSI-X: QEMU 7.2 emulating a processor dies when the driver of such a card starts its rings.
const transport = 'iommu_platform=on,disable-legacy=on,vectors=0,bootindex=0'

const ROM = '/usr/lib/ipxe/qemu/pxe-virtio.rom'
const withFirmware = existsSync(ROM) ? describe : describe.skip
const noRom = existsSync(ROM) ? '' : ` (skipped: there is no ${ROM}: as root, run: apt-get install ipxe-qemu)`
withFirmware(`QEMU, whose guest's firmware looks for a network to boot from${noRom}`, () => {
  it(
    'finds the device by its address, and sends by it, as the device counts',
    async () => {
      const model = networkDevice({ mac: FLOW_MAC })
      const server = await served('peer1', model)
      await using qemu = new PeerProgram('qemu-system-x86_64', [
        ...machine,
        ...['-netdev', `vhost-vdpa,vhostdev=${server.node ?? ''},id=net`],
        ...['-device', `virtio-net-pci,netdev=net,${transport}`],
      ])
      await qemu.until(() => model.counters.txPackets > 0, PATIENCE)
      expect(qemu.said).toContain(FLOW_MAC)
      await qemu.end('SIGKILL')
      expect(model.violations).toEqual([])
      expect(server.refusals).toEqual([])
    },
    TIME,
  )
})

describeGuest(
  'QEMU, whose guest has a disk by VDUSE',
  () => {
    it(
      'boots from it, and the program that it boots copies a part of it',
      async () => {
        const model = blockDevice({ capacity: bootDisk().length / 512, content: bootDisk() })
        const server = await served('peer2', model)
        await using guest = new Guest('', ['--firmware', server.node ?? ''], 'vdpa')
        expect(await guest.end()).toEqual(['copied', 'done'])
        const content = new Uint8Array(bootDisk().length)
        model.storage.read(0, content, content.length)
        expect(sumOf(content)).toBe(sumOf(bootedDisk()))
        expect(model.counters.errors).toBe(0)
        expect(server.refusals).toEqual([])
      },
      TIME,
    )

    const isLong = process.env.VHOST_VDPA_LONG !== undefined
    const title = 'finds again what it wrote, after another start of its driver'
    const long = isLong ? it : it.skip
    long(
      isLong
        ? title
        : `${title} (skipped: its Linux is emulated by an emulated machine: run the lab with --env VHOST_VDPA_LONG=1)`,
      async () => {
        const model = blockDevice({ capacity: 64 * 2048 })
        const server = await served('peer3', model)
        await using guest = new Guest(fillsDisk, [server.node ?? ''], 'vdpa')
        await filled(guest)
        expect(model.counters.errors).toBe(0)
        expect(model.counters.flushes).toBeGreaterThan(0)
        expect(server.refusals).toEqual([])
      },
      2 * TIME,
    )
  },
  ['vdpa'],
)
