// A QEMU guest that moves from one device to another while it sends: by the log of what its device writes, and by what QEMU carries of the rings.

import { expect, it } from '@jest/globals'
import { openDevice } from '../../lib/open'
import { bridgeVhostUser, networkDevice, pair, serveVhostUser, type NetworkDevice } from '../../lib/serve'
import { Simulator } from '../../lib/simulator'
import { transportFeatureBits as transport } from '../../lib/uapi/virtio-features'
import { openDescriptors, TemporaryFolder, untilNoneIsOpen } from '../native/support'
import { until } from '../until'
import { describeGuest, Guest } from './guest'
import { migrate, Monitor } from './monitor'
import { filters, ringFeatures } from './scripts'

const MAC = '02:00:00:00:00:01'
/** Set by the guest, and known to QEMU alone. */
const OWN = '02:00:00:00:00:77'

/** Sends by TCP until its carrier is taken away: says `stops`, and then `sent` and the sum. */
const moves = `
ip link set eth0 address ${OWN}
ip link set eth0 up
ip addr add 10.0.0.1/24 dev eth0
n=0; until ping -c 1 -W 1 10.0.0.2 > /dev/null || [ $n = 60 ]; do n=$((n+1)); done
dd if=/dev/urandom of=/chunk bs=64k count=1 2> /dev/null
mkfifo /stream
nc 10.0.0.2 5000 < /stream &
( n=0; while [ "$(cat /sys/class/net/eth0/carrier)" = 1 ]; do cat /chunk; n=$((n+1)); done; echo $n > /count; say stops >&2 ) > /stream &
say sends
wait
say sent $(n=$(cat /count); while [ $n -gt 0 ]; do cat /chunk; n=$((n-1)); done | sha256sum)
ping -c 20 -i 0.05 -s 1400 10.0.0.2 | grep -q ' 0% packet loss'
say pinged $?
say address $(cat /sys/class/net/eth0/address)`

const hears = `
ip link set eth0 up
ip addr add 10.0.0.2/24 dev eth0
say heard $(nc -l -p 5000 | sha256sum)
[ -e /never ] || sleep 600`

/** Where a device is found, and whether what it writes is logged. */
interface Hosted extends AsyncDisposable {
  readonly path: string
  readonly refusals: () => readonly string[]
  readonly isLogging: () => boolean
}

async function bridged(model: NetworkDevice, socket: string): Promise<Hosted> {
  const backend = new Simulator()
  const device = await openDevice(backend.add(model), { backend, expect: 'net' })
  const bridge = await bridgeVhostUser(device, { socket })
  const end = async () => {
    await bridge.close()
    await device.close()
  }
  return {
    path: bridge.path,
    refusals: () => bridge.refusals,
    isLogging: () => bridge.isLogging,
    [Symbol.asyncDispose]: end,
  }
}

function served(model: NetworkDevice, socket: string): Promise<Hosted> {
  const server = serveVhostUser(model, { socket })
  const end = () => Promise.resolve(server.close())
  // Nobody outside sees a model's log.
  return Promise.resolve({
    path: server.path,
    refusals: () => server.refusals,
    isLogging: () => true,
    [Symbol.asyncDispose]: end,
  })
}

describeGuest(
  'a QEMU guest that moves to another network device',
  () => {
    it.each([
      ['bridged, split rings', bridged, '', ringFeatures],
      ['bridged, packed rings', bridged, ',packed=on', [transport.VIRTIO_F_RING_PACKED, ...ringFeatures]],
      ['a model, split rings', served, '', ringFeatures],
    ] as const)('sends on where it comes, with its queue pairs: %s', async (_name, host, properties, features) => {
      const before = openDescriptors()
      {
        using folder = new TemporaryFolder()
        const make = (mac: string, queuePairs: number) =>
          networkDevice({ mac, queuePairs, moreFeatures: [...filters, ...features] })
        const [one, two, other] = [make(MAC, 2), make(MAC, 2), make('02:00:00:00:00:02', 1)]
        pair(one, other)
        await using a = await host(one, folder.file('first'))
        await using b = await host(two, folder.file('second'))
        await using c = await host(other, folder.file('third'))
        const boot = (path: string, monitor: string, ...more: string[]) => {
          const words = ['--monitor', folder.file(monitor), ...more]
          return new Guest(moves, [`${path}:1,mac=${MAC},queues=2${properties}`], 'qemu', words)
        }
        await using peer = new Guest(hears, [`${c.path}:1`])
        await using source = boot(a.path, 'from')
        await using target = boot(b.path, 'to', '--incoming')
        await source.saying('sends')
        expect(one.queues[2]?.isReady).toBe(true)
        using from = await Monitor.at(folder.file('from'))
        using to = await Monitor.at(folder.file('to'))
        await migrate(from, to, {
          socket: folder.file('way'),
          whileItRuns: () => until(() => a.isLogging()),
          beforeItGoesOn: () => pair(two, other),
        })
        await until(() => two.queues[2]?.isReady === true)
        const { txBytes } = two.counters
        await until(() => two.counters.txBytes > txBytes + 100_000)
        await to.ask('set_link', { name: 'net0', up: false })
        await target.saying('stops')
        await to.ask('set_link', { name: 'net0', up: true })
        expect(await target.saying('sent')).toBe(await peer.saying('heard'))
        expect(await target.saying('pinged')).toBe('0')
        expect(await target.saying('address')).toBe(OWN)
        await target.end()
        await source.kill()
        expect([a.refusals(), b.refusals(), c.refusals()]).toEqual([[], [], []])
        expect([one.violations, two.violations]).toEqual([[], []])
      }
      await untilNoneIsOpen(before)
    })
  },
  ['qemu', 'uml'],
)
