// Requests to an IOMMU, and what they do to the sinks behind it. Bytes are those of the specification's structs, or of draft 0.4's.

import { describe, expect, test } from '@jest/globals'
import { U64_LAST } from '../../lib/base/ranges.js'
import { virtioIommuProbeResvMem } from '../../lib/uapi/virtio-iommu.js'
import {
  attach,
  detach,
  everything,
  FAULT,
  INVAL,
  ListSink,
  makeIommu,
  map,
  NOENT,
  NOMEM,
  OK,
  RANGE,
  two,
  unmap,
} from './support.js'

describe('bytes', () => {
  test('attach, map, unmap and detach as the specification shows them', () => {
    const { ask, a } = two()
    expect(ask('01000000 01000000 08000000 00000000 00000000')).toBe('00000000')
    expect(ask('03000000 01000000 0010000000000000 ff1f000000000000 00a0000000000000 01000000')).toBe('00000000')
    expect(a.lines).toEqual(['[0x1000, 0x1fff] ro +0xa000'])
    expect(ask('04000000 01000000 0010000000000000 ff17000000000000 00000000')).toBe('05000000')
    expect(ask('04000000 01000000 0010000000000000 ff1f000000000000 00000000')).toBe('00000000')
    expect(a.lines).toEqual([])
    expect(ask('02000000 01000000 08000000 00000000 00000000')).toBe('00000000')
  })

  test('a split is refused', () => {
    const { ask, a } = two()
    ask('01000000 01000000 08000000 00000000 00000000')
    ask('03000000 01000000 0010000000000000 ff2f000000000000 00a0000000000000 03000000')
    expect(ask('04000000 01000000 0010000000000000 ff1f000000000000 00000000')).toBe('05000000')
    expect(a.lines).toEqual(['[0x1000, 0x2fff] rw +0xa000'])
  })

  test('a bypass domain', () => {
    const { ask, a } = two()
    expect(ask('01000000 01000000 08000000 01000000 00000000')).toBe('00000000')
    expect(a.lines).toEqual(['[0x0, 0xffffff] rw +0x0'])
  })

  test('properties', () => {
    const reserved = [
      { first: 0xfee0_0000n, last: 0xfeef_ffffn, kind: 'msi' as const },
      { first: 0n, last: 0xfffn },
    ]
    const { ask } = makeIommu([{ id: 8, reserved }])
    const request = `05000000 08000000 ${'00'.repeat(64)}`
    const properties =
      '0100140000000000 0000000000000000 ff0f000000000000 0100140001000000 0000e0fe00000000 ffffeffe00000000'
    expect(ask(request, 516)).toBe(properties.replaceAll(' ', '') + '00'.repeat(512 - 48) + '00000000')
    // More room than there are properties for: the tail follows them.
    expect(ask(request, 4096)).toHaveLength(2 * 516)
    expect(ask(request, 515)).toBe('00'.repeat(511) + '04000000')
    expect(ask(`05000000 09000000 ${'00'.repeat(64)}`, 516)).toBe('00'.repeat(512) + '06000000')
    expect(ask('05000000 08000000', 516)).toBe('00'.repeat(512) + '04000000')
  })

  test('the configuration', () => {
    const sink = new ListSink('narrow', { first: 0n, last: 2n ** 48n - 1n }, 4096)
    const { iommu } = makeIommu([{ id: 8, sink }], { domainRange: { first: 0, last: 0xffff }, bypass: true })
    expect(Buffer.from(iommu.config).toString('hex')).toBe(
      '00f0ffffffffffff0000000000000000ffffffffffff000000000000ffff00000002000001000000',
    )
    expect(iommu.features).toBe(0x77n)
  })

  test.each([
    ['no head', '010000', 4],
    ['no tail', '01000000 01000000 08000000 00000000 00000000', 3],
    ['an unknown type', '06000000 01000000', 4],
    ['type 0', '00000000 01000000 08000000 00000000 00000000', 4],
  ])('%s: nothing is written', (_, request, writable) => {
    expect(two().ask(request, writable)).toBe('')
  })

  test('a body that is too short is INVAL where the tail can be found', () => {
    expect(two().ask('03000000 01000000')).toBe('04000000')
  })

  test('reserved bytes of the head, of DETACH and of UNMAP mean nothing, those of ATTACH do', () => {
    const { ask } = two()
    expect(ask('01000000 01000000 08000000 00000000 00000001')).toBe('04000000')
    expect(ask('01ffffff 01000000 08000000 00000000 00000000')).toBe('00000000')
    expect(ask('04000000 01000000 0010000000000000 ff1f000000000000 00000007')).toBe('00000000')
    expect(ask('02000000 01000000 08000000 00000007 00000000')).toBe('00000000')
  })
})

