// The objects of a trace as they live on the backend it is replayed on, and the making of one recorded call on them. It compares nothing.

import { CloseStack } from '../base/closeable.js'
import { isVdpaError, vdpaError } from '../base/errors.js'
import type { MemoryRegion } from '../memory/memory-region.js'
import type { Backend, Doorbell, Eventfd, Handle, NetlinkSocket, WriteEachOutcome } from './backend.js'
import type { Call, CreatingCall, HandleCall, ObjectCall, Op } from './call.js'
import { localFields } from './local-fields.js'
import { bytesOf, isBytes, outcomeOf, refusalOf, type Outcome } from './outcome.js'
import { Symbols, type PortableBytes } from './symbols.js'
import type { TraceEvent } from './trace.js'

/** What came of a call that was replayed. */
export interface Answer {
  /** How it ended here. */
  readonly outcome: Outcome
  /** The call's bytes after it, or the datagram received; undefined for a call without. */
  readonly output: PortableBytes | undefined
  /** The sentence of a refusal. */
  readonly sentence?: string
}

/** What a stage may be told; see `ReplayOptions`. */
export interface StageOptions {
  readonly paths?: Readonly<Record<string, string>>
  readonly settle?: () => void | Promise<void>
}

type OpeningCall = CreatingCall & { readonly op: 'open' | 'openFd' }
type HandleAnswer = number | WriteEachOutcome

/** The objects, by their names in the trace. Those that the trace left open are closed by close(). */
export class Stage {
  readonly #backend: Backend
  readonly #options: StageOptions
  readonly #symbols = new Symbols()
  readonly #handles = new Map<string, Handle>()
  readonly #memory = new Map<string, MemoryRegion>()
  readonly #eventfds = new Map<string, Eventfd>()
  readonly #sockets = new Map<string, NetlinkSocket>()
  readonly #doorbells = new Map<string, Doorbell>()

  constructor(backend: Backend, options: StageOptions) {
    this.#backend = backend
    this.#options = options
  }

  /** Makes the call of an event; refusals are answers. */
  async perform(event: TraceEvent): Promise<Answer> {
    let bytes: Uint8Array | undefined
    let fields: ReturnType<typeof localFields> = []
    let outcome: Outcome
    let sentence: string | undefined
    try {
      const call = this.#live(event)
      bytes = bytesOf(call)
      fields = localFields(call)
      const result = await this.#make(call, event.async === true)
      if (isBytes(result)) bytes = result
      outcome = outcomeOf(call.op, result)
      sentence = sentenceOf(call.op, result)
    } catch (error) {
      if (!isVdpaError(error)) throw error
      outcome = refusalOf(error)
      sentence = error.message
    }
    const output = bytes && this.#symbols.toPortable(bytes, fields)
    return { outcome, output, ...(sentence !== undefined && { sentence }) }
  }

  /** Closes what the trace left open: handles first, because devices may still use memory and eventfds. */
  close(): Promise<void> {
    const stack = new CloseStack()
    for (const map of [this.#memory, this.#eventfds, this.#doorbells, this.#sockets, this.#handles])
      for (const object of map.values()) stack.push(() => object.close())
    return stack.close()
  }

  #live(event: TraceEvent): Call {
    if (event.op === 'ioctl')
      return typeof event.argument === 'string'
        ? { ...event, argument: this.#symbols.toLive(event.argument) }
        : { ...event, argument: event.argument }
    return 'bytes' in event ? { ...event, bytes: this.#symbols.toLive(event.bytes) } : event
  }

  #make(call: Call, isAsync: boolean): unknown {
    if ('creates' in call) return this.#create(call, isAsync)
    return isOnHandle(call) ? this.#onHandle(call, isAsync) : this.#onObject(call, isAsync)
  }

  #create(call: CreatingCall, isAsync: boolean): unknown {
    switch (call.op) {
      case 'open':
      case 'openFd':
        return isAsync ? this.#openAsync(call) : this.#open(call)
      case 'allocate': {
        const { length, pageSize, name } = call
        const options = { ...(pageSize !== undefined && { pageSize }), ...(name !== undefined && { name }) }
        return this.#addMemory(call.creates, this.#backend.allocate(length, options))
      }
      case 'adopt':
        return this.#addMemory(call.creates, this.#backend.allocate(call.length))
      case 'eventfd': {
        const eventfd = this.#backend.eventfd()
        this.#eventfds.set(call.creates, eventfd)
        this.#symbols.add(call.creates, { fds: [eventfd.fd] })
        return 0
      }
      case 'netlink': {
        if (this.#backend.netlink === undefined)
          throw vdpaError('ERR_VDPA_NOT_SUPPORTED', 'this backend has no netlink')
        const socket = this.#backend.netlink(call.protocol)
        this.#sockets.set(call.creates, socket)
        return 0
      }
      case 'mapDoorbell': {
        const handle = find(this.#handles, call.target)
        if (handle.mapDoorbell === undefined) throw absent(call.op, call.path)
        this.#doorbells.set(call.creates, handle.mapDoorbell(call.offset))
        return 0
      }
    }
  }

  #open(call: OpeningCall): number {
    return this.#addHandle(call, this.#backend.open(this.#pathOf(call)))
  }

  async #openAsync(call: OpeningCall): Promise<number> {
    return this.#addHandle(call, await this.#backend.openAsync(this.#pathOf(call)))
  }

  #pathOf({ path = 'a descriptor without a path' }: OpeningCall): string {
    return this.#options.paths?.[path] ?? path
  }

