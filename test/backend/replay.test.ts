// Replaying: a trace holds on another backend under other numbers, and the first difference is shown as a person reads it.

import { describe, expect, test } from '@jest/globals'
import { FaultyBackend } from '../../lib/backend/faulty-backend.js'
import { RecordingBackend } from '../../lib/backend/recording-backend.js'
import { compareTrace, replay } from '../../lib/backend/replay.js'
import { formatTrace, parseTrace, type Trace } from '../../lib/backend/trace.js'
import { blockDevice, networkDevice, Simulator } from '../../lib/simulator/index.js'
import { s32Value, u64Value, u8Value, vhostMsgV2, vhostVringFile, vhostVringState } from '../../lib/uapi/vhost-types.js'
import { requests, type RequestName } from '../../lib/uapi/vhost.js'
import { FakeBackend, failureOf, PlainBackend } from './fake-backend.js'
import { taken, takenLater } from '../write-outcome.js'

const path = '/dev/vhost-vdpa-0'

function simulator(): Simulator {
  const made = new Simulator({ profile: 'linux-6.12', scheduler: 'manual' })
  made.add(networkDevice({ path, mac: '00:11:22:33:44:55' }))
  return made
}

/** What a program might do: memory, eventfds, requests, messages, a refusal, an abort. */
async function recorded(): Promise<Trace> {
  const world = simulator()
  const backend = new RecordingBackend(world)
  // Other numbers than those of the replay.
  world.allocate(4096)
  world.eventfd()
  const handle = backend.open(path)
  const ask = (name: RequestName, argument: Uint8Array | number = 0) => handle.ioctl(requests[name].number, argument)
  ask('VHOST_SET_OWNER')
  ask('VHOST_GET_FEATURES', u64Value.encode({ value: 0n }))
  ask('VHOST_SET_BACKEND_FEATURES', u64Value.encode({ value: 0xen }))
  await handle.ioctlAsync(requests.VHOST_VDPA_SET_STATUS.number, u8Value.encode({ value: 3 }))
  const memory = backend.allocate(8192)
  const update = (iova: bigint) =>
    vhostMsgV2.encode({ message: 2, asid: 1, iova, size: 4096n, uaddr: memory.address + 4096n, perm: 3, type: 2 })
  handle.write(update(0x1000n))
  await failureOf(() => taken(handle.writeEach(Buffer.concat([update(0x5000n), update(0x1000n)]), 72)))
  const kick = backend.eventfd()
  ask('VHOST_SET_VRING_KICK', vhostVringFile.encode({ index: 0, fd: kick.fd }))
  ask('VHOST_VDPA_SET_CONFIG_CALL', s32Value.encode({ value: -1 }))
  ask('VHOST_VDPA_GET_VRING_GROUP', vhostVringState.encode({ index: 2, num: 0 }))
  await failureOf(() => ask('VHOST_VDPA_SET_GROUP_ASID', vhostVringState.encode({ index: 0, num: 9 })))
  await failureOf(() => backend.open(path))
  kick.signal(2)
  kick.take()
  await handle.close()
  memory.close()
  return backend.trace
}

test('a trace holds where it was recorded, on a second simulator, and from its text', async () => {
  const trace = await recorded()
  const report = await replay(parseTrace(formatTrace(trace)), simulator())
  expect(report).toEqual({ calls: trace.events.length, difference: undefined, tolerated: [], unused: [] })
  expect(trace.events.length).toBeGreaterThan(15)
})

test('paths may be others', async () => {
  const trace = await recorded()
  const other = new Simulator({ profile: 'linux-6.12', scheduler: 'manual' })
  other.add(networkDevice({ path: '/dev/vhost-vdpa-7', mac: '00:11:22:33:44:55' }))
  expect(await compareTrace(trace, other)).toMatchObject({ calls: 1, difference: { index: 0, came: 'ENOENT' } })
  expect((await replay(trace, other, { paths: { [path]: '/dev/vhost-vdpa-7' } })).difference).toBeUndefined()
})

describe('the first difference', () => {
  test('in how a call ended', async () => {
    const faulty = new FaultyBackend(simulator())
    faulty.fail({ request: 'VHOST_VDPA_GET_VRING_GROUP', with: 'EOPNOTSUPP' })
    faulty.fail({ op: 'close', with: 'EIO' })
    const error = await failureOf(async () => replay(await recorded(), faulty))
    expect(error).toMatchObject({ code: 'ERR_VDPA_TRACE', cause: { expected: '0', came: 'EOPNOTSUPP' } })
    expect(error.message).toBe(
      [
        `ERR_VDPA_TRACE: call 11 was answered otherwise: VHOST_VDPA_GET_VRING_GROUP ${path} {index: 2, num: 0}`,
        '  expected 0, leaving {index: 2, num: 1}',
        '  came     EOPNOTSUPP',
        `  (EOPNOTSUPP: VHOST_VDPA_GET_VRING_GROUP on ${path}: operation not supported)`,
      ].join('\n'),
    )
  })

  test('in what it left in its bytes', async () => {
    const trace = await recorded()
    const block = new Simulator({ profile: 'linux-6.12', scheduler: 'manual' })
    block.add(blockDevice({ path, capacity: 4096 }))
    const { difference } = await compareTrace(trace, block)
    expect(difference).toMatchObject({ index: 2, expected: '0', came: '0' })
    expect(difference?.text).toMatch(
      /VHOST_GET_FEATURES .* 0x0\n {2}expected 0, leaving 0x308830028\n {2}came {5}0, leaving 0x/,
    )
  })

  test('in a refusal that did not come, and in how far a sequence came', async () => {
    const trace = await recorded()
    const lenient = new FakeBackend()
    const events = trace.events.filter((_, index) => [0, 5, 7].includes(index))
    const seen = await compareTrace({ ...trace, events }, lenient)
    expect(seen.difference).toMatchObject({ index: 2, expected: 'EFAULT after 1 record', came: '2' })
  })

  test('nothing is asked after it, and what is open is closed', async () => {
    const trace = await recorded()
    const fake = new FakeBackend()
    const { calls } = await compareTrace(trace, fake)
    expect(calls).toBe(3)
    expect(fake.calls.at(-1)).toBe(`close ${path}`)
  })

  test('in what is there at all', async () => {
    const recording = new RecordingBackend(new FakeBackend())
    const handle = recording.open(path)
    handle.read?.(new Uint8Array(1))
    handle.pread?.(new Uint8Array(1), 0n)
    handle.pwrite?.(new Uint8Array(1), 0n)
    handle.mapDoorbell?.(0n).ring32(1)
    recording.netlink?.(16).send(new Uint8Array(1))
    const { events, ...head } = recording.trace
    const [open, ...others] = events
    if (open === undefined) throw new Error('nothing was recorded')
    for (const event of others.filter(({ op }) => op !== 'ring' && op !== 'send')) {
      const { difference } = await compareTrace({ ...head, events: [open, event] }, new PlainBackend())
      expect(difference?.came).toBe('ERR_VDPA_NOT_SUPPORTED')
    }
    expect((await compareTrace({ ...head, events: others.slice(-1) }, new PlainBackend())).difference?.came).toBe(
      'ERR_VDPA_TRACE',
    )
    expect((await compareTrace(recording.trace, new FakeBackend())).difference).toBeUndefined()
  })
})

