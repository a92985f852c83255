// Sinks whose changes sleep: requests that come meanwhile are carried out together, in the order in which they came, once each. IOMMU_REQUESTS says how many random
// ones there are, IOMMU_SEED from which seed on.

import { describe, expect, test } from '@jest/globals'
import { iommuDevice } from '../../lib/iommu/iommu-device.js'
import type { IommuRequest } from '../../lib/iommu/wire.js'
import { openDevice } from '../../lib/open.js'
import { Simulator } from '../../lib/simulator/index.js'
import {
  iommuRequestTypes as types,
  virtioIommuReqAttach,
  virtioIommuReqDetach,
  virtioIommuReqMap,
  virtioIommuReqProbe,
  virtioIommuReqUnmap,
} from '../../lib/uapi/virtio-iommu.js'
import { dice, ENDPOINTS, MEMORY_PAGES, Oracle, PAGE, randomRequest, RESERVED } from './oracle.js'
import { attach, DEVERR, ListSink, makeIommu, map, OK, unmap } from './support.js'

const requests = Number(process.env['IOMMU_REQUESTS'] ?? 2000)
const seed = Number(process.env['IOMMU_SEED'] ?? 1)
const SLOT = 1024
const ANSWER_AT = 128
const SLOTS = 64
const TAIL_BYTES = 4

const none = (length: number) => new Uint8Array(length)
const head = (type: number) => ({ type, head_reserved: none(3) })

/** The bytes that a driver makes readable. */
function encode(request: IommuRequest): Uint8Array {
  const { kind } = request
  if (kind === 'probe')
    return virtioIommuReqProbe.encode({ ...head(types.VIRTIO_IOMMU_T_PROBE), ...request, reserved: none(64) })
  const domain = request.domain ?? 0
  if (kind === 'attach') {
    const reserved = none(4).fill(request.isMalformed ? 1 : 0)
    return virtioIommuReqAttach.encode({ ...head(types.VIRTIO_IOMMU_T_ATTACH), ...request, reserved })
  }
  if (kind === 'detach') {
    const { endpoint } = request
    return virtioIommuReqDetach.encode({ ...head(types.VIRTIO_IOMMU_T_DETACH), domain, endpoint, reserved: none(8) })
  }
  const range = { virt_start: request.first, virt_end: request.last }
  if (kind === 'unmap')
    return virtioIommuReqUnmap.encode({ ...head(types.VIRTIO_IOMMU_T_UNMAP), domain, ...range, reserved: none(4) })
  const { physical: phys_start, flags } = request
  return virtioIommuReqMap.encode({ ...head(types.VIRTIO_IOMMU_T_MAP), domain, ...range, phys_start, flags })
}

/** An end below address 0 is another one there. */
function asOnTheWire(request: IommuRequest): IommuRequest {
  return 'last' in request ? { ...request, last: BigInt.asUintN(64, request.last) } : request
}