describe('draft 0.4', () => {
  const draft = (options = {}) => two({ profile: '0.4', ...options })

  test('its bytes', () => {
    const { ask, a } = draft()
    expect(ask('01000000 01000000 08000000 00000000')).toBe('00000000')
    expect(ask('03000000 01000000 0010000000000000 00a0000000000000 0010000000000000 01000000')).toBe('00000000')
    expect(a.lines).toEqual(['[0x1000, 0x1fff] ro +0xa000'])
    expect(ask('04000000 01000000 0010000000000000 0010000000000000 00000000')).toBe('00000000')
    expect(ask('02000000 08000000 00000000')).toBe('00000000')
    expect(ask('02000000 08000000 00000000')).toBe('04000000')
  })

  test('a size of 0, or past the end, is out of range', () => {
    const { ask } = draft()
    ask('01000000 01000000 08000000 00000000')
    expect(ask('03000000 01000000 0000000000000000 00a0000000000000 0000000000000000 01000000')).toBe('05000000')
    expect(ask('03000000 01000000 00f0ffffffffffff 00a0000000000000 0020000000000000 01000000')).toBe('05000000')
    expect(ask('04000000 01000000 0010000000000000 0000000000000000 00000000')).toBe('05000000')
  })

  test('its property', () => {
    const reserved = [{ first: 0xfee0_0000n, last: 0xfeef_ffffn, kind: 'msi' as const }]
    const { ask } = makeIommu([{ id: 8, reserved }], { profile: '0.4' })
    expect(ask(`05000000 08000000 ${'00'.repeat(64)}`, 516).slice(0, 56)).toBe(
      '02001800010000000000e0fe00000000000010000000000001000000',
    )
  })

  test('its configuration, and what it cannot say', () => {
    expect(draft({ domainRange: { first: 0, last: 255 } }).iommu.config[24]).toBe(8)
    expect(() => draft({ domainRange: { first: 1, last: 255 } })).toThrow(/^domainRange must be from 0 to 2\^n-1/)
    expect(draft().iommu.hasEventQueue).toBe(false)
  })

  test('knows no NOMEM', () => {
    const { ask, a } = draft()
    ask('01000000 01000000 08000000 00000000')
    a.refuseAfter = 0
    a.refusal = 'ERR_VDPA_ENTRY_LIMIT'
    expect(ask('03000000 01000000 0010000000000000 00a0000000000000 0010000000000000 01000000')).toBe('03000000')
  })

  test('bypass is a feature: accepted, endpoints without a domain reach all memory', () => {
    const { iommu, a } = draft({ bypass: true })
    iommu.refreshSync()
    expect(a.lines).toEqual([])
    iommu.accept(iommu.features)
    iommu.refreshSync()
    expect(a.lines).toEqual(['[0x0, 0xffffff] rw +0x0'])
  })
})

describe("the specification's examples of UNMAP, byte by byte", () => {
  type Range = readonly [bigint, bigint]
  test.each<[number, readonly Range[], Range, number, number]>([
    [1, [], [0n, 4n], OK, 0],
    [2, [[0n, 9n]], [0n, 9n], OK, 0],
    [
      3,
      [
        [0n, 4n],
        [5n, 9n],
      ],
      [0n, 9n],
      OK,
      0,
    ],
    [4, [[0n, 9n]], [0n, 4n], RANGE, 1],
    [
      5,
      [
        [0n, 4n],
        [5n, 9n],
      ],
      [0n, 4n],
      OK,
      1,
    ],
    [6, [[0n, 4n]], [0n, 9n], OK, 0],
    [
      7,
      [
        [0n, 4n],
        [10n, 14n],
      ],
      [0n, 14n],
      OK,
      0,
    ],
  ])('example %d', (_, mappings, [first, last], status, left) => {
    const { iommu, a } = two({ pageSizeMask: U64_LAST })
    iommu.requestSync(attach)
    for (const [from, to] of mappings)
      expect(iommu.requestSync({ ...map, first: from, last: to, physical: from })).toBe(OK)
    expect(iommu.requestSync({ ...unmap, first, last })).toBe(status)
    expect(a.held).toHaveLength(left)
    expect(iommu.size).toBe(left)
  })

  test('a split removes none of the mappings before it', () => {
    const { iommu, a } = two({ pageSizeMask: U64_LAST })
    iommu.requestSync(attach)
    for (const first of [0n, 5n]) iommu.requestSync({ ...map, first, last: first + 4n, physical: first })
    expect(iommu.requestSync({ ...unmap, first: 0n, last: 7n })).toBe(RANGE)
    expect(a.held).toHaveLength(2)
  })
})

