// Memory of the kernel backend: what a region is, whose file it may be, and when it goes.

import { expect, it } from '@jest/globals'
import { closeSync, openSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { RecordingBackend } from '../../lib/backend/recording-backend.js'
import { KernelBackend } from '../../lib/kernel/kernel-backend.js'
import { Simulator } from '../../lib/simulator/index.js'
import { describeNative, failureOf, leftOpen, mappingsOf, openDescriptors, TemporaryFolder } from './support'

describeNative('memory of the operating system', (backend) => {
  it('is whatever has a file of it, from whichever backend; not what a simulator numbers', () => {
    using region = new KernelBackend().allocate(4096)
    using adopted = backend().adopt(region.fd, { length: 4096 })
    using recorded = new RecordingBackend(backend()).allocate(4096)
    using simulated = new Simulator().allocate(4096)
    expect([region, adopted, recorded, simulated].map((one) => backend().reaches(one))).toEqual([
      true,
      true,
      true,
      false,
    ])
    expect(new Simulator().reaches(region)).toBe(false)
    region.close()
    expect(() => backend().reaches(region)).toThrow(expect.objectContaining({ code: 'ERR_VDPA_CLOSED' }))
  })
})

describeNative('an allocated region', (backend) => {
  it('is zeroed, shared, aligned and as long as its pages', () => {
    const { pageSize } = backend()
    using region = backend().allocate(pageSize + 1, { name: 'aligned' })
    expect(region).toMatchObject({ length: 2 * pageSize, pageSize, isClosed: false, holders: [] })
    expect(region.address % BigInt(pageSize)).toBe(0n)
    expect(region.buffer.byteLength).toBe(region.length)
    expect(new Uint8Array(region.buffer).every((byte) => byte === 0)).toBe(true)
    expect(readFileSync('/proc/self/maps', 'latin1')).toMatch(
      new RegExp(`^${region.address.toString(16)}-[0-9a-f]+ rw-s .*memfd:aligned`, 'm'),
    )
    expect(statSync(`/proc/self/fd/${region.fd}`).size).toBe(region.length)
    // What others do with the file is seen, and what we do others see.
    using mirror = backend().adopt(region.fd, { length: region.length })
    new Uint8Array(region.buffer)[pageSize] = 7
    expect(new Uint8Array(mirror.buffer)[pageSize]).toBe(7)
    expect(mirror.address).not.toBe(region.address)
  })

  it('cannot be made shorter by those who are given its file', () => {
    using region = backend().allocate(4096)
    expect(() => writeFileSync(`/proc/self/fd/${region.fd}`, '')).toThrow('EPERM')
  })

  it('detaches its buffer when it is closed', async () => {
    const before = openDescriptors()
    const region = backend().allocate(4096, { name: 'detached' })
    const view = new DataView(region.buffer)
    const bytes = new Uint8Array(region.buffer)
    region.close()
    region.close()
    expect(region.isClosed).toBe(true)
    expect(region.buffer.byteLength).toBe(0)
    expect(bytes.length).toBe(0)
    expect(() => view.getUint8(0)).toThrow(TypeError)
    expect(mappingsOf('memfd:detached')).toBe(0)
    expect(leftOpen(before)).toEqual([])
    for (const verb of [() => region.address, () => region.fd, () => region.hold('x')]) {
      expect((await failureOf(verb)).message).toBe('ERR_VDPA_CLOSED: the memory region is closed')
    }
  })

  it('is not given up while it is held', async () => {
    using region = backend().allocate(4096)
    const holds = ['/dev/vhost-vdpa-0 asid 0 [0x0, 0xfff]', '/dev/vhost-vdpa-1 asid 1 [0x0, 0xfff]', 'c', 'd'].map(
      (name) => region.hold(name),
    )
    expect(region.holders).toHaveLength(4)
    expect((await failureOf(() => region.close())).message).toBe(
      'ERR_VDPA_MEMORY_HELD: memory of 4096 bytes is held by /dev/vhost-vdpa-0 asid 0 [0x0, 0xfff] and ' +
        '/dev/vhost-vdpa-1 asid 1 [0x0, 0xfff] and 2 more: unmap it there first',
    )
    expect(region.buffer.byteLength).toBe(4096)
    for (const hold of holds) {
      expect(region.isClosed).toBe(false)
      hold.close()
      hold.close()
    }
    expect(region.holders).toEqual([])
  })

  it('refuses sizes and pages that are not to be had', async () => {
    for (const length of [0, -1, 1.5, Number.NaN, 2 ** 52 + 1]) {
      expect(() => backend().allocate(length)).toThrow(RangeError)
    }
    expect(() => backend().allocate('4096' as unknown as number)).toThrow(TypeError)
    for (const pageSize of [0, 1, 8191, 12345678]) {
      expect(() => backend().allocate(4096, { pageSize })).toThrow(/^options.pageSize must be one of /)
    }
    expect(() => backend().allocate(4096, { name: '' })).toThrow(RangeError)
    const before = openDescriptors()
    expect(await failureOf(() => backend().allocate(4096, { name: 'x'.repeat(300) }))).toMatchObject({
      code: 'EINVAL',
      syscall: 'memfd_create',
    })
    expect(leftOpen(before)).toEqual([])
  })

  it('is of huge pages, or says which to reserve', async () => {
    const pageSize = 2 ** 21
    const allocate = () => backend().allocate(1, { pageSize })
    if (Number(readFileSync('/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages', 'latin1')) > 0) {
      using region = allocate()
      expect(region).toMatchObject({ length: pageSize, pageSize })
      new Uint8Array(region.buffer)[0] = 1
      using mirror = backend().adopt(region.fd, { length: pageSize })
      expect(mirror.pageSize).toBe(pageSize)
      return
    }
    const before = openDescriptors()
    const error = await failureOf(allocate)
    expect(error).toMatchObject({ code: 'ENOMEM', syscall: 'mmap' })
    expect(error.hint).toContain('/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages')
    expect(leftOpen(before)).toEqual([])
  })

  it('may be as long as one ArrayBuffer', () => {
    using region = backend().allocate(2 ** 32)
    const tail = new Uint8Array(region.buffer, 2 ** 32 - 4096)
    tail[4095] = 1
    expect(region.buffer.byteLength).toBe(2 ** 32)
  })

  it('is not moved into a buffer of somebody else', () => {
    using region = backend().allocate(4096)
    try {
      // Node 20 clones instead of moving; later releases refuse.
      structuredClone(region.buffer, { transfer: [region.buffer] })
    } catch (error) {
      expect((error as Error).name).toBe('DataCloneError')
    }
    expect(region.buffer.byteLength).toBe(4096)
  })
})

describeNative('an adopted region', (backend) => {
  it('is a part of the caller’s file, and leaves the caller the fd', () => {
    using whole = backend().allocate(3 * 4096)
    new Uint8Array(whole.buffer)[4096] = 5
    const region = backend().adopt(whole.fd, { length: 4096, offset: 4096n })
    expect(region).toMatchObject({ length: 4096, pageSize: 4096 })
    expect(new Uint8Array(region.buffer)[0]).toBe(5)
    expect(region.fd).not.toBe(whole.fd)
    region.close()
    expect(new Uint8Array(whole.buffer)[4096]).toBe(5)
    expect(statSync(`/proc/self/fd/${whole.fd}`).size).toBe(3 * 4096)
  })

  it('has whole pages, also of a file that ends inside one', () => {
    using folder = new TemporaryFolder()
    writeFileSync(folder.file('memory'), new Uint8Array(5000).fill(3))
    const fd = openSync(folder.file('memory'), 'r+')
    {
      using region = backend().adopt(fd, { length: 4906, guarded: true })
      expect(region.length).toBe(8192)
      const bytes = new Uint8Array(region.buffer)
      expect([bytes[4999], bytes[5000], bytes[8191]]).toEqual([3, 0, 0])
      bytes[4999] = 7
      expect(region.isTorn).toBe(false)
    }
    expect(readFileSync(folder.file('memory'))[4999]).toBe(7)
    expect(() => backend().adopt(fd, { length: 5001 })).toThrow(
      'options must be a part of the file, which has 5000 bytes (got "5001 bytes at 0")',
    )
    closeSync(fd)
  })

  it('refuses what the file does not have', () => {
    using whole = backend().allocate(2 * 4096)
    expect(() => backend().adopt(whole.fd, { length: 4096, offset: 1n })).toThrow(/^options.offset must be a multiple/)
    expect(() => backend().adopt(whole.fd, { length: 4096, offset: -4096n })).toThrow(RangeError)
    expect(() => backend().adopt(whole.fd, { length: 8192, offset: 4096n })).toThrow(
      'options must be a part of the file, which has 8192 bytes (got "8192 bytes at 4096")',
    )
    expect(() => backend().adopt(whole.fd, { length: 0 })).toThrow(RangeError)
    const endless = openSync('/dev/zero', 'r+')
    for (const offset of [1n << 63n, (1n << 63n) - 4096n, (1n << 64n) - 4096n])
      expect(() => backend().adopt(endless, { length: 8192, offset })).toThrow(
        /^options.offset must be an offset of a file/,
      )
    closeSync(endless)
    expect(() => backend().adopt(-1, { length: 4096 })).toThrow(RangeError)
  })

  it('may only read a file, which sees nothing of what is written here', () => {
    using folder = new TemporaryFolder()
    writeFileSync(folder.file('memory'), new Uint8Array(2 * 4096).fill(3))
    const fd = openSync(folder.file('memory'), 'r')
    using region = backend().adopt(fd, { length: 2 * 4096, isReadOnly: true })
    closeSync(fd)
    const bytes = new Uint8Array(region.buffer)
    bytes[0] = 9
    writeFileSync(folder.file('memory'), new Uint8Array(2 * 4096).fill(4), { flag: 'r+' })
    expect([bytes[0], bytes[1], bytes[4096]]).toEqual([9, 3, 4])
    expect(new Uint8Array(readFileSync(folder.file('memory'))).every((byte) => byte === 4)).toBe(true)
    expect(() => backend().adopt(region.fd, { length: 4096, isReadOnly: 1 as never })).toThrow(TypeError)
  })

  it('needs a file that is open for reading and writing', async () => {
    using folder = new TemporaryFolder()
    writeFileSync(folder.file('memory'), new Uint8Array(4096))
    const fd = openSync(folder.file('memory'), 'r')
    expect(await failureOf(() => backend().adopt(fd, { length: 4096 }))).toMatchObject({
      code: 'EACCES',
      syscall: 'mmap',
    })
    closeSync(fd)
    expect(await failureOf(() => backend().adopt(fd, { length: 4096 }))).toMatchObject({
      code: 'EBADF',
      syscall: 'fcntl',
    })
  })
})