/** A device that carries requests out asynchronously, and a driver that makes many available before it kicks. */
async function scene(sinks: readonly ListSink[], format: 'split' | 'packed') {
  const simulator = new Simulator({ scheduler: 'manual' })
  const endpoints = sinks.map((sink, index) => ({
    id: ENDPOINTS[index] ?? 0,
    sink,
    ...(index === 3 && { reserved: [RESERVED] }),
  }))
  const made = makeIommu(endpoints, { domainRange: { first: 0, last: 5 } }, MEMORY_PAGES * 4096)
  const model = iommuDevice(made.iommu)
  const device = await openDevice(simulator.add(model), { backend: simulator })
  const names = ['MAP_UNMAP', 'PROBE', 'MMIO', 'BYPASS_CONFIG'].map((name) => `VIRTIO_IOMMU_F_${name}`)
  await device.negotiate([...names, ...(format === 'packed' ? ['VIRTIO_F_RING_PACKED'] : [])] as never)
  const addressSpace = device.addressSpace(0)
  const queue = await device.createQueue(0, { addressSpace, size: 128, bufferBytes: SLOTS * SLOT })
  await device.start()
  const { ring, buffers, buffersIova } = queue
  const room = (request: IommuRequest) => TAIL_BYTES + (request.kind === 'probe' ? 512 : 0)
  const put = (slot: number, request: IommuRequest) => {
    const bytes = encode(request)
    buffers.bytes(slot * SLOT, SLOT).fill(0xee)
    buffers.bytes(slot * SLOT, bytes.length).set(bytes)
    ring.begin()
    ring.pushAddress(buffersIova + BigInt(slot * SLOT), bytes.length, false)
    ring.pushAddress(buffersIova + BigInt(slot * SLOT + ANSWER_AT), room(request), true)
    ring.commit(slot)
  }
  /** The statuses of requests, which are made available at once; `meanwhile` is called in each turn of waiting. */
  const ask = async (burst: readonly IommuRequest[], meanwhile?: (turn: number) => Promise<void>) => {
    burst.forEach((request, slot) => put(slot, request))
    queue.publish()
    const statuses: number[] = []
    const deadline = Date.now() + 180_000
    for (let turn = 0; statuses.length < burst.length; turn++) {
      if (Date.now() > deadline) throw new Error(`${statuses.length} of ${burst.length} requests were answered`)
      await meanwhile?.(turn)
      simulator.drain()
      await new Promise((resolve) => setImmediate(resolve))
      for (let slot = ring.take(); slot >= 0; slot = ring.take()) {
        // Each comes back once, in the order in which it was made available, with all that it is to have.
        expect(slot).toBe(statuses.length)
        const length = room(burst[slot] as IommuRequest)
        expect(ring.usedLength).toBe(length)
        statuses.push(buffers.u8(slot * SLOT + ANSWER_AT + length - TAIL_BYTES))
      }
    }
    return statuses
  }
  const end = async () => {
    await device.close()
    made.region.close()
  }
  return { ...made, ask, device, model, end }
}

const page = (number: number) => ({ first: BigInt(number) * PAGE, last: BigInt(number + 1) * PAGE - 1n })
const mapPage = (number: number, domain = 1) => ({ ...map, ...page(number), domain })
const join = (endpoint: number, domain = 1) => ({ ...attach, endpoint, domain })

function sleeping(turns = 3): ListSink {
  const sink = new ListSink()
  sink.turnsAsleep = () => turns
  return sink
}

describe.each(['split', 'packed'] as const)('requests made available together (%s)', (format) => {
  test('are a few batches of a sink that sleeps, in order', async () => {
    const sink = sleeping()
    const { ask, model, end } = await scene([sink], format)
    const burst = [join(1), ...Array.from({ length: 40 }, (_, number) => mapPage(number)), { ...unmap, ...page(7) }]
    expect(await ask(burst)).toEqual(burst.map(() => OK))
    expect(sink.held.length).toBe(39)
    // An endpoint that joins a domain without mappings asks nothing of its sink.
    expect(sink.batches).toBe(1)
    expect(model.counters.requests).toBe(burst.length)
    await end()
  })

  test('have what does not change mappings between them, in its place', async () => {
    const sinks = [sleeping(), sleeping()]
    const { ask, end } = await scene(sinks, format)
    const probe = { kind: 'probe', endpoint: 9 } as const
    const burst = [
      join(1),
      mapPage(1),
      mapPage(2),
      join(2),
      mapPage(3),
      probe,
      { kind: 'detach', domain: 1, endpoint: 1 } as const,
    ]
    expect(await ask(burst)).toEqual([OK, OK, OK, OK, OK, 6, OK])
    expect(sinks.map(({ held }) => held.length)).toEqual([0, 3])
    // Two mappings together, one in both; all gone from the first, and two replayed in the second.
    expect(sinks.map(({ batches }) => batches)).toEqual([3, 2])
    await end()
  })

  test('are carried out once when the device is suspended meanwhile, and answered after', async () => {
    const sink = sleeping(40)
    const { ask, device, iommu, end } = await scene([sink], format)
    expect(await ask([join(1)])).toEqual([OK])
    let isSuspended = false
    const burst = Array.from({ length: 10 }, (_, number) => mapPage(number))
    const statuses = await ask(burst, async (turn) => {
      if (turn === 5) {
        expect(iommu.isBusy).toBe(true)
        await device.suspend()
        isSuspended = true
      }
      if (isSuspended && !iommu.isBusy) {
        isSuspended = false
        await device.resume()
      }
    })
    expect(statuses).toEqual(burst.map(() => OK))
    expect([sink.held.length, sink.batches]).toEqual([10, 1])
    await end()
  })

  test('are carried out once when their queue ends meanwhile and goes on where it stood, as when a guest is stopped', async () => {
    const sink = sleeping(40)
    const { ask, model, iommu, end } = await scene([sink], format)
    expect(await ask([join(1)])).toEqual([OK])
    let isStopped = false
    const burst = Array.from({ length: 10 }, (_, number) => mapPage(number))
    const statuses = await ask(burst, (turn) => {
      if (iommu.isBusy && turn > 0 && !isStopped) {
        isStopped = true
        model.setQueueReady(0, false)
        const base = model.queueState(0) ?? 0
        model.setQueueState(0, base)
        model.setQueueReady(0, true)
        model.kick(0)
      }
      return Promise.resolve()
    })
    expect(isStopped).toBe(true)
    expect(statuses).toEqual(burst.map(() => OK))
    expect(sink.held).toHaveLength(10)
    await end()
  })

  test('are forgotten when the device is reset meanwhile, and so is what they did', async () => {
    const sink = sleeping(10)
    const { ask, device, iommu, end } = await scene([sink], format)
    await ask([join(1)])
    const burst = [mapPage(1), mapPage(2)]
    const asked = ask(burst, async (turn) => {
      if (turn !== 5) return
      expect(iommu.isBusy).toBe(true)
      await device.reset()
      throw new Error('reset')
    })
    await expect(asked).rejects.toThrow('reset')
    await iommu.refresh()
    expect([sink.held.length, iommu.size, iommu.domainOf(1)]).toEqual([0, 0, undefined])
    await end()
  })
})