describe('statuses', () => {
  test('of ATTACH, in their order', () => {
    const { iommu } = two({ domainRange: { first: 1, last: 9 } })
    expect(iommu.requestSync({ ...attach, isMalformed: true, flags: 8, endpoint: 7 })).toBe(INVAL)
    expect(iommu.requestSync({ ...attach, flags: 2, endpoint: 7 })).toBe(INVAL)
    expect(iommu.requestSync({ ...attach, endpoint: 7, domain: 10 })).toBe(NOENT)
    expect(iommu.requestSync({ ...attach, domain: 10 })).toBe(RANGE)
    expect(iommu.requestSync({ ...attach, domain: 0 })).toBe(RANGE)
    expect(iommu.requestSync(attach)).toBe(OK)
    expect(iommu.requestSync({ ...attach, endpoint: 9, flags: 1 })).toBe(INVAL)
    expect(iommu.domainOf(9)).toBeUndefined()
    // The feature was not accepted, so the flag is not known.
    iommu.accept(iommu.features & ~(1n << 6n))
    expect(iommu.requestSync({ ...attach, domain: 2, flags: 1 })).toBe(INVAL)
  })

  test('of DETACH, in their order', () => {
    const { iommu } = two({ domainRange: { first: 1, last: 9 } })
    expect(iommu.requestSync({ ...detach, endpoint: 7, domain: 10 })).toBe(NOENT)
    expect(iommu.requestSync({ ...detach, domain: 10 })).toBe(RANGE)
    expect(iommu.requestSync(detach)).toBe(INVAL)
    iommu.requestSync(attach)
    expect(iommu.requestSync({ ...detach, domain: 2 })).toBe(INVAL)
    expect(iommu.requestSync(detach)).toBe(OK)
  })

  test('of MAP, in their order', () => {
    const reserved = [{ first: 0x8000n, last: 0x8fffn }]
    const sink = new ListSink('a', { first: 0n, last: 0xf_ffffn })
    const { iommu } = makeIommu([{ id: 8, sink, reserved }], { domainRange: { first: 0, last: 9 }, maxMappings: 2 })
    const ask = (change: object) => iommu.requestSync({ ...map, ...change })
    expect(ask({ domain: 10, flags: 8 })).toBe(RANGE)
    expect(ask({ flags: 8, first: 1n })).toBe(INVAL)
    expect(ask({ first: 0x1001n })).toBe(RANGE)
    expect(ask({ last: 0x1ffen })).toBe(RANGE)
    expect(ask({ physical: 1n })).toBe(RANGE)
    expect(ask({ first: 0x3000n, last: 0x1fffn })).toBe(RANGE)
    expect(ask({ first: 0n, last: 0x10_0fffn })).toBe(RANGE)
    expect(ask({})).toBe(NOENT)
    iommu.requestSync({ ...attach, flags: 1 })
    expect(ask({})).toBe(INVAL)
    expect(iommu.requestSync(unmap)).toBe(INVAL)
    iommu.requestSync(detach)
    iommu.requestSync(attach)
    expect(ask({ first: 0x7000n, last: 0x8fffn })).toBe(INVAL)
    expect(ask({})).toBe(OK)
    expect(ask({ first: 0n, last: 0x1fffn, physical: U64_LAST - 0xfffn })).toBe(INVAL)
    expect(ask({ first: 0x2000n, last: 0x3fffn, physical: U64_LAST - 0xfffn })).toBe(RANGE)
    expect(ask({ first: 0x2000n, last: 0x2fffn, physical: 0x1000_0000n })).toBe(FAULT)
    expect(ask({ first: 0x2000n, last: 0x3fffn, physical: 0xff_f000n })).toBe(FAULT)
    expect(ask({ first: 0x2000n, last: 0x2fffn })).toBe(OK)
    expect(ask({ first: 0x3000n, last: 0x3fffn })).toBe(NOMEM)
    iommu.accept(iommu.features & ~(1n << 5n))
    expect(ask({ flags: 5 })).toBe(INVAL)
  })

  test('a mapping of all addresses', () => {
    const { iommu } = two({ pageSizeMask: U64_LAST })
    iommu.requestSync(attach)
    expect(iommu.requestSync({ ...map, first: 0n, last: U64_LAST, physical: 0n })).toBe(FAULT)
    expect(iommu.requestSync({ ...map, first: 0n, last: U64_LAST, physical: 0n, flags: 4 })).toBe(OK)
    expect(iommu.requestSync({ ...unmap, first: 0n, last: U64_LAST })).toBe(OK)
  })

  test('a mapping of registers, or that allows nothing, goes to no sink', () => {
    const { iommu, a } = two()
    iommu.requestSync(attach)
    expect(iommu.requestSync({ ...map, flags: 7, physical: 0xfe00_0000n })).toBe(OK)
    expect(iommu.requestSync({ ...map, first: 0x2000n, last: 0x2fffn, flags: 0 })).toBe(OK)
    expect(a.lines).toEqual([])
    expect(iommu.requestSync({ ...map, flags: 3 })).toBe(INVAL)
  })

  test('requests of features that were not accepted are not answered', () => {
    const { iommu, ask } = two()
    iommu.accept(0n)
    expect(ask('03000000 01000000 0010000000000000 ff1f000000000000 00a0000000000000 01000000')).toBe('')
    expect(ask(`05000000 08000000 ${'00'.repeat(64)}`, 516)).toBe('')
  })
})

