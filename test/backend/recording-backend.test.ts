// RecordingBackend: what is kept of each call, in which order, and that the calls themselves pass unchanged.

import { describe, expect, test } from '@jest/globals'
import { printEvent } from '../../lib/backend/print-event.js'
import { RecordingBackend } from '../../lib/backend/recording-backend.js'
import type { TraceEvent } from '../../lib/backend/trace.js'
import { systemError } from '../../lib/base/errors.js'
import {
  vhostMsg,
  vhostMsgV2,
  vhostVringFile,
  vhostVringState,
  u64Value,
  s32Value,
} from '../../lib/uapi/vhost-types.js'
import { requests } from '../../lib/uapi/vhost.js'
import { failureOf, FakeBackend, PlainBackend } from './fake-backend.js'
import { taken, takenLater } from '../write-outcome.js'

const path = '/dev/vhost-vdpa-0'

function setUp() {
  const fake = new FakeBackend()
  const backend = new RecordingBackend(fake)
  return { fake, backend, events: () => backend.trace.events, lines: () => backend.trace.events.map(printEvent) }
}

const update = (fields: Partial<Parameters<typeof vhostMsgV2.encode>[0]>) =>
  vhostMsgV2.encode({ message: 2, asid: 0, iova: 0n, size: 0n, uaddr: 0n, perm: 0, type: 2, ...fields })

describe('events', () => {
  test('have the request, the bytes that went in, those that came out, and the end', () => {
    const { fake, backend, events, lines } = setUp()
    const handle = backend.open(path)
    fake.answer = (_request, argument) => {
      new DataView((argument as Uint8Array).buffer).setUint32(4, 1, true)
      return 0
    }
    const { number } = requests.VHOST_VDPA_GET_VRING_GROUP
    const argument = vhostVringState.encode({ index: 2, num: 0 })
    expect(handle.ioctl(number, argument)).toBe(0)
    expect(vhostVringState.decode(argument)).toEqual({ index: 2, num: 1 })
    expect(events()).toEqual([
      { op: 'open', path, creates: 'h0', outcome: { returned: 0 } },
      {
        op: 'ioctl',
        target: 'h0',
        path,
        request: number,
        argument: '0200000000000000',
        output: '0200000001000000',
        outcome: { returned: 0 },
      },
    ])
    expect(lines()).toEqual([
      `open ${path} = h0`,
      `VHOST_VDPA_GET_VRING_GROUP ${path} {index: 2, num: 0} → {index: 2, num: 1} = 0`,
    ])
  })

  test('of refusals have the code, and the error passes unchanged', async () => {
    const { fake, backend, events, lines } = setUp()
    const refusal = systemError('EINVAL', 22, 'invalid argument', { syscall: 'ioctl', path })
    fake.answer = () => {
      throw refusal
    }
    const handle = backend.open(path)
    const argument = vhostVringState.encode({ index: 1, num: 9 })
    const { number } = requests.VHOST_VDPA_SET_GROUP_ASID
    expect(await failureOf(() => handle.ioctl(number, argument))).toBe(refusal)
    expect(await failureOf(() => handle.ioctlAsync(number, argument))).toBe(refusal)
    expect(events().slice(1)).toMatchObject([
      { op: 'ioctl', outcome: { failed: 'EINVAL', errno: -22 } },
      { op: 'ioctl', async: true, outcome: { failed: 'EINVAL', errno: -22 } },
    ])
    expect(lines().slice(1)).toEqual([
      `VHOST_VDPA_SET_GROUP_ASID ${path} {index: 1, num: 9} = EINVAL`,
      `VHOST_VDPA_SET_GROUP_ASID ${path} {index: 1, num: 9} = EINVAL (async)`,
    ])
    expect(await failureOf(() => backend.open('/nowhere'))).toMatchObject({ code: 'ENOENT' })
    expect(lines().at(-1)).toBe('open /nowhere = ENOENT')
    expect(events().at(-1)).toMatchObject({ creates: 'h1' })
    backend.open('/somewhere')
    expect(events().at(-1)).toMatchObject({ creates: 'h1', outcome: { returned: 0 } })
  })

  test('stand in the order of asking, whenever they end', async () => {
    const { backend, lines } = setUp()
    const told: string[] = []
    const telling = new RecordingBackend(new FakeBackend(), { onEvent: (event) => told.push(printEvent(event)) })
    for (const each of [backend, telling]) {
      const handle = each.open(path)
      const slow = handle.ioctlAsync(requests.VHOST_VDPA_SUSPEND.number, 0)
      handle.ioctl(requests.VHOST_VDPA_RESUME.number, 0)
      if (each === backend) expect(lines()[1]).toBe(`VHOST_VDPA_SUSPEND ${path} = … (async)`)
      else expect(told).toEqual([`open ${path} = h0`])
      await slow
    }
    const expected = [`open ${path} = h0`, `VHOST_VDPA_SUSPEND ${path} = 0 (async)`, `VHOST_VDPA_RESUME ${path} = 0`]
    expect(lines()).toEqual(expected)
    expect(told).toEqual(expected)
  })

  test('a trace that was taken does not grow, and clear() forgets events and no names', () => {
    const { backend, events } = setUp()
    const before = backend.trace
    backend.eventfd()
    expect(before.events).toEqual([])
    backend.clear()
    backend.eventfd()
    expect(events()).toEqual([{ op: 'eventfd', creates: 'e1', outcome: { returned: 0 } }])
  })
})

