// A guest's control ring in the guest's memory, wherever the pieces of that begin and end.

import { expect, test } from '@jest/globals'
import { GuestRing } from '../../lib/control/guest-ring.js'
import { GuestMemory } from '../../lib/memory/guest-memory.js'
import { PartedRingMemory } from '../../lib/memory/parted-ring-memory.js'
import { RingMemory } from '../../lib/memory/ring-memory.js'
import { Simulator } from '../../lib/simulator/index.js'
import { transportFeatureBits } from '../../lib/uapi/virtio-features.js'
import { createDriverRing } from '../../lib/virtqueue/create.js'
import { areaSizes } from '../../lib/virtqueue/layout.js'

const PAGE = 4096
const PAGES = 8
const SIZE = 16
const TEXT = 6 * PAGE
const addresses = { descriptor: BigInt(PAGE - 64), driver: BigInt(2 * PAGE - 4), device: BigInt(4 * PAGE - 8) }

/** A guest whose memory is in pieces of a page; `hole` is not there. */
function guestMemory(hole = -1): GuestMemory {
  const simulator = new Simulator()
  const memory = new GuestMemory()
  for (let page = 0; page < PAGES; page++)
    if (page !== hole) memory.add({ address: BigInt(page * PAGE), region: simulator.allocate(PAGE) })
  return memory
}

function ringOf(memory: GuestMemory, isPacked: boolean) {
  const interrupts: number[] = []
  const ring = new GuestRing({
    memory,
    features: isPacked ? 1n << BigInt(transportFeatureBits.VIRTIO_F_RING_PACKED) : 0n,
    size: SIZE,
    addresses,
    kick: new Simulator().eventfd(),
    call: { signal: () => void interrupts.push(1) },
  })
  return { ring, interrupts }
}

test.each([
  ['split', false],
  ['packed', true],
] as const)('a %s ring whose areas go from piece to piece is served, more than once around', (format, isPacked) => {
  const memory = guestMemory()
  const sizes = areaSizes(format, SIZE)
  const area = (name: 'descriptor' | 'driver' | 'device') =>
    new PartedRingMemory(
      memory
        .slices(addresses[name], sizes[name])
        .map(({ region, offset, size }) => new RingMemory(region.buffer, offset, size)),
    )
  const areas = { descriptor: area('descriptor'), driver: area('driver'), device: area('device') }
  const driver = createDriverRing({ format, size: SIZE, areas })
  const { ring, interrupts } = ringOf(memory, isPacked)
  const [command] = memory.slices(BigInt(TEXT), PAGE)
  for (let sent = 0; sent < 3 * SIZE; sent++) {
    command?.region.view(0, 3).set([1, 2, sent])
    driver.begin()
    driver.push(0, TEXT, 3, false)
    driver.push(0, TEXT + 16, 1, true)
    driver.commit(sent)
    driver.publish()
    expect(ring.take(100)).toEqual({ bytes: Uint8Array.of(1, 2, sent), length: 3, room: 1 })
    ring.answer(Uint8Array.of(sent))
    expect([driver.take(), driver.usedLength, command?.region.view(16, 1)[0]]).toEqual([sent, 1, sent])
  }
  expect(ring.take(100)).toBeUndefined()
  expect(interrupts.length).toBe(3 * SIZE)
})

test.each([1, 2, 4])('a ring of which page %i is not there is refused', (hole) => {
  expect(() => ringOf(guestMemory(hole), false)).toThrow(expect.objectContaining({ code: 'ERR_VDPA_RING_BROKEN' }))
})