describe('translation', () => {
  const faults: unknown[] = []
  const made = (options = {}) => {
    faults.length = 0
    const all = two(options)
    all.iommu.onFault((fault) => faults.push(fault))
    return all
  }

  test('leads to the memory behind a mapping, as far as it goes', () => {
    const { iommu, region } = made()
    iommu.requestSync(attach)
    iommu.requestSync({ ...map, flags: 1 })
    expect(iommu.translate(8, 0x1234n, 'ro')).toEqual({
      iova: 0x1234n,
      size: 0xdccn,
      uaddr: region.address + 0xa234n,
      access: 'ro',
      region,
      offset: 0xa234,
    })
    expect(faults).toEqual([])
  })

  test('a fault has its reason', () => {
    const { iommu } = made()
    expect(iommu.translate(8, 0x1000n, 'ro')).toBeUndefined()
    iommu.requestSync(attach)
    iommu.requestSync({ ...map, flags: 1 })
    expect(iommu.translate(8, 0x1000n, 'wo')).toBeUndefined()
    expect(iommu.translate(8, 0x2000n, 'ro')).toBeUndefined()
    expect(faults).toEqual([
      { reason: 1, endpoint: 8, address: 0x1000n, access: 'ro' },
      { reason: 2, endpoint: 8, address: 0x1000n, access: 'wo' },
      { reason: 2, endpoint: 8, address: 0x2000n, access: 'ro' },
    ])
    expect(() => iommu.translate(7, 0n, 'ro')).toThrow(RangeError)
  })

  test('bypass leads to the same address, except where it is reserved', () => {
    const { iommu } = makeIommu([{ id: 8, reserved: [{ first: 0x3000n, last: 0x3fffn }] }], { bypass: true })
    expect(iommu.translate(8, 0x1000n, 'rw')).toMatchObject({ offset: 0x1000, size: 0x2000n, access: 'rw' })
    expect(iommu.translate(8, 0x3000n, 'rw')).toBeUndefined()
    expect(iommu.translate(8, 0x4000n, 'rw')).toMatchObject({ offset: 0x4000, size: 0xff_c000n })
    expect(iommu.translate(8, 0x100_0000n, 'rw')).toBeUndefined()
  })
})

describe('options that no device can be made of', () => {
  const sink = new ListSink()
  test.each([
    ['two endpoints of one number', [{ id: 8 }, { id: 8 }], {}, /^id must be another/],
    [
      'two endpoints of one sink',
      [
        { id: 8, sink },
        { id: 9, sink },
      ],
      {},
      /^sink must be another/,
    ],
    ['no granularity', [{ id: 8 }], { pageSizeMask: 0n }, /^pageSizeMask must be/],
    [
      'a finer granularity than a sink has',
      [{ id: 8, sink: new ListSink('x', everything, 4096) }],
      { pageSizeMask: U64_LAST },
      /^pageSizeMask must be/,
    ],
    [
      'overlapping reserved ranges',
      [
        {
          id: 8,
          reserved: [
            { first: 0n, last: 9n },
            { first: 9n, last: 9n },
          ],
        },
      ],
      {},
      /^reserved must be/,
    ],
    [
      'two doorbells',
      [
        {
          id: 8,
          reserved: [
            { first: 0n, last: 1n, kind: 'msi' as const },
            { first: 2n, last: 3n, kind: 'msi' as const },
          ],
        },
      ],
      {},
      /'msi'/,
    ],
    [
      'an upside-down range of domains',
      [{ id: 8 }],
      { domainRange: { first: 2, last: 1 } },
      /^domainRange.last must be/,
    ],
  ])('%s', (_, endpoints, options, message) => {
    expect(() => makeIommu(endpoints, options)).toThrow(message)
  })

  test('many reserved ranges make PROBE longer', () => {
    const reserved = Array.from({ length: 40 }, (_, n) => ({ first: BigInt(n * 2), last: BigInt(n * 2) }))
    const { ask } = makeIommu([{ id: 8, reserved }])
    const size = 40 * virtioIommuProbeResvMem.size
    expect(ask(`05000000 08000000 ${'00'.repeat(64)}`, size + 4)).toHaveLength(2 * (size + 4))
  })
})
