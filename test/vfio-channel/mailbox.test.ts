// A channel in a memfd: a disk by the draft of 2019, whose rings lie in the same file, and ends that write what they like.

import { afterEach, beforeEach, expect, test } from '@jest/globals'
import fc from 'fast-check'
import type { Backend } from '../../lib/backend/backend.js'
import { tryLoadAddon } from '../../lib/kernel/addon.js'
import { KernelBackend } from '../../lib/kernel/kernel-backend.js'
import type { MemoryRegion } from '../../lib/memory/memory-region.js'
import { RingMemory } from '../../lib/memory/ring-memory.js'
import { connectVfioMailbox, serveVfioMailbox } from '../../lib/serve.js'
import { blockDevice, Simulator } from '../../lib/simulator/index.js'
import { DraftClient } from '../../lib/vfio-channel/draft-client.js'
import { DraftServer } from '../../lib/vfio-channel/draft-server.js'
import { openFarEnd } from '../../lib/vfio-channel/far-end.js'
import { MAILBOX_BYTES, MailboxRegion, MailboxServer } from '../../lib/vfio-channel/mailbox.js'
import { createDriverRing } from '../../lib/virtqueue/create.js'
import { areaSizes } from '../../lib/virtqueue/layout.js'

const NODE = '/dev/vhost-vdpa-0'
const BASE = 0x4000_0000n
const RING = MAILBOX_BYTES
const DATA = RING + 0x4000
const SIZE = 0x1_0000

const { addon } = tryLoadAddon()

/** Both ends' own view of one file: two mappings of a memfd, or a simulator's of one. */
function bothEnds(): readonly [near: MemoryRegion, far: MemoryRegion] {
  if (addon === undefined) {
    const simulator = new Simulator()
    const fd = simulator.memoryFile(SIZE)
    const [near] = [simulator.adopt(fd, { length: SIZE })]
    return [near, near]
  }
  const backend: Backend = new KernelBackend(addon)
  const near = backend.allocate(SIZE)
  return [near, backend.adopt(Number(near.fd), { length: SIZE })]
}

let far: Simulator
let ends: readonly [near: MemoryRegion, far: MemoryRegion]
let draft: DraftServer
let server: MailboxServer

beforeEach(() => {
  far = new Simulator()
  far.add(blockDevice({ path: NODE, capacity: 64, content: new Uint8Array(512).fill(3) }))
  ends = bothEnds()
  draft = new DraftServer(openFarEnd(far, NODE), { draft: '2019' })
  server = new MailboxServer(ends[1], draft)
})

afterEach(() => {
  draft.close()
  for (const end of new Set(ends)) end.close()
  expect(far.descriptors).toEqual([])
})

const region = (ring = () => void server.serve()) => new MailboxRegion(ends[0], { ring, timeout: 50 })

test('a disk whose rings lie in the file of the channel', () => {
  const [memory] = ends
  const client = new DraftClient(region(), '2019')
  client.setFeatures(client.features())
  client.mapDma(BASE, { region: memory, fileOffset: 0n })
  const sizes = areaSizes('split', 8)
  const at = (offset: number) => BASE + BigInt(offset)
  client.setVringNum(0, 8)
  client.setVringAddr(0, { descriptor: at(RING), driver: at(RING + 0x1000), device: at(RING + 0x2000) })
  client.start()
  const area = (offset: number, length: number) => new RingMemory(memory.buffer, offset, length)
  const areas = {
    descriptor: area(RING, sizes.descriptor),
    driver: area(RING + 0x1000, sizes.driver),
    device: area(RING + 0x2000, sizes.device),
  }
  const ring = createDriverRing({ format: 'split', size: 8, areas })
  new DataView(memory.buffer).setUint8(DATA + 2048, 0xff)
  ring.begin()
  ring.pushAddress(at(DATA), 16, false)
  ring.pushAddress(at(DATA + 1024), 512, true)
  ring.pushAddress(at(DATA + 2048), 1, true)
  ring.commit(7)
  ring.publish()
  client.kick(0)
  far.drain()
  expect(ring.take()).toBe(7)
  expect([memory.view(DATA + 1024, 1)[0], memory.view(DATA + 2048, 1)[0]]).toEqual([3, 0])
  client.stop()
  expect(client.vringBase(0)).toBe(1)
  client.unmapDma(BASE)
  expect(() => client.setVringNum(9, 8)).toThrow('EINVAL')
})

