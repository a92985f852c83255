// A device IOTLB that asks, as vhost-net has one: what a miss server reads from and writes to, and a device that waits until it is answered. It has the law of Linux's vhost.c,
// whose newest refusals are its own, and no rings: those of a program's model are reached through read() and write().

import {
  checkBoolean,
  checkBytes,
  checkFunction,
  checkInteger,
  checkObject,
  checkString,
  toU64,
} from '../base/checks.js'
import { vdpaError } from '../base/errors.js'
import { Fifo } from '../base/fifo.js'
import { overlaps, rangeOf, U64_LAST, type Range } from '../base/ranges.js'
import type { MemoryRegion } from '../memory/memory-region.js'
import { errno } from '../uapi/errno.js'
import { iotlbMessageTypes, vhostAccess, vhostMessageTypes, vhostMsgV2 } from '../uapi/vhost-types.js'
import { ADDRESS_LIMIT, type ProcessMemory } from './process-memory.js'
import type { Deviation } from './profiles.js'
import type { Refuse } from './refusal.js'
import type { Scheduler } from './scheduler.js'

/** How an IOTLB is made. */
export interface DemandIotlbOptions {
  /** What it calls itself in sentences; `/dev/vhost-net` by default. */
  readonly path?: string
  /** Translations that it keeps, 1 to 65,536; 2048 by default, as Linux. The oldest goes for one that has no room. */
  readonly entryLimit?: number
  /** Whether each kick queues another miss of an access that stands still; by default as the profile's kernels do (`misses-at-each-kick` of `deviations`): those before 7.3. */
  readonly repeatsMisses?: boolean
}

/** What has happened to an IOTLB so far. */
export interface DemandCounters {
  /** Misses that were queued to be read. */
  readonly misses: number
  /** Updates that were taken. */
  readonly updates: number
  /** Invalidations that were taken. */
  readonly invalidations: number
  /** Accesses that a translation did not allow, or that led to no memory. */
  readonly errors: number
}

interface Entry extends Range {
  readonly uaddr: bigint
  readonly perm: number
}

/** An access, which is a queue of its own. */
interface Access {
  readonly perm: number
  /** Where it is. */
  iova: bigint
  /** Misses of it that were not answered. */
  outstanding: number
  wake: () => void
  fail: (failure: Error) => void
}

/** A miss that was not answered. Its access may have gone on, and stand still elsewhere. */
interface Miss {
  /** Its place among all that there were. */
  readonly order: number
  readonly iova: bigint
  readonly access: Access
}

interface Host {
  readonly memory: ProcessMemory
  readonly scheduler: Scheduler
  readonly refuse: Refuse
  readonly deviates: (name: Deviation) => boolean
}

const LEAST_RECORD_BYTES = 40
const PAGE_SHIFT = 12n
const byOrder = (one: Miss, other: Miss) => one.order - other.order
const { VHOST_IOTLB_MISS, VHOST_IOTLB_UPDATE, VHOST_IOTLB_INVALIDATE } = iotlbMessageTypes
const { VHOST_ACCESS_RO, VHOST_ACCESS_WO } = vhostAccess

/**
 * The port of a miss server, and the device behind it: Simulator.demandIotlb() makes it. Each access is a queue of its own, with at most one miss that was not
 * answered, unless misses are repeated. A miss is answered by an update that comes after it was read; one that comes before wakes nobody, until a kick.
 */
export class DemandIotlb {
  /** Its name. */
  readonly path: string
  readonly #host: Host
  readonly #entryLimit: number
  readonly #repeatsMisses: boolean
  /** Oldest first. */
  readonly #entries: Entry[] = []
  readonly #unread = new Fifo<Miss>()
  /** By their pages: an update looks at those that it has, or at all, whichever are fewer. */
  readonly #pending = new Map<bigint, Miss[]>()
  /** Accesses that stand still, in the order in which they came to do so. */
  readonly #standing = new Set<Access>()
  readonly #counters = { misses: 0, updates: 0, invalidations: 0, errors: 0 }
  #listener: (() => void) | undefined
  #isScheduled = false
  #isGone = false

  /** @internal */
  constructor(host: Host, options: DemandIotlbOptions = {}) {
    const { path = '/dev/vhost-net', entryLimit = 2048 } = options
    const { repeatsMisses = host.deviates('misses-at-each-kick') } = options
    checkString(path, 'options.path')
    checkBoolean(repeatsMisses, 'options.repeatsMisses')
    checkInteger(entryLimit, 'options.entryLimit', 1, 65_536)
    this.#host = host
    this.path = path
    this.#entryLimit = entryLimit
    this.#repeatsMisses = repeatsMisses
  }

