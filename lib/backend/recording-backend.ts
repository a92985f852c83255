// The witness: a decorator over any backend that keeps every call and its end as plain data. It changes nothing, and replays nothing.

import { checkObject } from '../base/checks.js'
import { isVdpaError } from '../base/errors.js'
import { callUnasked } from '../base/program-calls.js'
import type { AdoptOptions, AllocateOptions, MemoryRegion } from '../memory/memory-region.js'
import type { Backend, Eventfd, Handle, NetlinkSocket, WriteEachOutcome } from './backend.js'
import { socketOps, type Call, type ShownCall, type SocketCall, type WriteEachCall } from './call.js'
import { checkBackend } from './check-backend.js'
import { intercept, type InterceptedBackend } from './intercept.js'
import type { Interceptor, Proceed, ProceedEach } from './interceptor.js'
import { localFields } from './local-fields.js'
import { bytesOf, isBytes, outcomeOf, refusalOf, type Outcome } from './outcome.js'
import type { UnixSockets } from './sockets.js'
import { Symbols, type PortableBytes } from './symbols.js'
import type { Trace, TraceEvent } from './trace.js'

/** What a recording may be told. */
export interface RecordingOptions {
  /** Words for the trace's head: the kernel's release, the device. */
  readonly about?: Readonly<Record<string, string>>
  /** Keeps when each call was asked for, and how long it took, by the monotonic clock (`at` and `took` of an event). Default: false. */
  readonly times?: boolean
  /**
   * Called with each event when it and all that were asked for before it have ended. What it throws goes to 'uncaughtException': the call that was witnessed
   * ends as it would without.
   */
  readonly onEvent?: (event: TraceEvent) => void
}

/**
 * Passes every call on to another backend and keeps it as a `TraceEvent`: what was asked, the bytes that went in and out, and how it ended, in the
 * order of asking. Descriptors of eventfds and addresses of memory are kept by name (`e0`, `m0+0x1000`), so that the trace can be replayed in
 * another process or on another backend (`replay`), compared, and printed (`printEvent`).
 *
 * Not kept: misuse (a TypeError or RangeError asks nothing of the system), `memlock()`, which speaks of the process, what lies in memory, `share()`, whose memory is
 * another system's, calls on UNIX sockets, whose other end no replay has, and that a node became readable. That the listener of an eventfd was called is an event `woken`.
 */
export class RecordingBackend implements Backend {
  readonly #backend: InterceptedBackend
  readonly #recorder: Recorder
  readonly #about: Readonly<Record<string, string>>
  readonly #innerName: string
  readonly netlink?: (protocol: number) => NetlinkSocket
  readonly sockets?: UnixSockets
  readonly reaches?: (region: MemoryRegion) => boolean
  /** Memory of another system at an address of this one, where the inner backend is a pretended one (`Simulator.share()`). */
  readonly share?: (region: MemoryRegion) => MemoryRegion