/** A split ring whose commands lie in indirect tables, each at an address: `lengths` of what the device reads, all from TEXT on, then a byte to write. */
function ringWithTables(
  memory: GuestMemory,
  tables: readonly { readonly at: number; readonly lengths: readonly number[] }[],
) {
  const put = (address: number, bytes: Uint8Array) => {
    let done = 0
    for (const { region, offset, size } of memory.slices(BigInt(address), bytes.length)) {
      region.view(offset, size).set(bytes.subarray(done, done + size))
      done += size
    }
  }
  const descriptor = (address: number, length: number, flags: number, next: number) => {
    const bytes = Buffer.alloc(16)
    bytes.writeBigUInt64LE(BigInt(address), 0)
    bytes.writeUInt32LE(length, 8)
    bytes.writeUInt16LE(flags, 12)
    bytes.writeUInt16LE(next, 14)
    return bytes
  }
  const [NEXT, WRITE, INDIRECT] = [1, 2, 4]
  const heads = tables.map(({ at, lengths }) => descriptor(at, 16 * (lengths.length + 1), INDIRECT, 0))
  put(0, Buffer.concat(heads))
  const available = Buffer.alloc(4 + 2 * SIZE)
  available.writeUInt16LE(tables.length, 2)
  for (const index of tables.keys()) available.writeUInt16LE(index, 4 + 2 * index)
  put(PAGE, available)
  for (const { at, lengths } of tables) {
    let from = TEXT
    const entries = lengths.map((length, index) => descriptor((from += length) - length, length, NEXT, index + 1))
    put(at, Buffer.concat([...entries, descriptor(TEXT + PAGE, 1, WRITE, 0)]))
  }
  return new GuestRing({
    memory,
    features: 1n << BigInt(transportFeatureBits.VIRTIO_F_RING_INDIRECT_DESC),
    size: SIZE,
    addresses: { descriptor: 0n, driver: BigInt(PAGE), device: BigInt(2 * PAGE) },
    kick: new Simulator().eventfd(),
    call: { signal: () => undefined },
  })
}

test('a command is found by its table, whether that lies in one piece of memory or in several, a longer one after a shorter one', () => {
  const memory = guestMemory()
  const crumbs = new Simulator().allocate(PAGE)
  for (let offset = 0; offset < PAGE; offset += 64)
    memory.add({ address: BigInt(8 * PAGE + offset), region: crumbs, offset, size: 64 })
  const [text] = memory.slices(BigInt(TEXT), PAGE)
  text?.region.view(0, PAGE).set(Uint8Array.from({ length: PAGE }, (_, at) => at))
  const tables = [
    { at: 3 * PAGE, lengths: [2, 3] },
    { at: 4 * PAGE - 16, lengths: [4, 5] },
    { at: 5 * PAGE - 32, lengths: [1, 1, 1, 1, 1, 1] },
    { at: 8 * PAGE + 48, lengths: Array.from({ length: 12 }, () => 2) },
    { at: 8 * PAGE + 512 + 32, lengths: [6, 7, 8] },
  ]
  const ring = ringWithTables(memory, tables)
  for (const { lengths } of tables) {
    const length = lengths.reduce((sum, one) => sum + one, 0)
    const bytes = Uint8Array.from({ length }, (_, at) => at)
    expect(ring.take(PAGE)).toEqual({ bytes, length, room: 1 })
    ring.answer(Uint8Array.of(0))
  }
  expect(ring.take(PAGE)).toBeUndefined()
})

test('a table that is not in the memory, whole or in part, breaks the ring', () => {
  for (const at of [5 * PAGE, 5 * PAGE - 16]) {
    const memory = guestMemory()
    const ring = ringWithTables(memory, [{ at, lengths: [1, 1] }])
    memory.remove(BigInt(5 * PAGE))
    expect(() => ring.take(PAGE)).toThrow(expect.objectContaining({ code: 'ERR_VDPA_RING_BROKEN' }))
  }
})

test.each([0xffff_fff0, 0x8000_0000])(
  'a table of %i bytes takes no more memory than can be reached of it',
  (length) => {
    const memory = guestMemory()
    const ring = ringWithTables(memory, [{ at: 3 * PAGE, lengths: [1, 1] }])
    const [head] = memory.slices(0n, 16)
    if (head !== undefined) new DataView(head.region.buffer).setUint32(head.offset + 8, length, true)
    const asked: number[] = []
    const slices = memory.slices.bind(memory)
    memory.slices = (address, size) => {
      asked.push(Number(size))
      return slices(address, size)
    }
    expect(() => ring.take(PAGE)).toThrow(expect.objectContaining({ code: 'ERR_VDPA_RING_BROKEN' }))
    expect(Math.max(...asked)).toBe(0x10_0000)
  },
)
