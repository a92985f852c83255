// Answers the misses of one device IOTLB from a translator: one update for each miss that was read, or a fault with a name. It maps nothing on its own.

import {
  checkArray,
  checkFunction,
  checkInteger,
  checkObject,
  checkOneOf,
  rangeError,
  toU64,
  typeError,
} from '../base/checks.js'
import type { Releasable } from '../base/closeable.js'
import { diagnostics, publish } from '../base/diagnostics.js'
import { vdpaError, type VdpaError } from '../base/errors.js'
import { callUnasked, throwUncaught } from '../base/program-calls.js'
import { rangeOf, showRange, U64_LAST, type Range } from '../base/ranges.js'
import type { MappingSink } from '../iotlb/mapping-sink.js'
import { permOf, type Access } from '../iotlb/mapping.js'
import { AwaitedAnswers } from './awaited-answers.js'
import { HeldMemory } from './held-memory.js'
import { RecordReader, RecordWriter, type MissMessage, type RecordVersion } from './message.js'
import { newMissCounters, type MissCounters, type MutableMissCounters } from './miss-counters.js'
import { MissFaults, type MissFault, type MissFaultReason } from './miss-faults.js'
import { MissSink } from './miss-sink.js'
import { keyOf, Pending, PendingAnswers } from './pending-answers.js'
import { isRefusal, type MissPort } from './port.js'
import { PortListening } from './port-listening.js'
import {
  checkedAnswer,
  type CheckedAnswer,
  type MissAnswer,
  type MissRequest,
  type MissVerdict,
  type Translator,
} from './translator.js'
import { UsedRings } from './used-rings.js'

/** How misses are served. */
export interface MissServerOptions {
  /** Told of each miss that is not answered, once a time that it is asked. What it throws is an uncaught exception. */
  readonly onFault?: (fault: MissFault) => void
  /**
   * Told when the port can be read no more: the IOTLB is gone with VIRTIO_F_ACCESS_PLATFORM (EBADFD), or the device is. The server has closed. Without it that is
   * an uncaught exception.
   */
  readonly onEnd?: (failure: unknown) => void
  /** How long a translator may think, in milliseconds; after that the miss is a fault, which a late answer mends. 5000 by default; 0: as long as it wants. */
  readonly timeoutMs?: number
  /** Translations that may be under way at once; 64 by default, up to 4096. No more misses are read meanwhile. */
  readonly maxInFlight?: number
  /** Where the used rings lie: translations there must allow reading and writing, and are asked for so. */
  readonly usedRings?: readonly Range[]
  /** How records are written that answer no miss; 2 by default. Kernels before 4.19 know 1 only. */
  readonly version?: RecordVersion
}

/** Times that a translation is asked for again because invalidations overtake the answer. */
const RESTARTS = 15
/** What a device IOTLB has room for on Linux (max_iotlb_entries): prefetching more would push the first ones out. */
const ENTRIES = 2048
const TIMEOUT_MS = 5000
const everything: Range = { first: 0n, last: U64_LAST }
// Sizes are 64 bits, and 0 is read differently by different kernels: all of it goes in two halves.
const halves: readonly Range[] = [
  { first: 0n, last: 2n ** 63n - 1n },
  { first: 2n ** 63n, last: U64_LAST },
]

/**
 * Serves the misses of one device from its making to close(). Answers are given in the order in which they come from the translator. It keeps the process alive
 * only while a translation is under way.
 */
export class MissServer implements Releasable {
  /**
   * The device as a sink of the mappings that the translator knows, such as an endpoint of a `VirtioIommu` wants one: what goes from there is invalidated, within the same request, and what
   * comes is asked for by the misses that wait for it. It is refused what invalidate() is.
   */
  readonly sink: MappingSink
  readonly #port: MissPort
  readonly #translator: Translator
  readonly #timeoutMs: number
  readonly #maxInFlight: number
  readonly #version: RecordVersion
  readonly #onEnd: ((failure: unknown) => void) | undefined
  readonly #reader = new RecordReader()
  readonly #writer = new RecordWriter()
  readonly #counters: MutableMissCounters = newMissCounters()
  readonly #pending = new PendingAnswers()
  readonly #awaited = new AwaitedAnswers()
  readonly #faults: MissFaults
  readonly #memory: HeldMemory
  #usedRings: UsedRings
  /** Counts invalidations: an answer that was computed before one may be stale. */
  #epoch = 0
  readonly #listening: PortListening
  #isRetrying = false
  readonly #mappedMeanwhile: Range[] = []
  /** What retry() has not asked for yet, because as much as may be is under way. */
  readonly #toRetry = new Map<string, MissRequest>()
  #isClosed = false