  /** TypeError for what is no backend. */
  constructor(inner: Backend, options: RecordingOptions = {}) {
    checkBackend(inner, 'inner')
    checkObject(options, 'options')
    this.#recorder = new Recorder(options)
    this.#backend = intercept(inner, `recording(${inner.name})`, this.#recorder)
    this.#about = { ...options.about }
    this.#innerName = inner.name
    if (this.#backend.netlink !== undefined) this.netlink = this.#backend.netlink
    if (this.#backend.sockets !== undefined) this.sockets = this.#backend.sockets
    if (this.#backend.reaches !== undefined) this.reaches = this.#backend.reaches
    if (this.#backend.share !== undefined) this.share = this.#backend.share
  }

  get name(): string {
    return this.#backend.name
  }

  get pageSize(): number {
    return this.#backend.pageSize
  }

  get iotlbEntryLimit(): number | undefined {
    return this.#backend.iotlbEntryLimit
  }

  /** What was recorded so far, as data that later calls do not change. An event whose call is under way has no `outcome`. */
  get trace(): Trace {
    return { backend: this.#innerName, pageSize: this.pageSize, about: this.#about, events: this.#recorder.events() }
  }

  /** Forgets the events so far. Objects keep their names. */
  clear(): void {
    this.#recorder.clear()
  }

  open(path: string): Handle {
    return this.#backend.open(path)
  }

  openAsync(path: string): Promise<Handle> {
    return this.#backend.openAsync(path)
  }

  openFd(fd: number, path?: string): Handle {
    return this.#backend.openFd(fd, path)
  }

  allocate(length: number, options?: AllocateOptions): MemoryRegion {
    return this.#backend.allocate(length, options)
  }

  adopt(fd: number, options: AdoptOptions): MemoryRegion {
    return this.#backend.adopt(fd, options)
  }

  eventfd(fd?: number): Eventfd {
    return this.#backend.eventfd(fd)
  }

  memlock(): ReturnType<Backend['memlock']> {
    return this.#backend.memlock()
  }
}

/** A call that was asked for, and its event once it has ended. */
interface Entry {
  readonly asked: TraceEvent
  ended?: TraceEvent
}

/** Keeps the end of one call: what it returned, or threw. */
interface Ending {
  returned(result: unknown): void
  threw(error: unknown): void
}

class Recorder implements Interceptor {
  readonly #symbols = new Symbols()
  readonly #onEvent: ((event: TraceEvent) => void) | undefined
  readonly #now: (() => number) | undefined
  #entries: Entry[] = []
  #told = 0

  constructor({ onEvent, times = false }: RecordingOptions) {
    this.#onEvent = onEvent
    if (!times) return
    const began = process.hrtime.bigint()
    // Nanoseconds of a hundred days are a safe integer.
    this.#now = () => Number(process.hrtime.bigint() - began)
  }

  events(): TraceEvent[] {
    return this.#entries.map(({ asked, ended }) => ended ?? asked)
  }

  clear(): void {
    this.#entries = []
    this.#told = 0
  }

  now<T>(call: ShownCall, proceed: Proceed<T>): T {
    if (isSocketCall(call)) return proceed()
    const ending = this.#begin(call, false)
    let result: T
    try {
      result = proceed()
    } catch (error) {
      ending?.threw(error)
      throw error
    }
    ending?.returned(result)
    return result
  }

  laterEach(call: WriteEachCall, proceed: ProceedEach): Promise<WriteEachOutcome> {
    return this.later(call, () => proceed.start())
  }

  async later<T>(call: Call, start: () => Promise<T>): Promise<T> {
    const ending = this.#begin(call, true)
    let result: T
    try {
      result = await start()
    } catch (error) {
      ending?.threw(error)
      throw error
    }
    ending?.returned(result)
    return result
  }

  /** Keeps what is asked. Undefined for misuse that cannot even be shown. */
  #begin(call: Call, isAsync: boolean): Ending | undefined {
    const bytes = bytesOf(call)
    if (bytes !== undefined && !isBytes(bytes)) return undefined
    const fields = localFields(call)
    const input = bytes && this.#symbols.toPortable(bytes, fields)
    const at = this.#now?.()
    const how = { ...(isAsync && { async: true }), ...(at !== undefined && { at }) }
    const asked = { ...withBytes(call, input), ...how } as TraceEvent
    const entry: Entry = { asked }
    this.#entries.push(entry)
    const end = (outcome: Outcome, after: unknown): void => {
      const took = at === undefined ? undefined : (this.#now?.() ?? at) - at
      const output = isBytes(after) ? this.#symbols.toPortable(after, fields) : input
      const isChanged = output !== undefined && output !== input
      const ends = { ...(isChanged && { output }), outcome, ...(took !== undefined && { took }) }
      this.#end(entry, { ...asked, ...ends })
    }
    return {
      returned: (result) => {
        this.#note(call, result)
        end(outcomeOf(call.op, result), call.op === 'receive' ? result : bytes)
      },
      threw: (error) => {
        if (isVdpaError(error)) end(refusalOf(error), bytes)
        else this.#drop(entry)
      },
    }
  }

  /** Learns the numbers of what was made, and forgets those of what was closed. */
  #note(call: Call, result: unknown): void {
    if (call.op === 'close') this.#symbols.close(call.target)
    if (!('creates' in call) || call.op === 'mapDoorbell') return
    const { fd, address, length } = result as { fd?: number; address?: bigint; length?: number }
    // A wrapper may work on a duplicate; the caller goes on using the number that it passed.
    const passed = (call.op === 'eventfd' || call.op === 'adopt') && call.fd !== undefined ? [call.fd] : []
    const fds = [...(fd === undefined ? [] : [fd]), ...passed]
    this.#symbols.add(call.creates, {
      fds,
      ...(address !== undefined && { address }),
      ...(length !== undefined && { length }),
    })
  }

  #end(entry: Entry, event: TraceEvent): void {
    entry.ended = event
    this.#tell()
  }

  #drop(entry: Entry): void {
    // Mostly one of the last.
    const index = this.#entries.lastIndexOf(entry)
    if (index >= 0) this.#entries.splice(index, 1)
    this.#tell()
  }

  #tell(): void {
    if (this.#onEvent === undefined) return
    for (let next = this.#entries[this.#told]; next?.ended !== undefined; next = this.#entries[this.#told]) {
      const { ended } = next
      this.#told++
      // A witness changes nothing: the call has ended, and what it made is its caller's.
      callUnasked(() => this.#onEvent?.(ended))
    }
  }
}

function isSocketCall(call: ShownCall): call is SocketCall {
  return socketOps.includes(call.op)
}

function withBytes(call: Call, text: PortableBytes | undefined): Call<PortableBytes> {
  if (text === undefined) return call as Call<never>
  return (call.op === 'ioctl' ? { ...call, argument: text } : { ...call, bytes: text }) as Call<PortableBytes>
}
