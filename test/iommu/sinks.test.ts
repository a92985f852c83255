// What domains do to the address spaces behind their endpoints: all of it in all of them, or nothing in any.

import { describe, expect, test } from '@jest/globals'
import {
  attach,
  detach,
  DEVERR,
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
  UNSUPP,
} from './support.js'

describe('sinks', () => {
  test('pieces are as the memory lies', () => {
    const { iommu, a, memory, region } = two()
    memory.add({ address: 0x100_0000n, region, offset: 0x5000, size: 0x2000 })
    iommu.requestSync(attach)
    expect(iommu.requestSync({ ...map, first: 0x1000n, last: 0x3fffn, physical: 0xff_f000n, flags: 2 })).toBe(OK)
    expect(a.lines).toEqual(['[0x1000, 0x1fff] wo +0xfff000', '[0x2000, 0x3fff] wo +0x5000'])
    expect(a.batches).toBe(1)
    expect(iommu.requestSync({ ...unmap, last: 0x3fffn })).toBe(OK)
    expect([a.lines, a.batches]).toEqual([[], 2])
  })

  test('an endpoint that joins a domain gets its mappings in one batch, and loses them in one', () => {
    const { iommu, a, b } = two()
    iommu.requestSync(attach)
    for (const page of [1n, 2n, 3n])
      iommu.requestSync({ ...map, first: page << 12n, last: (page << 12n) + 0xfffn, physical: 0n })
    expect(iommu.requestSync({ ...attach, endpoint: 9 })).toBe(OK)
    expect([b.lines, b.batches]).toEqual([a.lines, 1])
    expect(iommu.requestSync({ ...detach, endpoint: 9 })).toBe(OK)
    expect([b.lines.length, b.batches, a.lines.length]).toEqual([0, 2, 3])
  })

  test('an endpoint that goes to another domain leaves the first, which vanishes with it', () => {
    const { iommu, a } = two()
    iommu.requestSync(attach)
    iommu.requestSync(map)
    expect(iommu.requestSync({ ...attach, domain: 2 })).toBe(OK)
    expect(a.lines).toEqual([])
    expect(iommu.requestSync(map)).toBe(NOENT)
    expect(iommu.size).toBe(0)
    expect(iommu.requestSync(attach)).toBe(OK)
    expect(a.lines).toEqual([])
  })

  test('a mapping that one endpoint refuses is in none', () => {
    const { iommu, a, b, failures } = two()
    iommu.requestSync(attach)
    iommu.requestSync({ ...attach, endpoint: 9 })
    b.refuseAfter = 0
    expect(iommu.requestSync(map)).toBe(DEVERR)
    expect([a.lines, b.lines, iommu.size]).toEqual([[], [], 0])
    expect(failures).toHaveLength(1)
    expect(iommu.requestSync(map)).toBe(OK)
    b.refuseAfter = 0
    expect(iommu.requestSync(unmap)).toBe(DEVERR)
    expect([a.lines, b.lines, iommu.size]).toEqual([b.lines, ['[0x1000, 0x1fff] rw +0xa000'], 1])
  })

  test('what could not be taken back is mended by the next change', () => {
    const { iommu, a, b, failures } = two()
    iommu.requestSync(attach)
    iommu.requestSync({ ...attach, endpoint: 9 })
    a.refuseAfter = 1
    b.refuseAfter = 0
    expect(iommu.requestSync(map)).toBe(DEVERR)
    expect([a.lines.length, b.lines.length, failures.length]).toEqual([1, 0, 2])
    expect(iommu.requestSync({ ...map, physical: 0xb000n })).toBe(OK)
    expect([a.lines, b.lines]).toEqual([b.lines, ['[0x1000, 0x1fff] rw +0xb000']])
  })

  test.each([
    ['ERR_VDPA_ENTRY_LIMIT', NOMEM],
    ['ERR_VDPA_MEMLOCK', NOMEM],
    ['ERR_VDPA_IOVA_RANGE', RANGE],
    ['ERR_VDPA_CLOSED', DEVERR],
  ])('%s is status %d', (code, status) => {
    const { iommu, a } = two()
    iommu.requestSync(attach)
    a.refuseAfter = 0
    a.refusal = code
    expect(iommu.requestSync(map)).toBe(status)
  })

  test('an attachment that is refused changes nothing', () => {
    const { iommu, a, b } = two()
    iommu.requestSync(attach)
    iommu.requestSync(map)
    b.refuseAfter = 0
    expect(iommu.requestSync({ ...attach, endpoint: 9 })).toBe(DEVERR)
    expect([iommu.domainOf(9), b.lines]).toEqual([undefined, []])
    a.refuseAfter = 0
    expect(iommu.requestSync(detach)).toBe(DEVERR)
    expect([iommu.domainOf(8), a.lines.length]).toEqual([1, 1])
  })

  test('a domain that has what an endpoint may not have is not for it', () => {
    const sinks = [new ListSink('a'), new ListSink('b', { first: 0n, last: 0xffffn })]
    const { iommu } = makeIommu([
      { id: 8, ...(sinks[0] && { sink: sinks[0] }) },
      { id: 9, ...(sinks[1] && { sink: sinks[1] }), reserved: [{ first: 0x1000n, last: 0x1fffn }] },
    ])
    iommu.requestSync(attach)
    iommu.requestSync(map)
    expect(iommu.requestSync({ ...attach, endpoint: 9 })).toBe(UNSUPP)
    iommu.requestSync(unmap)
    expect(iommu.requestSync({ ...attach, endpoint: 9 })).toBe(OK)
    // What the second cannot reach is reserved for it, and so nothing for the domain.
    expect(iommu.requestSync({ ...map, first: 0x1_0000n, last: 0x1_0fffn })).toBe(INVAL)
  })
})

