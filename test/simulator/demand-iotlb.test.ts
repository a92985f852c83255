import { describe, expect, test } from '@jest/globals'
import fc from 'fast-check'
import { isVdpaError } from '../../lib/base/errors.js'
import { VirtioIommu } from '../../lib/iommu/virtio-iommu.js'
import { GuestMemory } from '../../lib/memory/guest-memory.js'
import { decodeMiss, RecordWriter } from '../../lib/misses/message.js'
import { MissServer } from '../../lib/misses/miss-server.js'
import { RegionTranslator } from '../../lib/misses/region-translator.js'
import type { MissFault } from '../../lib/misses/miss-faults.js'
import { Simulator, type DemandIotlbOptions, type Profile } from '../../lib/simulator/index.js'
import { vhostMsgV2 } from '../../lib/uapi/vhost-types.js'
import { arrayWork } from '../array-work.js'

const IOVA = 0x10_0000n

function world(options: DemandIotlbOptions = {}, profile: Profile = 'strict') {
  const simulator = new Simulator({ profile })
  const region = simulator.allocate(0x4000)
  const iotlb = simulator.demandIotlb(options)
  return { simulator, region, iotlb, writer: new RecordWriter() }
}

const codeOf = (call: () => unknown): string => {
  try {
    call()
    return 'taken'
  } catch (failure) {
    if (!isVdpaError(failure)) throw failure
    return failure.code
  }
}
const turn = () => new Promise((resolve) => setImmediate(resolve))

describe('an access', () => {
  test('that is not translated waits, for an update that comes after its miss was read', async () => {
    const { region, iotlb, writer } = world()
    region.view(0, 3).set([1, 2, 3])
    const read = iotlb.readMemory(IOVA, 3)
    const mapping = { iova: IOVA, size: 0x1000n, uaddr: region.address, access: 'ro' } as const
    iotlb.write(writer.update(2, 0, mapping))
    await turn()
    expect(iotlb.waiting).toBe(1)
    expect(decodeMiss(iotlb.read() ?? new Uint8Array(0))).toMatchObject({ kind: 'miss', iova: IOVA, access: 'ro' })
    expect(iotlb.read()).toBeUndefined()
    iotlb.write(writer.update(1, 0, mapping))
    expect(await read).toEqual(Uint8Array.of(1, 2, 3))
    expect(iotlb.counters).toEqual({ misses: 1, updates: 2, invalidations: 0, errors: 0 })
  })

  test('that a translation does not allow fails without a miss', async () => {
    const { region, iotlb, writer } = world()
    iotlb.write(writer.update(2, 0, { iova: IOVA, size: 0x1000n, uaddr: region.address, access: 'ro' }))
    await expect(iotlb.writeMemory(IOVA, new Uint8Array(1))).rejects.toMatchObject({ code: 'EPERM' })
    iotlb.write(writer.update(2, 0, { iova: 0n, size: 0x1000n, uaddr: 0x1000n, access: 'rw' }))
    await expect(iotlb.readMemory(0n, 1)).rejects.toMatchObject({ code: 'EFAULT' })
    expect(iotlb.counters).toMatchObject({ misses: 0, errors: 2 })
  })

  test('ends when the IOTLB goes', async () => {
    const { iotlb } = world()
    const read = iotlb.readMemory(IOVA, 1)
    iotlb.end()
    await expect(read).rejects.toMatchObject({ code: 'EBADFD' })
    expect(codeOf(() => iotlb.read())).toBe('EBADFD')
    await expect(iotlb.writeMemory(IOVA, new Uint8Array(1))).rejects.toMatchObject({ code: 'EBADFD' })
  })
})