test('what cannot be passed is refused, and so is who does not answer', () => {
  const client = region()
  const other = far.allocate(4096)
  expect(() => client.mapDma(0n, { region: other, fileOffset: 0n })).toThrow('ERR_VDPA_NOT_SUPPORTED')
  using eventfd = far.eventfd()
  expect(() => client.setInterrupt(0, eventfd)).toThrow('ERR_VDPA_NOT_SUPPORTED')
  expect(eventfd.isClosed).toBe(true)
  const alone = region(() => undefined)
  expect(() => alone.pread(new Uint8Array(8), 0n)).toThrow('ERR_VDPA_TIMEOUT')
  expect(() => alone.pread(new Uint8Array(8), 0n)).toThrow('ENODEV')
  alone.close()
  expect(() => alone.pread(new Uint8Array(8), 0n)).toThrow('ERR_VDPA_CLOSED')
  expect(server.serve()).toBe(true)
  expect(server.serve()).toBe(false)
  other.close()
})

test('whatever lies in the mailbox is answered, or is refused by name', () => {
  const [memory] = ends
  const words = fc.array(fc.integer(), { minLength: 3, maxLength: 3 })
  const call = fc.record({
    kind: fc.nat(9),
    words,
    value: fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }),
    low: fc.boolean(),
  })
  fc.assert(
    fc.property(
      call,
      fc.uint8Array({ maxLength: 64 }),
      ({ kind, words: [, size = 0, length = 0], value, low }, payload) => {
        const view = new DataView(memory.buffer)
        view.setInt32(4, kind, true)
        view.setInt32(8, low ? size & 0x3f : size, true)
        view.setInt32(12, low ? length & 0x3f : length, true)
        view.setBigUint64(16, low ? 0n : value, true)
        memory.view(64, payload.length).set(payload)
        view.setInt32(0, 1, true)
        expect(server.serve()).toBe(true)
        expect(view.getInt32(0, true)).toBe(2)
      },
    ),
    { numRuns: 2000 },
  )
  // Answers as a hostile server gives them.
  fc.assert(
    fc.property(words, fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }), ([kind = 0, size = 0, length = 0], value) => {
      const client = region(() => {
        const view = new DataView(memory.buffer)
        ;[kind, size, length].forEach((word, at) => view.setInt32(4 + 4 * at, word, true))
        view.setBigUint64(16, value, true)
        view.setInt32(0, 2, true)
      })
      try {
        client.pread(new Uint8Array(8), 0n)
      } catch (failure) {
        expect(failure).toMatchObject({ name: 'VdpaError' })
      }
    }),
    { numRuns: 2000 },
  )
})

test('the doors to it refuse what cannot be', () => {
  const [memory] = ends
  const small = far.allocate(MAILBOX_BYTES)
  const model = () => blockDevice({ capacity: 1 })
  expect(() => serveVfioMailbox(model(), { memory: small, protocol: '2019' })).toThrow('options.memory.length must be')
  expect(() => serveVfioMailbox(model(), { memory, protocol: 'today' as never })).toThrow('options.protocol')
  expect(() => connectVfioMailbox(memory, '2019', { ring: undefined as never })).toThrow('options.ring must be')
  using served = serveVfioMailbox(model(), { memory: ends[1], protocol: '2018' })
  using client = connectVfioMailbox(memory, '2018', { ring: () => void served.serve() })
  expect(client.features()).toBeGreaterThan(0n)
  const thrower = connectVfioMailbox(memory, '2018', {
    ring: () => {
      throw new Error('the program')
    },
  })
  expect(() => thrower.features()).toThrow('the program')
  served.close()
  expect(served.serve()).toBe(false)
  small.close()
})
