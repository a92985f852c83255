// A disk driven by the messages of the drafts, and what the server of the time did otherwise.

import { afterEach, beforeEach, describe, expect, test } from '@jest/globals'
import type { Eventfd } from '../../lib/backend/backend.js'
import type { MemoryRegion } from '../../lib/memory/memory-region.js'
import { RingMemory } from '../../lib/memory/ring-memory.js'
import { blockDevice, Simulator, type BlockDevice } from '../../lib/simulator/index.js'
import { vhostVringState } from '../../lib/uapi/vhost-types.js'
import { draftNumber, encodeMessage, type Draft } from '../../lib/vfio-channel/codec.js'
import { DraftClient } from '../../lib/vfio-channel/draft-client.js'
import { DraftServer } from '../../lib/vfio-channel/draft-server.js'
import { openFarEnd } from '../../lib/vfio-channel/far-end.js'
import { quirks, type Quirk } from '../../lib/vfio-channel/quirks.js'
import { doorbellOffset } from '../../lib/vfio-channel/region.js'
import { createDriverRing } from '../../lib/virtqueue/create.js'
import { areaSizes } from '../../lib/virtqueue/layout.js'
import type { DriverRing } from '../../lib/virtqueue/virtqueue.js'

/** The guest's addresses differ from the client's and from the far end's, so that nothing passes that mixes them up. */
const GUEST = 0x4000_0000n
const USER = 0x7f00_0000_0000n
const DATA = 0x8000
const VERSION_1 = 1n << 32n
const NODE = '/dev/vhost-vdpa-0'

let near: Simulator
let far: Simulator
let disk: BlockDevice
const open: { close(): void }[] = []

beforeEach(() => {
  near = new Simulator()
  far = new Simulator()
  disk = blockDevice({ path: NODE, capacity: 64 })
  far.add(disk)
})

afterEach(() => {
  for (const thing of open.splice(0).reverse()) thing.close()
  expect(near.descriptors).toEqual([])
  expect(far.descriptors).toEqual([])
})

function serve(draft: Draft, imitates: readonly Quirk[] = []): { server: DraftServer; client: DraftClient } {
  const server = new DraftServer(openFarEnd(far, NODE), { draft, imitates })
  const client = new DraftClient(server, draft)
  open.push(client)
  return { server, client }
}

interface Driven {
  readonly client: DraftClient
  readonly server: DraftServer
  readonly memory: MemoryRegion
  readonly ring: DriverRing
  readonly call: Eventfd
}

/** A client whose disk has one queue, as QEMU's set it up. */
function drive(draft: Draft, imitates: readonly Quirk[] = []): Driven {
  const { server, client } = serve(draft, imitates)
  const memory = near.allocate(0x1_0000)
  open.push({ close: () => memory.close({ unmap: true }) })
  client.setOwner()
  client.setFeatures(client.features() & VERSION_1)
  client.mapDma(draft === '2018' ? USER : GUEST, { region: memory, fileOffset: 0n })
  open.push({ close: () => client.close() })
  if (draft === '2018') client.setMemTable([{ guestAddress: GUEST, size: BigInt(memory.length), userAddress: USER }])
  const sizes = areaSizes('split', 8)
  const addresses = { descriptor: GUEST, driver: GUEST + 0x1000n, device: GUEST + 0x2000n }
  client.setVringNum(0, 8)
  client.setVringAddr(0, addresses)
  client.setVringBase(0, 0)
  const call = near.eventfd()
  open.push(call)
  client.setInterrupt(0, near.eventfd(call.fd))
  const area = (at: number, length: number) => new RingMemory(memory.buffer, at, length)
  const ring = createDriverRing({
    format: 'split',
    size: 8,
    areas: {
      descriptor: area(0, sizes.descriptor),
      driver: area(0x1000, sizes.driver),
      device: area(0x2000, sizes.device),
    },
  })
  return { client, server, memory, ring, call }
}

/** Sends a read or a write of a sector; its status, or -1 when there is no answer. */
function request({ client, memory, ring }: Driven, type: number, sector: number): number {
  const view = new DataView(memory.buffer)
  view.setUint32(DATA, type, true)
  view.setBigUint64(DATA + 8, BigInt(sector), true)
  view.setUint8(DATA + 2048, 0xff)
  ring.begin()
  ring.pushAddress(GUEST + BigInt(DATA), 16, false)
  ring.pushAddress(GUEST + BigInt(DATA + 1024), 512, type === 0)
  ring.pushAddress(GUEST + BigInt(DATA + 2048), 1, true)
  ring.commit(7)
  ring.publish()
  client.kick(0)
  far.drain()
  near.drain()
  return ring.take() === 7 ? view.getUint8(DATA + 2048) : -1
}

