// Handles of the kernel backend on files, pipes and /dev/null: the promises of the contract that need no vhost device.

import { expect, it } from '@jest/globals'
import { execFileSync } from 'node:child_process'
import { closeSync, openSync, readFileSync, writeFileSync } from 'node:fs'
import { requests } from '../../lib/uapi/vhost'
import { describeNative, failureOf, leftOpen, openDescriptors, TemporaryFolder } from './support'
import { taken, takenLater } from '../write-outcome.js'

/** Bytes from the position to the end of a regular file, as an int. */
const FIONREAD = 0x541b

function emptyFile(folder: TemporaryFolder, name = 'file'): string {
  writeFileSync(folder.file(name), '')
  return folder.file(name)
}

/** `count` records of `stride` bytes, all with the value `fill`. */
function records(count: number, stride: number, fill: number): Uint8Array {
  return new Uint8Array(count * stride).fill(fill)
}

describeNative('opening', (backend) => {
  it('says what a missing device needs', async () => {
    const error = await failureOf(() => backend().open('/dev/vhost-vdpa-4711'))
    expect(error).toMatchObject({ code: 'ENOENT', errno: -2, syscall: 'open', path: '/dev/vhost-vdpa-4711' })
    expect(error.hint).toMatch(/vhost_vdpa.*vdpa dev add/)
    expect(error.message).toMatch(/^ENOENT: open on \/dev\/vhost-vdpa-4711: no such file or directory \(load /)
  })

  it('gives no advice on files it knows nothing of', async () => {
    const error = await failureOf(() => backend().open('/nowhere/at/all'))
    expect(error.message).toBe('ENOENT: open on /nowhere/at/all: no such file or directory')
    expect(error.hint).toBeUndefined()
  })

  it.each([undefined, 7, '', 'a\0b'])('refuses a path that is none (%#)', (path) => {
    expect(() => backend().open(path as string)).toThrow(/^path must be/)
  })

  it('takes over a descriptor, close-on-exec and non-blocking', async () => {
    const fd = openSync('/dev/null', 'r+')
    const handle = backend().openFd(fd, 'somebody’s')
    expect(handle).toMatchObject({ fd, path: 'somebody’s' })
    const flags = Number.parseInt(
      /^flags:\s+(\d+)$/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'latin1'))?.[1] ?? '',
      8,
    )
    expect(flags & 0o2004000).toBe(0o2004000)
    await handle.close()
    expect(() => closeSync(fd)).toThrow('EBADF')
  })

  it('refuses a descriptor that is not open', async () => {
    expect(await failureOf(() => backend().openFd(0x7fff_0000))).toMatchObject({ code: 'EBADF', syscall: 'fcntl' })
    expect(() => backend().openFd(-1)).toThrow(RangeError)
    expect(() => backend().openFd(1.5)).toThrow(RangeError)
  })
})

