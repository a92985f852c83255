// FaultyBackend: which calls are hit, what the program sees, and what the inner backend hears.

import { describe, expect, jest, test } from '@jest/globals'
import { FaultyBackend } from '../../lib/backend/faulty-backend.js'
import { vhostMsgV2, vhostVringState } from '../../lib/uapi/vhost-types.js'
import { requests } from '../../lib/uapi/vhost.js'
import { failureOf, FakeBackend, PlainBackend } from './fake-backend.js'
import { taken, takenLater } from '../write-outcome.js'

const path = '/dev/vhost-vdpa-0'
const { VHOST_VDPA_SET_GROUP_ASID, VHOST_VDPA_SUSPEND, VHOST_VDPA_RESUME } = requests

function setUp() {
  const fake = new FakeBackend()
  const backend = new FaultyBackend(fake)
  const handle = backend.open(path)
  fake.calls.length = 0
  return { fake, backend, handle, calls: fake.calls }
}

const setGroup = (index: number) => vhostVringState.encode({ index, num: 1 })
const updateAt = (iova: bigint) =>
  vhostMsgV2.encode({ message: 2, asid: 0, iova, size: 4096n, uaddr: 0n, perm: 3, type: 2 })
const records = (count: number) =>
  new Uint8Array(Buffer.concat(Array.from({ length: count }, (_, n) => updateAt(BigInt(n)))))