describe('names in place of numbers', () => {
  test('eventfds and handles in requests that take an fd; -1 and strangers stay', () => {
    const { backend, events, lines } = setUp()
    const handle = backend.open(path)
    const own = backend.eventfd()
    const foreign = backend.eventfd(77)
    const bind = (name: 'VHOST_SET_VRING_KICK' | 'VHOST_SET_VRING_CALL' | 'VHOST_SET_VRING_ERR', fd: number) =>
      handle.ioctl(requests[name].number, vhostVringFile.encode({ index: 1, fd }))
    bind('VHOST_SET_VRING_KICK', own.fd)
    bind('VHOST_SET_VRING_CALL', foreign.fd)
    bind('VHOST_SET_VRING_CALL', 77)
    bind('VHOST_SET_VRING_ERR', -1)
    bind('VHOST_SET_VRING_ERR', 5555)
    handle.ioctl(requests.VHOST_VDPA_SET_CONFIG_CALL.number, s32Value.encode({ value: handle.fd }))
    expect(events().slice(3)).toMatchObject([
      { argument: '01000000{e0}' },
      { argument: '01000000{e1}' },
      { argument: '01000000{e1}' },
      { argument: '01000000ffffffff' },
      { argument: '01000000b3150000' },
      { argument: '{h0}' },
    ])
    expect(lines().slice(3)).toEqual([
      `VHOST_SET_VRING_KICK ${path} {index: 1, fd: e0} = 0`,
      `VHOST_SET_VRING_CALL ${path} {index: 1, fd: e1} = 0`,
      `VHOST_SET_VRING_CALL ${path} {index: 1, fd: e1} = 0`,
      `VHOST_SET_VRING_ERR ${path} {index: 1, fd: -1} = 0`,
      `VHOST_SET_VRING_ERR ${path} {index: 1, fd: 5555} = 0`,
      `VHOST_VDPA_SET_CONFIG_CALL ${path} h0 = 0`,
    ])
  })

  test('addresses of memory in IOTLB messages, to the byte', () => {
    const { backend, events, lines } = setUp()
    const handle = backend.open(path)
    const memory = backend.allocate(0x2000)
    const whole = { iova: 0x1000n, size: 0x1000n, uaddr: memory.address + 0x1000n, perm: 3 }
    handle.write(update({ asid: 1, ...whole }))
    handle.write(vhostMsg.encode({ message: 1, iova: 0n, size: 1n, uaddr: memory.address + 0x2000n, perm: 1, type: 2 }))
    const batch = [
      update({ type: 5, asid: 1 }),
      update({ asid: 1, ...whole, uaddr: memory.address }),
      update({ type: 6, asid: 1 }),
    ]
    taken(handle.writeEach(Buffer.concat(batch), 72))
    const after = (memory.address + 0x2000n).toString(16)
    expect(events()[2]).toMatchObject({
      bytes: `02000000010000000010000000000000${'0010000000000000'}{m0+0x1000}0302${'00'.repeat(38)}`,
    })
    expect(events()[1]).toEqual({
      op: 'allocate',
      length: 0x2000,
      creates: 'm0',
      outcome: { returned: 0x2000 },
    })
    expect(lines().slice(1)).toEqual([
      'allocate 8192 bytes = m0 of 8192 bytes',
      `VHOST_IOTLB_UPDATE ${path} {asid: 1, iova: 0x1000, size: 0x1000, uaddr: m0+0x1000, perm: RW} = 72`,
      `VHOST_IOTLB_UPDATE ${path} {iova: 0x0, size: 0x1, uaddr: 0x${after}, perm: RO} = 72`,
      `writeEach ${path} [VHOST_IOTLB_BATCH_BEGIN {asid: 1}, VHOST_IOTLB_UPDATE {asid: 1, iova: 0x1000, size: 0x1000, uaddr: m0+0x0, perm: RW}, VHOST_IOTLB_BATCH_END {asid: 1}] = 3`,
    ])
  })

  test('a living object before a closed one that had the number', () => {
    const { backend, events } = setUp()
    const handle = backend.open(path)
    const first = backend.eventfd(1)
    first.close()
    const send = () => handle.ioctl(requests.VHOST_VDPA_SET_CONFIG_CALL.number, s32Value.encode({ value: 1001 }))
    send()
    backend.eventfd(1)
    send()
    const sent = events().filter((event) => event.op === 'ioctl')
    expect(sent).toMatchObject([{ argument: '{e0}' }, { argument: '{e1}' }])
  })
})

