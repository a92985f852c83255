// What control commands have set, whatever they were and in whatever order, holds on the other side of a move, and after a recovery.

import { expect, test } from '@jest/globals'
import fc from 'fast-check'
import type { NetControlQueue } from '../../lib/control/net-control-queue.js'
import { moveDevice, prepareMove } from '../../lib/move/move.js'
import { recoverDevice } from '../../lib/move/recover.js'
import { extraNetFeatures, type NetworkDevice, type NetworkDeviceOptions } from '../../lib/simulator/index.js'
import { netFeatureBits as bits } from '../../lib/uapi/virtio-features.js'
import { netTunnelTypes } from '../../lib/uapi/virtio-net.js'
import type { NetCommandName } from '../../lib/uapi/virtio-net-commands.js'
import type { FeatureName } from '../drivers/features.js'
import { runPair } from './support.js'

const features: readonly FeatureName[] = [
  'VIRTIO_NET_F_CTRL_RX',
  'VIRTIO_NET_F_CTRL_RX_EXTRA',
  'VIRTIO_NET_F_CTRL_VLAN',
  'VIRTIO_NET_F_MQ',
  'VIRTIO_NET_F_RSS',
  'VIRTIO_NET_F_HASH_REPORT',
  'VIRTIO_NET_F_HASH_TUNNEL',
  'VIRTIO_NET_F_NOTF_COAL',
  'VIRTIO_NET_F_VQ_NOTF_COAL',
  'VIRTIO_NET_F_CTRL_GUEST_OFFLOADS',
  'VIRTIO_NET_F_GUEST_CSUM',
  'VIRTIO_NET_F_GUEST_TSO4',
]
const shape: NetworkDeviceOptions = {
  moreFeatures: [...extraNetFeatures, ...features.map((name) => (bits as Record<string, number>)[name] ?? 0)],
}

const address = (first: number) =>
  fc.nat({ max: 0xff }).map((last) => `0${first}:00:00:00:00:${last.toString(16).padStart(2, '0')}`)
const key = fc.uint8Array({ minLength: 40, maxLength: 40 })
const hashTypes = fc.nat({ max: 0x3f })
const coalescing = { maxPackets: fc.nat({ max: 9 }), maxUsecs: fc.nat({ max: 9 }) }
const queue = fc.nat({ max: 1 })
const values: { readonly [N in NetCommandName]?: fc.Arbitrary<unknown> } = {
  VIRTIO_NET_CTRL_RX_PROMISC: fc.boolean(),
  VIRTIO_NET_CTRL_RX_ALLMULTI: fc.boolean(),
  VIRTIO_NET_CTRL_RX_ALLUNI: fc.boolean(),
  VIRTIO_NET_CTRL_RX_NOMULTI: fc.boolean(),
  VIRTIO_NET_CTRL_RX_NOUNI: fc.boolean(),
  VIRTIO_NET_CTRL_RX_NOBCAST: fc.boolean(),
  VIRTIO_NET_CTRL_MAC_TABLE_SET: fc.record({
    unicast: fc.array(address(2), { maxLength: 3 }),
    multicast: fc.array(address(1), { maxLength: 3 }),
  }),
  VIRTIO_NET_CTRL_MAC_ADDR_SET: address(2),
  VIRTIO_NET_CTRL_VLAN_ADD: fc.nat({ max: 5 }),
  VIRTIO_NET_CTRL_VLAN_DEL: fc.nat({ max: 5 }),
  VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET: fc.integer({ min: 1, max: 2 }),
  VIRTIO_NET_CTRL_MQ_RSS_CONFIG: fc.record({
    hashTypes,
    indirectionTable: fc.tuple(queue, queue),
    unclassifiedQueue: queue,
    maxTxVq: fc.integer({ min: 1, max: 2 }),
    key,
  }),
  VIRTIO_NET_CTRL_MQ_HASH_CONFIG: fc.record({ hashTypes, key }),
  VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET: fc.constantFrom(0n, 2n, 0x82n),
  VIRTIO_NET_CTRL_NOTF_COAL_TX_SET: fc.record(coalescing),
  VIRTIO_NET_CTRL_NOTF_COAL_RX_SET: fc.record(coalescing),
  VIRTIO_NET_CTRL_NOTF_COAL_VQ_SET: fc.record({ queue: fc.nat({ max: 3 }), ...coalescing }),
  VIRTIO_NET_CTRL_HASH_TUNNEL_SET: fc.constantFrom(0, netTunnelTypes.VIRTIO_NET_HASH_TUNNEL_TYPE_VXLAN),
}
type Sent = readonly [name: NetCommandName, value: unknown]
const commands = fc.array(
  fc.oneof(...Object.entries(values).map(([name, value]) => fc.tuple(fc.constant(name as NetCommandName), value))),
  { maxLength: 40 },
)