describe('bypass', () => {
  test('is all memory but what is reserved, in whole pages', () => {
    const sink = new ListSink('a', { first: 0n, last: 0xff_ffffn }, 4096)
    const reserved = [
      { first: 0x2800n, last: 0x2fffn },
      { first: 0x8000n, last: 0x8fffn, kind: 'msi' as const },
    ]
    const { iommu } = makeIommu([{ id: 8, sink, reserved }], { bypass: true }, 0x1_0000)
    expect(iommu.refreshSync()).toBe(true)
    const lines = ['[0x0, 0x1fff] rw +0x0', '[0x3000, 0x7fff] rw +0x3000', '[0x9000, 0xffff] rw +0x9000']
    expect(sink.lines).toEqual(lines)
    iommu.requestSync(attach)
    expect(sink.lines).toEqual([])
    iommu.requestSync(detach)
    expect(sink.lines).toEqual(lines)
  })

  test('follows the configuration, and the memory', async () => {
    const { iommu, a, b, memory, region } = two()
    iommu.requestSync(attach)
    expect(await iommu.setBypass(true)).toBe(true)
    expect([a.lines, b.lines, iommu.config[36]]).toEqual([[], ['[0x0, 0xffffff] rw +0x0'], 1])
    memory.add({ address: 0x200_0000n, region, offset: 0x1000, size: 0x1000 })
    expect(await iommu.refresh()).toBe(true)
    expect(b.lines).toEqual(['[0x0, 0xffffff] rw +0x0', '[0x2000000, 0x2000fff] rw +0x1000'])
    expect(b.batches).toBe(2)
    expect(await iommu.setBypass(false)).toBe(true)
    expect(b.lines).toEqual([])
  })

  test('a mapping whose memory went and came is mapped again', () => {
    const { iommu, a, memory, region } = two()
    iommu.requestSync(attach)
    iommu.requestSync(map)
    memory.remove(0n)
    expect(iommu.refreshSync()).toBe(true)
    expect(a.lines).toEqual([])
    memory.add({ address: 0n, region, offset: 0x1000, size: 0x10_0000 })
    iommu.refreshSync()
    expect(a.lines).toEqual(['[0x1000, 0x1fff] rw +0xb000'])
  })
})

describe('ends', () => {
  test('a reset leaves nothing, whatever refuses, and keeps bypass', async () => {
    const { iommu, a, b } = two()
    iommu.requestSync(attach)
    iommu.requestSync({ ...attach, endpoint: 9 })
    iommu.requestSync(map)
    a.refuseAfter = 0
    expect(iommu.resetSync()).toBe(false)
    expect([a.lines.length, b.lines.length, iommu.domainOf(8)]).toEqual([1, 0, undefined])
    expect(await iommu.refresh()).toBe(true)
    expect(a.lines).toEqual([])
  })

  test('close() unmaps everything, may be called twice, and refuses what comes later', async () => {
    const { iommu, a, ask } = two({ bypass: true })
    iommu.refreshSync()
    const open = iommu.request(attach)
    await Promise.all([iommu.close(), iommu.close()])
    await open
    expect(a.lines).toEqual([])
    expect(iommu.requestSync(attach)).toBe(DEVERR)
    expect(ask('01000000 01000000 08000000 00000000 00000000')).toBe('03000000')
  })

  test('requests without await are carried out one after another', async () => {
    const { iommu, a } = two()
    const statuses = await Promise.all([attach, map, unmap, map, detach].map((request) => iommu.request(request)))
    expect(statuses).toEqual([OK, OK, OK, OK, OK])
    expect(a.lines).toEqual([])
    const busy = iommu.request(attach)
    expect(() => iommu.requestSync(attach)).toThrow(expect.objectContaining({ code: 'ERR_VDPA_STATE' }))
    await busy
  })
})
