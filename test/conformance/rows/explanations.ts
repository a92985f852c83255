// Explanations that are true: what isolation() says is what DMA does, and arguments that mean nothing are refused as what they are.

import { expect } from '@jest/globals'
import fc from 'fast-check'
import { isVdpaError } from '../../../lib/base/errors.js'
import type { IsolationVerdict } from '../../../lib/device/groups.js'
import type { VdpaDevice } from '../../../lib/device/vdpa-device.js'
import { openDevice } from '../../../lib/open.js'
import { customDevice } from '../../../lib/simulator/index.js'
import { netCommands } from '../../../lib/uapi/virtio-net-commands.js'
import { codeOf, laterCodeOf, type Bench } from './bench.js'
import type { Row, RowList } from './row.js'
import { Twins } from './twins.js'

/** A device whose groups are laid out by lot, and the queue that is asked about. */
interface Layout {
  readonly groups: readonly number[]
  readonly descriptorGroups: readonly number[] | undefined
  readonly addressSpaces: number
  readonly groupAsid: boolean
  readonly hasAsid: boolean
  readonly target: number
}

const layout: fc.Arbitrary<Layout> = fc.integer({ min: 1, max: 5 }).chain((queues) => {
  // One more than there are queues: a group that the kernel takes for no queue's index.
  const groups = fc.array(fc.integer({ min: 0, max: queues }), { minLength: queues, maxLength: queues })
  return fc.record({
    groups,
    descriptorGroups: fc.option(groups, { nil: undefined }),
    addressSpaces: fc.integer({ min: 1, max: 3 }),
    groupAsid: fc.boolean(),
    hasAsid: fc.boolean(),
    target: fc.integer({ min: 0, max: queues - 1 }),
  })
})

/** Puts the groups of a queue into space 1, as a verdict says or by hand, where it says that they cannot be alone. */
function move(device: VdpaDevice, queue: number, verdict: IsolationVerdict): void {
  if (verdict.isolated) {
    device.groups.assign(verdict, 1)
    return
  }
  for (const group of [device.groups.of(queue), device.groups.descriptorGroupOf(queue)]) {
    try {
      if (group !== undefined) device.groups.assign(group, 1)
    } catch (failure) {
      // It cannot be moved: its DMA shows that it was not.
      if (!isVdpaError(failure) && !(failure instanceof RangeError)) throw failure
    }
  }
}

/** A device of the layout: the verdict about a queue, and which queues' DMA went to space 1 when its groups were put there. */
async function prove(bench: Bench, { groups, target, ...shape }: Layout): Promise<void> {
  const queues = groups.length
  const model = customDevice({
    deviceId: 42,
    queues,
    groups,
    addressSpaces: shape.addressSpaces,
    capabilities: { groupAsid: shape.groupAsid },
    ...(shape.descriptorGroups !== undefined && { descriptorGroups: shape.descriptorGroups }),
    onKick: (chain) => {
      const byte = new Uint8Array(1)
      chain.read(byte, 0, 1)
      chain.write(byte, 0, 1)
    },
  })
  const device = await openDevice(bench.scene.add(model), {
    backend: bench.backend,
    ...(!shape.hasAsid && { backendFeatures: ['VHOST_BACKEND_F_IOTLB_MSG_V2'] }),
  })
  try {
    await device.negotiate([])
    const verdict = device.groups.isolation(target)
    move(device, target, verdict)
    const twins = new Twins(bench, device, queues)
    await twins.map()
    const all = groups.map((_, index) => index)
    for (const index of all) twins.fill(index, { readable: (space) => Uint8Array.of(10 + space), writable: 16 })
    await device.start()
    await twins.run(all)
    const reaches = all.map((index) => twins.reach(index))
    // What is written was read in the same space: buffers are one way, both directions.
    for (const [index, { rings, buffers }] of reaches.entries()) {
      expect([rings.length, buffers.length]).toEqual([1, 1])
      expect(twins.written(index, buffers[0] ?? -1)).toBe(10 + (buffers[0] ?? -1))
    }
    // The target's DMA all goes to space 1, that of the others not at all.
    const isAlone = reaches.every(({ rings, buffers }, index) =>
      [rings[0], buffers[0]].every((space) => (space === 1) === (index === target)),
    )
    expect([verdict.isolated, verdict]).toEqual([isAlone, verdict])
  } finally {
    await device.close()
  }
}

const BROADCAST = Uint8Array.of(255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 9, 0x88, 0xb5)

