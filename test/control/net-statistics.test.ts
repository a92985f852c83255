// Statistics of devices that are newer than this package: counters behind those that are known, kinds that are not, and room for them.

import { expect, test } from '@jest/globals'
import { NetControlQueue } from '../../lib/control/net-control-queue.js'
import { DEFAULT_NET_FEATURES } from '../../lib/models/network-options.js'
import { openDevice } from '../../lib/open.js'
import { customDevice, Simulator } from '../../lib/simulator/index.js'
import { netFeatureBits } from '../../lib/uapi/virtio-features.js'
import { netCommands } from '../../lib/uapi/virtio-net-commands.js'
import { statsReplyRoom, type QueueStats } from '../../lib/uapi/virtio-net-stats.js'

const counters = (count: number) =>
  Object.fromEntries(Array.from({ length: count }, (_, number) => [`counter_${number}`, BigInt(number)]))

/** The control queue of a device that answers each question with `replies`, and says that it has written so many bytes more. */
async function begin(replies: readonly QueueStats[], more = 0) {
  const simulator = new Simulator()
  const rooms: number[] = []
  const answer = netCommands.VIRTIO_NET_CTRL_STATS_GET.answer?.encode(replies) ?? new Uint8Array(0)
  const path = simulator.add(
    customDevice({
      deviceId: 1,
      queues: 3,
      config: new Uint8Array(24),
      features: DEFAULT_NET_FEATURES | (1n << BigInt(netFeatureBits.VIRTIO_NET_F_DEVICE_STATS)),
      onKick: (chain) => {
        rooms.push(chain.writableLength)
        chain.write(Uint8Array.of(0, ...answer, ...new Uint8Array(more)), 0, 1 + answer.length + more)
      },
    }),
  )
  const device = await openDevice(path, { backend: simulator, expect: 'net' })
  await device.negotiate(['VIRTIO_NET_F_CTRL_VQ', 'VIRTIO_NET_F_DEVICE_STATS'])
  const control = await NetControlQueue.start(device, device.addressSpace(0))
  await device.start()
  return { device, control, rooms }
}

test('a known kind may have more counters, and an unknown kind its own', async () => {
  const replies = [
    { queue: 0, type: 0, counters: counters(11) },
    { queue: 0, type: 40, counters: counters(16) },
  ]
  const { device, control, rooms } = await begin(replies)
  const [basic, unknown, ...rest] = await control.statistics([{ queue: 0, types: 1n | (1n << 40n) }])
  expect(Object.keys(basic?.counters ?? {}).slice(4)).toEqual([
    ...['rx_drops', 'rx_drop_overruns', 'counter_6', 'counter_7', 'counter_8', 'counter_9', 'counter_10'],
  ])
  expect([unknown, rest]).toEqual([replies[1], []])
  expect(rooms).toEqual([1 + 2 * (8 + 8 * 16)])
  await device.close()
})

test('what a device says it has written behind its answer, and left empty, is no statistic', async () => {
  const { device, control } = await begin([{ queue: 0, type: 0, counters: counters(6) }], 80)
  expect(await control.statistics([{ queue: 0, types: 1n }])).toHaveLength(1)
  await device.close()
  expect(() => netCommands.VIRTIO_NET_CTRL_STATS_GET.answer?.decode(new Uint8Array(80))).toThrow(RangeError)
})

test('who asks for so many that there is no room for more gets the room of what is known', async () => {
  const { device, control, rooms } = await begin([])
  // Of each the two counters of a control queue: 24 bytes, where there would be 136.
  const wishes = Array.from({ length: 1200 }, () => ({ queue: 2, types: 1n << 32n }))
  expect(await control.statistics(wishes)).toEqual([])
  const most = control.maxPayloadBytes - 16 * wishes.length
  expect(statsReplyRoom(wishes)).toBeGreaterThan(most)
  expect(rooms).toEqual([1 + Math.max(24 * wishes.length, most)])
  await device.close()
})
