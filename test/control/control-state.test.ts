// The book of what a control queue has set: what a later command settles of what is in doubt.

import { expect, test } from '@jest/globals'
import { ControlState } from '../../lib/control/control-state.js'
import { netCommands, type NetCommandName } from '../../lib/uapi/virtio-net-commands.js'

function book() {
  const state = new ControlState()
  const parts = (name: NetCommandName, payload: unknown) => {
    const command = netCommands[name] as { class: number; command: number; encode: (value: unknown) => Uint8Array }
    return [command.class, command.command, command.encode(payload)] as const
  }
  return {
    note: (name: NetCommandName, payload: unknown) => state.note(...parts(name, payload)),
    doubt: (name: NetCommandName, payload: unknown) => state.doubt(...parts(name, payload)),
    uncertain: () => state.uncertain().map(({ name, payload }) => `${name} ${payload[0]}`),
    certain: () => state.commands().map(({ name, payload }) => `${name} ${payload[0]}`),
  }
}

const ONE = 'VIRTIO_NET_CTRL_NOTF_COAL_VQ_SET'
const coalescing = { maxPackets: 1, maxUsecs: 2 }

test.each([
  ['VIRTIO_NET_CTRL_NOTF_COAL_RX_SET', 0, 1],
  ['VIRTIO_NET_CTRL_NOTF_COAL_TX_SET', 1, 0],
] as const)('%s settles what may have been set of one queue of its direction', (all, own, other) => {
  const { note, doubt, uncertain, certain } = book()
  const late = doubt(ONE, { queue: own, ...coalescing })
  doubt(ONE, { queue: own + 2, ...coalescing })
  doubt(ONE, { queue: other, ...coalescing })
  expect(uncertain()).toEqual([`${ONE} ${own}`, `${ONE} ${own + 2}`, `${ONE} ${other}`])
  note(all, coalescing)
  expect(uncertain()).toEqual([`${ONE} ${other}`])
  // It was carried out before, whenever its answer comes.
  late(0)
  expect([uncertain().length, certain().length]).toEqual([1, 1])
})

test('what is in doubt of all queues is not settled by what is said of one', () => {
  const { note, doubt, uncertain } = book()
  doubt('VIRTIO_NET_CTRL_NOTF_COAL_RX_SET', coalescing)
  note(ONE, { queue: 0, ...coalescing })
  expect(uncertain().length).toBe(1)
})

test('of the commands of multiqueue the last one stays the last, because it decides', () => {
  const key = new Uint8Array(40)
  const rss = { hashTypes: 1, indirectionTable: [0], unclassifiedQueue: 0, maxTxVq: 1, key }
  const [pairs, hash, spread] = [
    'VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET',
    'VIRTIO_NET_CTRL_MQ_HASH_CONFIG',
    'VIRTIO_NET_CTRL_MQ_RSS_CONFIG',
  ] as const
  const set = { [pairs]: 2, [hash]: { hashTypes: 2, key }, [spread]: rss }
  for (const [list, left] of [
    [
      [hash, pairs],
      [hash, pairs],
    ],
    [
      [pairs, hash],
      [pairs, hash],
    ],
    [
      [hash, spread],
      [hash, spread],
    ],
    [
      [spread, hash, spread],
      [hash, spread],
    ],
    [
      [hash, spread, hash],
      [spread, hash],
    ],
    [
      [spread, hash, pairs],
      [hash, pairs],
    ],
  ] as const) {
    const { note, certain } = book()
    note('VIRTIO_NET_CTRL_RX_PROMISC', true)
    for (const name of list) note(name, set[name])
    note('VIRTIO_NET_CTRL_MAC_ADDR_SET', '02:00:00:00:00:01')
    expect(certain().map((one) => one.split(' ')[0])).toEqual([
      'VIRTIO_NET_CTRL_MAC_ADDR_SET',
      ...left,
      'VIRTIO_NET_CTRL_RX_PROMISC',
    ])
  }
})