  /** Begins to read misses. TypeError or RangeError for options that are none; the port's own errors. */
  constructor(port: MissPort, translator: Translator, options: MissServerOptions = {}) {
    checkObject(port, 'port')
    checkTranslator(translator)
    checkObject(options, 'options')
    const { onFault, onEnd, timeoutMs = TIMEOUT_MS, maxInFlight = 64, usedRings = [], version = 2 } = options
    if (onFault !== undefined) checkFunction(onFault, 'options.onFault')
    if (onEnd !== undefined) checkFunction(onEnd, 'options.onEnd')
    checkInteger(timeoutMs, 'options.timeoutMs', 0, 0x7fff_ffff)
    checkInteger(maxInFlight, 'options.maxInFlight', 1, 4096)
    checkInteger(version, 'options.version', 1, 2)
    checkArray(usedRings, 'options.usedRings')
    const retry = (mapped: Range) => this.#mapped(mapped)
    this.sink = new MissSink({ invalidate: (range) => this.invalidate(range), retry }, port.path)
    this.#port = port
    this.#translator = translator
    this.#timeoutMs = timeoutMs
    this.#maxInFlight = maxInFlight
    this.#version = version
    this.#onEnd = onEnd
    this.#usedRings = new UsedRings(usedRings.map(checkRange))
    this.#memory = new HeldMemory(port)
    this.#faults = new MissFaults(this.#counters, onFault)
    this.#listening = new PortListening(port, () => this.#readOne())
    this.#read()
  }

  /** True from close() on, and when the port could not be read any more. */
  get isClosed(): boolean {
    return this.#isClosed
  }

