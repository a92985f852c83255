// An IOMMU for tests: memory, sinks that keep what they are told and refuse when they are asked to, and requests as bytes.

import { vdpaError } from '../../lib/base/errors.js'
import { overlaps, showRange, U64_LAST, type Range } from '../../lib/base/ranges.js'
import type { Steps } from '../../lib/base/steps.js'
import type { IommuEndpoint, VirtioIommuOptions } from '../../lib/iommu/iommu-options.js'
import { VirtioIommu } from '../../lib/iommu/virtio-iommu.js'
import type { Access } from '../../lib/iotlb/mapping.js'
import type { MappingChange, MappingSink, MemorySlice } from '../../lib/iotlb/mapping-sink.js'
import { GuestMemory } from '../../lib/memory/guest-memory.js'
import type { MemoryRegion } from '../../lib/memory/memory-region.js'
import { Simulator } from '../../lib/simulator/index.js'

/** Turns of the event loop, as a call in the kernel takes them. */
async function sleep(turns: number): Promise<void> {
  for (let turn = 0; turn < turns; turn++) await new Promise((resolve) => setImmediate(resolve))
}

export const everything: Range = { first: 0n, last: U64_LAST }

interface Held {
  readonly range: Range
  readonly slice: MemorySlice
  readonly access: Access
}

/** An address space that is a list. */
export class ListSink implements MappingSink {
  readonly name: string
  readonly range: Range
  readonly pageSize: number
  /** Batches that were carried out. */
  batches = 0
  /** How many batches to carry out before one is refused, with this code; undefined: none is. */
  refuseAfter: number | undefined
  refusal = 'ERR_VDPA_REFUSED'
  /** Maps nothing here. */
  poison: Range | undefined
  /** How many turns of the event loop a batch sleeps where it may; undefined: none does. */
  turnsAsleep: (() => number) | undefined
  held: Held[] = []

  constructor(name = 'list', range = everything, pageSize = 1) {
    this.name = name
    this.range = range
    this.pageSize = pageSize
  }

  map(iova: bigint, slice: MemorySlice, access: Access): Steps<void> {
    return this.batch([{ verb: 'map', iova, slice, access }])
  }

  unmap(range: Range): Steps<void> {
    return this.batch([{ verb: 'unmap', range }])
  }

  *batch(changes: readonly MappingChange[]): Steps<void> {
    const isRefused = this.refuseAfter !== undefined && this.refuseAfter-- <= 0
    const turns = this.turnsAsleep?.() ?? 0
    if (turns > 0) yield { now: () => undefined, later: () => sleep(turns) }
    if (isRefused) {
      this.refuseAfter = undefined
      throw vdpaError(this.refusal as 'ERR_VDPA_REFUSED', 'a test wants it so', {})
    }
    let held = this.held
    for (const change of changes) {
      if (change.verb !== 'unmap') continue
      const { first, last } = change.range
      const rest = held.filter(({ range }) => range.first !== first || range.last !== last)
      if (rest.length !== held.length - 1) throw new Error(`${showRange(change.range)} is not one mapping`)
      held = rest
    }
    for (const change of changes) {
      if (change.verb !== 'map') continue
      const range = { first: change.iova, last: change.iova + BigInt(change.slice.size) - 1n }
      if (this.poison !== undefined && overlaps(this.poison, range)) throw vdpaError('ERR_VDPA_REFUSED', 'poison', {})
      if (held.some((one) => overlaps(one.range, range))) throw new Error(`${showRange(range)} is mapped already`)
      held = [...held, { range, slice: change.slice, access: change.access }]
    }
    this.held = held
    this.batches++
    yield* []
  }

  /** `iova-last access region+offset`, lowest first. */
  get lines(): string[] {
    return [...this.held]
      .sort((a, b) => (a.range.first < b.range.first ? -1 : 1))
      .map(({ range, slice, access }) => `${showRange(range)} ${access} +0x${slice.offset.toString(16)}`)
  }
}

export interface Bench {
  readonly iommu: VirtioIommu
  readonly memory: GuestMemory
  readonly region: MemoryRegion
  readonly failures: unknown[]
  /** A request as hex, and the answer as hex. */
  readonly ask: (hex: string, writable?: number) => string
}

/** An IOMMU over 16 MiB of memory at 0, with granules of 4096 bytes unless told otherwise. */
export function makeIommu(
  endpoints: readonly IommuEndpoint[],
  options: Partial<VirtioIommuOptions> = {},
  bytes = 0x100_0000,
): Bench {
  const region = new Simulator().allocate(bytes)
  const memory = new GuestMemory([{ address: 0n, region }])
  const failures: unknown[] = []
  const iommu = new VirtioIommu({
    memory,
    endpoints,
    pageSizeMask: ~0xfffn & U64_LAST,
    onFailure: (failure) => failures.push(failure),
    ...options,
  })
  const ask = (hex: string, writable = 4) =>
    Buffer.from(iommu.answerSync(Buffer.from(hex.replaceAll(' ', ''), 'hex'), writable)).toString('hex')
  return { iommu, memory, region, failures, ask }
}

export const [OK, UNSUPP, DEVERR, INVAL, RANGE, NOENT, FAULT, NOMEM] = [0, 2, 3, 4, 5, 6, 7, 8]

export const attach = { kind: 'attach', domain: 1, endpoint: 8, flags: 0, isMalformed: false } as const
export const map = { kind: 'map', domain: 1, first: 0x1000n, last: 0x1fffn, physical: 0xa000n, flags: 3 } as const
export const unmap = { kind: 'unmap', domain: 1, first: 0x1000n, last: 0x1fffn } as const
export const detach = { kind: 'detach', domain: 1, endpoint: 8 } as const

/** An IOMMU of two endpoints, 8 and 9, with a sink each. */
export function two(options: Partial<VirtioIommuOptions> = {}) {
  const sinks = [new ListSink('a'), new ListSink('b')] as const
  const endpoints = [
    { id: 8, sink: sinks[0] },
    { id: 9, sink: sinks[1] },
  ]
  return { ...makeIommu(endpoints, options), a: sinks[0], b: sinks[1] }
}
