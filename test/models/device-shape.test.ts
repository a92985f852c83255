// What a simulated device may be made of: numbers that no device can have are refused where it is made, in the one grammar.

import { describe, expect, test } from '@jest/globals'
import { blockDevice, customDevice, networkDevice } from '../../lib/simulator/index.js'

const makers = {
  networkDevice: (options: object) => networkDevice(options),
  blockDevice: (options: object) => blockDevice(options),
  customDevice: (options: object) => customDevice({ deviceId: 5, ...options }),
}
type Maker = keyof typeof makers
const all: readonly Maker[] = ['networkDevice', 'blockDevice', 'customDevice']

const odd: readonly (readonly [option: string, makers: readonly Maker[], values: readonly unknown[]])[] = [
  ['path', all, [5, '', 'a\0b', {}, null]],
  ['maxQueueSize', all, [0, -1, 1.5, NaN, 0x8001, 2 ** 53, 5n, '8', null]],
  ['features', all, [-1n, 1n << 64n, 'all', NaN, Symbol('s'), {}, [3]]],
  ['moreFeatures', ['networkDevice', 'blockDevice'], [[64], [-1], [0.5], [NaN], [5n], ['MTU'], [null], 5, 'x', {}]],
  ['addressSpaces', ['networkDevice', 'customDevice'], [0, -1, 256, NaN, 2n, '2']],
  [
    'groups',
    ['networkDevice', 'customDevice'],
    [[-1, 0, 1], [0, 0.5, 1], [0, 0, NaN], [0, 0, 2 ** 32], [0, 0, '1'], 'abc'],
  ],
  ['descriptorGroups', ['networkDevice', 'customDevice'], [[-1, 0, 1], [0, 0, 2 ** 53], [0, 0, 1n], 5, {}]],
  [
    'capabilities',
    all,
    [5, 'none', { suspend: 'no' }, { doorbell: 1 }, { pieceBytes: 5 }, { takesAhead: 0 }, { vringState: 'x' }],
  ],
  [
    'iovaRange',
    ['customDevice'],
    [5, {}, { first: 5n, last: 4n }, { first: -1n, last: 4n }, { first: 0n, last: 1n << 64n }],
  ],
  ['config', ['customDevice'], [5, [1, 2], 'bytes', new Uint16Array(3)]],
  ['isReadOnly', ['blockDevice'], ['no', 0, null, {}]],
  ['id', ['blockDevice'], [5, Symbol('s'), {}, null, 'x'.repeat(21)]],
  ['mtu', ['networkDevice'], [67, 65536, NaN, 5n]],
]

describe.each(odd.flatMap(([option, which, values]) => which.map((maker) => [maker, option, values] as const)))(
  '%s({ %s })',
  (maker, option, values) => {
    test('refuses what no device can have', () => {
      for (const value of values) {
        let failure: unknown
        try {
          makers[maker]({ [option]: value })
        } catch (thrown) {
          failure = thrown
        }
        expect(failure).toMatchObject({
          code: expect.stringMatching(/^ERR_(OUT_OF_RANGE|INVALID_ARG_TYPE)$/),
          message: expect.stringMatching(/ must be .* \(got /s),
        })
      }
    })
  },
)

test.each(all)('%s() without options that are an object is refused', (maker) => {
  const make = { networkDevice, blockDevice, customDevice }[maker] as (options: unknown) => unknown
  for (const value of [null, 5, 'x', true]) expect(() => make(value)).toThrow(TypeError)
})

test('what a device was made of is its own', () => {
  const groups = [0, 0, 1]
  const device = networkDevice({ groups })
  groups[2] = 5
  expect(device.queueGroup?.(2)).toBe(1)
})

test('the edges are devices', () => {
  const device = networkDevice({ maxQueueSize: 0x8000, addressSpaces: 255, groups: [0, 0, 0xffff], moreFeatures: [63] })
  expect([device.maxQueueSize, device.addressSpaceCount, device.groupCount]).toEqual([0x8000, 255, 0x1_0000])
  expect(device.features() >> 63n).toBe(1n)
  expect(customDevice({ deviceId: 5, iovaRange: { first: 7n, last: 7n } }).iovaRange).toEqual({ first: 7n, last: 7n })
})
