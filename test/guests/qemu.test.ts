// A guest of QEMU, the front end of most people: its drivers on our models, beside a guest of User Mode Linux, and what it does when a back end goes.

import { expect, it } from '@jest/globals'
import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { blockDevice, networkDevice, pair, serveVhostUser, type NetworkDevice } from '../../lib/serve'
import { transportFeatureBits as transport } from '../../lib/uapi/virtio-features'
import { openDescriptors, packageRoot, TemporaryFolder, untilNoneIsOpen } from '../native/support'
import { ensureBuilt } from '../scripts/support'
import { ServingProcess } from '../serving-process'
import { describeGuest, filled, Guest } from './guest'
import { fillsDisk, filters, looksAtDisk, pings, ringFeatures } from './scripts'
import { until } from '../until'

const sumOf = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex')

const MACS = ['02:00:00:00:00:01', '02:00:00:00:00:02'] as const

describeGuest(
  'a QEMU guest on a network device',
  () => {
    it.each([
      ['split rings', '', ringFeatures],
      ['packed rings and two queue pairs', ',packed=on,queues=2', [transport.VIRTIO_F_RING_PACKED, ...ringFeatures]],
    ])(
      'reaches a guest of User Mode Linux over a wire, by %s, and neither is harmed when it is killed',
      async (_name, properties, features) => {
        const before = openDescriptors()
        {
          using folder = new TemporaryFolder()
          const devices = MACS.map((mac) =>
            networkDevice({ mac, queuePairs: 2, moreFeatures: [...filters, ...features] }),
          )
          const [one, other] = devices as [NetworkDevice, NetworkDevice]
          pair(one, other)
          using first = serveVhostUser(one, { socket: folder.file('first') })
          using second = serveVhostUser(other, { socket: folder.file('second') })
          // QEMU tells its own guest the address, and keeps the control queue to itself.
          const device = `${first.path}:1,mac=${one.mac}${properties}`
          await using a = new Guest(`${pings('10.0.0.1', '10.0.0.2')}; say waits; sleep 600`, [device], 'qemu')
          await using b = new Guest(pings('10.0.0.2', '10.0.0.1'), [`${second.path}:1`])
          expect(await Promise.all([a.saying('address'), b.saying('address')])).toEqual([one.mac, other.mac])
          expect(await Promise.all([a.saying('pinged'), b.saying('pinged')])).toEqual(['0', '0'])
          expect(one.queues[2]?.isReady).toBe(properties.includes('queues=2'))
          await b.end()
          await a.saying('waits')
          await a.kill()
          await until(() => first.frontEnds === 0)
          expect([first.frontEnds, first.refusals, second.refusals]).toEqual([0, [], []])
          expect(one.counters.rxPackets).toBeGreaterThan(40)
          expect(one.violations).toEqual([])
        }
        await untilNoneIsOpen(before)
      },
    )
  },
  ['qemu', 'uml'],
)

describeGuest(
  'a QEMU guest on a disk',
  () => {
    it.each([
      ['split rings', '', ringFeatures],
      ['packed rings', ',packed=on', [transport.VIRTIO_F_RING_PACKED, ...ringFeatures]],
    ])('finds what it wrote, and so does a guest of User Mode Linux, by %s', async (_name, properties, features) => {
      using folder = new TemporaryFolder()
      const device = blockDevice({ capacity: 64 * 2048, id: 'served', moreFeatures: features })
      using server = serveVhostUser(device, { socket: folder.file('disk') })
      await using first = new Guest(fillsDisk, [`${server.path}:2${properties}`], 'qemu')
      const sum = await filled(first)
      await using second = new Guest(looksAtDisk, [`${server.path}:2`])
      expect(await second.saying('sum')).toBe(sum)
      expect(await second.saying('serial')).toBe('served')
      await second.end()
      expect(server.refusals).toEqual([])
      expect(device.counters.errors).toBe(0)
      expect(device.counters.flushes).toBeGreaterThan(0)
    })

    it('reads on when the server went and another one came, which finishes what was under way', async () => {
      using folder = new TemporaryFolder()
      const socket = folder.file('disk')
      const content = Uint8Array.from({ length: 4 << 20 }, (_, at) => at >>> 12)
      const make = () => blockDevice({ capacity: content.length / 512, content, moreFeatures: ringFeatures })
      const server = serveVhostUser(make, { socket })
      await using guest = new Guest(
        `say first $(dd if=/dev/vda bs=64k iflag=direct 2> /dev/null | sha256sum)
for n in 1 2 3 4 5 6 7 8; do dd if=/dev/vda bs=4k iflag=direct 2> /dev/null | sha256sum; done > /sums &
say reading
wait
say again $(sort -u /sums) of $(wc -l < /sums)`,
        [`${socket}:2`],
        'qemu',
      )
      const sum = await guest.saying('first')
      await guest.saying('reading')
      server.close()
      using next = serveVhostUser(make, { socket })
      expect(await guest.saying('again')).toBe(`${sum} of 8`)
      await guest.end()
      expect([server.refusals, next.refusals]).toEqual([[], []])
    })
  },
  ['qemu', 'uml'],
)

describeGuest(
  'a QEMU guest whose back end is killed and started again',
  () => {
    it('has on its disk what it wrote before, meanwhile and after', async () => {
      ensureBuilt()
      const main = join(packageRoot(), 'dist/cli/main.js')
      using folder = new TemporaryFolder()
      const [socket, file] = [folder.file('disk'), folder.file('disk.img')]
      const words = ['serve', 'block', '--file', file, '--size', '16', '--vhost-user', socket]
      await using server = await ServingProcess.start(main, words)
      await using guest = new Guest(
        `dd if=/dev/urandom of=/random bs=64k count=128 2> /dev/null
for n in 1 2; do dd if=/random of=/dev/vda bs=4k oflag=direct conv=fsync 2> /dev/null || say failed; done &
say writing
wait
say wrote $(sha256sum < /random)
say has $(dd if=/dev/vda bs=64k count=128 iflag=direct 2> /dev/null | sha256sum)`,
        [`${socket}:2`],
        'qemu',
      )
      await guest.saying('writing')
      await until(() => readFileSync(file).some((byte) => byte !== 0))
      await server.kill()
      expect(guest.said.some((line) => line.startsWith('wrote'))).toBe(false)
      await using next = await ServingProcess.start(main, words)
      const sum = await guest.saying('wrote')
      expect(await guest.saying('has')).toBe(sum)
      expect(await guest.end()).not.toContain('failed')
      expect(sum).toContain(sumOf(readFileSync(file).subarray(0, 8 << 20)))
      expect((await next.end('SIGTERM'))[0]).toBe(0)
    })
  },
  ['qemu'],
)
