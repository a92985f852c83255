// Requests that a driver made available together: statuses as if each came alone, and one batch for a sink.

import { describe, expect, test } from '@jest/globals'
import fc from 'fast-check'
import { iommuDevice } from '../../lib/iommu/iommu-device.js'
import type { MappingRequest } from '../../lib/iommu/mapping-change.js'
import { openDevice } from '../../lib/open.js'
import { Simulator } from '../../lib/simulator/index.js'
import { virtioIommuReqAttach, virtioIommuReqMap } from '../../lib/uapi/virtio-iommu.js'
import { attach, DEVERR, INVAL, ListSink, makeIommu, map, NOENT, NOMEM, OK, RANGE, two, unmap } from './support.js'

const page = (number: number) => ({ first: BigInt(number) << 12n, last: (BigInt(number) << 12n) + 0xfffn })
const mapPage = (number: number, domain = 1): MappingRequest => ({ ...map, ...page(number), domain })
const unmapPages = (from: number, to = from, domain = 1): MappingRequest => ({
  ...unmap,
  first: page(from).first,
  last: page(to).last,
  domain,
})

/** As two(), over little memory. */
function small() {
  const [a, b] = [new ListSink('a'), new ListSink('b')]
  const endpoints = [
    { id: 8, sink: a },
    { id: 9, sink: b },
  ]
  return { ...makeIommu(endpoints, {}, 0x1_0000), a, b }
}

describe('together', () => {
  test('what requests change is one batch, and their statuses are their own', () => {
    const { iommu, a } = two()
    iommu.requestSync(attach)
    const requests = [mapPage(1), mapPage(1), mapPage(2), { ...mapPage(3), physical: 1n }, mapPage(4, 7)]
    expect(iommu.changeTogetherSync(requests)).toEqual([OK, INVAL, OK, RANGE, NOENT])
    expect(a.lines).toEqual(['[0x1000, 0x1fff] rw +0xa000', '[0x2000, 0x2fff] rw +0xa000'])
    expect(a.batches).toBe(1)
    expect(iommu.changeTogetherSync([])).toEqual([])
  })

  test('what comes and goes is no business of a sink, and what takes a place is in it', () => {
    const { iommu, a } = two()
    iommu.requestSync(attach)
    expect(iommu.changeTogetherSync([mapPage(1), unmapPages(1)])).toEqual([OK, OK])
    expect([a.batches, a.lines, iommu.size]).toEqual([0, [], 0])
    iommu.changeTogetherSync([mapPage(1), mapPage(2)])
    const changed = [unmapPages(1, 2), { ...mapPage(1), last: page(2).last, physical: 0x1_0000n }]
    expect(iommu.changeTogetherSync(changed)).toEqual([OK, OK])
    expect([a.batches, a.lines]).toEqual([2, ['[0x1000, 0x2fff] rw +0x10000']])
  })

  test('domains have a batch each, in the order of the requests', () => {
    const { iommu, a, b } = two()
    iommu.requestSync(attach)
    iommu.requestSync({ ...attach, domain: 2, endpoint: 9 })
    const requests = [mapPage(1), mapPage(2), mapPage(1, 2), mapPage(2, 2), mapPage(3)]
    expect(iommu.changeTogetherSync(requests)).toEqual([OK, OK, OK, OK, OK])
    expect([a.batches, b.batches]).toEqual([2, 1])
    expect([a.lines.length, b.lines.length]).toEqual([3, 2])
  })

  test('where a sink refuses, each request is carried out by itself', () => {
    const { iommu, a, failures } = two()
    iommu.requestSync(attach)
    // The batch, and the second of the requests: the first is carried out between.
    a.refusal = 'ERR_VDPA_ENTRY_LIMIT'
    a.refuseAfter = 0
    const batch = a.batch.bind(a)
    let calls = 0
    a.batch = (changes) => {
      if (++calls === 3) a.refuseAfter = 0
      return batch(changes)
    }
    expect(iommu.changeTogetherSync([mapPage(1), mapPage(2), mapPage(3)])).toEqual([OK, NOMEM, OK])
    expect(a.lines).toEqual(['[0x1000, 0x1fff] rw +0xa000', '[0x3000, 0x3fff] rw +0xa000'])
    expect([iommu.size, failures.length]).toEqual([2, 1])
  })

  test('one that is refused is asked once, and those behind it find the books without it', () => {
    const { iommu, a, failures } = two()
    iommu.requestSync(attach)
    a.refuseAfter = 0
    expect(iommu.changeTogetherSync([mapPage(1), mapPage(1)])).toEqual([DEVERR, OK])
    expect([a.batches, iommu.size, failures.length]).toEqual([1, 1, 1])
  })

  test('a refusal by one endpoint leaves none with any of it', () => {
    const { iommu, a, b } = two()
    iommu.requestSync(attach)
    iommu.requestSync({ ...attach, endpoint: 9 })
    const batch = b.batch.bind(b)
    b.batch = (changes) => {
      b.refuseAfter = 0
      return batch(changes)
    }
    expect(iommu.changeTogetherSync([mapPage(1), mapPage(2)])).toEqual([DEVERR, DEVERR])
    expect([a.lines, b.lines, iommu.size]).toEqual([[], [], 0])
  })

  test('a closed one refuses all', async () => {
    const { iommu } = two()
    await iommu.close()
    expect(iommu.changeTogetherSync([mapPage(1), unmapPages(1)])).toEqual([DEVERR, DEVERR])
  })

  test('random requests end as they do one after another, in groups of any size', () => {
    const request = fc.oneof(
      fc.tuple(fc.nat(7), fc.nat(3), fc.nat(2)).map(([from, more, domain]): MappingRequest => {
        return { ...map, first: page(from).first, last: page(from + more).last, domain }
      }),
      fc.tuple(fc.nat(7), fc.nat(7), fc.nat(2)).map(([from, more, domain]) => unmapPages(from, from + more, domain)),
    )
    fc.assert(
      fc.property(fc.array(fc.array(request, { maxLength: 12 }), { maxLength: 12 }), (groups) => {
        const [together, alone] = [small(), small()]
        for (const { iommu } of [together, alone]) {
          iommu.requestSync(attach)
          iommu.requestSync({ ...attach, domain: 2, endpoint: 9 })
        }
        for (const group of groups) {
          const expected = group.map((one) => alone.iommu.requestSync(one))
          expect(together.iommu.changeTogetherSync(group)).toEqual(expected)
        }
        expect([together.a.lines, together.b.lines]).toEqual([alone.a.lines, alone.b.lines])
        expect(together.iommu.size).toBe(alone.iommu.size)
      }),
      { numRuns: 500 },
    )
  })
})

