// Every member of the seam goes through every decorator. The tables name the members, and the compiler demands that they name all: what is added to the seam
// has a line here, and fails until the decorators pass it on.

import { describe, expect, jest, test } from '@jest/globals'
import type { Backend, Doorbell, Eventfd, Handle, NetlinkSocket } from '../../lib/backend/backend.js'
import { FaultyBackend } from '../../lib/backend/faulty-backend.js'
import { RecordingBackend } from '../../lib/backend/recording-backend.js'
import { replay } from '../../lib/backend/replay.js'
import type { ByteStream, SocketListener, StreamSocket, UnixSockets } from '../../lib/backend/sockets.js'
import { formatTrace, parseTrace } from '../../lib/backend/trace.js'
import type { MemoryRegion } from '../../lib/memory/memory-region.js'

/** What a value is, or what a verb is called with and what it then answers; `also`: another verb of the inner object that does the same. */
type Member = { readonly is: unknown } | { readonly args: readonly unknown[]; gives?: unknown; also?: PropertyKey }
type Table<T> = Readonly<Record<keyof T, Member>>

const bytes = new Uint8Array(72)
const listener = (): void => undefined
const subscription = { close: listener }

const doorbell: Table<Doorbell> = {
  isClosed: { is: false },
  ring16: { args: [1] },
  ring32: { args: [2] },
  close: { args: [] },
  [Symbol.dispose]: { args: [], also: 'close' },
}
const eventfd: Table<Eventfd> = {
  fd: { is: 11 },
  isClosed: { is: false },
  signal: { args: [3] },
  take: { args: [], gives: 4 },
  onSignal: { args: [listener], gives: subscription },
  close: { args: [] },
  [Symbol.dispose]: { args: [], also: 'close' },
}
const netlink: Table<NetlinkSocket> = {
  fd: { is: 12 },
  isClosed: { is: false },
  send: { args: [bytes] },
  sendAsync: { args: [bytes], gives: Promise.resolve() },
  receive: { args: [], gives: bytes },
  onReadable: { args: [listener], gives: subscription },
  addMembership: { args: [1] },
  close: { args: [], gives: Promise.resolve() },
  [Symbol.asyncDispose]: { args: [], gives: Promise.resolve(), also: 'close' },
}
const region: Table<MemoryRegion> = {
  length: { is: 4096 },
  pageSize: { is: 4096 },
  address: { is: 0x7000n },
  buffer: { is: new ArrayBuffer(8) },
  fd: { is: 13 },
  holders: { is: ['somebody'] },
  isTorn: { is: true },
  isClosed: { is: false },
  hold: { args: ['somebody'], gives: subscription },
  view: { args: [0, 8], gives: bytes },
  close: { args: [{ unmap: true }] },
  [Symbol.dispose]: { args: [], also: 'close' },
}
const stream: Table<StreamSocket> = {
  fd: { is: 14 },
  isClosed: { is: false },
  receive: { args: [bytes, 1, 2, 3], gives: { length: 2, files: [] } },
  send: { args: [bytes, [1]], gives: 72 },
  onReadable: { args: [listener], gives: subscription },
  close: { args: [] },
  [Symbol.dispose]: { args: [], also: 'close' },
}
const byteStream: Table<ByteStream> = {
  fd: { is: 14 },
  isClosed: { is: false },
  read: { args: [bytes], gives: 2 },
  write: { args: [bytes], gives: 72 },
  onReady: { args: ['writable', listener], gives: subscription },
  close: { args: [] },
  [Symbol.dispose]: { args: [], also: 'close' },
}
const socketListener: Table<SocketListener> = {
  path: { is: '/run/socket' },
  isClosed: { is: false },
  accept: { args: [] },
  onReadable: { args: [listener], gives: subscription },
  close: { args: [] },
  [Symbol.dispose]: { args: [], also: 'close' },
}
const handle: Table<Handle> = {
  path: { is: '/dev/vhost-vdpa-0' },
  fd: { is: 15 },
  isServedByProgram: { is: true },
  isClosed: { is: false },
  ioctl: { args: [1, bytes], gives: 5 },
  ioctlAsync: { args: [1, bytes], gives: Promise.resolve(5) },
  write: { args: [bytes], gives: 72 },
  writeEach: { args: [bytes, 72], gives: { completed: 1 } },
  writeEachAsync: { args: [bytes, 72, {}], gives: Promise.resolve({ completed: 1 }) },
  read: { args: [bytes], gives: 1 },
  onReadable: { args: [listener], gives: subscription },
  pread: { args: [bytes, 8n], gives: 1 },
  pwrite: { args: [bytes, 8n], gives: 1 },
  mapDoorbell: { args: [4096n], gives: inner(doorbell) },
  close: { args: [], gives: Promise.resolve() },
  closeSync: { args: [] },
  [Symbol.asyncDispose]: { args: [], gives: Promise.resolve(), also: 'close' },
}
const sockets: Table<UnixSockets> = {
  listen: { args: ['/run/socket', 4], gives: inner(socketListener) },
  connect: { args: ['/run/socket'], gives: inner(stream) },
  pair: { args: [], gives: [inner(stream), inner(stream)] },
  socketOf: { args: [7], gives: inner(stream) },
  streamOf: { args: [7], gives: inner(byteStream) },
}
const backend: Table<Backend> = {
  name: { is: 'whole' },
  pageSize: { is: 4096 },
  open: { args: ['/dev/vhost-vdpa-0'], gives: inner(handle) },
  openAsync: { args: ['/dev/vhost-vdpa-0'], gives: Promise.resolve(inner(handle)) },
  openFd: { args: [3, 'a path'], gives: inner(handle) },
  allocate: { args: [4096, { name: 'a name' }], gives: inner(region) },
  adopt: { args: [3, { length: 4096, guarded: true }], gives: inner(region) },
  reaches: { args: [inner(region)], gives: true },
  eventfd: { args: [3], gives: inner(eventfd) },
  netlink: { args: [16], gives: inner(netlink) },
  sockets: { is: inner(sockets) },
  memlock: { args: [], gives: { limit: 1n, pinned: 0n } },
  iotlbEntryLimit: { is: 2048 },
}

