// What is no description of a ring is refused by name.

import { expect, test } from '@jest/globals'
import { areaSizes, createDeviceRing, createDriverRing } from '../../lib/index.js'
import { RingMemory } from '../../lib/memory/ring-memory.js'

const sizes = areaSizes('split', 4)
const area = (bytes: number) => new RingMemory(new ArrayBuffer(bytes), 0, bytes)
const areas = { descriptor: area(sizes.descriptor), driver: area(sizes.driver), device: area(sizes.device) }
const good = { format: 'split', size: 4, areas } as const

test.each([
  [undefined, /^options must be an object \(got undefined\)$/],
  [null, /^options must be an object/],
  [{}, /^format must be one of/],
  [{ ...good, format: 5n }, /^format must be one of/],
  [{ ...good, areas: null }, /^areas must be an object/],
  [{ ...good, areas: { ...areas, driver: new Uint8Array(64) } }, /^areas.driver must be a RingMemory/],
  [{ ...good, areas: { ...areas, device: undefined } }, /^areas.device must be a RingMemory/],
  [{ ...good, size: 'no' }, /^size must be/],
  [{ ...good, size: 4n }, /^size must be/],
])('%p is none', (options, sentence) => {
  for (const create of [createDriverRing, createDeviceRing]) {
    expect(() => create(options as never)).toThrow(
      expect.objectContaining({
        message: expect.stringMatching(sentence) as unknown,
        code: expect.stringMatching(/^ERR_/) as unknown,
      }),
    )
  }
})

test('what is one is one', () => {
  expect([createDriverRing(good).size, createDeviceRing(good).size]).toEqual([4, 4])
})
