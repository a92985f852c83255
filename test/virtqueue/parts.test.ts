// The parts that both formats share: staged chains, the indirect pool, and what a ring refuses to be made of.

import { describe, expect, test } from '@jest/globals'

import { RingMemory } from '../../lib/memory/ring-memory.js'
import { createDeviceRing, createDriverRing } from '../../lib/virtqueue/create.js'
import { IndirectPool } from '../../lib/virtqueue/indirect-pool.js'
import { initialState } from '../../lib/virtqueue/layout.js'
import type { DriverRingOptions } from '../../lib/virtqueue/ring-options.js'
import { StagedChain } from '../../lib/virtqueue/staged-chain.js'
import type { DriverSnapshot, RingFormat } from '../../lib/virtqueue/virtqueue.js'
import { TestQueue, errorOf, send } from './support.js'

describe('a staged chain', () => {
  const staged = new StagedChain(4)

  test.each<[string, () => void, string]>([
    ['no bytes', () => staged.push(0, 0, 0, false), 'length must be an integer from 1 to 2^32-1 (got 0)'],
    ['half a byte', () => staged.push(0, 0, 0.5, false), 'length must be'],
    ['2^32 bytes', () => staged.push(0, 0, 0x1_0000_0000, false), 'length must be'],
    ['fewer than no bytes', () => staged.push(0, 0, -1, false), 'length must be'],
    ['NaN bytes', () => staged.push(0, 0, NaN, false), 'length must be'],
    ['a low half beyond 32 bits', () => staged.push(0, 0x1_0000_0000, 1, false), 'iovaLow must be'],
    ['a negative high half', () => staged.push(-1, 0, 1, false), 'iovaHigh must be'],
    ['a bigint half', () => staged.push(0n as unknown as number, 0, 1, false), 'iovaHigh must be an integer'],
    ['an end beyond 2^64', () => staged.push(0xffff_ffff, 0xffff_ffff, 2, false), 'such that the segment ends'],
    ['a negative address', () => staged.pushAddress(-1n, 1, false), 'iova must be from 0 to 2^64-1 (got -1n)'],
    ['an address of 65 bits', () => staged.pushAddress(1n << 64n, 1, false), 'iova must be from 0 to 2^64-1'],
    ['an unsafe number as address', () => staged.pushAddress((2 ** 60) as unknown as bigint, 1, false), 'iova must be'],
    ['no address', () => staged.pushAddress(null as unknown as bigint, 1, false), 'iova must be a bigint'],
  ])('refuses %s', (_name, push, message) => {
    staged.begin()
    staged.push(0, 0, 1, false)
    expect(errorOf(push).message).toContain(message)
    expect([staged.count, staged.readableLength, staged.writableLength]).toEqual([1, 1, 0])
  })

  test('refuses a readable segment after a writable one, and more than 2^32 bytes', () => {
    staged.begin()
    staged.push(0, 0, 0xffff_ffff, true)
    expect(errorOf(() => staged.push(0, 0, 1, false)).message).toContain('deviceWrites must be true after')
    expect(errorOf(() => staged.push(0, 0, 2, true)).message).toContain('such that the chain has 2^32 bytes or fewer')
    staged.push(0, 0, 1, true)
    expect(staged.writableLength).toBe(0x1_0000_0000)
  })

  test('the last byte of the address space may be the last of a segment', () => {
    staged.begin()
    staged.pushAddress(0xffff_ffff_ffff_fff0n, 16, false)
    expect([staged.iovaHigh[0], staged.iovaLow[0]]).toEqual([0xffff_ffff, 0xffff_fff0])
  })
})

describe('the indirect pool', () => {
  test('gives each table once, the one freed last first, and -1 when there is none', () => {
    const pool = new IndirectPool('split', {
      memory: new RingMemory(new ArrayBuffer(100)),
      iova: 0xffff_fff0n,
      tableSize: 3,
    })
    expect(pool.tables).toBe(2)
    expect([pool.take(), pool.take(), pool.take()]).toEqual([0, 1, -1])
    pool.release(0)
    pool.release(-1)
    expect([pool.take(), pool.take()]).toEqual([0, -1])
    expect([pool.iovaHigh[1], pool.iovaLow[1]]).toEqual([1, 0x20])
  })

  test.each([
    ['no room for one table', 31, 0n, 2, 'indirect.memory must be at least 32 bytes long (got 31)'],
    ['an address that is negative', 64, -1n, 2, 'indirect.iova must be'],
    ['tables beyond 2^64', 64, 0xffff_ffff_ffff_ffe0n, 2, 'such that the tables end at'],
    ['tables of no descriptors', 64, 0n, 0, 'indirect.tableSize must be'],
  ] as const)('refuses %s', (_name, bytes, iova, tableSize, message) => {
    const make = () => new IndirectPool('split', { memory: new RingMemory(new ArrayBuffer(bytes)), iova, tableSize })
    expect(errorOf(make).message).toContain(message)
  })
})

function options(format: RingFormat, more: Partial<DriverRingOptions> = {}): DriverRingOptions {
  const queue = new TestQueue({ format, size: 4, features: { indirect: true } })
  return { format, size: 4, areas: queue.areas, ...more }
}