describe('over a ring', () => {
  const SLOT = 64
  const COUNT = 200

  /** A device that is served on the spot, and a driver that makes requests available before it kicks. */
  async function scene(sink: ListSink, format: 'split' | 'packed') {
    const simulator = new Simulator({ scheduler: 'manual' })
    const { iommu, region } = makeIommu([{ id: 8, sink }])
    const model = iommuDevice(iommu, { sync: true })
    const device = await openDevice(simulator.add(model), { backend: simulator })
    await device.negotiate([
      'VIRTIO_IOMMU_F_MAP_UNMAP',
      ...(format === 'packed' ? ['VIRTIO_F_RING_PACKED'] : []),
    ] as never)
    const addressSpace = device.addressSpace(0)
    const queue = await device.createQueue(0, { addressSpace, size: 256, bufferBytes: (COUNT + 1) * SLOT })
    await device.start()
    const { ring, buffers, buffersIova } = queue
    const put = (slot: number, bytes: Uint8Array, room = [4]) => {
      buffers.bytes(slot * SLOT, SLOT).fill(0xee)
      buffers.bytes(slot * SLOT, bytes.length).set(bytes)
      ring.begin()
      ring.pushAddress(buffersIova + BigInt(slot * SLOT), bytes.length, false)
      let at = slot * SLOT + 48
      for (const length of room) {
        ring.pushAddress(buffersIova + BigInt(at), length, true)
        at += length
      }
      ring.commit(slot)
    }
    const take = () => {
      queue.publish()
      simulator.drain()
      const seen: { slot: number; used: number; tail: number[] }[] = []
      for (let slot = ring.take(); slot >= 0; slot = ring.take())
        seen.push({ slot, used: ring.usedLength, tail: [...buffers.bytes(slot * SLOT + 48, 4)] })
      return seen
    }
    return { put, take, model, iommu, region, device }
  }

  const head = (type: number) => ({ type, head_reserved: new Uint8Array(3), domain: 1 })
  const attachBytes = virtioIommuReqAttach.encode({ ...head(1), endpoint: 8, flags: 0, reserved: new Uint8Array(4) })
  const mapBytes = (number: number) => {
    const { first, last } = page(number)
    return virtioIommuReqMap.encode({ ...head(3), virt_start: first, virt_end: last, phys_start: 0n, flags: 3 })
  }

  test.each(['split', 'packed'] as const)(
    'answers come in order, in few batches, with whatever is between (%s)',
    async (format) => {
      const sink = new ListSink()
      const { put, take, model, device } = await scene(sink, format)
      put(0, attachBytes)
      for (let slot = 1; slot < 70; slot++) put(slot, mapBytes(slot))
      const first = take()
      expect(first.map(({ slot }) => slot)).toEqual(Array.from({ length: 70 }, (_, slot) => slot))
      expect(first.every(({ used, tail }) => used === 4 && tail.every((byte) => byte === 0))).toBe(true)
      expect([sink.held.length, sink.batches]).toEqual([69, 2])
      // A MAP that overlaps, one whose tail is in pieces, one without room for it, one of no type, and one more.
      put(0, mapBytes(1))
      put(1, mapBytes(100), [1, 2, 1])
      put(2, mapBytes(101), [3])
      put(3, Uint8Array.of(99, 0, 0, 0))
      put(4, mapBytes(102))
      expect(take()).toEqual([
        { slot: 0, used: 4, tail: [INVAL, 0, 0, 0] },
        { slot: 1, used: 4, tail: [OK, 0, 0, 0] },
        { slot: 2, used: 0, tail: [0xee, 0xee, 0xee, 0xee] },
        { slot: 3, used: 0, tail: [0xee, 0xee, 0xee, 0xee] },
        { slot: 4, used: 4, tail: [OK, 0, 0, 0] },
      ])
      expect(model.counters.requests).toBe(75)
      await device.close()
    },
  )

  test('a sink that ends the queue ends the answers, and what was carried out stays', async () => {
    const sink = new ListSink()
    const { put, take, device, iommu } = await scene(sink, 'split')
    put(0, attachBytes)
    take()
    const batch = sink.batch.bind(sink)
    sink.batch = (changes) => {
      device.vring(0).disable()
      return batch(changes)
    }
    for (const slot of [1, 2]) put(slot, mapBytes(slot))
    expect(take()).toEqual([])
    expect(iommu.size).toBe(2)
    await device.close()
  })
})
