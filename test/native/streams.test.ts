// Streams of bytes that somebody passed, of the kernel backend: pipes, sockets and files are read and written from where they are, and nobody waits in it.

import { afterEach, expect, it } from '@jest/globals'
import { spawnSync } from 'node:child_process'
import { closeSync, constants, openSync, readFileSync, readSync, writeFileSync } from 'node:fs'
import type { ByteStream } from '../../lib/backend/sockets'
import { describeNative, failureOf, leftOpen, openDescriptors, packageRoot, TemporaryFolder } from './support'

const bytes = (text: string) => new TextEncoder().encode(text)
const ready = (stream: ByteStream, event: 'readable' | 'writable') =>
  new Promise<void>((resolve) => {
    const subscription = stream
      .onReady(event, () => {
        subscription.close()
        resolve()
      })
      .ref()
  })

function read(stream: ByteStream, length = 64): string | undefined {
  const target = new Uint8Array(length)
  const came = stream.read(target)
  return came === undefined ? undefined : new TextDecoder().decode(target.subarray(0, came))
}

/** Both ends of a pipe with a name, which sleep where nothing is there, or no room. */
function pipe(path: string): readonly [reader: number, writer: number] {
  spawnSync('mkfifo', [path])
  const both = openSync(path, 'r+')
  const ends = [openSync(path, constants.O_RDONLY), openSync(path, constants.O_WRONLY)] as const
  closeSync(both)
  return ends
}