describe('records', () => {
  const record = (fields: Partial<Parameters<typeof vhostMsgV2.encode>[0]>) =>
    vhostMsgV2.encode({ message: 2, asid: 0, iova: 0n, size: 1n, uaddr: 0n, perm: 3, type: 2, ...fields })

  test.each([
    ['an update', 'taken', record({})],
    ['one of as many bytes as count', 'taken', record({}).subarray(0, 40)],
    ['too few', 'EINVAL', record({}).subarray(0, 39)],
    ['no record', 'EINVAL', record({ message: 3 })],
    ['an update of no bytes', 'EINVAL', record({ size: 0n })],
    ['an update past 2^64', 'EFAULT', record({ iova: 2n ** 64n - 1n, size: 2n })],
    ['an update to no address of a process', 'EFAULT', record({ uaddr: 2n ** 63n })],
    ['the same that allows nothing', 'taken', record({ uaddr: 2n ** 63n, perm: 0 })],
    ['one to the last address that allows nothing', 'taken', record({ uaddr: 2n ** 64n - 1n, perm: 0 })],
    ['one past it, whatever it allows', 'EFAULT', record({ uaddr: 2n ** 64n - 1n, size: 2n, perm: 0 })],
    ['an invalidation of what is not there', 'taken', record({ type: 3 })],
    ['an invalidation of no bytes', 'EFAULT', record({ type: 3, size: 0n })],
    ['a miss', 'EFAULT', record({ type: 1 })],
    ['a batch', 'EFAULT', record({ type: 5 })],
  ])('%s: %s', (_name, code, bytes) => {
    const { iotlb } = world()
    expect(codeOf(() => iotlb.write(bytes))).toBe(code)
  })

  test.each(['linux-6.12', 'linux-7'] as const)('on %s: invalidations of no bytes, and past the end', (profile) => {
    const { iotlb, writer } = world({}, profile)
    const fill = () => {
      for (const iova of [0n, 0x1000n, 0x3000n])
        iotlb.write(writer.update(2, 0, { iova, size: 0x1000n, uaddr: 0x1000n, access: 'rw' }))
    }
    const left = (iova: bigint, size: bigint) => {
      iotlb.write(record({ type: 3, iova, size }))
      return iotlb.size
    }
    fill()
    // Between two translations, and where there is none; then inside of one.
    expect([left(0x1000n, 0n), left(0x2800n, 0n), left(0x1800n, 0n)]).toEqual([3, 3, 2])
    expect([left(0x2000n, 2n ** 64n - 1n), left(0x3800n, 2n ** 64n - 1n)]).toEqual([2, 1])
    fill()
    expect(left(0n, 0n)).toBe(0)
  })

  test('may be any bytes', () => {
    const { iotlb } = world()
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 80 }), (bytes) => {
        expect(['taken', 'EINVAL', 'EFAULT']).toContain(codeOf(() => iotlb.write(bytes)))
      }),
      { numRuns: 2000 },
    )
  })

  test('invalidate whole translations, and the oldest goes where there is no room', () => {
    const { iotlb, writer } = world({ entryLimit: 2 })
    for (const iova of [0n, 0x1000n, 0x2000n])
      iotlb.write(writer.update(2, 0, { iova, size: 0x1000n, uaddr: 0x1000n, access: 'rw' }))
    expect(iotlb.size).toBe(2)
    iotlb.write(writer.invalidate(2, 0, 0x1fffn, 2n))
    expect(iotlb.size).toBe(0)
  })
})

describe('a kick', () => {
  const missesOf = (iotlb: { read(): Uint8Array | undefined }) => {
    const iovas: bigint[] = []
    for (let bytes = iotlb.read(); bytes !== undefined; bytes = iotlb.read()) iovas.push(decodeMiss(bytes).iova)
    return iovas
  }

  test.each<[Profile, DemandIotlbOptions, number]>([
    ['strict', {}, 1],
    ['kernel', {}, 1],
    ['linux-6.12', {}, 4],
    ['linux-7', {}, 4],
    ['linux-6.12', { repeatsMisses: false }, 1],
    ['strict', { repeatsMisses: true }, 4],
  ])('while a translation is missing, on %s with %p: %p misses after three', async (profile, options, count) => {
    const { region, iotlb, writer } = world(options, profile)
    const read = iotlb.readMemory(IOVA, 3)
    iotlb.kick()
    const first = missesOf(iotlb)
    iotlb.kick()
    iotlb.kick()
    expect([...first, ...missesOf(iotlb)]).toEqual(new Array<bigint>(count).fill(IOVA))
    expect([iotlb.waiting, iotlb.counters.misses]).toEqual([1, count])
    // One update answers all that were read.
    iotlb.write(writer.update(2, 0, { iova: IOVA, size: 0x1000n, uaddr: region.address, access: 'ro' }))
    expect(await read).toEqual(new Uint8Array(3))
    iotlb.kick()
    expect([iotlb.waiting, missesOf(iotlb)]).toEqual([0, []])
  })

  test('has a queue go on whose translation came before its miss was read; that is read all the same', async () => {
    const { region, iotlb, writer } = world()
    const read = iotlb.readMemory(IOVA, 3)
    iotlb.write(writer.update(2, 0, { iova: IOVA, size: 0x1000n, uaddr: region.address, access: 'ro' }))
    await turn()
    expect(iotlb.waiting).toBe(1)
    iotlb.kick()
    expect(await read).toEqual(new Uint8Array(3))
    expect(missesOf(iotlb)).toEqual([IOVA])
  })

  test.each<[Profile, bigint[]]>([
    ['strict', [IOVA]],
    ['linux-6.12', [IOVA, IOVA + 0x1000n]],
  ])('and a queue that goes on to what is missing while its first miss has no answer, on %s', async (profile, seen) => {
    const { region, iotlb, writer } = world({}, profile)
    const page = (at: bigint) =>
      iotlb.write(writer.update(2, 0, { iova: IOVA + at, size: 0x1000n, uaddr: region.address + at, access: 'ro' }))
    const read = iotlb.readMemory(IOVA, 0x1001)
    page(0n)
    iotlb.kick()
    await turn()
    expect(missesOf(iotlb)).toEqual(seen)
    // The answer of the first has it look again.
    page(0n)
    await turn()
    expect(missesOf(iotlb)).toEqual([IOVA + 0x1000n])
    page(0x1000n)
    expect(await read).toHaveLength(0x1001)
  })

  test('is nobody’s when the IOTLB has gone', async () => {
    const { iotlb } = world({ repeatsMisses: true })
    const read = iotlb.readMemory(IOVA, 1)
    iotlb.kick()
    iotlb.end()
    iotlb.kick()
    await expect(read).rejects.toMatchObject({ code: 'EBADFD' })
    expect([iotlb.waiting, iotlb.counters.misses]).toEqual([0, 2])
  })

  test('the option is checked', () => {
    expect(() => world({ repeatsMisses: 1 as unknown as boolean })).toThrow('options.repeatsMisses must be')
  })
})