describe('tolerated differences', () => {
  test('are named, reported, and left unused when nothing needed them', async () => {
    const trace = await recorded()
    const faulty = new FaultyBackend(simulator())
    faulty.fail({ request: 'VHOST_VDPA_GET_VRING_GROUP', with: 'EOPNOTSUPP' })
    const report = await replay(trace, faulty, {
      tolerate: [
        { name: 'no-groups', request: 'VHOST_VDPA_GET_VRING_GROUP', expected: '0', came: 'EOPNOTSUPP' },
        { name: 'something-else', op: 'take', path, index: 3 },
      ],
    })
    expect(report.tolerated).toMatchObject([{ name: 'no-groups', index: 11, came: 'EOPNOTSUPP' }])
    expect(report.unused).toEqual(['something-else'])
    expect(report.calls).toBe(trace.events.length)
  })

  test('match by what they say, all of it', async () => {
    const trace = await recorded()
    const faulty = new FaultyBackend(simulator())
    faulty.fail({ request: 'VHOST_IOTLB_UPDATE', with: 'EIO' })
    const rule = {
      name: 'x',
      op: 'write',
      request: 'VHOST_IOTLB_UPDATE',
      path,
      index: 6,
      expected: '72',
      came: 'EIO',
    } as const
    for (const wrong of [
      { op: 'ioctl' },
      { request: 'VHOST_IOTLB_INVALIDATE' },
      { path: '/dev/x' },
      { index: 5 },
      { expected: '0' },
      { came: 'EPERM' },
    ] as const) {
      faulty.clear()
      faulty.fail({ request: 'VHOST_IOTLB_UPDATE', with: 'EIO' })
      const report = await compareTrace(trace, faulty, { tolerate: [{ ...rule, ...wrong }] })
      expect(report.difference?.index).toBe(6)
    }
    faulty.clear()
    faulty.fail({ request: 'VHOST_IOTLB_UPDATE', with: 'EIO' })
    const report = await compareTrace(trace, faulty, { tolerate: [rule] })
    // The mapping is missing now, so the next refusal does not come.
    expect(report).toMatchObject({ tolerated: [{ name: 'x' }], difference: { index: 7, came: '2' } })
  })
})

test('a canceled sequence is replayed as far as it came', async () => {
  const recording = new RecordingBackend(new FaultyBackend(new FakeBackend()))
  const faulty = new FaultyBackend(new FakeBackend())
  const backend = new RecordingBackend(faulty)
  faulty.delay({ op: 'writeEach', nth: 3 })
  const controller = new AbortController()
  const handle = backend.open(path)
  const writing = takenLater(handle.writeEachAsync(new Uint8Array(20), 4, { signal: controller.signal }))
  controller.abort()
  await failureOf(() => writing)
  const early = takenLater(handle.writeEachAsync(new Uint8Array(20), 4, { signal: controller.signal }))
  await failureOf(() => early)
  const fake = new FakeBackend()
  expect(await replay(backend.trace, fake)).toMatchObject({ calls: 2, difference: undefined })
  expect(fake.records).toBe(2)
  expect(recording.trace.events).toEqual([])
})

test('settle() comes before counters are read', async () => {
  const world = simulator()
  const backend = new RecordingBackend(world)
  const eventfd = backend.eventfd()
  const heard: number[] = []
  const subscription = eventfd.onSignal((count) => heard.push(count))
  eventfd.signal(5)
  world.drain()
  subscription.close()
  expect(heard).toEqual([5])
  let settled = 0
  await replay(backend.trace, simulator(), { settle: () => void settled++ })
  expect(settled).toBe(1)
})

test('memory that the program held is not freed in the replay either', async () => {
  const backend = new RecordingBackend(simulator())
  const memory = backend.allocate(4096)
  const hold = memory.hold('me')
  expect(await failureOf(() => memory.close())).toMatchObject({ code: 'ERR_VDPA_MEMORY_HELD' })
  hold.close()
  memory.close()
  expect(await replay(backend.trace, simulator())).toMatchObject({ calls: 2 })
})