  #addHandle(call: OpeningCall, handle: Handle): number {
    this.#handles.set(call.creates, handle)
    this.#symbols.add(call.creates, { fds: [handle.fd] })
    return 0
  }

  #addMemory(name: string, region: MemoryRegion): MemoryRegion {
    const { fd, address, length } = region
    this.#memory.set(name, region)
    this.#symbols.add(name, { fds: fd === undefined ? [] : [fd], address, length })
    return region
  }

  #onHandle(call: HandleCall, isAsync: boolean): HandleAnswer | Promise<HandleAnswer> {
    const handle = find(this.#handles, call.target)
    switch (call.op) {
      case 'ioctl':
        return isAsync ? handle.ioctlAsync(call.request, call.argument) : handle.ioctl(call.request, call.argument)
      case 'write':
        return handle.write(call.bytes)
      case 'writeEach':
        return isAsync ? handle.writeEachAsync(call.bytes, call.stride) : handle.writeEach(call.bytes, call.stride)
      case 'read':
        if (handle.read === undefined) throw absent(call.op, call.path)
        return handle.read(call.bytes)
      case 'pread':
        if (handle.pread === undefined) throw absent(call.op, call.path)
        return handle.pread(call.bytes, call.offset)
      case 'pwrite':
        if (handle.pwrite === undefined) throw absent(call.op, call.path)
        return handle.pwrite(call.bytes, call.offset)
    }
  }

  #onObject(call: ObjectCall, isAsync: boolean): unknown {
    switch (call.op) {
      case 'signal':
        return find(this.#eventfds, call.target).signal(call.count)
      case 'take':
      case 'woken':
        return this.#take(call.target)
      case 'ring': {
        const doorbell = find(this.#doorbells, call.target)
        return call.bits === 16 ? doorbell.ring16(call.value) : doorbell.ring32(call.value)
      }
      case 'send':
        return this.#send(find(this.#sockets, call.target), call.bytes, isAsync)
      case 'receive':
        return find(this.#sockets, call.target).receive()
      case 'addMembership':
        return find(this.#sockets, call.target).addMembership(call.group)
      case 'close':
        return this.#close(call.target, isAsync)
    }
  }

  /** A backend on which nothing sleeps has no asynchronous form. */
  #send(socket: NetlinkSocket, bytes: Uint8Array, isAsync: boolean): void | Promise<void> {
    return isAsync && socket.sendAsync !== undefined ? socket.sendAsync(bytes) : socket.send(bytes)
  }

  async #take(target: string): Promise<number> {
    await this.#options.settle?.()
    return find(this.#eventfds, target).take()
  }

  #close(target: string, isAsync: boolean): void | Promise<void> {
    this.#symbols.close(target)
    const handle = this.#handles.get(target)
    if (handle !== undefined) return isAsync ? handle.close() : handle.closeSync()
    const others = [this.#memory, this.#eventfds, this.#sockets, this.#doorbells]
    const map = others.find((map) => map.has(target)) ?? this.#memory
    return find<{ close(): void | Promise<void> }>(map, target).close()
  }
}

function isOnHandle(call: HandleCall | ObjectCall): call is HandleCall {
  return 'path' in call && call.op !== 'close'
}

function find<T>(map: ReadonlyMap<string, T>, name: string): T {
  const found = map.get(name)
  if (found === undefined) throw vdpaError('ERR_VDPA_TRACE', `nothing here is called ${name}`)
  return found
}

function absent(verb: string, path: string): Error {
  return vdpaError('ERR_VDPA_NOT_SUPPORTED', `this node has no ${verb}`, { path })
}

/** The sentence of a refusal that came as data. */
function sentenceOf(op: Op, result: unknown): string | undefined {
  if (op !== 'writeEach') return undefined
  const { failure } = result as WriteEachOutcome
  return isVdpaError(failure) ? failure.message : undefined
}