const isolationRows: Record<number, Row> = {
  1: {
    title:
      'groups laid out by lot: a queue is said to be alone exactly when its DMA, rings and buffers, goes where no other goes',
    needs: ['ownDevice'],
    run: async (bench) => {
      await fc.assert(
        fc.asyncProperty(layout, (one) => prove(bench, one)),
        { numRuns: 120 },
      )
    },
  },
  2: {
    title:
      "a control queue that is said to be alone is the only one whose DMA reaches its space; one that is not is in the frames'",
    needs: ['control'],
    run: async (bench) => {
      const device = await bench.network()
      await device.negotiate(['VIRTIO_NET_F_CTRL_VQ', 'VIRTIO_NET_F_CTRL_MAC_ADDR', 'VIRTIO_NET_F_MAC'])
      const control = device.controlQueueIndex ?? -1
      const verdict = device.groups.isolation(control)
      if (verdict.isolated) device.groups.assign(verdict, 1)
      const twins = new Twins(bench, device, control + 1)
      await twins.map()
      const mac = netCommands.VIRTIO_NET_CTRL_MAC_ADDR_SET
      const command = Uint8Array.of(mac.class, mac.command, ...mac.encode('02:11:22:33:44:77'))
      // Its acknowledgement is a zero, as the memory is: where it went is seen by the ring, and by the address that the device has then.
      twins.fill(control, { readable: () => command, writable: 1 })
      twins.fill(0, { readable: () => new Uint8Array(0), writable: 1526 })
      const frame = Uint8Array.of(...new Uint8Array(12), ...BROADCAST, ...new Uint8Array(60).fill(7))
      twins.fill(1, { readable: () => frame, writable: 0 })
      await device.start()
      await twins.run([0], 1)
      await twins.run([1, control])
      const space = verdict.isolated ? 1 : 0
      expect([twins.reach(control).rings, twins.reach(1).rings]).toEqual([[space], [0]])
      expect(device.config.net().mac).toBe('02:11:22:33:44:77')
      if (bench.facts.isLoopback) expect(twins.reach(0)).toEqual({ rings: [0], buffers: [0] })
      expect(verdict.isolated).toBe(bench.facts.hasGroups)
    },
  },
}

/** Arguments that are no offset and no length, and what each is refused as. */
const odd: readonly (readonly [value: unknown, code: string])[] = [
  [-1, 'ERR_OUT_OF_RANGE'],
  [0.5, 'ERR_OUT_OF_RANGE'],
  [Number.NaN, 'ERR_OUT_OF_RANGE'],
  [Infinity, 'ERR_OUT_OF_RANGE'],
  [2 ** 53, 'ERR_OUT_OF_RANGE'],
  [2 ** 32, 'ERR_OUT_OF_RANGE'],
  [1n, 'ERR_INVALID_ARG_TYPE'],
  ['1', 'ERR_INVALID_ARG_TYPE'],
  [null, 'ERR_INVALID_ARG_TYPE'],
  [{}, 'ERR_INVALID_ARG_TYPE'],
  [true, 'ERR_INVALID_ARG_TYPE'],
]

const misuse: readonly unknown[] = ['ERR_OUT_OF_RANGE', 'ERR_INVALID_ARG_TYPE']

const argumentRows: Record<number, Row> = {
  3: {
    title:
      'offsets and lengths in the configuration space that are none, or lie beyond it, are refused before the kernel is asked',
    run: async (bench) => {
      const device = await bench.device()
      const { config } = device
      const size = config.size ?? bench.facts.configSize
      for (const [value, code] of odd) {
        expect([value, codeOf(() => config.read(value as number, 1))]).toEqual([value, code])
        expect([value, codeOf(() => config.read(0, value as number))]).toEqual([value, code])
        expect([value, codeOf(() => config.write(value as number, Uint8Array.of(0)))]).toEqual([value, code])
      }
      const beyond = [[size, 1], [0, size + 1], [size - 1, 2], [0, 0]] as const // prettier-ignore
      for (const [offset, length] of beyond) {
        expect([offset, length, codeOf(() => config.read(offset, length))]).toEqual([
          offset,
          length,
          'ERR_OUT_OF_RANGE',
        ])
        const bytes = new Uint8Array(length)
        expect([offset, length, codeOf(() => config.write(offset, bytes))]).toEqual([
          offset,
          length,
          'ERR_OUT_OF_RANGE',
        ])
      }
      for (const bytes of [undefined, null, [1], 'x', 1, new ArrayBuffer(1)] as unknown[])
        expect(codeOf(() => config.write(0, bytes as Uint8Array))).toBe('ERR_INVALID_ARG_TYPE')
      expect([config.read(size - 1, 1).length, config.read().length]).toEqual([1, size])
    },
  },
  4: {
    title: 'features that no word can hold, or that nobody knows, are refused by name, and nothing is negotiated',
    run: async (bench) => {
      const device = await bench.device()
      const wishes: readonly unknown[] = [
        ['VIRTIO_F_NO_SUCH'],
        ['__proto__'],
        ['constructor'],
        [''],
        [64],
        [127],
        [128],
        [-1],
        [1.5],
        [Number.NaN],
        [5n],
        [null],
        [undefined],
        [[]],
        1n << 64n,
        1n << 127n,
        -1n,
        5,
        'VIRTIO_F_VERSION_1',
        null,
        { 0: 32, length: 1 },
      ]
      for (const wish of wishes) {
        const code = await laterCodeOf(() => device.negotiate(wish as never))
        expect([wish, misuse.includes(code)]).toEqual([wish, true])
        // An option that is null is one that is left out.
        if (wish === null) continue
        const optional = await laterCodeOf(() => device.negotiate([], { optional: wish as never }))
        expect([wish, misuse.includes(optional)]).toEqual([wish, true])
      }
      for (const feature of ['VIRTIO_F_NO_SUCH', 'toString', 64, -1, 0.5, Number.NaN, 1n, null, undefined, {}])
        expect([feature, codeOf(() => device.offeredFeatures.has(feature as never))]).toEqual([
          feature,
          'ERR_OUT_OF_RANGE',
        ])
      expect([device.status, device.features]).toEqual([0, undefined])
      expect(await laterCodeOf(() => device.negotiate([63]))).toBe('ERR_VDPA_FEATURES')
      expect(device.status).toBe(0)
      await device.negotiate([])
      expect(device.features?.has(32)).toBe(true)
    },
  },
}

export const explanations: RowList = {
  title: 'explanations that are true',
  prefix: 'F',
  rows: { ...isolationRows, ...argumentRows },
}
