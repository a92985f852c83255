// What commands do that no 64-bit feature word reaches, told to the acts themselves: RSS contexts.

import { expect, test } from '@jest/globals'
import { carryOut } from '../../lib/models/network-control-acts.js'
import { newControlState, type NetControlTarget } from '../../lib/models/network-control-state.js'
import { netCommands, type NetCommand, type NetCommandName } from '../../lib/uapi/virtio-net-commands.js'

const key = new Uint8Array(40)
const rss = { hashTypes: 1, indirectionTable: [0, 1], unclassifiedQueue: 0, maxTxVq: 2, key }

function target(hasContexts = true): NetControlTarget {
  return {
    state: newControlState(new Uint8Array(6), new Uint8Array(2)),
    counters: { commands: 0, commandErrors: 0 },
    hasFeature: (number) => number < 64 || hasContexts,
    maxQueuePairs: 2,
    controlIndex: 4,
    dataQueue: () => undefined,
    deviates: () => false,
    isTurnOver: false,
  }
}

const tell = (device: NetControlTarget, name: NetCommandName, value: unknown) => {
  const command = netCommands[name] as unknown as NetCommand<unknown, unknown>
  return carryOut(command, command.encode(value), device)
}

test('contexts are added, changed and taken away, by a number that is in range', () => {
  const device = target()
  expect(tell(device, 'VIRTNET_RSS_CTX_CTRL_CAP_GET', undefined)).toEqual(Uint8Array.of(8, 0))
  expect(tell(device, 'VIRTNET_RSS_CTX_CTRL_MOD', { id: 1, rss })).toBeUndefined()
  for (const id of [0, 9]) expect(tell(device, 'VIRTNET_RSS_CTX_CTRL_ADD', { id, rss })).toBeUndefined()
  expect(tell(device, 'VIRTNET_RSS_CTX_CTRL_ADD', { id: 1, rss })).toEqual(new Uint8Array(0))
  expect(tell(device, 'VIRTNET_RSS_CTX_CTRL_ADD', { id: 1, rss })).toBeUndefined()
  const beyond = { ...rss, unclassifiedQueue: 2 }
  expect(tell(device, 'VIRTNET_RSS_CTX_CTRL_MOD', { id: 1, rss: beyond })).toBeUndefined()
  expect(tell(device, 'VIRTNET_RSS_CTX_CTRL_MOD', { id: 1, rss: { ...rss, maxTxVq: 1 } })).toBeDefined()
  expect(device.state.rssContexts.get(1)?.maxTxVq).toBe(1)
  // Section 5.1.6.5.8: no automatic steering beside a context.
  expect(tell(device, 'VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET', 1)).toBeUndefined()
  expect(tell(device, 'VIRTNET_RSS_CTX_CTRL_DEL', 1)).toBeDefined()
  expect(tell(device, 'VIRTNET_RSS_CTX_CTRL_DEL', 1)).toBeUndefined()
  expect(tell(device, 'VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET', 1)).toBeDefined()
})

test('tunnel offloads are taken at 46 and 47 where their features are, and contexts are nothing without theirs', () => {
  const tunnels = (1n << 46n) | (1n << 47n)
  expect(tell(target(), 'VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET', tunnels)).toBeDefined()
  expect(tell(target(false), 'VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET', tunnels)).toBeUndefined()
  expect(tell(target(false), 'VIRTNET_RSS_CTX_CTRL_CAP_GET', undefined)).toBeUndefined()
})
