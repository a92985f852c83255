// Every command of the table on the simulated device, through the driver's end: each is answered, counted and obeyed, and none is sent without its feature.

import { expect, test } from '@jest/globals'
import { NetControlQueue } from '../../lib/control/net-control-queue.js'
import { openDevice } from '../../lib/open.js'
import { extraNetFeatures, networkDevice, Simulator } from '../../lib/simulator/index.js'
import { netFeatureBits } from '../../lib/uapi/virtio-features.js'
import { netTunnelTypes } from '../../lib/uapi/virtio-net.js'
import { netCommands, netFeatureBit, type NetCommandName } from '../../lib/uapi/virtio-net-commands.js'
import { netStatsTypes } from '../../lib/uapi/virtio-net-stats.js'

const path = '/dev/vhost-vdpa-0'
const bits = netFeatureBits
const features = [
  ...extraNetFeatures.filter((number) => number < 24),
  bits.VIRTIO_NET_F_MQ,
  bits.VIRTIO_NET_F_CTRL_MAC_ADDR,
  bits.VIRTIO_NET_F_RSS,
  bits.VIRTIO_NET_F_HASH_REPORT,
  bits.VIRTIO_NET_F_HASH_TUNNEL,
  bits.VIRTIO_NET_F_NOTF_COAL,
  bits.VIRTIO_NET_F_VQ_NOTF_COAL,
  bits.VIRTIO_NET_F_DEVICE_STATS,
  bits.VIRTIO_NET_F_CTRL_GUEST_OFFLOADS,
  bits.VIRTIO_NET_F_GUEST_CSUM,
  bits.VIRTIO_NET_F_GUEST_TSO4,
]
const key = Uint8Array.from({ length: 40 }, (_, index) => index)
const rss = { hashTypes: 3, indirectionTable: [0, 1], unclassifiedQueue: 1, maxTxVq: 2, key }

const values: { readonly [N in NetCommandName]?: unknown } = {
  VIRTIO_NET_CTRL_RX_PROMISC: true,
  VIRTIO_NET_CTRL_RX_ALLMULTI: false,
  VIRTIO_NET_CTRL_RX_ALLUNI: true,
  VIRTIO_NET_CTRL_RX_NOMULTI: true,
  VIRTIO_NET_CTRL_RX_NOUNI: true,
  VIRTIO_NET_CTRL_RX_NOBCAST: true,
  VIRTIO_NET_CTRL_MAC_TABLE_SET: { unicast: ['02:00:00:00:00:07'], multicast: [] },
  VIRTIO_NET_CTRL_MAC_ADDR_SET: '02:00:00:00:00:09',
  VIRTIO_NET_CTRL_VLAN_ADD: 7,
  VIRTIO_NET_CTRL_VLAN_DEL: 7,
  VIRTIO_NET_CTRL_ANNOUNCE_ACK: undefined,
  VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET: 2,
  VIRTIO_NET_CTRL_MQ_RSS_CONFIG: rss,
  VIRTIO_NET_CTRL_MQ_HASH_CONFIG: { hashTypes: 1, key },
  VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET: 0x82n,
  VIRTIO_NET_CTRL_NOTF_COAL_TX_SET: { maxPackets: 5, maxUsecs: 6 },
  VIRTIO_NET_CTRL_NOTF_COAL_RX_SET: { maxPackets: 7, maxUsecs: 8 },
  VIRTIO_NET_CTRL_NOTF_COAL_VQ_SET: { queue: 0, maxPackets: 9, maxUsecs: 10 },
  VIRTIO_NET_CTRL_NOTF_COAL_VQ_GET: 0,
  VIRTIO_NET_CTRL_HASH_TUNNEL_SET: netTunnelTypes.VIRTIO_NET_HASH_TUNNEL_TYPE_VXLAN,
  VIRTIO_NET_CTRL_STATS_QUERY: undefined,
  VIRTIO_NET_CTRL_STATS_GET: [{ queue: 4, types: 1n << 32n }],
}
const reachable = (Object.keys(netCommands) as NetCommandName[]).filter(
  (name) => netFeatureBit(netCommands[name].feature) < 64,
)

async function begin(wish: readonly number[] = features) {
  const simulator = new Simulator()
  const model = networkDevice({ path, mac: '02:00:00:00:00:0a', queuePairs: 2, moreFeatures: features })
  simulator.add(model)
  const device = await openDevice(path, { backend: simulator, expect: 'net' })
  await device.negotiate([bits.VIRTIO_NET_F_CTRL_VQ, ...wish])
  const control = await NetControlQueue.start(device, device.addressSpace(0))
  for (const index of [0, 1]) await device.createQueue(index, { addressSpace: device.addressSpace(0), bufferBytes: 64 })
  await device.start()
  const send = (name: NetCommandName, value: unknown = values[name]) =>
    control.send(name, value as Parameters<typeof control.send<typeof name>>[1]) as Promise<unknown>
  return { device, model, control, send }
}

test('all of them are answered in the order of the table, counted, and obeyed', async () => {
  const { device, model, send } = await begin()
  const answers: Partial<Record<NetCommandName, unknown>> = {}
  for (const name of reachable) answers[name] = await send(name)
  expect(model.counters).toMatchObject({ commands: reachable.length, commandErrors: 0 })
  expect(model.control).toMatchObject({
    isPromiscuous: true,
    acceptsAllMulticast: false,
    refusesBroadcast: true,
    table: values.VIRTIO_NET_CTRL_MAC_TABLE_SET,
    queuePairs: 2,
    rss,
    hash: { hashTypes: 1, key },
    tunnels: 0x10,
    offloads: 0x82n,
    announceAcknowledged: 1,
  })
  expect(answers.VIRTIO_NET_CTRL_NOTF_COAL_VQ_GET).toEqual({ maxPackets: 9, maxUsecs: 10 })
  expect(answers.VIRTIO_NET_CTRL_STATS_QUERY).toBe(0x1_0001_0001n)
  const count = BigInt(reachable.length)
  expect(answers.VIRTIO_NET_CTRL_STATS_GET).toEqual([
    { queue: 4, type: netStatsTypes.VIRTIO_NET_STATS_TYPE_CVQ, counters: { command_num: count, ok_num: count } },
  ])
  expect(device.config.net()).toMatchObject({ mac: '02:00:00:00:00:09', supportedTunnelTypes: 0x10 })
  await device.close()
})

