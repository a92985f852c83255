// A real guest's virtio_blk driver on our disk model: a file system is made, filled, and read again by another guest.

import { expect, it } from '@jest/globals'
import { blockDevice, serveVhostUser } from '../../lib/serve'
import { blockFeatureBits, transportFeatureBits as transport } from '../../lib/uapi/virtio-features'
import { TemporaryFolder } from '../native/support'
import { describeGuest, filled, Guest } from './guest'
import { fillsDisk, looksAtDisk, ringFeatures } from './scripts'

describeGuest('a guest on a disk', () => {
  it.each([
    ['split rings', []],
    ['split rings with indirect descriptors and event index', ringFeatures],
    ['packed rings with indirect descriptors and event index', [transport.VIRTIO_F_RING_PACKED, ...ringFeatures]],
  ])('finds what it wrote, and the next guest finds it as well, by %s', async (_name, features) => {
    using folder = new TemporaryFolder()
    const device = blockDevice({ capacity: 64 * 2048, id: 'served', moreFeatures: features })
    using server = serveVhostUser(device, { socket: folder.file('disk') })
    await using first = new Guest(fillsDisk, [`${server.path}:2`])
    const sum = await filled(first)
    await using second = new Guest(looksAtDisk, [`${server.path}:2`])
    expect(await second.saying('sum')).toBe(sum)
    expect(await second.saying('serial')).toBe('served')
    await second.end()
    expect(server.refusals).toEqual([])
    expect(device.counters.errors).toBe(0)
    expect(device.counters.flushes).toBeGreaterThan(0)
  })

  it('lives on when the server goes, and another server has the disk', async () => {
    using folder = new TemporaryFolder()
    const content = new Uint8Array(1 << 20).fill(0x61)
    const device = blockDevice({ capacity: 2048, content, moreFeatures: [blockFeatureBits.VIRTIO_BLK_F_CONFIG_WCE] })
    const server = serveVhostUser(() => device, { socket: folder.file('disk') })
    await using guest = new Guest(
      'say reads $(head -c 4 /dev/vda); n=0; while [ -e /sys/block/vda ] && [ $n -lt 100 ]; do sleep 0.1; n=$((n+1)); done; say gone $?',
      [`${server.path}:2`],
    )
    expect(await guest.saying('reads')).toBe('aaaa')
    server.close()
    await guest.saying('gone')
    await guest.end()
    using again = serveVhostUser(blockDevice({ capacity: 2048, content }), { socket: folder.file('disk') })
    await using next = new Guest('say reads $(head -c 4 /dev/vda)', [`${again.path}:2`])
    expect(await next.saying('reads')).toBe('aaaa')
  })
})