describe.each(['2018', '2019'] as const)('a disk by the draft of %s', (draft) => {
  test('is set up, written, read, stopped and started again', () => {
    const driven = drive(draft)
    const { client, memory, call } = driven
    client.start()
    memory.view(DATA + 1024, 512).fill(9)
    expect(request(driven, 1, 5)).toBe(0)
    memory.view(DATA + 1024, 512).fill(0)
    expect(request(driven, 0, 5)).toBe(0)
    expect(memory.view(DATA + 1024, 512).every((byte) => byte === 9)).toBe(true)
    expect(call.take()).toBe(2)
    client.stop()
    expect(client.vringBase(0)).toBe(2)
    expect(request(driven, 0, 5)).toBe(-1)
    client.start()
    client.kick(0)
    far.drain()
    expect(driven.ring.take()).toBe(7)
    expect(client.vringBase(0)).toBe(3)
  })

  test('is as new for the next client', () => {
    const first = drive(draft)
    first.client.start()
    expect(request(first, 0, 1)).toBe(0)
    first.client.close()
    expect(far.dump(NODE)).toMatchObject({ isOpen: false })
    const { client } = serve(draft)
    expect(client.vringBase(0)).toBe(0)
  })

  test.each(['ioctl', 'write'] as const)(
    'whose start or stop meets a refusal at any %s starts all the same afterwards',
    (call) => {
      let nth = 1
      for (let hits = 1; hits > 0; nth++) {
        const driven = drive(draft)
        hits = 0
        far.faults.fail({ request: call, with: 'EINVAL', nth })
        for (const act of [() => driven.client.start(), () => driven.client.stop()]) {
          try {
            act()
          } catch (failure) {
            hits++
            expect(failure).toMatchObject({ code: 'EINVAL' })
          }
        }
        far.faults.clear()
        driven.client.stop()
        expect(far.dump(NODE).addressSpaces.flatMap(({ mappings }) => mappings)).toEqual([])
        driven.client.start()
        expect(request(driven, 0, 1)).toBe(0)
        for (const thing of open.splice(0).reverse()) thing.close()
      }
      expect(nth).toBeGreaterThan(call === 'write' ? 2 : 15)
    },
  )

  test('interrupts nobody when the interrupt was taken away', () => {
    const driven = drive(draft)
    driven.client.start()
    driven.client.setInterrupt(0, undefined)
    expect(request(driven, 0, 1)).toBe(0)
    expect(driven.call.take()).toBe(0)
  })

  test.each([
    ['features that are not offered', (client: DraftClient) => client.setFeatures(1n << 63n), 'are not offered'],
    ['a queue that is not there', (client: DraftClient) => client.setVringNum(1, 8), 'queue 1 is not there'],
    ['the place of a queue that is not there', (client: DraftClient) => client.vringBase(0xffff_ffff), 'is not there'],
    ['an interrupt of none', (client: DraftClient) => client.setInterrupt(9, near.eventfd()), 'queue 9 is not there'],
    ['memory twice', (client: DraftClient) => client.unmapDma(0x1000n), 'no memory begins at 0x1000'],
  ])('refuses %s', (_name, act, text) => {
    const { client } = serve(draft)
    expect(() => act(client)).toThrow(text)
  })

  test('is not set up while it runs', () => {
    const { client } = drive(draft)
    client.start()
    for (const act of [() => client.setFeatures(0n), () => client.setVringNum(0, 4), () => client.setVringBase(0, 1)])
      expect(act).toThrow('EBUSY: pwrite on the channel: the device runs')
  })

  test('has its memory changed while it runs', () => {
    const driven = drive(draft)
    const { client } = driven
    client.start()
    const more = near.allocate(4096)
    open.push({ close: () => more.close() })
    client.mapDma(0x1_0000_0000n, { region: more, fileOffset: 0n })
    if (draft === '2018') {
      const entry = { guestAddress: GUEST, size: BigInt(driven.memory.length), userAddress: USER }
      client.setMemTable([entry, { guestAddress: 0x1_0000_0000n, size: 4096n, userAddress: 0x1_0000_0000n }])
      expect(() => client.setMemTable([{ ...entry, userAddress: 0n }])).toThrow('EFAULT')
    }
    const [space] = far.dump(NODE).addressSpaces
    expect(space?.mappings).toHaveLength(2)
    expect(request(driven, 0, 3)).toBe(0)
    if (draft === '2019') client.unmapDma(0x1_0000_0000n)
    else client.setMemTable([{ guestAddress: GUEST, size: BigInt(driven.memory.length), userAddress: USER }])
    expect(far.dump(NODE).addressSpaces[0]?.mappings).toHaveLength(1)
    expect(request(driven, 0, 3)).toBe(0)
    if (draft === '2018') client.unmapDma(0x1_0000_0000n)
  })
})

