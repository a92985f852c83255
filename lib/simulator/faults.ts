// Knobs that make the simulated world misbehave on purpose. Rules about calls are kept here; what concerns a device is done to it at once.

import { checkBytes, checkInteger, checkObject, checkOneOf, rangeError } from '../base/checks.js'
import type { DeviceOps } from '../models/device-ops.js'
import type { ModelDevice } from '../models/model-device.js'
import { errno, type ErrnoName } from '../uapi/errno.js'
import { requestByNumber, requests, type RequestName } from '../uapi/vhost.js'

/** Which calls are meant: a request, or the system call. */
export type FaultTarget = RequestName | 'open' | 'write' | 'ioctl' | 'mmap'

/** A refusal to come. */
export interface FailOptions {
  /** A request's name, or `'open'`, `'write'`, `'ioctl'` or `'mmap'` (a doorbell page) for all of them. Default: any ioctl. */
  readonly request?: FaultTarget
  /** The errno's name: `'EBUSY'`. */
  readonly with: ErrnoName
  /** The first call that fails, counted from 1. Default 1. */
  readonly nth?: number
  /** How many fail from then on; Infinity for all, until clear(). Default 1. */
  readonly times?: number
  /** Only calls on this node. Default: on all. */
  readonly path?: string
}

/** Asynchronous calls to answer late. */
export interface DelayOptions {
  /** The request of an `ioctlAsync`, or `'write'` for `writeEachAsync`. */
  readonly request: RequestName | 'write'
  /** Pieces of the scheduler's work that come before the asynchronous call settles, 0..1,000,000. */
  readonly turns: number
  /** Only calls on this node. Default: on all. */
  readonly path?: string
}

interface Rule {
  readonly request: FaultTarget
  readonly path: string | undefined
  readonly errno: number
  toPass: number
  toFail: number
}

interface ShortRule {
  readonly path: string | undefined
  readonly length: number
  toPass: number
  toFail: number
}

/** What the knobs reach. */
export interface FaultReach {
  /** The device at a path; undefined when there is none. */
  device(path: string): DeviceOps | undefined
  /** Takes the device away. */
  remove(path: string): void
}

/** A reset to fail. */
export interface FailResetOptions {
  /** The errno's name: `'EIO'`. */
  readonly with: ErrnoName
  /** The first reset that fails, counted from 1. Default 1. */
  readonly nth?: number
  /** How many fail from then on; Infinity for all, until clear(). Default 1. */
  readonly times?: number
  /** Only that of the device at this path. Default: of any. */
  readonly path?: string
}

interface ResetRule {
  readonly path: string | undefined
  readonly errno: number
  toPass: number
  toFail: number
}

const systemCalls: readonly FaultTarget[] = ['open', 'write', 'ioctl', 'mmap']
const anyIoctl: FaultTarget = 'ioctl'

/** The knobs of one simulator. RangeError for an errno, a path or a count that does not exist. */
export class Faults {
  readonly #reach: FaultReach
  readonly #rules: Rule[] = []
  readonly #shortRules: ShortRule[] = []
  readonly #resetRules: ResetRule[] = []
  readonly #delays: DelayOptions[] = []

  constructor(reach: FaultReach) {
    this.#reach = reach
  }

  /** Whether any rule is waiting; the fast way past all this. */
  get isArmed(): boolean {
    return this.#rules.length > 0 || this.#shortRules.length > 0
  }

  /** Refuses calls to come with an errno, without carrying them out. Of several rules, the first that is due decides; those after it do not count the call. */
  fail(options: FailOptions): void {
    checkObject(options, 'options')
    const { request = anyIoctl, nth = 1, times = 1, path } = options
    if (typeof request !== 'string' || (!systemCalls.includes(request) && !Object.hasOwn(requests, request)))
      throw rangeError('request', "the name of a request, 'open', 'write', 'ioctl' or 'mmap'", request)
    checkOneOf(options.with, 'with', Object.keys(errno) as ErrnoName[])
    checkInteger(nth, 'nth', 1, Number.MAX_SAFE_INTEGER)
    if (times !== Infinity) checkInteger(times, 'times', 1, Number.MAX_SAFE_INTEGER)
    this.#rules.push({ request, path, errno: errno[options.with], toPass: nth - 1, toFail: times })
  }

  /**
   * Resets of devices fail, whoever asks: VHOST_VDPA_SET_STATUS with 0 is refused, opening fails, and nobody hears of it at a close. The device stays as it is.
   */
  failReset(options: FailResetOptions): void {
    checkObject(options, 'options')
    const { nth = 1, times = 1, path } = options
    checkOneOf(options.with, 'with', Object.keys(errno) as ErrnoName[])
    checkInteger(nth, 'nth', 1, Number.MAX_SAFE_INTEGER)
    if (times !== Infinity) checkInteger(times, 'times', 1, Number.MAX_SAFE_INTEGER)
    this.#resetRules.push({ path, errno: errno[options.with], toPass: nth - 1, toFail: times })
  }

