// What a device says in its configuration that it can: no command asks it for more, and one that does is not sent.

import { afterEach, beforeEach, describe, expect, test } from '@jest/globals'
import { NetControlQueue } from '../../lib/control/net-control-queue.js'
import { checkNetLimits } from '../../lib/control/net-limits.js'
import type { VdpaDevice } from '../../lib/device/vdpa-device.js'
import { openDevice } from '../../lib/open.js'
import { networkDevice, Simulator, type NetworkDevice } from '../../lib/simulator/index.js'
import { netFeatureBits as bits } from '../../lib/uapi/virtio-features.js'
import { netCommands } from '../../lib/uapi/virtio-net-commands.js'
import type { RssConfig } from '../../lib/uapi/virtio-net-steering.js'

const path = '/dev/vhost-vdpa-0'
const key = new Uint8Array(40).fill(7)
const longKey = new Uint8Array(41)
const fits: RssConfig = { hashTypes: 3, indirectionTable: [0, 1], unclassifiedQueue: 1, maxTxVq: 2, key }
const features = [
  bits.VIRTIO_NET_F_MQ,
  bits.VIRTIO_NET_F_RSS,
  bits.VIRTIO_NET_F_HASH_REPORT,
  bits.VIRTIO_NET_F_HASH_TUNNEL,
]

describe('a device of two pairs', () => {
  let device: VdpaDevice<'net'>
  let model: NetworkDevice
  let control: NetControlQueue

  beforeEach(async () => {
    const simulator = new Simulator()
    model = networkDevice({ path, queuePairs: 2, moreFeatures: features })
    simulator.add(model)
    device = await openDevice(path, { backend: simulator, expect: 'net' })
    await device.negotiate([bits.VIRTIO_NET_F_CTRL_VQ, ...features])
    device.groups.assign(1, 1)
    control = await NetControlQueue.start(device, device.addressSpace(1))
    await device.start()
  })

  afterEach(() => device.close())

  test.each<[string, RegExp, () => Promise<unknown>]>([
    ['no pairs', /^pairs must be/, () => control.send('VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET', 0)],
    [
      'three pairs',
      /^pairs must be at most 2, the device's max_virtqueue_pairs \(got 3\)/,
      () => control.setQueuePairs(3),
    ],
    ['three pairs by the name', /max_virtqueue_pairs/, () => control.send('VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET', 3)],
    [
      'three queues to send on',
      /^maxTxVq must be at most 2, .*max_virtqueue_pairs/,
      () => control.configureRss({ ...fits, maxTxVq: 3 }),
    ],
    [
      'a queue behind the last one for what has no hash',
      /^unclassifiedQueue must be below 2/,
      () => control.configureRss({ ...fits, unclassifiedQueue: 2 }),
    ],
    [
      'a queue behind the last one',
      /^indirectionTable\[3\] must be below 2/,
      () => control.configureRss({ ...fits, indirectionTable: [0, 1, 0, 2] }),
    ],
    [
      'a longer key',
      /^key.length must be at most 40, .*rss_max_key_size/,
      () => control.configureRss({ ...fits, key: longKey }),
    ],
    [
      'another hash',
      /^hashTypes must be bits of 0x3f, the device's supported_hash_types/,
      () => control.configureRss({ ...fits, hashTypes: 0x8000_0001 }),
    ],
    ['a longer key to report', /^key.length/, () => control.configureHash({ hashTypes: 1, key: longKey })],
    ['another hash to report', /^hashTypes/, () => control.configureHash({ hashTypes: 0x40, key })],
    ['another tunnel', /^types must be bits of 0x10, the device's supported_tunnel_types/, () => control.setTunnels(1)],
  ])('is not asked for %s', async (_, words, ask) => {
    await expect(ask()).rejects.toMatchObject({ name: 'RangeError', message: expect.stringMatching(words) as unknown })
    expect(model.counters.commands).toBe(0)
  })

  test('is asked for all that it has', async () => {
    await control.configureRss(fits)
    await control.configureHash({ hashTypes: 0x3f, key })
    await control.setTunnels(0x10)
    await control.setQueuePairs(2)
    expect(model.counters).toMatchObject({ commands: 4, commandErrors: 0 })
  })

  test('refuses a queue whose reserved bit is set, as it means nothing known', async () => {
    const rss = netCommands.VIRTIO_NET_CTRL_MQ_RSS_CONFIG
    for (const at of [7, 9]) {
      const payload = rss.encode(fits)
      payload[at] = 0x80
      expect((await control.sendRaw(rss.class, rss.command, payload)).ack).toBe(1)
    }
    expect(model.control.rss).toBeUndefined()
  })
})

test('a longer table than the device has room for is refused', () => {
  const payload = netCommands.VIRTIO_NET_CTRL_MQ_RSS_CONFIG.encode({
    ...fits,
    indirectionTable: new Array<number>(256).fill(0),
  })
  const check = (rssMaxIndirectionTableLength: number) => () =>
    checkNetLimits('VIRTIO_NET_CTRL_MQ_RSS_CONFIG', payload, () => ({ mac: '', rssMaxIndirectionTableLength }))
  expect(check(128)).toThrow(/^indirectionTable.length must be at most 128, .*rss_max_indirection_table_length/)
  expect(check(256)).not.toThrow()
})

test('nor does a field that is 0: what the device did not fill in says nothing of what it takes', () => {
  const config = {
    mac: '',
    maxVirtqueuePairs: 0,
    rssMaxKeySize: 0,
    rssMaxIndirectionTableLength: 0,
    supportedHashTypes: 0,
    supportedTunnelTypes: 0,
  }
  const { VIRTIO_NET_CTRL_MQ_RSS_CONFIG: rss, VIRTIO_NET_CTRL_HASH_TUNNEL_SET: tunnels } = netCommands
  expect(() => checkNetLimits('VIRTIO_NET_CTRL_MQ_RSS_CONFIG', rss.encode(fits), () => config)).not.toThrow()
  expect(() => checkNetLimits('VIRTIO_NET_CTRL_HASH_TUNNEL_SET', tunnels.encode(1), () => config)).not.toThrow()
  expect(() => checkNetLimits('VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET', Uint8Array.of(2, 0), () => config)).not.toThrow()
})

test('a field that is not there limits nothing, and what no field limits does not read them', () => {
  const payload = netCommands.VIRTIO_NET_CTRL_MQ_RSS_CONFIG.encode({ ...fits, key: longKey, maxTxVq: 9 })
  expect(() => checkNetLimits('VIRTIO_NET_CTRL_MQ_RSS_CONFIG', payload, () => ({ mac: '' }))).not.toThrow()
  const unread = () => {
    throw new Error('read')
  }
  expect(() => checkNetLimits('VIRTIO_NET_CTRL_VLAN_ADD', Uint8Array.of(1, 0), unread)).not.toThrow()
})