  /** What has happened so far. */
  get counters(): MissCounters {
    return { ...this.#counters }
  }

  /** The misses that were read and have no answer: their queues may stand still until retry(), or until a late answer comes. */
  get unanswered(): readonly MissRequest[] {
    return this.#faults.unanswered
  }

  /** Says where the used rings are now. Translations that the device has already are not changed. */
  setUsedRings(ranges: readonly Range[]): void {
    checkArray(ranges, 'ranges')
    this.#usedRings = new UsedRings(ranges.map(checkRange))
  }

  /**
   * Takes translations from the device (VHOST_IOTLB_INVALIDATE), all by default: each that has an address of the range goes whole, and is missed when it is needed
   * again. To be called when what the translator would say has changed; answers that were computed before are not given to the device, but asked for again.
   * The port's refusal, such as EFAULT before VHOST_SET_OWNER, is thrown; ERR_VDPA_CLOSED.
   */
  invalidate(range: Range = everything): void {
    this.#checkOpen()
    const { first, last } = checkRange(range)
    this.#epoch++
    this.#pending.invalidate({ first, last })
    const parts = first === 0n && last === U64_LAST ? halves : [{ first, last }]
    for (const part of parts)
      this.#port.write(this.#writer.invalidate(this.#version, 0, part.first, part.last - part.first + 1n))
    this.#counters.invalidations++
    this.#memory.release({ first, last })
  }

  /**
   * Gives the device the translations of a range before it misses them, as the used ring, without which vhost-net refuses to begin. With a translator that answers at
   * once, it has been done when this returns. ERR_VDPA_NOT_MAPPED where there is none that allows the access; ERR_VDPA_ENTRY_LIMIT for more than
   * 2048 pieces; ERR_VDPA_TIMEOUT where the translator thinks longer than `timeoutMs`; what it throws; the port's refusal; ERR_VDPA_CLOSED, also when the
   * server is closed meanwhile.
   */
  async prefetch(range: Range, access: Access = 'rw'): Promise<void> {
    const { first, last } = checkRange(range)
    checkOneOf(access, 'access', ['ro', 'wo', 'rw'])
    let at = first
    for (let pieces = 0; at <= last; pieces++) {
      if (pieces === ENTRIES)
        throw vdpaError('ERR_VDPA_ENTRY_LIMIT', `${showRange(range)} has more than ${ENTRIES} translations`)
      const given = this.#prefetchPiece({ iova: at, access: this.#usedRings.accessAt(at, access), asid: 0, attempt: 1 })
      at = (given instanceof Promise ? await given : given) + 1n
    }
  }

  /**
   * Asks the translator again for each miss of a range, all by default, that has no answer: for when it knows more. Returns how many there were; 0, and nobody is asked,
   * where the translator or a listener calls it that is being asked, or told, by another retry(). What is being looked up is asked for again where that finds nothing,
   * and what is more than may be under way when there is room. ERR_VDPA_CLOSED.
   */
  retry(range: Range = everything): number {
    this.#checkOpen()
    const { first, last } = checkRange(range)
    this.#pending.retry({ first, last })
    if (this.#isRetrying) return 0
    this.#isRetrying = true
    try {
      const requests = this.#faults.unanswered.filter(({ iova }) => iova >= first && iova <= last)
      for (const request of requests) {
        if (this.isClosed) break
        if (this.#hasRoom) this.#askAnew(request)
        else this.#toRetry.set(keyOf(request), request)
      }
      return requests.length
    } finally {
      this.#isRetrying = false
    }
  }

  #askAnew(request: MissRequest): void {
    const wanted = this.#wanted(request)
    if (wanted !== request) this.#faults.forget(request)
    this.#ask({ ...wanted, attempt: request.attempt + 1 })
  }

  /** What was mapped has its misses asked for again: within a retry() in a turn of their own. */
  #mapped(range: Range): void {
    if (!this.#isRetrying) return void this.retry(range)
    this.#checkOpen()
    this.#pending.retry(range)
    this.#mappedMeanwhile.push(range)
    if (this.#mappedMeanwhile.length > 1) return
    setImmediate(() => {
      for (const one of this.#mappedMeanwhile.splice(0)) if (!this.#isClosed) this.retry(one)
    })
  }

  /**
   * Stops reading and answering, and gives memory up: close the device before it, or take its translations away, where memory is freed next. Translations
   * that come later are not given to the device.
   */
  close(): void {
    if (this.#isClosed) return
    this.#isClosed = true
    this.#listening.end()
    this.#pending.clear()
    this.#toRetry.clear()
    this.#awaited.breakOff(this.#closed())
    this.#memory.release(everything)
  }

  /** close(). */
  [Symbol.dispose](): void {
    this.close()
  }

  /** Reads while there is room for questions: a port that is not read calls again and again, so nobody listens then. */
  #read(): void {
    for (const [key, request] of this.#toRetry) {
      if (!this.#hasRoom) break
      this.#toRetry.delete(key)
      if (this.#faults.has(request)) this.#askAnew(request)
    }
    this.#listening.update(() => this.#hasRoom && !this.#isClosed)
  }

  get #hasRoom(): boolean {
    return this.#pending.size < this.#maxInFlight
  }

  /** read() of later: a port that cannot be listened to any more is one that has ended. */
  #readOn(): void {
    try {
      this.#read()
    } catch (failure) {
      this.#end(failure)
    }
  }

  /** One record a call: who has more calls again, and others have their turn. */
  #readOne(): void {
    if (this.#isClosed) return
    let record: Uint8Array | undefined
    try {
      record = this.#port.read()
    } catch (failure) {
      this.#end(failure)
      return
    }
    if (record === undefined) return
    let message: MissMessage
    try {
      message = this.#reader.miss(record)
    } catch (failure) {
      this.#faults.report('protocol', undefined, failure)
      return
    }
    const { asid, iova, access } = message
    if (message.kind === 'access-fail') {
      this.#faults.report('access-fail', { asid, iova, access, attempt: 1 })
      return
    }
    this.#counters.misses++
    if (diagnostics.miss.hasSubscribers) publish(diagnostics.miss, { path: this.#port.path, asid, iova, access })
    this.#ask(this.#wanted({ asid, iova, access, attempt: 1 }), message.version)
    this.#readOn()
  }

  #end(failure: unknown): void {
    this.close()
    const onEnd = this.#onEnd
    if (onEnd === undefined) throwUncaught(failure)
    else callUnasked(() => onEnd(failure))
  }

  /** `restarts`: times that an invalidation, or retry(), has overtaken the answer so far. */
  #ask(request: MissRequest, version = this.#version, restarts = 0): void {
    if (this.#pending.find(request) !== undefined) {
      this.#counters.joined++
      return
    }
    const epoch = this.#epoch
    let verdict: MissVerdict | PromiseLike<MissVerdict>
    let isLate: boolean
    try {
      verdict = this.#translator.translate(request)
      isLate = isLater(verdict)
    } catch (failure) {
      this.#fault('failed', request, failure)
      return
    }
    // The translator, or whom it called, may have invalidated on the way to its answer.
    const isStale = epoch !== this.#epoch
    if (isLate) this.#await(new Pending(request, restarts), version, verdict as PromiseLike<MissVerdict>, isStale)
    else if (isStale) this.#askAgain(request, version, restarts)
    else this.#settle(request, version, verdict as MissVerdict, restarts)
  }

  #askAgain(request: MissRequest, version: RecordVersion, restarts: number): void {
    if (this.#isClosed) return
    this.#counters.stale++
    if (restarts >= RESTARTS) this.#fault('stale', request)
    else this.#ask({ ...request, attempt: request.attempt + 1 }, version, restarts + 1)
  }

  #await(pending: Pending, version: RecordVersion, verdict: PromiseLike<MissVerdict>, isStale: boolean): void {
    if (this.#isClosed) return
    if (isStale) pending.invalidate(everything)
    this.#pending.add(pending)
    if (this.#timeoutMs > 0) pending.timer = setTimeout(() => this.#giveUpOn(pending), this.#timeoutMs)
    const answer = (settle: () => void) => {
      if (this.#isClosed) return
      // A thenable of the program's own may say it twice, or after it was given up for good.
      if (pending.isOver) {
        this.#counters.repeated++
        return
      }
      this.#pending.remove(pending)
      if (pending.isLate) this.#counters.late++
      settle()
      this.#readOn()
    }
    try {
      verdict.then(
        (value) => answer(() => this.#come(pending, version, value)),
        (failure: unknown) => answer(() => this.#fail(pending, version, failure)),
      )
    } catch (failure) {
      answer(() => this.#fail(pending, version, failure))
    }
  }

  #giveUpOn(pending: Pending): void {
    this.#pending.makeLate(pending)
    this.#fault('timeout', pending.request)
    this.#readOn()
  }

  #come(pending: Pending, version: RecordVersion, verdict: MissVerdict): void {
    const { request, restarts, isLate, isToBeRetried } = pending
    const isNone = verdict === undefined || verdict === null
    if (pending.isStale(rangeOfVerdict(verdict)) || (isNone && isToBeRetried))
      return this.#askAgain(request, version, restarts)
    // A device that was given another answer meanwhile does not wait for this one.
    if (isNone && isLate && !this.#faults.has(request)) return
    this.#settle(request, version, verdict, restarts)
    if (isToBeRetried && this.#faults.has(request)) this.#askAgain(request, version, restarts)
  }

  #fail({ request, restarts, isLate, isToBeRetried }: Pending, version: RecordVersion, failure: unknown): void {
    this.#faults.report('failed', request, failure, isLate && !this.#faults.has(request))
    if (isToBeRetried && this.#faults.has(request)) this.#askAgain(request, version, restarts)
  }

  /** What a translator says may be anything. */
  #settle(request: MissRequest, version: RecordVersion, verdict: MissVerdict, restarts: number): void {
    if (this.#isClosed) return
    if (verdict === undefined || verdict === null) return this.#fault('unmapped', request)
    let checked: CheckedAnswer
    try {
      checked = checkedAnswer(verdict, request.iova)
    } catch (failure) {
      return this.#fault('invalid', request, failure)
    }
    const wanted = this.#wanted(request)
    if (!allows(checked.answer.access, wanted.access)) return this.#fault('permission', wanted)
    const epoch = this.#epoch
    let isStale: boolean
    try {
      this.#memory.check(checked.answer.region)
      // Who was asked may have invalidated, or closed the server.
      isStale = epoch !== this.#epoch
      if (!isStale && !this.#isClosed) this.#give(request, version, checked)
    } catch (failure) {
      return this.#fault('refused', request, failure)
    }
    if (isStale) this.#askAgain(request, version, restarts)
  }

  /** Gives the device a translation, and returns the last address of it. */
  #give({ iova, asid }: MissRequest, version: RecordVersion, { answer, range }: CheckedAnswer): bigint {
    const given = this.#usedRings.clip(range, iova, answer.access)
    const uaddr = answer.uaddr + (given.first - range.first)
    const size = given.last - given.first + 1n
    const undo = answer.region === undefined ? undefined : this.#memory.add(answer.region, given)
    try {
      this.#port.write(this.#writer.update(version, asid, { iova: given.first, size, uaddr, access: answer.access }))
    } catch (failure) {
      if (isRefusal(failure)) undo?.()
      throw failure
    }
    this.#counters.updates++
    this.#faults.answered(given, answer.access)
    return given.last
  }

  /** As it is to be asked for where the used rings are by now. */
  #wanted(request: MissRequest): MissRequest {
    const access = this.#usedRings.accessAt(request.iova, request.access)
    return access === request.access ? request : { ...request, access }
  }

  #fault(reason: MissFaultReason, request: MissRequest, failure?: unknown): void {
    if (!this.#isClosed) this.#faults.report(reason, request, failure)
  }

  #prefetchPiece(request: MissRequest): bigint | Promise<bigint> {
    this.#checkOpen()
    const epoch = this.#epoch
    const verdict = this.#translator.translate(request)
    if (!isLater(verdict)) return this.#prefetched(request, epoch, verdict)
    const failure = () => {
      const text = `where 0x${request.iova.toString(16)} leads was not said in ${this.#timeoutMs} ms`
      return vdpaError('ERR_VDPA_TIMEOUT', text, { path: this.#port.path })
    }
    const answer = this.#awaited.until(verdict, { timeoutMs: this.#timeoutMs, failure })
    return answer.then((value) => this.#prefetched(request, epoch, value))
  }

  #prefetched(asked: MissRequest, epoch: number, verdict: MissVerdict): bigint | Promise<bigint> {
    this.#checkOpen()
    const request = this.#wanted(asked)
    if (epoch !== this.#epoch) return this.#prefetchAgain(request)
    const checked = verdict === undefined || verdict === null ? undefined : checkedAnswer(verdict, request.iova)
    if (checked !== undefined && allows(checked.answer.access, request.access)) {
      this.#memory.check(checked.answer.region)
      this.#checkOpen()
      return epoch === this.#epoch ? this.#give(request, this.#version, checked) : this.#prefetchAgain(request)
    }
    const text = `nothing that allows '${request.access}' is at 0x${request.iova.toString(16)}`
    throw vdpaError('ERR_VDPA_NOT_MAPPED', text, { path: this.#port.path })
  }

  #prefetchAgain(request: MissRequest): bigint | Promise<bigint> {
    this.#counters.stale++
    if (request.attempt <= RESTARTS) return this.#prefetchPiece({ ...request, attempt: request.attempt + 1 })
    throw vdpaError('ERR_VDPA_STATE', 'invalidations overtake every translation', { path: this.#port.path })
  }

  #checkOpen(): void {
    if (this.#isClosed) throw this.#closed()
  }

  #closed(): VdpaError {
    return vdpaError('ERR_VDPA_CLOSED', 'the miss server is closed', { path: this.#port.path })
  }
}

function checkTranslator(translator: unknown): void {
  if (typeof (translator as Partial<Translator> | null | undefined)?.translate !== 'function')
    throw typeError('translator', 'an object with a translate() method', translator)
}

function checkRange(range: Range): Range {
  checkObject(range, 'range')
  const first = toU64(range.first, 'range.first')
  const last = toU64(range.last, 'range.last')
  if (last < first) throw rangeError('range.last', 'at least range.first', last)
  return { first, last }
}

function isLater(verdict: MissVerdict | PromiseLike<MissVerdict>): verdict is PromiseLike<MissVerdict> {
  return typeof (verdict as Partial<PromiseLike<MissVerdict>> | undefined | null)?.then === 'function'
}

function rangeOfVerdict(verdict: MissVerdict): Range | undefined {
  const { iova, size } = (verdict ?? {}) as Partial<MissAnswer>
  return typeof iova === 'bigint' && typeof size === 'bigint' ? rangeOf(iova, size) : undefined
}

function allows(given: Access, wanted: Access): boolean {
  return (permOf(given) & permOf(wanted)) === permOf(wanted)
}
