// Memory that a client shows which is none, or lies where no file has anything: it is refused with an errno, and the server goes on.

import { execFileSync } from 'node:child_process'
import { closeSync, constants, openSync, readFileSync } from 'node:fs'
import { afterEach, beforeEach, expect, it, jest } from '@jest/globals'
import { blockDevice, serveVfioChannel } from '../../lib/serve'
import { errno } from '../../lib/uapi/errno'
import { encodeFrame, frameKinds } from '../../lib/vfio-channel/frames'
import type { ChannelServer } from '../../lib/vfio-channel/server'
import { describeNative, leftOpen, openDescriptors, TemporaryFolder, untilNoneIsOpen } from '../native/support'
import { hearUncaught } from '../uncaught'
import { until } from '../until'

describeNative('memory of a client', (backend) => {
  let folder: TemporaryFolder
  let before = openDescriptors()
  let server: ChannelServer
  const files: number[] = []

  beforeEach(() => {
    backend()
    folder = new TemporaryFolder()
    before = openDescriptors()
    server = serveVfioChannel(blockDevice({ capacity: 64 }), { socket: folder.file('socket') }) as ChannelServer
  })
  afterEach(async () => {
    jest.restoreAllMocks()
    server.close()
    for (const fd of files.splice(0)) closeSync(fd)
    await untilNoneIsOpen(before)
    folder[Symbol.dispose]()
  })

  const opened = (path: string, flags: string | number) => {
    const fd = openSync(path, flags)
    files.push(fd)
    return fd
  }
  const kinds: Readonly<Record<string, () => number>> = {
    'a folder': () => opened('/', 'r'),
    'a node that is no memory': () => opened('/dev/null', 'r+'),
    'a node without an end': () => opened('/dev/zero', 'r+'),
    'an empty file': () => opened(folder.file('empty'), 'w+'),
    'a file that may only be read': () => opened('/proc/self/status', 'r'),
    'a FIFO': () => {
      execFileSync('mkfifo', [folder.file('fifo')])
      return opened(folder.file('fifo'), constants.O_RDWR | constants.O_NONBLOCK)
    },
  }

  it.each(Object.keys(kinds))('that is %s, at any place and of any length, is taken or refused', async (kind) => {
    const uncaught = hearUncaught()
    const fd = kinds[kind]?.() ?? -1
    const numbers = [0n, 1n, 4096n, 1n << 40n, 1n << 62n, 1n << 63n, (1n << 64n) - 4096n, (1n << 64n) - 1n]
    const socket = backend().sockets.connect(server.path)
    const answer = new Uint8Array(16)
    const results = new Set<bigint>()
    for (const length of numbers)
      for (const offset of numbers)
        for (const at of numbers) {
          const payload = new Uint8Array(BigUint64Array.of(length, offset).buffer)
          socket.send(encodeFrame(frameKinds.MAP_DMA, at, payload), [fd])
          await until(() => {
            server.serve()
            return socket.receive(answer, 0, 16) !== undefined
          })
          const result = new DataView(answer.buffer).getBigInt64(8, true)
          results.add(result)
          if (result !== 0n) continue
          socket.send(encodeFrame(frameKinds.UNMAP_DMA, at))
          await until(() => {
            server.serve()
            return socket.receive(answer, 0, 16) !== undefined
          })
        }
    socket.close()
    expect([...results].filter((result) => result > 0n || result < -133n)).toEqual([])
    expect(results.has(0n)).toBe(kind === 'a node without an end')
    expect([uncaught, server.refusals]).toEqual([[], []])
  })

  it('that was shown, and interrupts that nobody asked for, are given back when the client leaves', async () => {
    const memory = backend().allocate(4096, { name: 'left-behind' })
    const mapped = () => readFileSync('/proc/self/maps', 'utf8').split('left-behind').length - 1
    const eventfd = backend().eventfd()
    const own = openDescriptors()
    const socket = backend().sockets.connect(server.path)
    socket.send(encodeFrame(frameKinds.MAP_DMA, 0n, new Uint8Array(BigUint64Array.of(4096n, 0n).buffer)), [
      memory.fd ?? -1,
    ])
    socket.send(encodeFrame(frameKinds.SET_INTERRUPT, 7n), [eventfd.fd])
    const answers = new Uint8Array(32)
    let length = 0
    await until(() => (length += socket.receive(answers, length, 32 - length)?.length ?? 0) === 32)
    const view = new DataView(answers.buffer)
    expect([view.getBigInt64(8, true), view.getBigInt64(24, true), mapped()]).toEqual([0n, 0n, 2])
    socket.close()
    await until(() => !server.hasClient)
    expect([leftOpen(own), mapped()]).toEqual([[], 1])
    memory.close()
    eventfd.close()
  })

  it('that crosses other memory, or is one piece too many, leaves nothing behind', async () => {
    const memory = backend().allocate(4096)
    const socket = backend().sockets.connect(server.path)
    const answer = new Uint8Array(16)
    const show = async (at: bigint) => {
      const payload = new Uint8Array(BigUint64Array.of(4096n, 0n).buffer)
      socket.send(encodeFrame(frameKinds.MAP_DMA, at, payload), [memory.fd ?? -1])
      await until(() => {
        server.serve()
        return socket.receive(answer, 0, 16) !== undefined
      })
      return Number(new DataView(answer.buffer).getBigInt64(8, true))
    }
    for (let piece = 0n; piece < 512n; piece++) expect(await show(piece << 12n)).toBe(0)
    const full = openDescriptors()
    expect([await show(0n), await show(512n << 12n)]).toEqual([-errno.EEXIST, -errno.ENOSPC])
    expect(leftOpen(full)).toEqual([])
    socket.close()
    await until(() => !server.hasClient)
    memory.close()
  })
})
