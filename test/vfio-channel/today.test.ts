// A device behind a channel in this process: the package's own client on one side, a simulator's device on the other, and everything between them as messages.

import { afterEach, beforeEach, expect, test } from '@jest/globals'
import { BlockDriver } from '../../lib/drivers/block-driver'
import { openDevice } from '../../lib/open'
import { blockDevice, networkDevice, Simulator } from '../../lib/simulator/index'
import { ChannelBackend } from '../../lib/vfio-channel/channel-backend'
import { openFarEnd } from '../../lib/vfio-channel/far-end'
import { TodayServer } from '../../lib/vfio-channel/today-server'

const NODE = '/dev/vhost-vdpa-0'
let near: Simulator
let far: Simulator
let channel: ChannelBackend

beforeEach(() => {
  near = new Simulator()
  far = new Simulator()
  channel = new ChannelBackend(near, (path) => ({ region: new TodayServer(openFarEnd(far, path)) }))
})

afterEach(() => {
  expect(near.descriptors).toEqual([])
  expect(far.descriptors).toEqual([])
})

test('a disk is written, read and flushed', async () => {
  far.add(blockDevice({ path: NODE, capacity: 64 }))
  await using device = await openDevice(NODE, { backend: channel, expect: 'block' })
  await device.negotiate(['VIRTIO_BLK_F_FLUSH'])
  await using disk = await BlockDriver.start(device)
  await device.start()
  await disk.write(3, Buffer.alloc(512, 7))
  await disk.flush()
  expect(Buffer.from(await disk.read(3, 1)).equals(Buffer.alloc(512, 7))).toBe(true)
})

test('a network device is what it is', async () => {
  far.add(networkDevice({ path: NODE, mac: '00:11:22:33:44:55' }))
  await using device = await openDevice(NODE, { backend: channel, expect: 'net' })
  expect(device.queueCount).toBe(3)
  expect(device.addressSpaceCount).toBe(2)
})
