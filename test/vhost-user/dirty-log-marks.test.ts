// The bitmap of a migration: which pages a range marks, and with how much work.

import { expect, it, jest } from '@jest/globals'
import fc from 'fast-check'
import { DirtyLog } from '../../lib/vhost-user/dirty-log'
import { describeNative } from '../native/support'

const PAGE = 4096

describeNative('marks in the log of a front end', (backend) => {
  it('has the pages of every range that lie in it, besides those that it had', () => {
    using region = backend().allocate(PAGE)
    const [offset, length] = [3, 5]
    const log = new DirtyLog(region, offset, length)
    const bytes = region.view(0, 16)
    const pages = () =>
      Array.from({ length: 8 * 16 }, (_, page) => page).filter((page) => (bytes[page >> 3] ?? 0) & (1 << (page & 7)))
    const places = fc.oneof(
      fc.nat(50 * PAGE),
      fc.nat(50).map((page) => page * PAGE),
    )
    fc.assert(
      fc.property(places, places, fc.nat(8 * length - 1), (address, size, other) => {
        bytes.fill(0)
        log.mark(other * PAGE, 1)
        log.mark(address, size)
        const expected = new Set([other])
        for (let at = address; at < address + size; at += PAGE - (at % PAGE)) expected.add(Math.floor(at / PAGE))
        const within = [...expected].filter((page) => page < 8 * length).sort((a, b) => a - b)
        expect(pages()).toEqual(within.map((page) => page + 8 * offset))
      }),
    )
  })

  it('is written in one step where a guest names 4 GiB', () => {
    using region = backend().allocate(1 << 18)
    const log = new DirtyLog(region, 0, region.length)
    const or = jest.spyOn(Atomics, 'or')
    log.mark(7 * PAGE, 0xffff_ffff)
    const { calls } = or.mock
    or.mockRestore()
    expect(calls.length).toBeLessThanOrEqual(2)
    const bytes = region.view(0, region.length)
    expect([bytes[0], bytes[1], bytes[0x2_0000], bytes[0x2_0001]]).toEqual([0x80, 0xff, 0x7f, 0])
    expect(bytes.subarray(1, 0x2_0000).every((byte) => byte === 0xff)).toBe(true)
  })
})