describe('fail', () => {
  test('refuses the nth call as the kernel would, and the inner backend does not hear of it', async () => {
    const { backend, handle, calls } = setUp()
    const fault = backend.fail({ request: 'VHOST_VDPA_SET_GROUP_ASID', with: 'EBUSY', nth: 2 })
    expect(handle.ioctl(VHOST_VDPA_SUSPEND.number, 0)).toBe(0)
    expect(handle.ioctl(VHOST_VDPA_SET_GROUP_ASID.number, setGroup(0))).toBe(0)
    const error = await failureOf(() => handle.ioctl(VHOST_VDPA_SET_GROUP_ASID.number, setGroup(1)))
    expect(error).toMatchObject({
      name: 'VdpaError',
      code: 'EBUSY',
      errno: -16,
      syscall: 'ioctl',
      request: 'VHOST_VDPA_SET_GROUP_ASID',
      path,
      message: `EBUSY: VHOST_VDPA_SET_GROUP_ASID on ${path}: device or resource busy`,
    })
    expect(handle.ioctl(VHOST_VDPA_SET_GROUP_ASID.number, setGroup(2))).toBe(0)
    expect(fault.hits).toBe(1)
    expect(calls).toHaveLength(3)
  })

  test('counts asynchronous and synchronous calls together, and rejects', async () => {
    const { backend, handle } = setUp()
    backend.fail({ op: 'ioctl', with: 'EIO', nth: 2, times: 2, text: 'because we say so' })
    handle.ioctl(VHOST_VDPA_SUSPEND.number, 0)
    const rejected = handle.ioctlAsync(VHOST_VDPA_SUSPEND.number, 0)
    expect(await failureOf(() => rejected)).toMatchObject({ code: 'EIO' })
    const error = await failureOf(() => handle.ioctl(0xaf99, 0))
    expect(error.message).toBe(`EIO: ioctl 0xaf99 on ${path}: because we say so`)
    expect(handle.ioctl(VHOST_VDPA_SUSPEND.number, 0)).toBe(0)
  })

  test('all parts must match', async () => {
    const { backend, handle } = setUp()
    const other = backend.open('/dev/vhost-vdpa-1')
    backend.fail({
      op: 'ioctl',
      request: 'VHOST_VDPA_SET_GROUP_ASID',
      path: '/dev/vhost-vdpa-1',
      when: (call) => call.op === 'ioctl' && typeof call.argument !== 'number' && call.argument[0] === 7,
      times: Infinity,
      with: 'EPERM',
    })
    handle.ioctl(VHOST_VDPA_SET_GROUP_ASID.number, setGroup(7))
    other.ioctl(VHOST_VDPA_SET_GROUP_ASID.number, setGroup(6))
    other.ioctl(VHOST_VDPA_SUSPEND.number, 0)
    for (let round = 0; round < 3; round++) {
      const refused = () => other.ioctl(VHOST_VDPA_SET_GROUP_ASID.number, setGroup(7))
      expect(await failureOf(refused)).toMatchObject({ code: 'EPERM' })
    }
  })

  test.each([
    ['open', 'open on /dev/x', (b: FaultyBackend) => b.open('/dev/x')],
    ['openFd', 'fcntl on fd 9', (b: FaultyBackend) => b.openFd(9)],
    ['allocate', 'memfd_create on 100 bytes of memory', (b: FaultyBackend) => b.allocate(100)],
    ['adopt', 'mmap on fd 9', (b: FaultyBackend) => b.adopt(9, { length: 4096 })],
    ['eventfd', 'eventfd2 on a new eventfd', (b: FaultyBackend) => b.eventfd()],
    ['eventfd', 'eventfd2 on fd 4', (b: FaultyBackend) => b.eventfd(4)],
    ['netlink', 'socket on netlink 16', (b: FaultyBackend) => b.netlink?.(16)],
    ['mapDoorbell', `mmap on ${path}`, (b: FaultyBackend) => b.open(path).mapDoorbell?.(0n)],
    ['write', `write on ${path}`, (b: FaultyBackend) => b.open(path).write(updateAt(0n))],
    ['read', `read on ${path}`, (b: FaultyBackend) => b.open(path).read?.(new Uint8Array(1))],
    ['pread', `pread64 on ${path}`, (b: FaultyBackend) => b.open(path).pread?.(new Uint8Array(1), 0n)],
    ['pwrite', `pwrite64 on ${path}`, (b: FaultyBackend) => b.open(path).pwrite?.(new Uint8Array(1), 0n)],
    ['signal', 'write', (b: FaultyBackend) => b.eventfd().signal()],
    ['take', 'read', (b: FaultyBackend) => b.eventfd().take()],
    ['send', 'sendto', (b: FaultyBackend) => b.netlink?.(16).send(new Uint8Array(1))],
    ['receive', 'recvfrom', (b: FaultyBackend) => b.netlink?.(16).receive()],
    ['addMembership', 'setsockopt', (b: FaultyBackend) => b.netlink?.(16).addMembership(1)],
    ['close', `close on ${path}`, (b: FaultyBackend) => b.open(path).close()],
    ['close', `close on ${path}`, (b: FaultyBackend) => b.open(path).closeSync()],
  ] as const)('%s can fail: %s', async (op, subject, call) => {
    const backend = new FaultyBackend(new FakeBackend())
    backend.fail({ op, with: 'EINTR' })
    const error = await failureOf(() => call(backend))
    expect(error).toMatchObject({ code: 'EINTR', errno: -4, message: `EINTR: ${subject}: interrupted system call` })
  })

  test('a fault that was closed, and all after clear(), are gone', () => {
    const { backend, handle } = setUp()
    const first = backend.fail({ with: 'EIO', times: Infinity })
    first.close()
    expect(handle.ioctl(1, 0)).toBe(0)
    backend.fail({ with: 'EIO', times: Infinity })
    backend.clear()
    expect(handle.ioctl(1, 0)).toBe(0)
    {
      using _fault = backend.fail({ with: 'EIO', times: Infinity })
      expect(() => handle.ioctl(1, 0)).toThrow('EIO')
    }
    expect(handle.ioctl(1, 0)).toBe(0)
  })

  test('the first planted decides, and all count', async () => {
    const { backend, handle } = setUp()
    backend.fail({ with: 'EIO' })
    const second = backend.fail({ with: 'EPERM', nth: 2 })
    expect(await failureOf(() => handle.ioctl(1, 0))).toMatchObject({ code: 'EIO' })
    expect(await failureOf(() => handle.ioctl(1, 0))).toMatchObject({ code: 'EPERM' })
    expect(second.hits).toBe(1)
  })

  test.each([
    [{ with: 'EWHAT' }, 'with must be one of'],
    [{ with: 'EIO', op: 'ring' }, 'op must be one of'],
    [{ with: 'EIO', request: 'VHOST_NOTHING' }, 'request must be the name of a request or of an IOTLB message'],
    [{ with: 'EIO', nth: 0 }, 'nth must be an integer from 1'],
    [{ with: 'EIO', times: 0.5 }, 'times must be an integer from 1'],
    [{ with: 'EIO', when: 1 }, 'when must be a function'],
    [{ with: 'EIO', path: 1 }, 'path must be a string'],
  ])('%p is refused', (options, sentence) => {
    const { backend } = setUp()
    expect(() => backend.fail(options as never)).toThrow(sentence)
  })

  test('misuse stays the inner backend’s to refuse, and uses no fault up', async () => {
    const { backend, handle } = setUp()
    const fault = backend.fail({ op: 'write', with: 'EIO' })
    expect(await failureOf(() => handle.write(undefined as never))).toBeInstanceOf(TypeError)
    expect(fault.hits).toBe(0)
  })

  test('a closed handle says so, whatever is planted', async () => {
    const { backend, handle } = setUp()
    backend.fail({ op: 'ioctl', with: 'EIO', times: Infinity })
    handle.closeSync()
    expect(await failureOf(() => handle.ioctl(1, 0))).toMatchObject({ code: 'ERR_VDPA_CLOSED' })
    expect(await failureOf(() => handle.ioctlAsync(1, 0))).toMatchObject({ code: 'ERR_VDPA_CLOSED' })
  })
})