  /** From the nth write() to come on, `times` of them (default 1) take only `length` bytes (default 0), and do nothing. */
  shortWrite(
    options: { readonly length?: number; readonly nth?: number; readonly times?: number; readonly path?: string } = {},
  ): void {
    checkObject(options, 'options')
    const { length = 0, nth = 1, times = 1, path } = options
    checkInteger(length, 'length', 0, Number.MAX_SAFE_INTEGER)
    checkInteger(nth, 'nth', 1, Number.MAX_SAFE_INTEGER)
    checkInteger(times, 'times', 1, Number.MAX_SAFE_INTEGER)
    this.#shortRules.push({ path, length, toPass: nth - 1, toFail: times })
  }

  /** Asynchronous calls of a request are carried out at once but answered later, until clear(). */
  delay(options: DelayOptions): void {
    checkObject(options, 'options')
    checkInteger(options.turns, 'turns', 0, 1_000_000)
    this.#delays.push(options)
  }

  /** The device sets NEEDS_RESET and raises its configuration interrupt. RangeError for a path without a device. */
  needsReset(path: string): void {
    const device = this.#device(path)
    if (device.breakDown === undefined) throw rangeError('path', 'that of a device which can break down', path)
    device.breakDown()
  }

  /** The next `count` interrupts of a queue get lost; 0 ends it. RangeError for a queue that is not there. */
  dropInterrupts(path: string, queue: number, count = 1): void {
    checkInteger(count, 'count', 0, Number.MAX_SAFE_INTEGER)
    checkInteger(queue, 'queue', 0, 0xffff)
    const found = (this.#device(path) as Partial<ModelDevice>).queues?.[queue]
    if (found === undefined) throw rangeError('queue', `one of the queues of ${path}`, queue)
    found.interruptsToDrop = count
  }

  /** Changes bytes of the configuration space and raises the configuration interrupt. RangeError for what does not lie in it. */
  changeConfig(path: string, offset: number, bytes: Uint8Array): void {
    const device = this.#device(path)
    if (device.changeConfig === undefined)
      throw rangeError('path', 'that of a device whose configuration can change', path)
    checkBytes(bytes, 'bytes')
    device.changeConfig(offset, bytes)
  }

  /** Takes the device away, as when it is unplugged: open handles answer ENODEV, opening answers ENOENT. */
  remove(path: string): void {
    this.#device(path)
    this.#reach.remove(path)
  }

  /** Forgets all rules about calls: fail(), failReset(), shortWrite() and delay(). What was done to devices stays. */
  clear(): void {
    this.#rules.length = 0
    this.#shortRules.length = 0
    this.#resetRules.length = 0
    this.#delays.length = 0
  }

  /** The errno that an ioctl, a write, an open or the mapping of a doorbell must fail with, or 0. `request` is an ioctl's number. */
  refusal(call: 'open' | 'write' | 'ioctl' | 'mmap', path: string, request?: number): number {
    const name = request === undefined ? undefined : requestByNumber(request)?.name
    for (const rule of this.#rules) {
      const isMeant = rule.request === call || (name !== undefined && rule.request === name)
      if (!isMeant || (rule.path !== undefined && rule.path !== path)) continue
      if (isDue(rule, this.#rules)) return rule.errno
    }
    return 0
  }

  /** The errno that a reset of the device must fail with, or 0. */
  resetRefusal(path: string): number {
    for (const rule of this.#resetRules) {
      if (rule.path !== undefined && rule.path !== path) continue
      if (isDue(rule, this.#resetRules)) return rule.errno
    }
    return 0
  }

  /** How many bytes a write must end after, or -1. */
  shortLength(path: string): number {
    for (const rule of this.#shortRules) {
      if (rule.path !== undefined && rule.path !== path) continue
      if (isDue(rule, this.#shortRules)) return rule.length
    }
    return -1
  }

  /** Turns that the answer of an asynchronous call is late. */
  delayOf(path: string, request: number | 'write'): number {
    const name = request === 'write' ? request : requestByNumber(request)?.name
    const found = this.#delays.find((delay) => delay.request === name && (delay.path ?? path) === path)
    return found?.turns ?? 0
  }

  #device(path: string): DeviceOps {
    const device = this.#reach.device(path)
    if (device === undefined) throw rangeError('path', 'that of a device in this simulator', path)
    return device
  }
}

function isDue<R extends { toPass: number; toFail: number }>(rule: R, rules: R[]): boolean {
  if (rule.toPass > 0) {
    rule.toPass--
    return false
  }
  rule.toFail--
  if (rule.toFail === 0) rules.splice(rules.indexOf(rule), 1)
  return true
}