type Inner = Record<PropertyKey, unknown>

/** An object with every member of a table. */
function inner(table: Readonly<Record<PropertyKey, Member>>): Inner {
  const members = Reflect.ownKeys(table).map((name) => {
    const member = table[name] as Member
    return [name, 'is' in member ? member.is : jest.fn(() => member.gives)] as const
  })
  return Object.fromEntries(members)
}

/** Members that are the decorator's own: it says another name, and shows what is done with sockets. */
const own: readonly PropertyKey[] = ['name', 'sockets']

/** Asks every member of `outer`, and looks whether `of` was asked the same. */
async function expectPassedOn(table: Readonly<Record<PropertyKey, Member>>, of: Inner, outer: object): Promise<void> {
  for (const name of Reflect.ownKeys(table)) {
    const member = table[name] as Member
    const value = (outer as Inner)[name]
    if ('is' in member) {
      if (own.includes(name)) expect([name, value]).not.toEqual([name, undefined])
      else expect([name, value]).toEqual([name, member.is])
      continue
    }
    expect([name, typeof value]).toEqual([name, 'function'])
    const asked = of[member.also ?? name] as jest.Mock
    const before = asked.mock.calls.length
    const answer = (value as (...args: unknown[]) => unknown).apply(outer, [...member.args])
    expect([name, asked.mock.calls.length]).toEqual([name, before + 1])
    const args = asked.mock.calls.at(-1) ?? []
    for (const [at, arg] of member.args.entries())
      if (typeof arg !== 'function') expect([name, args[at]]).toEqual([name, arg])
    // What is made is wrapped; what is a number, or nothing, is passed on as it is.
    if (typeof member.gives !== 'object') expect([name, answer]).toEqual([name, member.gives])
    await answer
  }
}