test.each(reachable)('%s is not sent without its feature, which is named', async (name) => {
  const { feature } = netCommands[name]
  const { device, model, send } = await begin([bits.VIRTIO_NET_F_MTU])
  await expect(send(name)).rejects.toMatchObject({
    code: 'ERR_VDPA_NOT_SUPPORTED',
    message: expect.stringContaining(`${feature}, which was not negotiated`) as unknown,
    request: name,
  })
  expect(model.counters.commands).toBe(0)
  await device.close()
})

test('an offload whose feature was not negotiated is not asked for', async () => {
  const { device, control } = await begin()
  await expect(control.setGuestOffloads(1n << 10n)).rejects.toThrow(/VIRTIO_NET_F_GUEST_UFO, which was not negotiated/)
  await expect(control.setGuestOffloads(1n << 46n)).rejects.toThrow(/GUEST_UDP_TUNNEL_GSO \(bit 65\), which vhost-vdpa/)
  await device.close()
})

test('coalescing of a queue is the last that was said of it, or of all, and ends when the queue is enabled anew', async () => {
  const { device, control, send } = await begin()
  const at = (maxPackets: number) => ({ maxPackets, maxUsecs: 1 })
  expect(await control.coalescing(0)).toEqual({ maxPackets: 0, maxUsecs: 0 })
  await send('VIRTIO_NET_CTRL_NOTF_COAL_RX_SET', at(1))
  await control.setCoalescing(0, at(2))
  expect([await control.coalescing(0), await control.coalescing(1)]).toEqual([at(2), { maxPackets: 0, maxUsecs: 0 }])
  await send('VIRTIO_NET_CTRL_NOTF_COAL_RX_SET', at(3))
  expect(await control.coalescing(0)).toEqual(at(3))
  await control.setCoalescing(0, at(4))
  device.vring(0).disable()
  await expect(control.coalescing(0)).rejects.toMatchObject({ code: 'ERR_VDPA_REFUSED' })
  device.vring(0).enable()
  expect(await control.coalescing(0)).toEqual(at(3))
  for (const queue of [2, 4, 99]) await expect(control.setCoalescing(queue, at(1))).rejects.toThrow(/refused/)
  await device.close()
})

test('statistics that a queue does not have are refused, and of several questions one wrong one refuses all', async () => {
  const { device, control } = await begin()
  const [rx, tx, cvq] = [1n, 1n << 16n, 1n << 32n]
  const kinds = await control.statistics([
    { queue: 0, types: rx },
    { queue: 3, types: tx },
  ])
  expect(kinds.map(({ queue, type }) => [queue, type])).toEqual([
    [0, 0],
    [3, 16],
  ])
  for (const wrong of [
    { queue: 0, types: tx },
    { queue: 1, types: rx },
    { queue: 4, types: rx },
    { queue: 0, types: rx | 2n },
    { queue: 5, types: cvq },
  ])
    await expect(control.statistics([{ queue: 0, types: rx }, wrong])).rejects.toThrow(/refused/)
  // As much of the answer as there is room for: the head and one counter.
  const { ack, answer } = await control.sendRaw(
    8,
    1,
    netCommands.VIRTIO_NET_CTRL_STATS_GET.encode([{ queue: 0, types: rx }]),
    {
      answerBytes: 16,
    },
  )
  expect([ack, answer.length]).toEqual([0, 16])
  await device.close()
})

test('what was set is a list of commands that sets it again', async () => {
  const { device, model, control, send } = await begin()
  for (const name of reachable) await send(name)
  await control.addVlan(9)
  await control.setQueuePairs(1)
  const commands = control.commands()
  const before = { ...model.control, vlans: new Set(model.control.vlans) }
  expect(commands.map(({ name }) => name.replace('VIRTIO_NET_CTRL_', ''))).toEqual([
    'MAC_ADDR_SET',
    'MQ_HASH_CONFIG',
    'MQ_VQ_PAIRS_SET',
    'HASH_TUNNEL_SET',
    'GUEST_OFFLOADS_SET',
    'MAC_TABLE_SET',
    'RX_PROMISC',
    'RX_ALLMULTI',
    'RX_ALLUNI',
    'RX_NOMULTI',
    'RX_NOUNI',
    'RX_NOBCAST',
    'VLAN_ADD',
    'NOTF_COAL_TX_SET',
    'NOTF_COAL_RX_SET',
    'NOTF_COAL_VQ_SET',
  ])
  const other = await begin()
  await other.control.replay(structuredClone(commands))
  expect({ ...other.model.control, announceAcknowledged: 1 }).toEqual(before)
  expect(other.control.commands()).toEqual(commands)
  await expect(other.control.replay([{ name: 'X' as NetCommandName, payload: key }])).rejects.toThrow(RangeError)
  await expect(other.control.replay([{ name: 'VIRTIO_NET_CTRL_VLAN_ADD', payload: key }])).rejects.toThrow(RangeError)
  for (const { device: each } of [{ device }, other]) await each.close()
})
