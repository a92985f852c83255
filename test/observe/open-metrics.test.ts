// Counters in the OpenMetrics form: read back by a parser that refuses what the form does not allow.

import { describe, expect, test } from '@jest/globals'
import fc from 'fast-check'
import { openMetrics } from '../../lib/observe/open-metrics.js'
import { parseOpenMetrics } from './open-metrics-parser.js'

describe('an exposition', () => {
  test('says every counter and gauge, with their labels', () => {
    const text = openMetrics([
      { prefix: 'vhost_vdpa_net', labels: { device: 'a' }, counters: { sentFrames: 3, sentBytes: 2n ** 63n } },
      { prefix: 'vhost_vdpa_queue', labels: { device: 'a', queue: '0' }, counters: { 'rx packets': 5n } },
      { prefix: 'vhost_vdpa_net', labels: { device: 'b' }, counters: { sentFrames: 4 }, gauges: { inFlight: 1.5 } },
    ])
    expect(text).toBe(
      [
        '# TYPE vhost_vdpa_net_sent_frames counter',
        'vhost_vdpa_net_sent_frames_total{device="a"} 3',
        'vhost_vdpa_net_sent_frames_total{device="b"} 4',
        '# TYPE vhost_vdpa_net_sent_bytes counter',
        'vhost_vdpa_net_sent_bytes_total{device="a"} 9223372036854775808',
        '# TYPE vhost_vdpa_queue_rx_packets counter',
        'vhost_vdpa_queue_rx_packets_total{device="a",queue="0"} 5',
        '# TYPE vhost_vdpa_net_in_flight gauge',
        'vhost_vdpa_net_in_flight{device="b"} 1.5',
        '# EOF',
        '',
      ].join('\n'),
    )
    expect(parseOpenMetrics(text)).toHaveLength(5)
  })

  test('of nothing is its end alone', () => {
    expect(openMetrics([])).toBe('# EOF\n')
  })

  test('tells counters apart whose names become the same, and a gauge from a counter', () => {
    const text = openMetrics([{ prefix: 'x', counters: { 'rx a': 1, 'rx-a': 2 }, gauges: { rxA: 3 } }])
    expect(parseOpenMetrics(text)).toEqual([
      { name: 'x_rx_a_total', labels: {}, value: '1' },
      { name: 'x_rx_a_total', labels: { name: 'rx-a' }, value: '2' },
      { name: 'x_rx_a_gauge', labels: {}, value: '3' },
    ])
  })

  test('has no name that a sample of another name could have', () => {
    const text = openMetrics([
      { prefix: 'x', counters: { bytes: 1 }, gauges: { bytesTotal: 2, bytesCreated: 3 } },
      { prefix: 'x', labels: { of: 'other' }, counters: { bytesTotal: 4, bytes: 5 } },
      { prefix: 'y', gauges: { bytesTotal: 6 }, counters: { bytes: 7, bytesCounter: 8 } },
    ])
    expect(parseOpenMetrics(text)).toEqual([
      { name: 'x_bytes_total', labels: {}, value: '1' },
      { name: 'x_bytes_total', labels: { of: 'other' }, value: '5' },
      { name: 'x_bytes_total_counter_total', labels: { of: 'other' }, value: '4' },
      { name: 'y_bytes_total', labels: {}, value: '7' },
      { name: 'y_bytes_counter_total', labels: {}, value: '8' },
      { name: 'x_bytes_total_gauge', labels: {}, value: '2' },
      { name: 'x_bytes_created_gauge', labels: {}, value: '3' },
      { name: 'y_bytes_total_gauge', labels: {}, value: '6' },
    ])
  })

  test('tells names apart also where a label is called so', () => {
    const source = (name: string) => ({ prefix: 'x', labels: { name }, counters: { 'rx a': 1, 'rx-a': 2 } })
    const samples = parseOpenMetrics(openMetrics([source('net0'), source('net1')]))
    expect(samples.map(({ labels }) => labels)).toEqual([
      { name: 'net0' },
      { name: 'net0', counter_name: 'rx-a' },
      { name: 'net1' },
      { name: 'net1', counter_name: 'rx-a' },
    ])
  })

  test.each([
    [
      { a: '1', b: '2' },
      { b: '2', a: '1' },
    ],
    [{}, {}],
  ])('refuses two sources that are one: %j', (labels, same) => {
    const sources = [labels, same].map((each, index) => ({ prefix: 'x', labels: each, counters: { frames: index } }))
    expect(() => openMetrics(sources)).toThrow(RangeError)
    expect(() => openMetrics(sources)).toThrow('sources[1]')
    expect(parseOpenMetrics(openMetrics(sources.slice(0, 1)))).toHaveLength(1)
  })

  test('is read back whatever labels and names there are', () => {
    const counters = fc.dictionary(fc.string({ minLength: 1 }), fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }))
    fc.assert(
      fc.property(fc.array(fc.tuple(fc.string({ unit: 'binary' }), counters)), (list) => {
        const sources = list.map(([label, values], index) => ({
          prefix: 'p',
          labels: { label, index: String(index) },
          counters: values,
        }))
        const samples = parseOpenMetrics(openMetrics(sources))
        const values = list.flatMap(([label, own], index) =>
          Object.values(own).map((value) => `${index} ${label} ${value}`),
        )
        const read = samples.map(({ labels, value }) => `${labels['index']} ${labels['label']} ${value}`)
        expect(read.sort()).toEqual(values.sort())
      }),
      { numRuns: 50 },
    )
  })
})

test.each([
  [[{ prefix: 'a b' }], RangeError],
  [[{ prefix: 'a', labels: { 'b c': '' } }], RangeError],
  [[{ prefix: 'a', labels: { __b: '' } }], RangeError],
  [[{ prefix: 'a', labels: { b: 1 } }], TypeError],
  [[{ prefix: 'a', counters: { b: -1 } }], RangeError],
  [[{ prefix: 'a', counters: { b: NaN } }], RangeError],
  [[{ prefix: 'a', counters: { b: '1' } }], TypeError],
  [[null], TypeError],
  [undefined, TypeError],
])('%j is refused', (sources, kind) => {
  expect(() => openMetrics(sources as never)).toThrow(kind)
})
