// What happens to a call that a fault was planted for: refused, cut short, or held back. It decides which ones by asking the faults' turns.

import { systemError, type VdpaError } from '../base/errors.js'
import { errno, errnoText, type ErrnoName } from '../uapi/errno.js'
import type { WriteEachOptions, WriteEachOutcome } from './backend.js'
import { pathOf, type Call, type ShownCall, type WriteEachCall } from './call.js'
import type { FaultyOp, Turn } from './fault-plan.js'
import type { Interceptor, Proceed, ProceedEach } from './interceptor.js'
import { Lanes, LateCall, type HeldCalls } from './late-calls.js'
import { recordsOf, requestNameOf } from './local-fields.js'
import { bytesOf, isBytes } from './outcome.js'
import { canceledAfter } from './write-each.js'

/** What is to happen, and when. */
export type Fault = { readonly turn: Turn } & (
  | { readonly kind: 'fail'; readonly code: ErrnoName; readonly text: string | undefined }
  | { readonly kind: 'short'; readonly length: number }
  | { readonly kind: 'late'; readonly held: HeldCalls }
)

/** The record of a writeEach that a fault hits. */
interface Hit {
  readonly index: number
  readonly fault: Fault
}

/** The system call behind each verb, as the kernel backend's refusals name it. */
const syscalls: Readonly<Record<FaultyOp, string>> = {
  open: 'open',
  openFd: 'fcntl',
  allocate: 'memfd_create',
  adopt: 'mmap',
  eventfd: 'eventfd2',
  netlink: 'socket',
  mapDoorbell: 'mmap',
  ioctl: 'ioctl',
  write: 'write',
  writeEach: 'write',
  read: 'read',
  pread: 'pread64',
  pwrite: 'pwrite64',
  signal: 'write',
  take: 'read',
  send: 'sendto',
  receive: 'recvfrom',
  addMembership: 'setsockopt',
  listen: 'listen',
  connect: 'connect',
  accept: 'accept4',
  socketPair: 'socketpair',
  socketOf: 'fcntl',
  streamOf: 'fcntl',
  sendmsg: 'sendmsg',
  recvmsg: 'recvmsg',
  streamWrite: 'write',
  streamRead: 'read',
  close: 'close',
}

const shortable: readonly string[] = ['write', 'writeEach', 'read', 'pread', 'pwrite'] satisfies FaultyOp[]

/** Carries the planted faults out. */
export class Saboteur implements Interceptor {
  readonly #lanes = new Lanes()
  #faults: Fault[] = []

  /** Adds a fault; returns how to take it away. */
  plant(fault: Fault): () => void {
    this.#faults.push(fault)
    return () => {
      this.#faults = this.#faults.filter((other) => other !== fault)
      if (fault.kind === 'late') fault.held.release(Infinity)
    }
  }

  /** Takes all faults away, and releases what they hold. */
  clear(): void {
    const faults = this.#faults
    this.#faults = []
    for (const fault of faults) if (fault.kind === 'late') fault.held.release(Infinity)
  }

  now<T>(call: ShownCall, proceed: Proceed<T>): T {
    this.#beginHeld(call)
    // A writeEach returns an outcome, as its proceeding does.
    if (call.op === 'writeEach') return this.#each(call, proceed as Proceed<unknown> as Proceed<WriteEachOutcome>) as T
    const fault = this.#meet(call, false)
    if (fault?.kind === 'fail') throw refusal(call, fault.code, fault.text)
    return fault?.kind === 'short' ? (short(call, fault.length, proceed as Proceed<number>) as T) : proceed()
  }

  async later<T>(call: Call, start: () => Promise<T>): Promise<T> {
    this.#beginHeld(call)
    const fault = this.#meet(call, true)
    if (fault?.kind === 'fail') throw refusal(call, fault.code, fault.text)
    if (fault?.kind !== 'late') return start()
    return this.#hold(call, fault.held, new LateCall(start))
  }

  async laterEach(call: WriteEachCall, proceed: ProceedEach): Promise<WriteEachOutcome> {
    this.#beginHeld(call)
    return this.#eachLater(call, proceed, 0, 0)
  }

