// UNIX sockets of the kernel backend: descriptors travel with bytes, and none is lost, kept or left open.

import { afterEach, expect, it } from '@jest/globals'
import { spawnSync } from 'node:child_process'
import { closeSync, existsSync, fstatSync, openSync, writeFileSync, writeSync } from 'node:fs'
import { Worker } from 'node:worker_threads'
import type { StreamSocket } from '../../lib/backend/sockets'
import { describeNative, failureOf, leftOpen, openDescriptors, packageRoot, TemporaryFolder } from './support'

const bytes = (text: string) => new TextEncoder().encode(text)
const arrival = (socket: { onReadable(listener: () => void): Disposable }) =>
  new Promise<void>((resolve) => {
    const subscription = socket.onReadable(() => {
      subscription[Symbol.dispose]()
      resolve()
    })
    ;(subscription as unknown as { ref(): void }).ref()
  })

function receive(socket: StreamSocket, length: number, files = 0) {
  const target = new Uint8Array(length)
  const part = socket.receive(target, 0, length, files)
  return { text: new TextDecoder().decode(target.subarray(0, part?.length ?? 0)), part }
}

describeNative('UNIX sockets', (backend) => {
  let before = openDescriptors()
  afterEach(() => {
    expect(leftOpen(before)).toEqual([])
  })

  it('carry bytes both ways, and say when nothing is there and when the other end has gone', async () => {
    before = openDescriptors()
    const [one, other] = backend().sockets.pair()
    expect(receive(one, 8).part).toBeUndefined()
    expect(one.send(bytes('ping'))).toBe(4)
    await arrival(other)
    expect(receive(other, 2).text).toBe('pi')
    expect(receive(other, 8).text).toBe('ng')
    other.close()
    expect(receive(one, 8).part).toEqual({ length: 0, files: [] })
    expect(await failureOf(() => one.send(bytes('x')))).toMatchObject({ code: 'EPIPE', syscall: 'sendmsg' })
    one.close()
    one.close()
    expect(one.isClosed).toBe(true)
    for (const call of [
      () => one.fd,
      () => one.send(bytes('x')),
      () => receive(one, 1),
      () => one.onReadable(() => {}),
    ])
      expect(await failureOf(call)).toMatchObject({ code: 'ERR_VDPA_CLOSED' })
  })

  it('pass descriptors with the first byte, each the receiver’s own', () => {
    before = openDescriptors()
    using folder = new TemporaryFolder()
    const file = openSync(folder.file('passed'), 'w+')
    const [one, other] = backend().sockets.pair()
    one.send(bytes('abc'), [file, file])
    one.send(bytes('def'))
    closeSync(file)
    // Bytes that came with other descriptors, or with none, are not given in the same part.
    const first = receive(other, 100, 4)
    expect([first.text, first.part?.files.length]).toEqual(['abc', 2])
    expect(receive(other, 100, 4).text).toBe('def')
    const [a, b] = first.part?.files ?? []
    if (a === undefined || b === undefined) throw new Error('two files were sent')
    writeSync(a.fd, 'seen')
    expect(fstatSync(b.fd).size).toBe(4)
    a.close()
    a.close()
    expect(() => a.fd).toThrow(expect.objectContaining({ code: 'ERR_VDPA_CLOSED' }))
    b[Symbol.dispose]()
    one.close()
    other.close()
  })

  it('refuse a message that lost descriptors, and close those that came', async () => {
    before = openDescriptors()
    const [one, other] = backend().sockets.pair()
    const fds = Array<number>(5).fill(one.fd)
    for (const room of [0, 1, 4]) {
      one.send(bytes('x'), fds)
      const held = openDescriptors()
      expect(await failureOf(() => receive(other, 1, room))).toMatchObject({ code: 'EMSGSIZE', syscall: 'recvmsg' })
      expect(leftOpen(held)).toEqual([])
    }
    one.send(bytes('x'), fds)
    const { part } = receive(other, 1, 5)
    expect(part?.files.length).toBe(5)
    for (const file of part?.files ?? []) file.close()
    one.close()
    other.close()
  })

  it('take as many descriptors as the kernel passes, and check what they are given', async () => {
    before = openDescriptors()
    const [one, other] = backend().sockets.pair()
    one.send(bytes('x'), Array<number>(253).fill(1))
    const { part } = receive(other, 1, 253)
    expect(part?.files.length).toBe(253)
    for (const file of part?.files ?? []) file.close()
    expect(() => one.send(bytes('x'), Array<number>(254).fill(1))).toThrow(RangeError)
    expect(() => one.send(bytes('x'), [-1])).toThrow(RangeError)
    expect(() => one.send('x' as unknown as Uint8Array)).toThrow(TypeError)
    expect(() => other.receive(new Uint8Array(4), 5, 1)).toThrow(RangeError)
    expect(() => other.receive(new Uint8Array(4), 0, 5)).toThrow(RangeError)
    expect(() => other.receive(new Uint8Array(4), 0, 1, 254)).toThrow(RangeError)
    expect(await failureOf(() => one.send(bytes('x'), [1_000_000]))).toMatchObject({ code: 'EBADF' })
    one.close()
    other.close()
  })

  it('send as much as there is room for, and never sleep', () => {
    before = openDescriptors()
    const [one, other] = backend().sockets.pair()
    const much = new Uint8Array(1 << 20)
    let sent = 0
    for (let part = 1; part > 0; sent += part) part = one.send(much)
    expect(sent).toBeGreaterThan(0)
    let received = 0
    for (let part = receive(other, 65_536).part; part !== undefined; part = receive(other, 65_536).part)
      received += part.length
    expect(received).toBe(sent)
    one.close()
    other.close()
  })

  it('listen and accept, take the place of a socket that was left behind, and of nothing else', async () => {
    before = openDescriptors()
    using folder = new TemporaryFolder()
    const path = folder.file('socket')
    const { sockets } = backend()
    const listener = sockets.listen(path)
    expect(listener.accept()).toBeUndefined()
    const client = sockets.connect(path)
    await arrival(listener)
    const server = listener.accept()
    client.send(bytes('hello'))
    expect(server === undefined ? '' : receive(server, 9).text).toBe('hello')
    client.close()
    server?.close()
    expect(await failureOf(() => sockets.listen(path))).toMatchObject({ code: 'EADDRINUSE', path })
    listener.close()
    listener.close()
    expect(existsSync(path)).toBe(false)
    expect(await failureOf(() => listener.accept())).toMatchObject({ code: 'ERR_VDPA_CLOSED', path })
    expect(await failureOf(() => sockets.connect(path))).toMatchObject({ code: 'ENOENT', syscall: 'connect' })

    writeFileSync(path, 'mine')
    expect(await failureOf(() => sockets.listen(path))).toMatchObject({ code: 'EADDRINUSE' })
    const left = folder.file('left')
    const code = `require('node:net').createServer().listen(${JSON.stringify(left)}, () => process.kill(process.pid, 9))`
    spawnSync(process.execPath, ['-e', code])
    expect(existsSync(left)).toBe(true)
    sockets.listen(left).close()
    expect(await failureOf(() => sockets.listen('/'.padEnd(200, 'x')))).toMatchObject({ code: 'ENAMETOOLONG' })
  })

  it('say EAGAIN when a listener has no room, and keep who waits', async () => {
    before = openDescriptors()
    using folder = new TemporaryFolder()
    const { sockets } = backend()
    const listener = sockets.listen(folder.file('s'), 1)
    const clients: StreamSocket[] = []
    const failure = await failureOf(() => {
      for (;;) clients.push(sockets.connect(folder.file('s')))
    })
    expect(failure).toMatchObject({ code: 'EAGAIN', syscall: 'connect' })
    expect(clients.length).toBeGreaterThan(0)
    for (const client of clients) client.close()
    for (let server = listener.accept(); server !== undefined; server = listener.accept()) server.close()
    listener.close()
  })

  it('are made of a descriptor of the caller’s, which stays his', async () => {
    before = openDescriptors()
    const { sockets } = backend()
    const [one, other] = sockets.pair()
    const copy = sockets.socketOf(one.fd)
    expect(copy.fd).not.toBe(one.fd)
    one.close()
    copy.send(bytes('still'))
    expect(receive(other, 9).text).toBe('still')
    using eventfd = backend().eventfd()
    expect(await failureOf(() => sockets.socketOf(eventfd.fd))).toMatchObject({ code: 'ENOTSOCK' })
    copy.close()
    other.close()
  })

  it('may be closed by their own listeners', async () => {
    before = openDescriptors()
    const [one, other] = backend().sockets.pair()
    const done = new Promise<void>((resolve) => {
      other
        .onReadable(() => {
          other.close()
          resolve()
        })
        .ref()
    })
    one.send(bytes('x'))
    await done
    expect(other.isClosed).toBe(true)
    one.close()
  })

  it('are closed with the worker that left them open, passed files included', async () => {
    before = openDescriptors()
    const code = `
      const { KernelBackend } = require(${JSON.stringify(packageRoot())})
      const { sockets } = globalThis.backend = new KernelBackend()
      globalThis.kept = [sockets.pair()]
      const [one, other] = kept[0]
      one.send(new Uint8Array(1), [0, 1, 2])
      kept.push(other.receive(new Uint8Array(1), 0, 1, 8))
      process.exit()`
    const worker = new Worker(code, { eval: true })
    expect(await new Promise((resolve) => worker.once('exit', resolve))).toBe(0)
  })
})