async function send(control: NetControlQueue, list: readonly Sent[]): Promise<void> {
  for (const [name, value] of list)
    await control
      .send(name, value as Parameters<typeof control.send<typeof name>>[1])
      // What is not in a table is not taken out of it.
      .catch((failure: unknown) => expect([name, failure]).toMatchObject(['VIRTIO_NET_CTRL_VLAN_DEL', {}]))
}

/** All that a driver could tell apart. Coalescing of a queue is asked of the device. */
async function stateOf(model: NetworkDevice | undefined, control: NetControlQueue): Promise<unknown> {
  const { queueCoalescing: _, announceAcknowledged: __, ...state } = (model as NetworkDevice).control
  const ofQueues = await Promise.all([0, 1, 2, 3].map((one) => control.coalescing(one)))
  return { ...state, ofQueues }
}

test.each([
  ['are enabled last', {}],
  ['are enabled before the device runs', { enableAfterDriverOk: false }],
  ['were there when it was reset, since it cannot be suspended', { suspend: false }],
] as const)('all of it moves to a device whose data queues %s', async (_, capabilities) => {
  await fc.assert(
    fc.asyncProperty(commands, commands, async (before, after) => {
      const setup = { features, source: { ...shape, capabilities }, target: { ...shape, capabilities } }
      const { source, target, driver, control, models } = await runPair(setup)
      await send(control, before)
      const was = await stateOf(models[0], control)
      const moved = await moveDevice(source, target, { driver, control })
      expect(moved.failure).toBe(undefined)
      expect(await stateOf(models[1], moved.control)).toEqual(was)
      await send(moved.control, after)
      const then = await stateOf(models[1], moved.control)
      const again = await recoverDevice(target, { driver: moved.driver as never, control: moved.control })
      expect(await stateOf(models[1], again.control as NetControlQueue)).toEqual(then)
      await target.close()
    }),
    { numRuns: 20 },
  )
})

test('coalescing of a queue that was disabled since is not told: no device takes it', async () => {
  const { source, target, driver, control } = await runPair({ features, source: shape, target: shape })
  for (const queue of [1, 3]) await control.setCoalescing(queue, { maxPackets: queue, maxUsecs: 5 })
  source.vring(3).disable()
  const moved = await moveDevice(source, target, { driver, control })
  expect(moved.failure).toBe(undefined)
  expect(await moved.control.coalescing(1)).toEqual({ maxPackets: 1, maxUsecs: 5 })
  expect(moved.control.commands().filter(({ name }) => name === 'VIRTIO_NET_CTRL_NOTF_COAL_VQ_SET').length).toBe(1)
  await target.close()
})

test.each([
  ['can', {}],
  ['cannot', { suspend: false }],
])('what is set, and mapped, after prepareMove() moves from a device that %s be suspended', async (_, capabilities) => {
  const { simulator, source, target, driver, control, models } = await runPair({ source: { capabilities } })
  const move = await prepareMove(source, target, { driver, control })
  await control.setMacAddress('02:00:00:00:00:77')
  await control.setQueuePairs(1)
  using memory = simulator.allocate(0x1000)
  await source.addressSpace(0).map({ iova: 0x7000_0000n, region: memory })
  const moved = await move.finish()
  expect(moved.failure).toBe(undefined)
  expect([models[1]?.mac, models[1]?.control.queuePairs]).toEqual(['02:00:00:00:00:77', 1])
  expect(target.addressSpace(0).lookup(0x7000_0000n)?.region).toBe(memory)
  await target.close()
})