describe('with a miss server', () => {
  test('that is told of each miss again and again, it is looked up once', async () => {
    const { region, iotlb } = world({ repeatsMisses: true })
    const own = new RegionTranslator([{ iova: IOVA, region }])
    let find: () => void = () => undefined
    const found = new Promise<void>((resolve) => (find = resolve))
    let asked = 0
    const server = new MissServer(iotlb, {
      translate: (request) => (asked++, found.then(() => own.translate(request))),
    })
    const read = iotlb.readMemory(IOVA, 4)
    for (let kicks = 3; kicks > 0; kicks--) iotlb.kick()
    while (server.counters.misses < 4) await turn()
    find()
    expect(await read).toEqual(new Uint8Array(4))
    expect(asked).toBe(1)
    expect(server.counters).toMatchObject({ misses: 4, joined: 3, updates: 1 })
    server.close()
  })

  test('memory is reached page by page, and again after each invalidation', async () => {
    const { region, iotlb } = world()
    const server = new MissServer(iotlb, new RegionTranslator([{ iova: IOVA, region }], 0x1000))
    const bytes = Uint8Array.from({ length: 0x2800 }, (_, index) => index & 0xff)
    await iotlb.writeMemory(IOVA + 0x800n, bytes)
    expect(iotlb.counters.misses).toBe(3)
    server.invalidate()
    expect(await iotlb.readMemory(IOVA + 0x800n, bytes.length)).toEqual(bytes)
    expect(server.counters).toMatchObject({ misses: 6, updates: 6, faults: 0, invalidations: 1 })
    server.close()
    region.close()
  })

  test('what has no translation is a fault, and goes on when there is one', async () => {
    const { region, iotlb } = world()
    const faults: MissFault[] = []
    const translator = new RegionTranslator()
    const server = new MissServer(iotlb, translator, { onFault: (fault) => faults.push(fault) })
    const read = iotlb.readMemory(IOVA, 4)
    await turn()
    expect(faults).toMatchObject([{ reason: 'unmapped', request: { iova: IOVA, access: 'ro' } }])
    expect(iotlb.waiting).toBe(1)
    translator.add({ iova: IOVA, region })
    server.retry()
    expect(await read).toEqual(new Uint8Array(4))
    server.close()
  })

  test('the translator may be a domain of a guest’s IOMMU: what is unmapped is missed, and a fault', async () => {
    const { simulator, iotlb } = world()
    const region = simulator.allocate(0x4000)
    const memory = new GuestMemory([{ address: 0x8000_0000n, region }])
    const iommu = new VirtioIommu({ memory, endpoints: [{ id: 8 }] })
    const seen: unknown[] = []
    iommu.onFault(({ address }) => seen.push(address))
    iommu.requestSync({ kind: 'attach', domain: 1, endpoint: 8, flags: 0, isMalformed: false })
    iommu.requestSync({ kind: 'map', domain: 1, first: IOVA, last: IOVA + 0xfffn, physical: 0x8000_2000n, flags: 3 })
    const faults: string[] = []
    const server = new MissServer(
      iotlb,
      { translate: ({ iova, access }) => iommu.translate(8, iova, access) },
      { onFault: ({ reason }) => faults.push(reason) },
    )
    await iotlb.writeMemory(IOVA + 0x10n, Uint8Array.of(7))
    expect(region.view(0x2010, 1)).toEqual(Uint8Array.of(7))
    iommu.requestSync({ kind: 'unmap', domain: 1, first: IOVA, last: IOVA + 0xfffn })
    server.invalidate({ first: IOVA, last: IOVA + 0xfffn })
    const read = iotlb.readMemory(IOVA + 0x10n, 1)
    await turn()
    expect([faults, seen]).toEqual([['unmapped'], [IOVA + 0x10n]])
    iommu.requestSync({ kind: 'map', domain: 1, first: IOVA, last: IOVA + 0xfffn, physical: 0x8000_2000n, flags: 3 })
    server.retry()
    expect(await read).toEqual(Uint8Array.of(7))
    server.close()
    await iommu.close()
  })

  test('whatever is invalidated whenever, what is read is what was written', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.record({ at: fc.nat(0x3f00), length: fc.integer({ min: 1, max: 0x1800 }), late: fc.nat(2) }), {
          maxLength: 10,
        }),
        fc.constantFrom(0, 0x400, 0x1000),
        async (accesses, granule) => {
          const { region, iotlb } = world({ entryLimit: 3 })
          const own = new RegionTranslator([{ iova: IOVA, region }], granule)
          let count = 0
          const server = new MissServer(iotlb, {
            translate: (request) =>
              count++ % 3 === 0 ? own.translate(request) : turn().then(() => own.translate(request)),
          })
          for (const { at, length, late } of accesses) {
            const bytes = new Uint8Array(Math.min(length, 0x4000 - at)).fill(count & 0xff)
            const written = iotlb.writeMemory(IOVA + BigInt(at), bytes)
            for (let left = late; left > 0; left--) await turn()
            server.invalidate({ first: IOVA + BigInt(at), last: IOVA + BigInt(at) + 0xffn })
            await written
            expect(region.view(at, bytes.length)).toEqual(bytes)
          }
          expect(iotlb.waiting).toBe(0)
          expect(server.counters.faults).toBe(0)
          server.close()
        },
      ),
      { numRuns: 20 },
    )
  })
})