describe('what the server of the time did', () => {
  const unknown = encodeMessage(0x1234n, 0, new Uint8Array(0))
  const askForBase = encodeMessage(draftNumber('VHOST_GET_VRING_BASE'), 1, vhostVringState.encode({ index: 0, num: 0 }))
  const setQueue = encodeMessage(draftNumber('VHOST_SET_VRING_NUM'), 0, vhostVringState.encode({ index: 77, num: 8 }))
  const kick = (queue: number) => Uint8Array.of(queue, 0, 0, 0)

  /** What each oddity does, and what is done here. */
  const shown: Readonly<Record<Quirk, (server: DraftServer) => unknown>> = {
    'answers-unasked': (server) =>
      server.pwrite(encodeMessage(draftNumber('VHOST_GET_FEATURES'), 0, new Uint8Array(0)), 0n),
    'forgets-after-short-read': (server) => {
      server.pwrite(askForBase, 0n)
      expect(() => server.pread(new Uint8Array(20), 0n)).toThrow('EINVAL')
      if (server.pread(new Uint8Array(24), 0n) === 0) return
      throw new Error('EINVAL: the answer is there')
    },
    'takes-unknown-requests': (server) => server.pwrite(unknown, 0n),
    'hides-failures': (server) => server.pwrite(setQueue, 0n),
    'queue-from-data': (server) => server.pwrite(kick(0), doorbellOffset(1, 4096)),
    'keeps-interrupts': (server) => {
      server.setInterrupt(0, near.eventfd())
      server.setInterrupt(0, undefined)
      if (near.descriptors.length > 0) return
      throw new Error('ENOTTY: the interrupt is gone')
    },
  }

  test.each(Object.keys(quirks) as Quirk[])('%s', (name) => {
    expect(() => shown[name](serve('2019').server)).toThrow(/^(EINVAL|ENOTTY)/)
    for (const thing of open.splice(0)) thing.close()
    expect(() => shown[name](serve('2019', [name]).server)).not.toThrow()
  })

  test('reads past its queues are not imitated', () => {
    const { server } = serve('2019', Object.keys(quirks) as Quirk[])
    const ask = encodeMessage(draftNumber('VHOST_GET_VRING_BASE'), 1, vhostVringState.encode({ index: 1000, num: 0 }))
    server.pwrite(ask, 0n)
    expect(server.pread(new Uint8Array(24), 0n)).toBe(0)
  })

  test('an answer that is not read gives way to the next', () => {
    const { server } = serve('2019')
    server.pwrite(encodeMessage(draftNumber('VHOST_GET_FEATURES'), 1, new Uint8Array(0)), 0n)
    server.pwrite(askForBase, 0n)
    const answer = new Uint8Array(24)
    expect(server.pread(answer, 0n)).toBe(24)
    expect(Buffer.from(answer).toString('hex')).toBe('12af08c000000000000000000800000000000000' + '00000000')
  })

  test.each([
    ['messages elsewhere', (server: DraftServer) => server.pwrite(unknown, 4n)],
    ['reads elsewhere', (server: DraftServer) => server.pread(new Uint8Array(24), 4n)],
    ['kicks past the last page', (server: DraftServer) => server.pwrite(kick(0), doorbellOffset(0x1_0000, 4096))],
    ['kicks between pages', (server: DraftServer) => server.pwrite(kick(0), doorbellOffset(0, 4096) + 8n)],
    ['kicks of two bytes', (server: DraftServer) => server.pwrite(Uint8Array.of(0, 0), doorbellOffset(0, 4096))],
  ])('%s are refused, as they were', (_name, act) => {
    expect(() => act(serve('2019').server)).toThrow('EINVAL')
  })
})