describe('other calls', () => {
  test('each has a line', async () => {
    const { backend, lines } = setUp()
    const handle = backend.openFd(5, path)
    handle.ioctl(requests.VHOST_GET_FEATURES.number, u64Value.encode({ value: 0n }))
    handle.ioctl(0xbeef, new Uint8Array(40).fill(1))
    handle.ioctl(0xbeef, 7)
    handle.ioctl(requests.VHOST_VDPA_SET_CONFIG.number, Uint8Array.of(2, 0, 0, 0, 2, 0, 0, 0, 0xaa, 0xbb))
    handle.write(Uint8Array.of(1, 2))
    taken(handle.writeEach(new Uint8Array(6 * 72), 72))
    handle.read?.(new Uint8Array(2))
    handle.pread?.(new Uint8Array(3), 16n)
    handle.pwrite?.(Uint8Array.of(9), 0x1000n)
    const doorbell = handle.mapDoorbell?.(0x2000n)
    doorbell?.ring16(2)
    doorbell?.ring32(0x10002)
    doorbell?.close()
    const eventfd = backend.eventfd()
    eventfd.signal()
    eventfd.signal(4)
    eventfd.take()
    eventfd.close()
    eventfd.close()
    backend.adopt(9, { length: 4096, offset: 4096n }).close()
    backend.allocate(1, { pageSize: 4096, name: 'rings' })
    const socket = backend.netlink?.(16)
    socket?.send(Uint8Array.of(1))
    socket?.receive()
    socket?.addMembership(3)
    await socket?.close()
    await handle.close()
    await handle.close()
    handle.closeSync()
    expect(await failureOf(() => handle.write(Uint8Array.of(1)))).toMatchObject({ code: 'ERR_VDPA_CLOSED' })
    expect(lines()).toEqual([
      `openFd ${path} = h0`,
      `VHOST_GET_FEATURES ${path} 0x0 = 0`,
      `ioctl 0xbeef ${path} ${'01'.repeat(32)}… 8 more bytes = 0`,
      `ioctl 0xbeef ${path} 7 = 0`,
      `VHOST_VDPA_SET_CONFIG ${path} {off: 2, len: 2} aabb = 0`,
      `write ${path} 0102 = 2`,
      `writeEach ${path} [${Array(4)
        .fill(`${'00'.repeat(32)}… 40 more bytes`)
        .join(', ')}, … 2 more] = 6`,
      `read ${path} 2 bytes → 5a5a = 2`,
      `pread ${path} 3 bytes at 0x10 = 3`,
      `pwrite ${path} 09 at 0x1000 = 1`,
      `mapDoorbell ${path} 0x2000 = d0`,
      'ring16 d0 0x2 = 0',
      'ring32 d0 0x10002 = 0',
      'close d0 = 0',
      'eventfd = e0',
      'signal e0 1 = 0',
      'signal e0 4 = 0',
      'take e0 = 5',
      'close e0 = 0',
      'adopt 4096 bytes at 0x1000 = m0 of 4096 bytes',
      'close m0 = 0',
      'allocate 1 bytes rings = m1 of 4096 bytes',
      'netlink 16 = n0',
      'send n0 01 = 0',
      'receive n0 → 010203 = 3',
      'addMembership n0 3 = 0',
      'close n0 = 0 (async)',
      `close ${path} = 0 (async)`,
    ])
  })

  test('a listener that is called is an event', () => {
    const { backend, lines } = setUp()
    const eventfd = backend.eventfd()
    const heard: number[] = []
    const subscription = eventfd.onSignal((count) => heard.push(count))
    eventfd.signal(3)
    subscription.close()
    expect(heard).toEqual([3])
    expect(lines().slice(1).sort()).toEqual(['signal e0 3 = 0', 'woken e0 = 3'])
  })

  test('misuse is thrown and not kept', async () => {
    const { backend, events } = setUp()
    const handle = backend.open(path)
    for (const bad of [undefined, null, 'bytes', {}]) {
      expect(await failureOf(() => handle.write(bad as Uint8Array))).toBeInstanceOf(TypeError)
      expect(await failureOf(() => handle.ioctl(1, bad as Uint8Array))).toBeInstanceOf(TypeError)
      expect(await failureOf(() => handle.ioctlAsync(1, bad as Uint8Array))).toBeInstanceOf(TypeError)
    }
    expect(events()).toHaveLength(1)
  })
})

