import { describe, expect, test } from '@jest/globals'
import fc from 'fast-check'
import { RegionTranslator } from '../../lib/misses/region-translator.js'
import { Simulator } from '../../lib/simulator/simulator.js'

const simulator = new Simulator()
const [one, two] = [simulator.allocate(0x3000), simulator.allocate(0x2000)]
const IOVA = 0x10_0000n

describe('an address', () => {
  test('leads to its region, all of it', () => {
    const translator = new RegionTranslator([{ iova: IOVA, region: one, access: 'ro' }])
    const whole = { iova: IOVA, size: 0x3000n, uaddr: one.address, access: 'ro', region: one }
    for (const at of [0n, 0x1234n, 0x2fffn]) expect(translator.translate({ iova: IOVA + at })).toEqual(whole)
    for (const at of [-1n, 0x3000n]) expect(translator.translate({ iova: IOVA + at })).toBeUndefined()
  })

  test('leads to the granule around it, as much of that as is the region’s', () => {
    const translator = new RegionTranslator([{ iova: IOVA + 0x800n, region: one }], 0x1000)
    const asked = (at: bigint) => {
      const { iova = 0n, size, uaddr = 0n } = translator.translate({ iova: IOVA + at }) ?? {}
      return [iova - IOVA, size, uaddr - one.address]
    }
    expect(asked(0x800n)).toEqual([0x800n, 0x800n, 0n])
    expect(asked(0x1001n)).toEqual([0x1000n, 0x1000n, 0x800n])
    expect(asked(0x37ffn)).toEqual([0x3000n, 0x800n, 0x2800n])
  })

  test('may be the last one there is', () => {
    const iova = 2n ** 64n - 0x3000n
    for (const granule of [0, 0x1000, 2 ** 52]) {
      const translator = new RegionTranslator([{ iova, region: one }], granule)
      const { iova: first = 0n, size = 0n } = translator.translate({ iova: 2n ** 64n - 1n }) ?? {}
      expect(first + size).toBe(2n ** 64n)
    }
  })

  test('has 64 bits, also where one that is near was asked before', () => {
    const translator = new RegionTranslator([{ iova: 0n, region: one }], 0x1000)
    expect(translator.translate({ iova: 5n })).toBeDefined()
    expect(() => translator.translate({ iova: '5' as unknown as bigint })).toThrow(TypeError)
    expect(() => translator.translate({ iova: -1n })).toThrow(RangeError)
    expect(() => translator.translate({ iova: 2n ** 64n })).toThrow(RangeError)
    expect(() => translator.translate(null as unknown as { iova: bigint })).toThrow(TypeError)
  })
})

describe('memory', () => {
  test('that is taken away leads nowhere, and another may come in its place', () => {
    const translator = new RegionTranslator([{ iova: IOVA, region: one }])
    expect(translator.translate({ iova: IOVA })?.region).toBe(one)
    expect(() => translator.add({ iova: IOVA + 0x2fffn, region: two })).toThrow(
      expect.objectContaining({ code: 'ERR_VDPA_OVERLAP' }),
    )
    translator.remove(IOVA)
    expect(translator.translate({ iova: IOVA })).toBeUndefined()
    expect(() => translator.remove(IOVA)).toThrow(/^iova must be where memory was added/)
    translator.add({ iova: IOVA + 0x2000n, region: two })
    expect(translator.translate({ iova: IOVA + 0x2fffn })).toMatchObject({ iova: IOVA + 0x2000n, region: two })
  })

  test.each<[string, unknown, RegExp]>([
    ['no list', 7, /^regions must be/],
    ['no region', [{ iova: 0n, region: {} }], /^region must be a MemoryRegion/],
    ['a word for an address', [{ iova: '0', region: one }], /^iova must be/],
    ['an access that is none', [{ iova: 0n, region: one, access: 'all' }], /^access must be/],
    ['memory past 2^64', [{ iova: 2n ** 64n - 0x2fffn, region: one }], /^iova must be below 2\^64/],
  ])('%s is refused', (_name, regions, message) => {
    expect(() => new RegionTranslator(regions as [])).toThrow(message)
  })

  test.each([3, -1, 0.5, 2 ** 53])('a granule of %d is refused', (granule) => {
    expect(() => new RegionTranslator([], granule)).toThrow(/^granule must be/)
  })
})

test('whatever comes and goes, an answer is of the region that has the address', () => {
  const step = fc.record({ verb: fc.constantFrom('add', 'remove', 'ask', 'ask', 'ask'), at: fc.nat(12) })
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), fc.constantFrom(0, 0x400, 0x1000), (steps, granule) => {
      const translator = new RegionTranslator([], granule)
      const there = new Set<bigint>()
      for (const { verb, at } of steps) {
        const iova = BigInt(at) * 0x1000n
        const owner = [...there].find((first) => iova >= first && iova < first + 0x3000n)
        if (verb === 'ask') {
          const answer = translator.translate({ iova: iova + 0x123n })
          expect(answer === undefined ? undefined : answer.uaddr - one.address + (iova + 0x123n - answer.iova)).toBe(
            owner === undefined ? undefined : iova + 0x123n - owner,
          )
        } else if (verb === 'remove') {
          if (there.delete(iova)) translator.remove(iova)
        } else if (![...there].some((first) => iova < first + 0x3000n && first < iova + 0x3000n)) {
          translator.add({ iova, region: one })
          there.add(iova)
        }
      }
    }),
    { numRuns: 1000 },
  )
})