describeNative('ioctl', (backend) => {
  it('names the request that was refused', async () => {
    await using handle = backend().open('/dev/null')
    const argument = new Uint8Array(8)
    const error = await failureOf(() => handle.ioctl(requests.VHOST_VDPA_SET_GROUP_ASID.number, argument))
    expect(error.message).toBe('ENOTTY: VHOST_VDPA_SET_GROUP_ASID on /dev/null: the device does not know this request')
    expect(error).toMatchObject({
      code: 'ENOTTY',
      errno: -25,
      syscall: 'ioctl',
      request: 'VHOST_VDPA_SET_GROUP_ASID',
      path: '/dev/null',
    })
    expect((await failureOf(() => handle.ioctlAsync(0x5401, 0))).message).toMatch(
      /^ENOTTY: ioctl 0x5401 on \/dev\/null: /,
    )
  })

  it('updates the bytes in place, first time and again', async () => {
    using folder = new TemporaryFolder()
    await using handle = backend().open(emptyFile(folder))
    const argument = new Uint8Array(4)
    for (const size of [3, 10, 11]) {
      writeFileSync(folder.file('file'), 'x'.repeat(size))
      expect(handle.ioctl(FIONREAD, argument)).toBe(0)
      expect(new DataView(argument.buffer).getInt32(0, true)).toBe(size)
      argument.fill(0)
      expect(await handle.ioctlAsync(FIONREAD, argument)).toBe(0)
      expect(new DataView(argument.buffer).getInt32(0, true)).toBe(size)
    }
  })

  it('follows a view into the middle of a buffer, and from one array to another', async () => {
    using folder = new TemporaryFolder()
    writeFileSync(folder.file('file'), 'four')
    await using handle = backend().open(folder.file('file'))
    const whole = new Uint8Array(32)
    const arrays = [whole.subarray(4, 8), whole.subarray(12, 16), Buffer.alloc(4), whole.subarray(4, 8)]
    for (const argument of arrays) {
      argument.fill(0)
      handle.ioctl(FIONREAD, argument)
      expect([...argument]).toEqual([4, 0, 0, 0])
    }
    expect([...whole.subarray(8, 12)]).toEqual([0, 0, 0, 0])
  })

  it('never uses the address of an array that was detached', async () => {
    await using handle = backend().open('/dev/null')
    const argument = new Uint8Array(8)
    const { number } = requests.VHOST_GET_FEATURES
    expect(await failureOf(() => handle.ioctl(number, argument))).toMatchObject({ code: 'ENOTTY' })
    structuredClone(argument.buffer, { transfer: [argument.buffer] })
    expect(() => handle.ioctl(number, argument)).toThrow('argument must be at least 8 bytes long (got 0)')
    await expect(handle.ioctlAsync(number, argument)).rejects.toThrow(RangeError)
  })

  it('copies nothing back into an array that was detached meanwhile', async () => {
    using folder = new TemporaryFolder()
    await using handle = backend().open(emptyFile(folder))
    const argument = new Uint8Array(4)
    const call = handle.ioctlAsync(FIONREAD, argument)
    const moved = structuredClone(argument.buffer, { transfer: [argument.buffer] })
    expect(await call).toBe(0)
    expect(moved.byteLength).toBe(4)
  })

  it('refuses an array that the kernel would write past', async () => {
    await using handle = backend().open('/dev/null')
    const { VHOST_VDPA_GET_CONFIG: config, VHOST_SET_MEM_TABLE: table, VHOST_VDPA_GET_STATUS: status } = requests
    expect(() => handle.ioctl(status.number, new Uint8Array(0))).toThrow(RangeError)
    const head = new Uint8Array(15)
    new DataView(head.buffer).setUint32(4, 8, true)
    expect(() => handle.ioctl(config.number, head)).toThrow('argument must be at least 16 bytes long (got 15)')
    const regions = new Uint8Array(39)
    new DataView(regions.buffer).setUint32(0, 1, true)
    expect(() => handle.ioctl(table.number, regions)).toThrow('argument must be at least 40 bytes long (got 39)')
    // An array whose need depends on its bytes is checked each time.
    const exact = new Uint8Array(16)
    new DataView(exact.buffer).setUint32(4, 8, true)
    expect(await failureOf(() => handle.ioctl(config.number, exact))).toMatchObject({ code: 'ENOTTY' })
    new DataView(exact.buffer).setUint32(4, 9, true)
    expect(() => handle.ioctl(config.number, exact)).toThrow(RangeError)
  })

  it('takes numbers where a request takes a value, and 0 as a null pointer', async () => {
    await using handle = backend().open('/dev/null')
    const { VHOST_SET_OWNER: owner, VHOST_GET_FEATURES: features } = requests
    expect(await failureOf(() => handle.ioctl(owner.number, 0))).toMatchObject({ request: 'VHOST_SET_OWNER' })
    expect(await failureOf(() => handle.ioctl(features.number, 0))).toMatchObject({ code: 'ENOTTY' })
    expect(() => handle.ioctl(features.number, 4096)).toThrow('argument must be a Uint8Array of 8 bytes (got 4096)')
  })

  it.each([
    [-1, 0],
    [1.5, 0],
    [Number.NaN, 0],
    [2 ** 32, 0],
    ['1', 0],
    [1n, 0],
    [null, 0],
    [0x5401, null],
    [0x5401, undefined],
    [0x5401, '0'],
    [0x5401, 0n],
    [0x5401, new Uint16Array(4)],
    [0x5401, new ArrayBuffer(8)],
    [0x5401, Number.NaN],
    [0x5401, 0.5],
    [0x5401, Infinity],
  ])('refuses ioctl(%p, %p)', async (request, argument) => {
    await using handle = backend().open('/dev/null')
    expect(() => handle.ioctl(request as number, argument as number)).toThrow(/ must be /)
    await expect(handle.ioctlAsync(request as number, argument as number)).rejects.toThrow(/ must be /)
  })
})

