// What a device must find at its position, worked out a second time and in another way: straight from the specification, with bigints and a copy
// of the bytes, slow and plain. The rings under test share no code with it.

import type { TestQueue } from '../support.js'

const TABLES_FIRST = 0x7_ffff_f000n
const LIMIT = 1n << 64n

export interface Found {
  readonly kind: 'chain' | 'none' | 'broken'
  readonly segments: readonly (readonly [bigint, bigint, boolean])[]
  readonly slots: number
  readonly head: number
}

const none: Found = { kind: 'none', segments: [], slots: 0, head: -1 }
const broken: Found = { ...none, kind: 'broken' }

interface Descriptor {
  readonly addr: bigint
  readonly len: bigint
  readonly low: number
  readonly high: number
}

function descriptorAt(view: DataView, offset: number): Descriptor {
  return {
    addr: view.getBigUint64(offset, true),
    len: BigInt(view.getUint32(offset + 8, true)),
    low: view.getUint16(offset + 12, true),
    high: view.getUint16(offset + 14, true),
  }
}

function viewOf(queue: TestQueue, area: 'descriptor' | 'driver' | 'device' | 'tables'): DataView {
  const memory = area === 'tables' ? queue.tables : queue.areas[area]
  return new DataView(memory.buffer, memory.byteOffset, memory.byteLength)
}

/** The table that an indirect descriptor refers to, as descriptors; undefined when it cannot be one. */
function tableOf(queue: TestQueue, { addr, len }: Descriptor): Descriptor[] | undefined {
  if (queue.options.features?.indirect !== true || len === 0n || len % 16n !== 0n || addr + len > LIMIT)
    return undefined
  const view = viewOf(queue, 'tables')
  const offset = addr - TABLES_FIRST
  if (offset < 0n || offset + len > BigInt(view.byteLength)) return undefined
  return Array.from({ length: Number(len / 16n) }, (_, index) => descriptorAt(view, Number(offset) + 16 * index))
}

/** The rules for the segments of a chain: readable before writable, inside the address space, 2^32 bytes in all (split). */
function isSound(segments: Found['segments'], size: number, isSplit: boolean): boolean {
  const firstWritten = segments.findIndex(([, , isWritten]) => isWritten)
  const isOrdered = firstWritten < 0 || segments.slice(firstWritten).every(([, , isWritten]) => isWritten)
  const total = segments.reduce((sum, [, len]) => sum + len, 0n)
  const isInside = segments.every(([addr, len]) => addr + len <= LIMIT)
  return isOrdered && isInside && segments.length <= size && (!isSplit || total <= 1n << 32n)
}

export interface SplitPosition {
  /** Chains loaded, and published as used, both modulo 2^16. */
  readonly loaded: number
  readonly published: number
  /** The available index that the device has seen and not worked off. */
  readonly seen: number
  readonly heads: ReadonlySet<number>
}

/** What next() must do on a split ring; `seen` is the index that it will have seen afterwards. */
export function findSplit(queue: TestQueue, position: SplitPosition): Found & { readonly seen: number } {
  const { size } = queue.options
  const available = viewOf(queue, 'driver')
  let { seen } = position
  if (seen === position.loaded) {
    seen = available.getUint16(2, true)
    const fromPublished = (seen - position.published) & 0xffff
    if (fromPublished > size || fromPublished < ((position.loaded - position.published) & 0xffff))
      return { ...broken, seen }
    if (seen === position.loaded) return { ...none, seen }
  }
  const head = available.getUint16(4 + 2 * (position.loaded % size), true)
  if (head >= size || position.heads.has(head)) return { ...broken, seen }
  return { ...followSplit(queue, head), seen }
}

function followSplit(queue: TestQueue, head: number): Found {
  const { size } = queue.options
  const view = viewOf(queue, 'descriptor')
  let table = Array.from({ length: size }, (_, index) => descriptorAt(view, 16 * index))
  let isIndirect = false
  let slots = 0
  const segments: [bigint, bigint, boolean][] = []
  // A chain that visits more than this many descriptors has too many segments whatever it does.
  for (let index = head, visited = 0; visited <= size + 1; visited++) {
    const descriptor = table[index]
    if (descriptor === undefined) return broken
    if (!isIndirect) slots++
    if ((descriptor.low & 4) !== 0) {
      const inner = tableOf(queue, descriptor)
      if (isIndirect || inner === undefined || (descriptor.low & 1) !== 0) return broken
      table = inner
      isIndirect = true
      index = 0
      continue
    }
    segments.push([descriptor.addr, descriptor.len, (descriptor.low & 2) !== 0])
    if ((descriptor.low & 1) === 0)
      return isSound(segments, size, true) ? { kind: 'chain', segments, slots, head } : broken
    index = descriptor.high
  }
  return broken
}

export interface PackedPosition {
  /** Where the device stands, with the wrap counter in bit 15. */
  readonly available: number
  /** Slots that the driver cannot have filled again. */
  readonly taken: number
}

/** What next() must do on a packed ring. */
export function findPacked(queue: TestQueue, position: PackedPosition): Found {
  const { size } = queue.options
  const view = viewOf(queue, 'descriptor')
  const isAvailable = ({ high }: Descriptor, wrap: boolean) =>
    ((high & 0x80) !== 0) === wrap && ((high & 0x8000) !== 0) !== wrap
  let offset = position.available & 0x7fff
  let wrap = position.available >= 0x8000
  const head = descriptorAt(view, 16 * offset)
  if (!isAvailable(head, wrap)) return none
  if (position.taken >= size) return broken
  if ((head.high & 4) !== 0) {
    const table = tableOf(queue, head)
    if (table === undefined || (head.high & 1) !== 0) return broken
    const segments = table.map(({ addr, len, high }) => [addr, len, (high & 2) !== 0] as const)
    return isSound(segments, size, false) ? { kind: 'chain', segments, slots: 1, head: head.low } : broken
  }
  const segments: [bigint, bigint, boolean][] = []
  for (let slots = 1; slots <= size - position.taken; slots++) {
    const descriptor = descriptorAt(view, 16 * offset)
    if (!isAvailable(descriptor, wrap) || (descriptor.high & 4) !== 0) return broken
    segments.push([descriptor.addr, descriptor.len, (descriptor.high & 2) !== 0])
    if ((descriptor.high & 1) === 0)
      return isSound(segments, size, false) ? { kind: 'chain', segments, slots, head: descriptor.low } : broken
    offset = (offset + 1) % size
    if (offset === 0) wrap = !wrap
  }
  return broken
}