describe.each([
  ['the saboteur', (of: Backend): Backend => new FaultyBackend(of)],
  ['the witness', (of: Backend): Backend => new RecordingBackend(of)],
])('%s passes on every member', (_, decorate) => {
  const whole = inner(backend)
  const outer = decorate(whole as unknown as Backend)
  const made = (name: keyof Backend) => (backend[name] as { gives: Inner }).gives
  const { listen, connect, pair } = sockets as unknown as Record<string, { gives: Inner & Inner[] }>

  test.each<[string, Readonly<Record<PropertyKey, Member>>, () => Inner, () => object]>([
    ['the backend', backend, () => whole, () => outer],
    ['a handle', handle, () => made('open'), () => outer.open('/dev/vhost-vdpa-0')],
    ['memory', region, () => made('allocate'), () => outer.allocate(4096)],
    ['an eventfd', eventfd, () => made('eventfd'), () => outer.eventfd()],
    ['a netlink socket', netlink, () => made('netlink'), () => outer.netlink?.(16) ?? {}],
    [
      'a doorbell',
      doorbell,
      () => (handle.mapDoorbell as { gives: Inner }).gives,
      () => outer.open('/dev/vhost-vdpa-0').mapDoorbell?.(0n) ?? {},
    ],
    ['sockets', sockets, () => (backend.sockets as { is: Inner }).is, () => outer.sockets ?? {}],
    ['a listener', socketListener, () => listen?.gives ?? {}, () => outer.sockets?.listen('/run/socket') ?? {}],
    ['a stream', stream, () => connect?.gives ?? {}, () => outer.sockets?.connect('/run/socket') ?? {}],
    ['a stream of a pair', stream, () => pair?.gives[1] ?? {}, () => outer.sockets?.pair()[1] ?? {}],
  ])('of %s', (_title, table, of, from) => expectPassedOn(table, of(), from()))
})

test('a trace keeps how memory was adopted, and that a datagram was sent asynchronously', async () => {
  const recording = new RecordingBackend(inner(backend) as unknown as Backend)
  recording.adopt(3, { length: 4096, sealed: true, guarded: true, isReadOnly: false })
  await recording.netlink?.(16).sendAsync?.(bytes)
  recording.sockets?.connect('/run/socket').send(bytes)
  const { events } = parseTrace(formatTrace(recording.trace))
  expect(events).toEqual(recording.trace.events)
  expect(events).toMatchObject([
    { op: 'adopt', sealed: true, guarded: true, isReadOnly: false },
    { op: 'netlink' },
    { op: 'send', async: true },
  ])
})

test('a trace is replayed with the asynchronous form where the backend has it', async () => {
  const calls: string[] = []
  const socket = {
    ...inner(netlink),
    send: () => void calls.push('send'),
    sendAsync: () => Promise.resolve(calls.push('sendAsync')).then(() => undefined),
  }
  const events = [
    { op: 'netlink', creates: 'n0', protocol: 16, outcome: { returned: 0 } },
    { op: 'send', target: 'n0', bytes: '00', async: true, outcome: { returned: 0 } },
    { op: 'send', target: 'n0', bytes: '00', outcome: { returned: 0 } },
  ] as const
  const trace = { backend: 'whole', pageSize: 4096, about: {}, events }
  await replay(trace, { ...inner(backend), netlink: () => socket } as unknown as Backend)
  expect(calls).toEqual(['sendAsync', 'send'])
})

test.each([
  ['listen', 'EADDRINUSE', (of: UnixSockets) => of.listen('/run/socket')],
  ['connect', 'EAGAIN', (of: UnixSockets) => of.connect('/run/socket')],
  ['accept', 'EMFILE', (of: UnixSockets) => of.listen('/run/socket').accept()],
  ['socketPair', 'ENFILE', (of: UnixSockets) => of.pair()],
  ['socketOf', 'ENOTSOCK', (of: UnixSockets) => of.socketOf(7)],
  ['streamOf', 'EMFILE', (of: UnixSockets) => of.streamOf(7)],
  ['streamWrite', 'EPIPE', (of: UnixSockets) => of.streamOf(7).write(bytes)],
  ['streamRead', 'EIO', (of: UnixSockets) => of.streamOf(7).read(bytes)],
  ['sendmsg', 'EPIPE', (of: UnixSockets) => of.connect('/run/socket').send(bytes)],
  ['recvmsg', 'ECONNRESET', (of: UnixSockets) => of.connect('/run/socket').receive(bytes, 0, 1)],
] as const)('the saboteur refuses %s', (op, code, act) => {
  const faulty = new FaultyBackend(inner(backend) as unknown as Backend)
  const of = faulty.sockets as UnixSockets
  const fault = faulty.fail({ op, with: code })
  expect(() => act(of)).toThrow(expect.objectContaining({ code }))
  expect(fault.hits).toBe(1)
  expect(() => act(of)).not.toThrow()
})