describe('writeEach', () => {
  test.each(['writeEach', 'writeEachAsync'] as const)(
    '%s: the kth record is refused, those before are written',
    async (verb) => {
      const { backend, handle, calls } = setUp()
      backend.fail({ request: 'VHOST_IOTLB_UPDATE', with: 'EFAULT', nth: 4 })
      expect(taken(await handle[verb](records(2), 72))).toBe(2)
      const error = await failureOf(async () => taken(await handle[verb](records(5), 72)))
      expect(error).toMatchObject({ code: 'EFAULT', completed: 1, syscall: 'write', path })
      expect(error.message).toBe(`EFAULT: write on ${path}: bad address`)
      expect(error).not.toHaveProperty('request')
      expect(taken(await handle[verb](records(3), 72))).toBe(3)
      expect(calls).toEqual(['writeEach 2', 'writeEach 1', 'writeEach 3'])
    },
  )

  test.each(['writeEach', 'writeEachAsync'] as const)(
    '%s: a first record that is refused writes nothing',
    async (verb) => {
      const { backend, handle, calls } = setUp()
      backend.fail({ op: 'writeEach', with: 'EIO' })
      expect(await failureOf(async () => taken(await handle[verb](records(3), 72)))).toMatchObject({ completed: 0 })
      expect(calls).toEqual([])
    },
  )

  test.each(['writeEach', 'writeEachAsync'] as const)('%s: a short record ends it with EIO', async (verb) => {
    const { backend, handle, calls } = setUp()
    backend.shorten({ op: 'writeEach', nth: 3, length: 10 })
    const error = await failureOf(async () => taken(await handle[verb](records(4), 72)))
    expect(error).toMatchObject({ code: 'EIO', completed: 2 })
    expect(error.message).toBe(`EIO: write on ${path}: record 2 was taken only in part`)
    expect(calls).toEqual(['writeEach 2'])
  })

  test('a predicate sees one record', async () => {
    const { backend, handle } = setUp()
    backend.fail({
      op: 'writeEach',
      when: (call) => call.op === 'writeEach' && vhostMsgV2.decode(call.bytes).iova === 3n,
      with: 'ENOMEM',
    })
    expect(await failureOf(() => taken(handle.writeEach(records(5), 72)))).toMatchObject({
      code: 'ENOMEM',
      completed: 3,
    })
  })

  test('a real refusal before the planted one counts right', async () => {
    const { fake, backend, handle } = setUp()
    fake.refusedRecord = 2
    backend.fail({ op: 'writeEach', nth: 4, with: 'EIO' })
    expect(await failureOf(() => taken(handle.writeEach(records(5), 72)))).toMatchObject({
      code: 'EFAULT',
      completed: 1,
    })
  })
})

