// Changes that stop anywhere, with a way back that stops anywhere too: our account has at least what the kernel has, and no memory of it can be freed.

import { expect, test } from '@jest/globals'
import fc from 'fast-check'
import type { Backend, Handle, WriteEachOptions, WriteEachOutcome } from '../../lib/backend/backend.js'
import { systemError } from '../../lib/base/errors.js'
import { GuestMemory } from '../../lib/memory/guest-memory.js'
import { openDevice } from '../../lib/open.js'
import { networkDevice, Simulator } from '../../lib/simulator/index.js'

const path = '/dev/vhost-vdpa-0'
const page = 4096

/** What goes wrong in one writeEach: the record that is refused, and whether its number is told; or what the listener of progress does. */
type Mishap = { readonly at: number; readonly isTold: boolean } | 'none' | 'throw'

/** A simulator whose long writes meet one mishap after the other. */
function troubled(simulator: Simulator, mishaps: Mishap[]): Backend {
  const refusal = () => systemError('EFAULT', 14, 'bad address', { syscall: 'write', path })
  const send = (handle: Handle, records: Uint8Array, stride: number): WriteEachOutcome => {
    const mishap = mishaps.shift() ?? 'none'
    if (typeof mishap === 'string') return handle.writeEach(records, stride)
    const taken = Math.min(mishap.at, records.byteLength / stride - 1)
    const outcome = handle.writeEach(records.subarray(0, taken * stride), stride)
    if ('failure' in outcome) return outcome
    return { completed: mishap.isTold ? taken : undefined, failure: refusal() }
  }
  const open = (handle: Handle): Handle =>
    new Proxy(handle, {
      get(target, key) {
        if (key === 'writeEach') return (records: Uint8Array, stride: number) => send(target, records, stride)
        if (key === 'writeEachAsync')
          return async (records: Uint8Array, stride: number, options: WriteEachOptions = {}) => {
            await Promise.resolve()
            if (mishaps[0] !== 'throw' || options.onProgress === undefined) return send(target, records, stride)
            mishaps.shift()
            const outcome = target.writeEach(records, stride)
            try {
              options.onProgress(outcome.completed ?? 0)
              return outcome
            } catch (failure) {
              return { ...outcome, failure }
            }
          }
        const value: unknown = Reflect.get(target, key, target)
        return typeof value === 'function' ? (value.bind(target) as unknown) : value
      },
    })
  return new Proxy<Backend>(simulator, {
    get(target, key) {
      if (key === 'open') return () => open(target.open(path))
      if (key === 'openAsync') return async () => open(await target.openAsync(path))
      const value: unknown = Reflect.get(target, key, target)
      return typeof value === 'function' ? (value.bind(target) as unknown) : value
    },
  })
}

const mishap = fc.oneof(
  fc.record({ at: fc.nat(12), isTold: fc.boolean() }),
  fc.constantFrom<Mishap>('none', 'none', 'throw'),
)
const verb = fc.constantFrom('map', 'unmap', 'unmapAll', 'follow', 'reset')
const step = fc.record({
  verb,
  slots: fc.uniqueArray(fc.nat(7), { minLength: 1, maxLength: 6 }),
  pages: fc.integer({ min: 1, max: 3 }),
  mishaps: fc.array(mishap, { maxLength: 4 }),
})

type Step = typeof step extends fc.Arbitrary<infer T> ? T : never
const unknown: Mishap = { at: 0, isTold: false }
/** Nobody knows what became of a change, nor whether its batch is open: what is unmapped next is refused before it is asked, and stays. */
const behindOpenBatch: Step[] = [
  { verb: 'follow', slots: [0], pages: 2, mishaps: [] },
  { verb: 'follow', slots: [0], pages: 1, mishaps: [unknown, unknown, unknown] },
  { verb: 'unmapAll', slots: [0], pages: 1, mishaps: [unknown] },
]

test.each(['strict', 'linux-6.12'] as const)(
  'after any failure at any step, we have what the kernel has, and hold it (%s)',
  async (profile) => {
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 1, maxLength: 8 }), async (steps) => {
        const simulator = new Simulator({ profile })
        simulator.add(networkDevice({ path }))
        const mishaps: Mishap[] = []
        const backendFeatures = [
          'VHOST_BACKEND_F_IOTLB_MSG_V2',
          'VHOST_BACKEND_F_IOTLB_BATCH',
          'VHOST_BACKEND_F_IOTLB_ASID',
        ] as const
        const device = await openDevice(path, { backend: troubled(simulator, mishaps), backendFeatures })
        const space = device.addressSpace(0)
        // A region for each place, so that what is held can be told for each.
        const regions = Array.from({ length: 8 }, () => simulator.allocate(3 * page))
        const region = (slot: number) => regions[slot] as (typeof regions)[number]
        const iova = (slot: number) => BigInt((1 + 4 * slot) * page)
        const guest = new GuestMemory()
        let follower: { settled(): Promise<void> } | undefined
        const check = () => {
          const node = simulator.dump(path)
          const kernel = node.addressSpaces.flatMap(({ mappings }) => mappings.map(({ range }) => range))
          const own = space.mappings.map(
            (one) => `[0x${one.iova.toString(16)}, 0x${(one.iova + one.size - 1n).toString(16)}]`,
          )
          expect(own).toEqual(expect.arrayContaining(kernel))
          for (const range of kernel)
            expect(() =>
              region(Number((BigInt(range.slice(1, range.indexOf(','))) / 4096n - 1n) / 4n)).close(),
            ).toThrow('ERR_VDPA_MEMORY_HELD')
        }
        for (const { verb: name, slots, pages, mishaps: planned } of steps) {
          mishaps.splice(0, Infinity, ...planned)
          const mine = new Error('mine')
          const onProgress = () => {
            throw mine
          }
          const requests = slots.map((slot) => ({ iova: iova(slot), region: region(slot), size: pages * page }))
          const act = async () => {
            if (name === 'map') await space.map(requests, planned.includes('throw') ? { onProgress } : {})
            if (name === 'unmap') await space.unmap(space.mappings.slice(0, slots.length))
            if (name === 'unmapAll') await space.unmapAll()
            if (name === 'reset') await device.reset()
            if (name === 'follow') {
              for (const { address } of guest.pieces()) guest.remove(address)
              for (const request of requests)
                guest.add({ address: request.iova, region: request.region, size: request.size })
              follower ??= await space.follow(guest, { onError: () => undefined })
              await follower.settled()
            }
          }
          await act().catch(() => undefined)
          check()
        }
        mishaps.length = 0
        await space.unmapAll().catch(() => undefined)
        check()
        await device.close()
        for (const one of regions) one.close()
      }),
      { numRuns: 250, examples: [[behindOpenBatch]] },
    )
  },
)
