import { describe, expect, test } from '@jest/globals'
import { Simulator } from '../../lib/simulator/simulator.js'
import { codeOf } from './support.js'

describe('memory of the pretended process', () => {
  test('is zeroed, rounded up to pages, and lies at addresses that no other region has', () => {
    const simulator = new Simulator()
    const regions = [1, 4096, 4097, 0x10_0000].map((length) => simulator.allocate(length))
    expect(regions.map((region) => region.length)).toEqual([4096, 4096, 8192, 0x10_0000])
    for (const region of regions) {
      expect(region.buffer.byteLength).toBe(region.length)
      expect(region.address % 4096n).toBe(0n)
      expect(new Uint8Array(region.buffer).every((byte) => byte === 0)).toBe(true)
    }
    const ranges = regions.map((region) => [region.address, region.address + BigInt(region.length)] as const)
    for (const [index, [first]] of ranges.entries()) {
      // Never adjacent: running past the end of one must not reach another.
      for (const [, end] of ranges.slice(0, index)) expect(first).toBeGreaterThan(end)
    }
  })

  test('of huge pages is rounded and aligned to them', () => {
    const region = new Simulator().allocate(1, { pageSize: 2 ** 21 })
    expect(region.length).toBe(2 ** 21)
    expect(region.pageSize).toBe(2 ** 21)
    expect(region.address % BigInt(2 ** 21)).toBe(0n)
  })

  test.each([
    [0, 'ERR_OUT_OF_RANGE'],
    [-1, 'ERR_OUT_OF_RANGE'],
    [1.5, 'ERR_OUT_OF_RANGE'],
    [NaN, 'ERR_OUT_OF_RANGE'],
    [Infinity, 'ERR_OUT_OF_RANGE'],
    ['4096', 'ERR_INVALID_ARG_TYPE'],
    [4096n, 'ERR_INVALID_ARG_TYPE'],
  ])('refuses a length of %p', (length, code) => {
    expect(codeOf(() => new Simulator().allocate(length as number))).toBe(code)
  })

  test('refuses a page size that no system has', () => {
    expect(codeOf(() => new Simulator().allocate(4096, { pageSize: 8192 }))).toBe('ERR_OUT_OF_RANGE')
  })

  test('cannot be closed while it is held; closing detaches its bytes, twice is allowed', () => {
    const region = new Simulator().allocate(4096)
    const view = new Uint8Array(region.buffer)
    const hold = region.hold('somebody')
    expect(region.holders).toEqual(['somebody'])
    expect(codeOf(() => region.close())).toBe('ERR_VDPA_MEMORY_HELD')
    expect(view).toHaveLength(4096)
    hold.close()
    region.close()
    region.close()
    expect(region.isClosed).toBe(true)
    expect(view).toHaveLength(0)
    expect(codeOf(() => region.address)).toBe('ERR_VDPA_CLOSED')
    expect(codeOf(() => region.hold('late'))).toBe('ERR_VDPA_CLOSED')
  })

  test('of a file is shown at two addresses, and stays until both are closed', () => {
    const simulator = new Simulator()
    const fd = simulator.memoryFile(8192)
    const [first, second] = [simulator.adopt(fd, { length: 8192 }), simulator.adopt(fd, { length: 8192 })]
    expect(first.address).not.toBe(second.address)
    new Uint8Array(first.buffer)[5000] = 7
    expect(new Uint8Array(second.buffer)[5000]).toBe(7)
    first.close()
    expect(new Uint8Array(second.buffer)[5000]).toBe(7)
  })

  test('of a file is adopted in parts, which are the same bytes or apart', () => {
    const simulator = new Simulator()
    const fd = simulator.memoryFile(0x4000)
    const adopt = (offset: number, length: number) => simulator.adopt(fd, { length, offset: BigInt(offset) })
    const [low, high] = [adopt(0, 0x1000), adopt(0x2000, 0x2000)]
    expect([low.length, high.length]).toEqual([0x1000, 0x2000])
    new Uint8Array(high.buffer)[1] = 9
    expect(new Uint8Array(adopt(0x2000, 0x2000).buffer)[1]).toBe(9)
    expect(codeOf(() => adopt(0, 0x4000))).toBe('ERR_OUT_OF_RANGE')
    expect(codeOf(() => adopt(0x3000, 0x1000))).toBe('ERR_OUT_OF_RANGE')
    for (const [offset, length] of [
      [0x1001, 0x1000],
      [0x1000, 0x1001],
      [0x4000, 0x1000],
      [0x3000, 0x2000],
      [0x1000, 0],
    ] as const)
      expect(codeOf(() => adopt(offset, length))).toBe('ERR_OUT_OF_RANGE')
    low.close()
    adopt(0, 0x2000)
  })

  test('is given back once, also when who held it closes it on letting go', () => {
    const simulator = new Simulator()
    const fd = simulator.memoryFile(0x2000)
    const [low, high] = [0n, 0x1000n].map((offset) => simulator.adopt(fd, { length: 0x1000, offset }))
    if (low === undefined || high === undefined) throw new Error('there are two')
    const hold = low.hold({
      describe: () => 'a holder',
      letGo: () => {
        hold.close()
        low.close()
      },
    })
    low.close({ unmap: true })
    // What is left of the file is still one with what is adopted of it now.
    new Uint8Array(high.buffer)[1] = 9
    expect(new Uint8Array(simulator.adopt(fd, { length: 0x1000, offset: 0x1000n }).buffer)[1]).toBe(9)
  })

  test('is adopted from memory files only', () => {
    const simulator = new Simulator()
    expect(codeOf(() => simulator.adopt(1234, { length: 4096 }))).toBe('EBADF')
    expect(codeOf(() => simulator.adopt(simulator.eventfd().fd, { length: 4096 }))).toBe('ENODEV')
    expect(codeOf(() => simulator.adopt(-1, { length: 4096 }))).toBe('ERR_OUT_OF_RANGE')
  })
})