describe('shorten', () => {
  test('a short write reaches nothing and returns less', () => {
    const { backend, handle, calls } = setUp()
    backend.shorten({ op: 'write', length: 40 })
    backend.shorten({ op: 'write' })
    backend.shorten({ op: 'pwrite', length: 9 })
    expect(handle.write(updateAt(0n))).toBe(40)
    expect(handle.pwrite?.(new Uint8Array(4), 0n)).toBe(4)
    expect(calls).toEqual([])
  })

  test('a short read loses the rest', () => {
    const { backend, handle, calls } = setUp()
    backend.shorten({ length: 2, times: 2 })
    const bytes = new Uint8Array(4)
    expect(handle.ioctl(1, 0)).toBe(0)
    expect(handle.read?.(bytes)).toBe(2)
    expect([...bytes]).toEqual([0x5a, 0x5a, 0, 0])
    expect(handle.read?.(bytes.subarray(0, 1))).toBe(1)
    expect(calls).toEqual(['ioctl 0x1', 'read 4', 'read 1'])
  })
})

describe('delay', () => {
  test('a held call has not reached the inner backend until it is released', async () => {
    const { backend, handle, calls } = setUp()
    const late = backend.delay({ request: 'VHOST_VDPA_SUSPEND' })
    const settled = jest.fn()
    const call = handle.ioctlAsync(VHOST_VDPA_SUSPEND.number, 0)
    void call.then(settled)
    await late.arrival()
    expect([late.waiting, late.hits, calls.length]).toEqual([1, 1, 0])
    await new Promise((resolve) => setImmediate(resolve))
    expect(settled).not.toHaveBeenCalled()
    expect(late.release()).toBe(1)
    expect(await call).toBe(0)
    expect(calls).toEqual([`ioctl 0x${VHOST_VDPA_SUSPEND.number.toString(16)}`])
    expect([late.waiting, late.release()]).toEqual([0, 0])
  })

  test('arrival() waits for a call', async () => {
    const { backend, handle } = setUp()
    const late = backend.delay({ op: 'ioctl' })
    const arrived = late.arrival()
    const call = handle.ioctlAsync(1, 0)
    await arrived
    expect(late.waiting).toBe(1)
    late.release()
    await expect(call).resolves.toBe(0)
  })

  test('synchronous calls are not late', () => {
    const { backend, handle } = setUp()
    const late = backend.delay({ times: Infinity })
    expect(handle.ioctl(1, 0)).toBe(0)
    expect(taken(handle.writeEach(records(1), 72))).toBe(1)
    expect([late.hits, late.waiting]).toEqual([0, 0])
  })

  test.each(['sync', 'async'] as const)(
    'a %s call has what is held done first, and only the result is late',
    async (mode) => {
      const { backend, handle, calls } = setUp()
      const late = backend.delay({ request: 'VHOST_VDPA_SUSPEND' })
      const settled = jest.fn()
      const held = handle.ioctlAsync(VHOST_VDPA_SUSPEND.number, 0)
      void held.then(settled)
      if (mode === 'sync') handle.ioctl(VHOST_VDPA_RESUME.number, 0)
      else await handle.ioctlAsync(VHOST_VDPA_RESUME.number, 0)
      const numbers = [VHOST_VDPA_SUSPEND, VHOST_VDPA_RESUME].map(({ number }) => `ioctl 0x${number.toString(16)}`)
      expect(calls).toEqual(numbers)
      await new Promise((resolve) => setImmediate(resolve))
      expect(settled).not.toHaveBeenCalled()
      expect(late.waiting).toBe(1)
      late.release()
      expect(await held).toBe(0)
      expect(calls).toEqual(numbers)
    },
  )

  test('calls on other handles go by', async () => {
    const { backend, handle, calls } = setUp()
    const other = backend.open('/dev/vhost-vdpa-1')
    const late = backend.delay({ path })
    const held = handle.ioctlAsync(1, 0)
    await other.ioctlAsync(2, 0)
    expect(calls).toEqual(['open /dev/vhost-vdpa-1', 'ioctl 0x2'])
    late.close()
    expect(await held).toBe(0)
  })

  test('released in order, one by one', async () => {
    const { backend, handle, calls } = setUp()
    const other = backend.open('/dev/vhost-vdpa-1')
    calls.length = 0
    const late = backend.delay({ times: Infinity })
    const first = handle.ioctlAsync(1, 0)
    const second = other.ioctlAsync(2, 0)
    expect(late.waiting).toBe(2)
    expect(late.release(1)).toBe(1)
    await first
    expect(calls).toEqual(['ioctl 0x1'])
    backend.clear()
    await second
  })

  test('a refusal of what was held is heard at its release', async () => {
    const { fake, backend, handle } = setUp()
    fake.answer = (request) => {
      if (request === 1) throw new RangeError('no')
      return 0
    }
    const late = backend.delay()
    const held = handle.ioctlAsync(1, 0)
    handle.ioctl(2, 0)
    await new Promise((resolve) => setImmediate(resolve))
    late.release()
    expect(await failureOf(() => held)).toBeInstanceOf(RangeError)
  })

  test('a closing can be late; what comes after it finds the handle closed', async () => {
    const { backend, handle } = setUp()
    const late = backend.delay({ op: 'close' })
    const closing = handle.close()
    expect(handle.isClosed).toBe(false)
    expect(await failureOf(() => handle.ioctl(1, 0))).toMatchObject({ code: 'ERR_VDPA_CLOSED' })
    late.release()
    await closing
    await handle.close()
  })

  test('in the middle of a writeEachAsync, with progress counted through', async () => {
    const { backend, handle, calls } = setUp()
    const late = backend.delay({ op: 'writeEach', nth: 3 })
    const progress: number[] = []
    const writing = takenLater(handle.writeEachAsync(records(5), 72, { onProgress: (count) => progress.push(count) }))
    expect(calls).toEqual(['writeEach 2'])
    late.release()
    expect(await writing).toBe(5)
    expect(calls).toEqual(['writeEach 2', 'writeEach 3'])
    expect(progress).toEqual([5])
  })

  test('an abort while it is held stops there', async () => {
    const { backend, handle, calls } = setUp()
    const late = backend.delay({ op: 'writeEach', nth: 3 })
    const controller = new AbortController()
    const writing = takenLater(handle.writeEachAsync(records(5), 72, { signal: controller.signal }))
    controller.abort(new Error('enough'))
    const error = await failureOf(() => writing)
    expect(error).toMatchObject({ code: 'ERR_VDPA_CANCELED', completed: 2, cause: new Error('enough') })
    expect(late.waiting).toBe(0)
    handle.ioctl(1, 0)
    expect(calls).toEqual(['writeEach 2', 'ioctl 0x1'])
  })

  test('late, and then refused', async () => {
    const { fake, backend, handle, calls } = setUp()
    const late = backend.delay({ op: 'writeEach', nth: 2 })
    backend.fail({ op: 'writeEach', nth: 4, with: 'EFAULT' })
    const writing = takenLater(handle.writeEachAsync(records(6), 72))
    late.release()
    expect(await failureOf(() => writing)).toMatchObject({ code: 'EFAULT', completed: 3 })
    expect(calls).toEqual(['writeEach 1', 'writeEach 2'])
    fake.refusedRecord = fake.records + 3
    const again = backend.delay({ op: 'writeEach', nth: 2 })
    const second = takenLater(handle.writeEachAsync(records(6), 72))
    again.release()
    expect(await failureOf(() => second)).toMatchObject({ code: 'EFAULT', completed: 2 })
  })
})

test('has what the inner backend has, and lacks what it lacks', () => {
  const backend = new FaultyBackend(new PlainBackend())
  expect(backend.name).toBe('faulty(plain)')
  expect(backend.netlink).toBeUndefined()
  expect(typeof backend.open(path).read).toBe('undefined')
  expect(backend.pageSize).toBe(4096)
  expect(backend.memlock()).toEqual({ limit: 8n, pinned: 4n })
})
