// Plain data and options that are none, given to what lies below the drivers: each is refused in the one grammar, and nothing was done.

import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { netCommands } from '../../lib/uapi/virtio-net-commands.js'
import type { VdpaDevice } from '../../lib/device/vdpa-device.js'
import type { MemoryRegion } from '../../lib/memory/memory-region.js'
import { RingMemory } from '../../lib/memory/ring-memory.js'
import { openDevice } from '../../lib/open.js'
import { networkDevice, Simulator } from '../../lib/simulator/index.js'
import { createDriverRing } from '../../lib/virtqueue/create.js'
import { initialState } from '../../lib/virtqueue/layout.js'

interface Things {
  readonly simulator: Simulator
  readonly device: VdpaDevice
  readonly region: MemoryRegion
}
type Row = readonly [name: string, call: (things: Things) => unknown]

const mapping = ({ region }: Things) => ({ iova: 0x1000n, region })
const segment = { iovaHigh: 0, iovaLow: 0, length: 5, deviceWrites: false }
const chain = { token: 0, isIndirect: false, segments: [segment] }

/** A saved ring in which something is none. */
const rings: readonly (readonly [string, object])[] = [
  ['a chain', { chains: [null], used: [] }],
  ['a segment', { chains: [{ ...chain, segments: [undefined] }], used: [] }],
  ['a used chain', { chains: [], used: [null] }],
  ['a list', { chains: 'all', used: [] }],
]

function ringOf(format: 'split' | 'packed', more: object) {
  const part = () => new RingMemory(new ArrayBuffer(PAGE))
  return createDriverRing({ format, size: 8, areas: { descriptor: part(), driver: part(), device: part() }, ...more })
}

const PAGE = 4096
const rows: readonly Row[] = [
  ['onProgress', (t) => t.device.addressSpace(0).map(mapping(t), { onProgress: null as never })],
  ['the onProgress of unmapAll()', (t) => t.device.addressSpace(0).unmapAll({ onProgress: 5 as never })],
  ...[Object.create(null), [Symbol('rw')], 5, null].map((access): Row => {
    return ['access', (t) => t.device.addressSpace(0).map({ ...mapping(t), access: access as never })]
  }),
  ...[...rings, ['what cannot be copied', { chains: [() => 0], used: [] }] as const].map(([what, ring]): Row => {
    const saved = { format: 'split', size: 8, ...ring }
    return [
      `${what} of a saved queue`,
      (t) => {
        const restore = { ring: saved as never, memory: t.region, iova: 0x2000n, bufferBytes: 0, indirectTableSize: 0 }
        return t.device.createQueue(0, { addressSpace: t.device.addressSpace(0), restore })
      },
    ]
  }),
  ...(['split', 'packed'] as const).flatMap((format) => [
    ...rings.map(([what, ring]): Row => {
      return [`${what} of a saved ${format} ring`, () => ringOf(format, { snapshot: { format, size: 8, ...ring } })]
    }),
    [`a snapshot of a ${format} ring`, () => ringOf(format, { snapshot: null })] as const,
    [`the state of a ${format} ring`, () => ringOf(format, { state: null })] as const,
    [`the tables of a ${format} ring`, () => ringOf(format, { features: { indirect: true }, indirect: null })] as const,
  ]),
  ['the options of allocate()', (t) => t.simulator.allocate(PAGE, null as never)],
  ['the options of a region that is to be closed', (t) => t.region.close(null as never)],
]

describe('what is none is refused:', () => {
  let things: Things

  beforeAll(async () => {
    const simulator = new Simulator()
    simulator.add(networkDevice({ path: '/dev/vhost-vdpa-0' }))
    const device = await openDevice('/dev/vhost-vdpa-0', { backend: simulator })
    await device.negotiate([])
    things = { simulator, device, region: simulator.allocate(4 * PAGE) }
  })

  afterAll(async () => {
    await things.device.close()
    things.region.close()
  })

  test.each(rows)('%s', async (_, call) => {
    const failure: unknown = await new Promise<unknown>((resolve) => resolve(call(things))).then(
      () => undefined,
      (thrown: unknown) => thrown,
    )
    expect(failure).toMatchObject({
      code: expect.stringMatching(/^ERR_(OUT_OF_RANGE|INVALID_ARG_TYPE)$/),
      message: expect.stringMatching(/ must be .* \(got /s),
    })
    expect([things.device.addressSpace(0).size, things.region.holders, things.region.isClosed]).toEqual([0, [], false])
  })
})

test('what is only odd is taken: a state of a ring, kinds of statistics as a number', () => {
  expect(ringOf('packed', { state: initialState('packed') }).inFlight).toBe(0)
  const { answer } = netCommands.VIRTIO_NET_CTRL_STATS_GET
  expect(answer?.bytes([{ queue: 0, types: 1 as never }])).toBe(answer?.bytes([{ queue: 0, types: 1n }]))
})
