// What control commands are answered with, and what each needs. Payloads are in virtio-net.test.ts.

import { describe, expect, test } from '@jest/globals'
import fc from 'fast-check'
import * as net from '../../lib/uapi'
import { hex } from './support'

const { netCommands } = net

describe('answers', () => {
  const { VIRTIO_NET_CTRL_STATS_GET, VIRTIO_NET_CTRL_STATS_QUERY, VIRTIO_NET_CTRL_NOTF_COAL_VQ_GET } = netCommands
  const statistics = [
    {
      queue: 0,
      type: 0,
      counters: {
        rx_notifications: 1n,
        rx_packets: 2n,
        rx_bytes: 3n,
        rx_interrupts: 4n,
        rx_drops: 5n,
        rx_drop_overruns: 6n,
      },
    },
    { queue: 2, type: 32, counters: { command_num: 7n, ok_num: 2n ** 64n - 1n } },
  ]
  const bytes = hex(
    '00 00 0000 0000 3800 0100000000000000 0200000000000000 0300000000000000 0400000000000000 0500000000000000 0600000000000000' +
      '20 00 0200 0000 1800 0700000000000000 ffffffffffffffff',
  )

  test('are bytes, both ways', () => {
    expect(VIRTIO_NET_CTRL_STATS_GET.answer?.encode(statistics)).toEqual(bytes)
    expect(VIRTIO_NET_CTRL_STATS_GET.answer?.decode(bytes)).toEqual(statistics)
    expect(
      VIRTIO_NET_CTRL_STATS_GET.answer?.bytes([
        { queue: 0, types: 1n },
        { queue: 2, types: 1n << 32n },
      ]),
    ).toBe(bytes.length)
    expect(VIRTIO_NET_CTRL_STATS_QUERY.answer?.decode(hex('0100010001000000'))).toBe(0x1_0001_0001n)
    expect(VIRTIO_NET_CTRL_NOTF_COAL_VQ_GET.answer?.decode(hex('03000000 04000000'))).toEqual({
      maxPackets: 3,
      maxUsecs: 4,
    })
  })

  test('of a newer device have counters without a name, and kinds without one', () => {
    const reply = hex('63 00 0100 0000 1000 0900000000000000')
    expect(VIRTIO_NET_CTRL_STATS_GET.answer?.decode(reply)).toEqual([
      { queue: 1, type: 99, counters: { counter_0: 9n } },
    ])
  })

  test.each(
    Object.values(netCommands).flatMap((entry) =>
      entry.answer === undefined ? [] : [[entry.name, entry.answer] as const],
    ),
  )('%s: any bytes are a value, or a RangeError', (_, codec) => {
    const heads = fc.array(fc.tuple(fc.integer({ min: 0, max: 255 }), fc.integer({ min: 0, max: 80 })), {
      maxLength: 4,
    })
    const shaped = heads.map((list) =>
      Uint8Array.from(
        list.flatMap(([type, size]) => [type, 0, 1, 0, 0, 0, size, 0, ...new Array<number>(size).fill(7)]),
      ),
    )
    fc.assert(
      fc.property(fc.oneof(fc.uint8Array({ maxLength: 100 }), shaped), (answer) => {
        try {
          codec.decode(answer)
        } catch (error) {
          expect(error).toMatchObject({ name: 'RangeError', code: 'ERR_OUT_OF_RANGE' })
        }
      }),
    )
  })
})

test('every command names a feature that has a bit, and offloads are where the specification puts them', () => {
  for (const { feature } of Object.values(netCommands)) expect(net.netFeatureBit(feature)).toBeGreaterThanOrEqual(0)
  expect(net.netGuestOffloads.map(([number, feature]) => [number, net.netFeatureBit(feature)])).toEqual([
    [1, 1],
    [7, 7],
    [8, 8],
    [9, 9],
    [10, 10],
    [46, 65],
    [47, 66],
    [54, 54],
    [55, 55],
  ])
})