  /** What has happened so far. */
  get counters(): DemandCounters {
    return { ...this.#counters }
  }

  /** Translations that it has. */
  get size(): number {
    return this.#entries.length
  }

  /** Accesses that stand still. */
  get waiting(): number {
    return this.#standing.size
  }

  /** The next miss, as a record of version 2; undefined when there is none. EBADFD after end(). */
  read(): Uint8Array | undefined {
    if (this.#isGone) throw this.#refused(errno.EBADFD, 'read')
    const miss = this.#unread.shift()
    if (miss === undefined) return undefined
    this.#wait(miss)
    const { iova, access } = miss
    const message = vhostMessageTypes.VHOST_IOTLB_MSG_V2
    return vhostMsgV2.encode({ message, asid: 0, iova, size: 0n, uaddr: 0n, perm: access.perm, type: VHOST_IOTLB_MISS })
  }

  /** Takes an update or an invalidation of either version. EINVAL for what is no record, and for an update of no bytes; EFAULT for every other refusal, and after end(). */
  write(record: Uint8Array): void {
    checkBytes(record, 'record')
    const code = this.#take(record)
    if (code !== 0) throw this.#refused(code, 'write')
  }

  /** Whether it is memory of its simulator: allocated, adopted or shared there. */
  reaches(region: MemoryRegion): boolean {
    checkObject(region, 'region')
    return this.#host.memory.has(region)
  }

  /** Calls `listener`, as the simulator gives turns, while there is a miss to be read. One listener at a time (ERR_VDPA_STATE). */
  onReadable(listener: () => void): Disposable {
    checkFunction(listener, 'listener')
    if (this.#listener !== undefined)
      throw vdpaError('ERR_VDPA_STATE', 'there is a listener already', { path: this.path })
    this.#listener = listener
    this.#schedule()
    return {
      [Symbol.dispose]: () => {
        if (this.#listener === listener) this.#listener = undefined
      },
    }
  }

  /**
   * As the device: reads `length` bytes (up to 2^32-1) at an IOVA, and waits for the translations that it misses. Rejects with EPERM where a translation does not allow it, EFAULT where it leads to
   * no memory, EBADFD when the IOTLB goes.
   */
  async readMemory(iova: bigint, length: number): Promise<Uint8Array> {
    checkInteger(length, 'length', 0, 0xffff_ffff)
    const result = new Uint8Array(length)
    await this.#each(iova, length, VHOST_ACCESS_RO, (bytes, at) => result.set(bytes, at))
    return result
  }

  /** As the device: writes bytes at an IOVA. Waits, and rejects, as readMemory(); what was written before stays so. */
  async writeMemory(iova: bigint, bytes: Uint8Array): Promise<void> {
    checkBytes(bytes, 'bytes')
    await this.#each(iova, bytes.length, VHOST_ACCESS_WO, (target, at) =>
      target.set(bytes.subarray(at, at + target.length)),
    )
  }

  /**
   * As the driver, which kicks every queue: each access that stands still looks again, and goes on where there is a translation by now, whoever read its miss. Where there is none its miss is
   * queued once more, if misses are repeated.
   */
  kick(): void {
    for (const access of [...this.#standing]) {
      if (this.#find(access.iova) === undefined) this.#ask(access)
      else access.wake()
    }
  }

  /** The IOTLB goes, as when VIRTIO_F_ACCESS_PLATFORM is taken back: who waits is rejected, and it cannot be read any more. */
  end(): void {
    if (this.#isGone) return
    this.#isGone = true
    this.#entries.length = 0
    while (this.#unread.shift() !== undefined);
    this.#pending.clear()
    for (const access of [...this.#standing]) access.fail(this.#refused(errno.EBADFD, 'read'))
    this.#schedule()
  }

  async #each(
    iova: bigint,
    length: number,
    perm: number,
    give: (bytes: Uint8Array, at: number) => void,
  ): Promise<void> {
    const first = toU64(iova, 'iova')
    const access: Access = { perm, iova: first, outstanding: 0, wake: () => undefined, fail: () => undefined }
    for (let done = 0; done < length;) {
      if (this.#isGone) throw this.#refused(errno.EBADFD, 'read')
      const at = first + BigInt(done)
      const entry = this.#find(at)
      if (entry === undefined) {
        await this.#stand(access, at)
        continue
      }
      const bytes = (entry.perm & perm) === perm ? this.#bytes(entry, at, length - done) : undefined
      if (bytes === undefined) {
        this.#counters.errors++
        throw this.#refused((entry.perm & perm) === perm ? errno.EFAULT : errno.EPERM, 'read')
      }
      give(bytes, done)
      done += bytes.length
    }
  }

  /** Where several have the address, the one that begins first, and of those the oldest. */
  #find(at: bigint): Entry | undefined {
    let found: Entry | undefined
    for (const entry of this.#entries)
      if (entry.first <= at && entry.last >= at && (found === undefined || entry.first < found.first)) found = entry
    return found
  }

  /** As many of the bytes as lie behind one another; undefined where there is no memory. */
  #bytes({ first, last, uaddr }: Entry, at: bigint, length: number): Uint8Array | undefined {
    const address = Number(uaddr + (at - first))
    const region = this.#host.memory.at(address)
    if (region === undefined || address < region.start) return undefined
    const offset = address - region.start
    const window = region.windowAt(offset)
    const from = offset - window.first
    const most = last - at + 1n
    const count = Math.min(length, window.bytes.length - from, most > BigInt(length) ? length : Number(most))
    return window.bytes.subarray(from, from + count)
  }

  #stand(access: Access, iova: bigint): Promise<void> {
    return new Promise((resolve, reject) => {
      access.iova = iova
      access.wake = () => {
        this.#standing.delete(access)
        resolve()
      }
      access.fail = (failure) => {
        this.#standing.delete(access)
        reject(failure)
      }
      this.#standing.add(access)
      this.#ask(access)
    })
  }

  #ask(access: Access): void {
    if (access.outstanding > 0 && !this.#repeatsMisses) return
    access.outstanding++
    this.#unread.push({ order: this.#counters.misses++, iova: access.iova, access })
    this.#schedule()
  }

  #take(record: Uint8Array): number {
    if (record.length < LEAST_RECORD_BYTES) return errno.EINVAL
    const whole = new Uint8Array(vhostMsgV2.size)
    whole.set(record.subarray(0, vhostMsgV2.size))
    const { message, iova, size, uaddr, perm, type } = vhostMsgV2.decode(whole)
    if (message !== vhostMessageTypes.VHOST_IOTLB_MSG && message !== vhostMessageTypes.VHOST_IOTLB_MSG_V2)
      return errno.EINVAL
    if (type === VHOST_IOTLB_UPDATE && size === 0n) return errno.EINVAL
    const isWild = type === VHOST_IOTLB_INVALIDATE && this.#host.deviates('invalidates-unchecked')
    const range = isWild ? { first: iova, last: (iova + size - 1n) & U64_LAST } : rangeOf(iova, size)
    if (this.#isGone || range === undefined) return errno.EFAULT
    if (type === VHOST_IOTLB_UPDATE) return this.#update({ ...range, uaddr, perm }, size)
    if (type !== VHOST_IOTLB_INVALIDATE) return errno.EFAULT
    this.#invalidate(range)
    return 0
  }

  #update(entry: Entry, size: bigint): number {
    const isUsed = (entry.perm & vhostAccess.VHOST_ACCESS_RW) !== 0
    if (entry.uaddr + size > (isUsed ? BigInt(ADDRESS_LIMIT) : U64_LAST + 1n)) return errno.EFAULT
    if (this.#entries.length === this.#entryLimit) this.#entries.shift()
    this.#entries.push(entry)
    this.#counters.updates++
    for (const { access } of this.#answered(entry)) {
      access.outstanding--
      if (this.#standing.has(access)) access.wake()
    }
    return 0
  }

  #wait(miss: Miss): void {
    const page = miss.iova >> PAGE_SHIFT
    const misses = this.#pending.get(page)
    if (misses === undefined) this.#pending.set(page, [miss])
    else misses.push(miss)
  }

  /** The misses of a range, which wait no more, in the order in which they came. */
  #answered({ first, last }: Range): Miss[] {
    const result: Miss[] = []
    for (const page of this.#pagesOf(first >> PAGE_SHIFT, last >> PAGE_SHIFT)) {
      const misses = this.#pending.get(page) ?? []
      const left: Miss[] = []
      for (const miss of misses) (miss.iova < first || miss.iova > last ? left : result).push(miss)
      if (left.length === 0) this.#pending.delete(page)
      else this.#pending.set(page, left)
    }
    return result.sort(byOrder)
  }

  #pagesOf(first: bigint, last: bigint): Iterable<bigint> {
    if (last - first >= BigInt(this.#pending.size))
      return [...this.#pending.keys()].filter((page) => page >= first && page <= last)
    return Array.from({ length: Number(last - first) + 1 }, (_, index) => first + BigInt(index))
  }

  /** Entries go whole. A range that ends before it begins has those that have both its ends. */
  #invalidate(range: Range): void {
    const left = this.#entries.filter((entry) => !overlaps(entry, range))
    this.#entries.splice(0, this.#entries.length, ...left)
    this.#counters.invalidations++
  }

  /** Calls the listener in a turn of its own, and again while there is something to be read. */
  #schedule(): void {
    const isReadable = this.#unread.size > 0 || this.#isGone
    if (this.#isScheduled || this.#listener === undefined || !isReadable) return
    this.#isScheduled = true
    this.#host.scheduler.schedule(() => {
      this.#isScheduled = false
      const listener = this.#listener
      try {
        listener?.()
      } finally {
        // One that goes is told once.
        if (!this.#isGone) this.#schedule()
      }
    }, `${this.path} can be read`)
  }

  #refused(code: number, syscall: string): Error {
    return this.#host.refuse(code, { syscall, path: this.path })
  }
}