  #each(call: WriteEachCall, proceed: Proceed<WriteEachOutcome>): WriteEachOutcome {
    const hit = this.#firstHit(call, 0, false)
    if (hit === undefined) return proceed()
    if (hit.index > 0) {
      const before = proceed(call.bytes.subarray(0, hit.index * call.stride))
      if ('failure' in before) return before
    }
    return endOfEach(call, hit)
  }

  /** Writes the records from `first` on; those before `seen` have had their turn with the faults. */
  async #eachLater(call: WriteEachCall, proceed: ProceedEach, first: number, seen: number): Promise<WriteEachOutcome> {
    const hit = this.#firstHit(call, seen, true)
    if (hit === undefined) return writePart(call, proceed, first)
    if (hit.fault.kind === 'late') return this.#holdEach(call, proceed, first, hit.index, hit.fault.held)
    if (hit.index > first) {
      const before = await writePart(call, proceed, first, hit.index)
      if ('failure' in before) return before
    }
    return endOfEach(call, hit)
  }

  /** Writes the records before `index`, and holds the rest. */
  async #holdEach(
    call: WriteEachCall,
    proceed: ProceedEach,
    first: number,
    index: number,
    held: HeldCalls,
  ): Promise<WriteEachOutcome> {
    if (index > first) {
      const before = countFrom(first, proceed.now(slice(call, first, index)))
      if ('failure' in before) return before
    }
    const late = new LateCall(() => this.#eachLater(call, proceed, index, index + 1))
    const { signal } = proceed.options
    signal?.addEventListener('abort', () => late.cancel(canceledAfter(index, call.path, signal)), { once: true })
    return this.#hold(call, held, late)
  }

  #hold<T>(call: Call, held: HeldCalls, late: LateCall<T>): Promise<T> {
    held.add(late)
    if ('target' in call) this.#lanes.hold(call.target, late)
    return late.promise
  }

  /** What is held on the object has it done now: this call may not overtake it. */
  #beginHeld(call: ShownCall): void {
    if ('target' in call) this.#lanes.beginAll(call.target)
  }

  /** The fault that hits a call. Misuse is the inner backend's to refuse, and counts for none. */
  #meet(call: ShownCall, isAsync: boolean): Fault | undefined {
    if ('bytes' in call && !isBytes(call.bytes)) return undefined
    const met = this.#faults.filter(({ kind, turn }) => {
      if (kind === 'late' && !isAsync) return false
      return (kind !== 'short' || shortable.includes(call.op)) && turn.meets(call)
    })
    return met[0]
  }

  #firstHit(call: WriteEachCall, seen: number, isAsync: boolean): Hit | undefined {
    for (const [index, bytes] of recordsOf(call.bytes, call.stride).entries()) {
      const fault = index < seen ? undefined : this.#meet({ ...call, bytes }, isAsync)
      if (fault !== undefined) return { index, fault }
    }
    return undefined
  }
}

/** The error of a call that is refused on purpose, as the kernel backend would make it. */
function refusal(call: ShownCall, code: ErrnoName, text = errnoText(errno[code])): VdpaError {
  const path = pathOf(call) ?? subjectOf(call)
  const request = call.op === 'ioctl' ? (requestNameOf(call) ?? `ioctl 0x${call.request.toString(16)}`) : undefined
  return systemError(code, errno[code], text, {
    syscall: syscalls[call.op as FaultyOp],
    ...(path !== undefined && { path }),
    ...(request !== undefined && { request }),
  })
}

/** What stands in place of a path in the refusals of calls that concern no node. */
function subjectOf(call: ShownCall): string | undefined {
  if (call.op === 'allocate') return `${call.length} bytes of memory`
  if (call.op === 'eventfd') return call.fd === undefined ? 'a new eventfd' : `fd ${call.fd}`
  if (call.op === 'netlink') return `netlink ${call.protocol}`
  return 'fd' in call ? `fd ${call.fd}` : undefined
}

function short(call: ShownCall, length: number, proceed: Proceed<number>): number {
  const bytes = bytesOf(call) ?? new Uint8Array(0)
  if (call.op === 'write' || call.op === 'pwrite') return Math.min(length, bytes.byteLength)
  const before = bytes.slice()
  const moved = proceed()
  if (moved <= length) return moved
  bytes.set(before.subarray(length), length)
  return length
}

function endOfEach(call: WriteEachCall, { index, fault }: Hit): WriteEachOutcome {
  // A record that is taken in part has no errno of its own: EIO, as in kernel/write-each.ts.
  const failure =
    fault.kind === 'fail'
      ? refusal(call, fault.code, fault.text)
      : refusal(call, 'EIO', `record ${index} was taken only in part`)
  return { completed: index, failure }
}

function slice(call: WriteEachCall, first: number, last?: number): Uint8Array {
  return call.bytes.subarray(first * call.stride, last === undefined ? undefined : last * call.stride)
}

/** Writes the records from `first` to before `last`; what is said of their number counts those before them. */
async function writePart(
  call: WriteEachCall,
  proceed: ProceedEach,
  first: number,
  last?: number,
): Promise<WriteEachOutcome> {
  if (first === 0 && last === undefined) return proceed.start()
  const { signal, onProgress } = proceed.options
  const options: WriteEachOptions = {
    ...(signal !== undefined && { signal }),
    ...(onProgress !== undefined && { onProgress: (completed) => onProgress(first + completed) }),
  }
  return countFrom(first, await proceed.start(slice(call, first, last), options))
}

/** An outcome's `completed` with the records before the part that it speaks of. */
function countFrom(first: number, outcome: WriteEachOutcome): WriteEachOutcome {
  return outcome.completed === undefined ? outcome : { ...outcome, completed: first + outcome.completed }
}