describe.each(['split', 'packed'] as const)('a %s ring', (format) => {
  test.each<[string, Partial<DriverRingOptions>, string]>([
    ['another format', { format: 'none' as 'split' }, 'format must be one of'],
    ['size 0', { size: 0 }, 'size must be'],
    ['areas that are too short for its size', { size: 8 }, 'areas.descriptor must be at least 128 bytes long (got 64)'],
    ['a state of 17 bits', { state: { available: 0x1_0000, used: 0 } }, 'state.available must be'],
    [
      'a state with chains in flight',
      { state: { available: 1, used: 0 } },
      'state.used must be equal to state.available',
    ],
    [
      'tables without the feature',
      { indirect: { memory: new RingMemory(new ArrayBuffer(64)), iova: 0n, tableSize: 4 } },
      'indirect must be left out unless features.indirect is true',
    ],
  ])('is not made of %s', (_name, more, message) => {
    expect(errorOf(() => createDriverRing(options(format, more))).message).toContain(message)
  })

  test('nor of areas at odd offsets, nor, with indirect descriptors, of no lookup', () => {
    const made = options(format)
    const odd = new RingMemory(new ArrayBuffer(65), 1)
    const areas = { ...made.areas, descriptor: odd }
    expect(errorOf(() => createDeviceRing({ ...made, areas })).message).toContain(
      'areas.descriptor must be at an even offset',
    )
    expect(errorOf(() => createDeviceRing({ ...made, features: { indirect: true } })).message).toBe(
      'translateTable must be a function (got undefined)',
    )
  })

  test('is of the class that its format says', () => {
    const made = options(format)
    expect([createDriverRing(made).format, createDeviceRing(made).format]).toEqual([format, format])
  })

  test.each([-1, 0.5, NaN, 0x8000_0000, '1'])('takes no token %p', (token) => {
    const driver = createDriverRing(options(format))
    driver.begin()
    driver.push(0, 0, 1, false)
    expect(() => driver.commit(token as number)).toThrow('token must be an integer from 0 to 2^31-1')
    expect(driver.freeCount).toBe(4)
    driver.commit(0x7fff_ffff)
  })

  test('throws, and reads no zeros, when its memory was detached', () => {
    const queue = new TestQueue({ format, size: 4 })
    const [driver, device] = [queue.driver(), queue.device()]
    send(driver, 1, [[0n, 1]])
    structuredClone(queue.buffer, { transfer: [queue.buffer] })
    expect(errorOf(() => driver.take())).toBeInstanceOf(TypeError)
    expect(errorOf(() => device.next())).toBeInstanceOf(TypeError)
    expect(errorOf(() => device.enableKicks())).toBeInstanceOf(TypeError)
  })
})

function segment(iovaLow: number, length: number, deviceWrites: boolean) {
  return { iovaHigh: 0, iovaLow, length, deviceWrites }
}

describe.each(['split', 'packed'] as const)('a snapshot of a %s ring', (format) => {
  const queue = new TestQueue({ format, size: 4, features: { indirect: true, inOrder: true }, tables: 2, tableSize: 3 })
  const driver = queue.driver()
  send(driver, 5, [
    [0n, 1],
    [0n, 1],
  ])
  send(driver, 6, [[0n, 1]], [[0n, 100]])
  const good = driver.save()
  const [first, second] = good.chains
  if (first === undefined || second === undefined) throw new Error('two chains are in flight')

  test('is plain data', () => {
    expect(JSON.parse(JSON.stringify(good))).toEqual(good)
    expect(good).toEqual({
      format,
      size: 4,
      chains: [
        {
          token: 5,
          isIndirect: true,
          segments: [segment(0, 1, false), segment(0, 1, false)],
        },
        { token: 6, isIndirect: true, segments: [segment(0, 1, false), segment(0, 100, true)] },
      ],
      used: [],
    })
    expect(queue.driver(good).save()).toEqual(good)
  })

  const none = undefined as unknown as []
  test.each<[string, Partial<DriverSnapshot>]>([
    ['of the other format', { format: format === 'split' ? 'packed' : 'split' }],
    ['of another size', { size: 8 }],
    ['without chains', { chains: none }],
    ['without used chains', { used: none }],
    ['with more tables than there are', { chains: [first, first, first] }],
    [
      'with more slots than there are',
      { chains: [first, ...Array<typeof first>(4).fill({ ...first, isIndirect: false })] },
    ],
    ['with a token that is none', { chains: [first, { ...second, token: -1 }] }],
    ['with an answer that is none', { chains: [{ ...first, isIndirect: 1 as unknown as boolean }] }],
    ['with a chain without segments', { chains: [{ ...first, segments: [] }] }],
    ['with a chain without a list', { chains: [{ ...first, segments: none }] }],
    ['with a chain longer than a table', { chains: [{ ...first, segments: Array(4).fill(segment(0, 1, false)) }] }],
    ['with a length that cannot be', { chains: [{ ...first, segments: [segment(0, 2 ** 33, false)] }] }],
    [
      'with segments in a wrong order',
      { chains: [{ ...first, segments: [segment(0, 1, true), segment(0, 1, false)] }] },
    ],
    [
      'with a direction that is none',
      { chains: [{ ...first, segments: [segment(0, 1, none as unknown as boolean)] }] },
    ],
    ['with a used token that is none', { used: [{ token: 2 ** 31, length: 0 }] }],
    ['with a used length that cannot be', { used: [{ token: 1, length: -1 }] }],
  ])('is refused %s', (_name, change) => {
    const error = errorOf(() => queue.driver({ ...good, ...change }))
    expect(['ERR_OUT_OF_RANGE', 'ERR_INVALID_ARG_TYPE']).toContain(error.code)
    expect(error.message).toMatch(/^snapshot\./)
  })

  test('is not given together with a state', () => {
    const make = () =>
      createDriverRing({
        format,
        size: 4,
        areas: queue.areas,
        features: { indirect: true, inOrder: true },
        snapshot: good,
        state: initialState(format),
      })
    expect(errorOf(make).message).toContain('state must be left out when there is a snapshot')
  })
})