describe('thousands of accesses that stand still', () => {
  const MISSES = 2000

  /** So many, of pages that lie here and there, whose misses were read. */
  async function standing() {
    const { simulator, region, iotlb, writer } = world()
    const done: number[] = []
    const pages = Array.from({ length: MISSES }, (_, index) => (index * 1201) % MISSES)
    for (const page of pages)
      void iotlb.readMemory(IOVA + BigInt(page) * 0x1000n, 1).then(
        () => done.push(page),
        () => done.push(-1),
      )
    while (iotlb.read() !== undefined);
    const update = (page: number, size: bigint) =>
      writer.update(2, 0, { iova: IOVA + BigInt(page) * 0x1000n, size, uaddr: region.address, access: 'ro' }).slice()
    await turn()
    return { simulator, iotlb, done, pages, update }
  }

  test('are answered one by one with work for each that does not depend on the others', async () => {
    const { iotlb, done, pages, update } = await standing()
    const records = pages.map((page) => update(page, 0x1000n))
    expect(arrayWork(() => records.forEach((record) => iotlb.write(record)))).toBeLessThan(50 * MISSES)
    await turn()
    expect([iotlb.waiting, iotlb.counters.updates]).toEqual([0, MISSES])
    expect(done).toEqual(pages)
  })

  test('are answered all at once in the order in which they came, and those of a part of a page wait', async () => {
    const { iotlb, done, pages, update } = await standing()
    iotlb.write(update(0, BigInt(MISSES - 1) * 0x1000n))
    await turn()
    expect(iotlb.waiting).toBe(1)
    // What lies behind the region leads to no memory.
    expect(done).toEqual(pages.filter((page) => page < MISSES - 1).map((page) => (page < 4 ? page : -1)))
    const half = iotlb.readMemory(IOVA + BigInt(MISSES) * 0x1000n + 0x800n, 1)
    iotlb.read()
    iotlb.write(update(MISSES, 0x800n))
    await turn()
    expect(iotlb.waiting).toBe(2)
    iotlb.end()
    await expect(half).rejects.toMatchObject({ code: 'EBADFD' })
    await turn()
    expect(done.length).toBe(MISSES)
  })
})