test.each(['split', 'packed'] as const)(
  `${requests} requests in bursts from seed ${seed} on end as a plain list of mappings says, with sinks that sleep and refuse (%s)`,
  async (format) => {
    const roll = dice(seed)
    const sinks = ENDPOINTS.map((id) => new ListSink(`endpoint ${id}`))
    for (const sink of sinks) sink.turnsAsleep = () => [0, 0, 1, 3][roll(4)] ?? 0
    const { ask, device, iommu, failures, end } = await scene(sinks, format)
    // One page can never be mapped for the second endpoint.
    const [, second] = sinks
    if (second !== undefined) second.poison = page(5)
    const oracle = new Oracle()
    let refused = 0
    for (let count = 0; count < requests;) {
      const burst = Array.from({ length: 1 + roll(30) }, () => asOnTheWire(randomRequest(roll)))
      const refusing = roll(10) === 0 ? sinks[roll(4)] : undefined
      if (refusing !== undefined) refusing.refuseAfter = roll(3)
      const suspendAt = roll(6) === 0 ? roll(8) : -1
      let isSuspended = false
      const before = failures.length
      const statuses = await ask(burst, async (turn) => {
        if (isSuspended && roll(3) === 0) {
          isSuspended = false
          await device.resume()
        } else if (turn === suspendAt) {
          isSuspended = true
          await device.suspend()
        }
      })
      if (isSuspended) await device.resume()
      if (refusing !== undefined) refusing.refuseAfter = undefined
      const refusedNow = statuses.filter((status) => status === DEVERR).length
      // Each that a sink refused was reported, and is as if it had not come.
      expect(failures.length - before).toBeGreaterThanOrEqual(refusedNow)
      refused += refusedNow
      const expected = burst.map((request, at) => (statuses[at] === DEVERR ? DEVERR : oracle.answer(request)))
      expect({ count, burst, statuses }).toEqual({ count, burst, statuses: expected })
      await iommu.refresh()
      const lines = sinks.map((sink) => sink.lines)
      expect({ count, burst, lines }).toEqual({ count, burst, lines: ENDPOINTS.map((id) => oracle.lines(id)) })
      count += burst.length
    }
    expect(refused).toBeGreaterThan(requests / 2000)
    await end()
  },
  1_200_000,
)