describeNative('streams of bytes', (backend) => {
  let before = openDescriptors()
  afterEach(() => {
    expect(leftOpen(before)).toEqual([])
  })

  it.each(['a pipe', 'a socket'] as const)('carry bytes through %s that sleeps, and never sleep', async (what) => {
    before = openDescriptors()
    using folder = new TemporaryFolder()
    const { sockets } = backend()
    const pair = what === 'a socket' ? sockets.pair() : undefined
    const [from, into] = pair?.map(({ fd }) => fd) ?? pipe(folder.file('pipe'))
    const [one, other] = [sockets.streamOf(from), sockets.streamOf(into)]
    if (pair === undefined) for (const fd of [from, into]) closeSync(fd)
    else for (const socket of pair) socket.close()
    expect(read(one)).toBeUndefined()
    const arrived = ready(one, 'readable')
    expect(await failureOf(() => one.onReady('readable', () => undefined))).toMatchObject({ code: 'ERR_VDPA_STATE' })
    expect(other.write(bytes('hello'))).toBe(5)
    await arrived
    expect([read(one, 2), read(one), read(one)]).toEqual(['he', 'llo', undefined])
    // Until there is no room; and again when there is.
    const block = new Uint8Array(1 << 16).fill(7)
    let written = 0
    for (let went = other.write(block); went > 0; went = other.write(block)) written += went
    expect(written).toBeGreaterThan(4096)
    const room = ready(other, 'writable')
    const target = new Uint8Array(1 << 20)
    for (let came = one.read(target); came !== undefined; came = one.read(target)) written -= came
    expect(written).toBe(0)
    await room
    expect(other.write(bytes('last'))).toBe(4)
    other.close()
    expect([read(one), read(one)]).toEqual(['last', ''])
    one.close()
    expect([one.isClosed, other.isClosed]).toEqual([true, true])
    for (const call of [
      () => one.fd,
      () => read(one),
      () => one.write(block),
      () => one.onReady('readable', () => undefined),
    ])
      expect(await failureOf(call)).toMatchObject({ code: 'ERR_VDPA_CLOSED' })
  })

  it('tell a writer whose reader has gone, also one that waits', async () => {
    before = openDescriptors()
    using folder = new TemporaryFolder()
    const { sockets } = backend()
    const [from, into] = pipe(folder.file('pipe'))
    const stream = sockets.streamOf(into)
    while (stream.write(new Uint8Array(1 << 16)) > 0);
    const told = ready(stream, 'writable')
    closeSync(from)
    await told
    expect(await failureOf(() => stream.write(bytes('x')))).toMatchObject({ code: 'EPIPE', syscall: 'write' })
    stream.close()
    closeSync(into)
  })

  it('read and write a file from where it is, in turns', async () => {
    before = openDescriptors()
    using folder = new TemporaryFolder()
    const { sockets } = backend()
    const path = folder.file('file')
    writeFileSync(path, 'not this: state')
    const fd = openSync(path, 'r+')
    readSync(fd, new Uint8Array(10))
    const stream = sockets.streamOf(fd)
    await ready(stream, 'readable')
    expect([read(stream), read(stream)]).toEqual(['state', ''])
    await ready(stream, 'writable')
    expect(stream.write(bytes(', and more'))).toBe(10)
    const turns = stream.onReady('readable', () => undefined)
    expect(await failureOf(() => stream.onReady('readable', () => undefined))).toMatchObject({ code: 'ERR_VDPA_STATE' })
    expect([turns.isClosed, turns.ref() === turns, turns.unref() === turns]).toEqual([false, true, true])
    stream.close()
    expect(turns.isClosed).toBe(true)
    closeSync(fd)
    expect(readFileSync(path, 'utf8')).toBe('not this: state, and more')
  })

  it('are of pipes, stream sockets and files, opened for what is asked', async () => {
    before = openDescriptors()
    using folder = new TemporaryFolder()
    const { sockets } = backend()
    using eventfd = backend().eventfd()
    expect(await failureOf(() => sockets.streamOf(eventfd.fd))).toMatchObject({ code: 'EINVAL' })
    expect(await failureOf(() => sockets.streamOf(9999))).toMatchObject({ code: 'EBADF' })
    const [from, into] = pipe(folder.file('pipe'))
    using reader = sockets.streamOf(from)
    using writer = sockets.streamOf(into)
    closeSync(from)
    closeSync(into)
    expect(await failureOf(() => reader.write(bytes('x')))).toMatchObject({ code: 'EBADF' })
    expect(await failureOf(() => read(writer))).toMatchObject({ code: 'EBADF' })
    expect(() => reader.read('x' as unknown as Uint8Array)).toThrow(TypeError)
    expect(() => reader.onReady('both' as 'readable', () => undefined)).toThrow(RangeError)
    expect(() => reader.onReady('readable', 1 as unknown as () => void)).toThrow(TypeError)
    expect(() => sockets.streamOf(-1)).toThrow(RangeError)
  })

  it('leave the flags of a pipe without a name as they are', () => {
    before = openDescriptors()
    using folder = new TemporaryFolder()
    spawnSync('mkfifo', [folder.file('go')])
    const program = `
      const { KernelBackend } = require(${JSON.stringify(packageRoot())})
      const { readFileSync, writeSync } = require('node:fs')
      const stream = new KernelBackend().sockets.streamOf(0)
      const target = new Uint8Array(8)
      const flags = () => /^flags:.*$/m.exec(readFileSync('/proc/self/fdinfo/0', 'latin1'))[0]
      const before = flags()
      const nothing = stream.read(target)
      stream.onReady('readable', () => {
        const came = stream.read(target)
        console.log(JSON.stringify({ nothing: nothing === undefined, came, isSame: flags() === before }))
        stream.close()
      }).ref()
      writeSync(3, 'go\\n')`
    const script = 'exec 3<>"$1"; { read line <&3; printf abc; } | { "$2" -e "$3"; echo over >&3; }'
    const words = ['-c', script, 'sh', folder.file('go'), process.execPath, program]
    const { stdout, stderr } = spawnSync('sh', words, { encoding: 'utf8' })
    expect(stderr).toBe('')
    // Kernels before 6.4 cannot ask such a pipe without waiting: there it is made non-blocking.
    expect(JSON.parse(stdout)).toMatchObject({ nothing: true, came: 3 })
  })
})