describeNative('reading and writing', (backend) => {
  it('reads and writes at the position and at an offset', async () => {
    using folder = new TemporaryFolder()
    await using handle = backend().open(emptyFile(folder))
    expect(handle.write(Buffer.from('hello'))).toBe(5)
    expect(handle.pwrite(Buffer.from('J'), 0n)).toBe(1)
    const bytes = Buffer.alloc(8)
    expect(handle.read?.(bytes)).toBe(0)
    expect(handle.pread?.(bytes, 1n)).toBe(4)
    expect(bytes.toString('latin1', 0, 4)).toBe('ello')
    expect(readFileSync(folder.file('file'), 'latin1')).toBe('Jello')
    expect(() => handle.pread?.(bytes, -1n)).toThrow(RangeError)
    expect(() => handle.pwrite(bytes, 1 as unknown as bigint)).toThrow(TypeError)
    expect(() => handle.pwrite(bytes, 2n ** 63n)).toThrow(RangeError)
    expect(() => handle.write('x' as unknown as Uint8Array)).toThrow(TypeError)
  })

  it('has no read where the kernel says that there is none', async () => {
    using folder = new TemporaryFolder()
    // A directory opened for its name alone cannot be read.
    await using handle = backend().openFd(openSync(folder.path, 0o10000000), 'a name')
    expect(handle.read).toBeUndefined()
    expect(handle.onReadable).toBeUndefined()
    expect(handle.pread).toBeUndefined()
  })

  it('answers EAGAIN instead of waiting', async () => {
    using folder = new TemporaryFolder()
    execFileSync('mkfifo', [folder.file('pipe')])
    await using handle = backend().open(folder.file('pipe'))
    expect(await failureOf(() => handle.read?.(new Uint8Array(8)))).toMatchObject({ code: 'EAGAIN', syscall: 'read' })
  })

  it('writes each record with a write of its own', async () => {
    using folder = new TemporaryFolder()
    await using handle = backend().open(emptyFile(folder))
    expect(taken(handle.writeEach(records(5, 8, 1), 8))).toBe(5)
    expect(await takenLater(handle.writeEachAsync(records(5, 8, 2), 8))).toBe(5)
    expect(taken(handle.writeEach(new Uint8Array(0), 8))).toBe(0)
    expect(await takenLater(handle.writeEachAsync(new Uint8Array(0), 8))).toBe(0)
    expect([...readFileSync(folder.file('file'))]).toEqual([...records(5, 8, 1), ...records(5, 8, 2)])
    for (const stride of [0, -1, 1.5, Number.NaN, 7]) {
      expect(() => taken(handle.writeEach(records(1, 8, 0), stride))).toThrow(RangeError)
      await expect(takenLater(handle.writeEachAsync(records(1, 8, 0), stride))).rejects.toThrow(RangeError)
    }
  })

  it('says how far it came', async () => {
    using folder = new TemporaryFolder()
    execFileSync('mkfifo', [folder.file('pipe')])
    await using handle = backend().open(folder.file('pipe'))
    // A pipe of 64 KiB takes 16 records of a page; then it is full.
    const error = await failureOf(() => taken(handle.writeEach(records(20, 4096, 1), 4096)))
    expect(error).toMatchObject({ code: 'EAGAIN', syscall: 'write', completed: 16, path: folder.file('pipe') })
    expect(await failureOf(() => takenLater(handle.writeEachAsync(records(2, 4096, 1), 4096)))).toMatchObject({
      completed: 0,
    })
    handle.read?.(new Uint8Array(8192))
    const short = await failureOf(() => taken(handle.writeEach(records(1, 12288, 1), 12288)))
    expect(short).toMatchObject({ code: 'EIO', completed: 0 })
    expect(short.message).toMatch(/record 0 was taken only in part$/)
  })

  it('calls a listener when there is something to read', async () => {
    using folder = new TemporaryFolder()
    execFileSync('mkfifo', [folder.file('pipe')])
    await using handle = backend().open(folder.file('pipe'))
    const bytes = new Uint8Array(8)
    const arrived = new Promise<number | undefined>((resolve) => {
      handle.onReadable?.(() => resolve(handle.read?.(bytes))).ref()
    })
    expect(await failureOf(() => handle.onReadable?.(() => {}))).toMatchObject({ code: 'ERR_VDPA_STATE' })
    handle.write(Uint8Array.of(1, 2, 3))
    expect(await arrived).toBe(3)
    expect([...bytes.subarray(0, 3)]).toEqual([1, 2, 3])
  })

  it('calls its listener again while there is more, but not so often that nothing else has its turn', async () => {
    using folder = new TemporaryFolder()
    execFileSync('mkfifo', [folder.file('pipe')])
    await using handle = backend().open(folder.file('pipe'))
    const byte = new Uint8Array(1)
    // Calls, and between them the turns of promises and of the loop.
    const seen: string[] = []
    const done = new Promise<void>((resolve) => {
      const subscription = handle.onReadable?.(() => {
        handle.read?.(byte)
        seen.push('call')
        if (byte[0] === 1) setImmediate(() => seen.push('loop'))
        void Promise.resolve().then(() => seen.push('promise'))
        if (byte[0] !== 40) return
        subscription?.close()
        setImmediate(resolve)
      })
      subscription?.ref()
    })
    handle.write(Uint8Array.from({ length: 50 }, (_, index) => index + 1))
    await done
    const first = seen.slice(0, seen.indexOf('loop'))
    expect(first).toEqual(Array.from({ length: 16 }, () => ['call', 'promise']).flat())
    // Closed in the fortieth, it is not called again, though there is more.
    expect(seen.filter((what) => what === 'call')).toHaveLength(40)
  })

  it('says that a regular file cannot be polled', async () => {
    using folder = new TemporaryFolder()
    await using handle = backend().open(emptyFile(folder))
    expect(await failureOf(() => handle.onReadable?.(() => {}))).toMatchObject({ code: 'EPERM', syscall: 'epoll_ctl' })
    expect(() => handle.onReadable?.(undefined as unknown as () => void)).toThrow(TypeError)
  })
})