test('has what the inner backend has, and lacks what it lacks', () => {
  const recording = new RecordingBackend(new PlainBackend())
  expect(recording.name).toBe('recording(plain)')
  expect(recording.pageSize).toBe(4096)
  expect(recording.netlink).toBeUndefined()
  const handle = recording.open(path)
  const optional = ['read', 'onReadable', 'pread', 'pwrite', 'mapDoorbell'] as const
  for (const verb of optional) expect([verb, typeof handle[verb]]).toEqual([verb, 'undefined'])
  expect(handle.fd).toBe(10)
  const full = new RecordingBackend(new FakeBackend()).open(path)
  expect(Symbol.dispose in Object(full.onReadable?.(() => undefined))).toBe(true)
  expect(recording.memlock()).toEqual({ limit: 8n, pinned: 4n })
})

test('memory passes as it is, with its holds', async () => {
  const { fake, backend, lines } = setUp()
  const region = backend.allocate(100, { name: 'rings' })
  expect(fake.calls).toEqual(['allocate 4096'])
  expect(region).toMatchObject({ length: 4096, pageSize: 4096, isClosed: false, fd: 10, holders: [] })
  expect(region.buffer.byteLength).toBe(4096)
  const hold = region.hold('a device')
  expect(region.holders).toEqual(['a device'])
  expect(await failureOf(() => region.close())).toMatchObject({ code: 'ERR_VDPA_MEMORY_HELD' })
  hold.close()
  region.close()
  expect(region.isClosed).toBe(true)
  expect(lines()).toEqual([
    'allocate 100 bytes rings = m0 of 4096 bytes',
    'close m0 = ERR_VDPA_MEMORY_HELD',
    'close m0 = 0',
  ])
})

test('what was written before a refusal is counted', async () => {
  const { fake, backend, lines } = setUp()
  fake.refusedRecord = 3
  const handle = backend.open(path)
  expect(await failureOf(() => takenLater(handle.writeEachAsync(new Uint8Array(16), 4)))).toMatchObject({
    completed: 2,
  })
  expect(lines().at(-1)).toMatch(/ = EFAULT after 2 records \(async\)$/)
  const events: readonly TraceEvent[] = backend.trace.events
  expect(events.at(-1)?.outcome).toEqual({ failed: 'EFAULT', errno: -14, completed: 2 })
})