describeNative('a doorbell', (backend) => {
  it('is written, in little-endian, and goes with its handle', async () => {
    using folder = new TemporaryFolder()
    writeFileSync(folder.file('page'), new Uint8Array(backend().pageSize))
    const handle = backend().open(folder.file('page'))
    const before = openDescriptors()
    const doorbell = handle.mapDoorbell(0n)
    doorbell.ring16(0x1234)
    expect([...readFileSync(folder.file('page')).subarray(0, 4)]).toEqual([0x34, 0x12, 0, 0])
    doorbell.ring32(0xfedcba98)
    expect([...readFileSync(folder.file('page')).subarray(0, 4)]).toEqual([0x98, 0xba, 0xdc, 0xfe])
    expect(() => doorbell.ring16(0x10000)).toThrow(RangeError)
    expect(() => doorbell.ring32(-1)).toThrow(RangeError)
    expect(leftOpen(before)).toEqual([])
    await handle.close()
    expect(doorbell.isClosed).toBe(true)
    expect(await failureOf(() => doorbell.ring16(0))).toMatchObject({ code: 'ERR_VDPA_CLOSED' })
    doorbell.close()
  })

  it('is refused by files that have none', async () => {
    await using handle = backend().open('/dev/null')
    expect(await failureOf(() => handle.mapDoorbell(1n))).toMatchObject({
      code: 'EINVAL',
      syscall: 'mmap',
      path: '/dev/null',
    })
    expect(() => handle.mapDoorbell(0 as unknown as bigint)).toThrow(TypeError)
  })
})
