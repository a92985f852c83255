// A channel at a UNIX socket: a device driven through it, and peers that do what none should, on either side.

import { afterEach, beforeEach, describe, expect, it, jest } from '@jest/globals'
import fc from 'fast-check'
import { FaultyBackend } from '../../lib/backend/faulty-backend'
import type { StreamSocket } from '../../lib/backend/sockets'
import { BlockDriver } from '../../lib/drivers/block-driver'
import { openDevice } from '../../lib/open'
import { blockDevice, serveVfioChannel, type ServeVfioChannelOptions, type VfioChannelServer } from '../../lib/serve'
import type { DeviceOps } from '../../lib/models/device-ops'
import { requests } from '../../lib/uapi/vhost'
import { ChannelBackend } from '../../lib/vfio-channel/channel-backend'
import { DraftClient } from '../../lib/vfio-channel/draft-client'
import { encodeFrame, frameKinds } from '../../lib/vfio-channel/frames'
import type { ChannelServer } from '../../lib/vfio-channel/server'
import { SocketRegion } from '../../lib/vfio-channel/socket-region'
import { answerBytes } from '../../lib/vfio-channel/today'
import { describeNative, openDescriptors, TemporaryFolder, untilNoneIsOpen } from '../native/support'
import { hearUncaught } from '../uncaught'
import { until } from '../until'

const pause = (milliseconds: number) => new Promise<void>((resolve) => void setTimeout(resolve, milliseconds))

describeNative('a channel at a socket', (backend) => {
  let folder: TemporaryFolder
  let before = openDescriptors()
  const servers: VfioChannelServer[] = []
  const refused: Error[] = []

  beforeEach(() => {
    backend()
    folder = new TemporaryFolder()
    before = openDescriptors()
    refused.length = 0
  })
  afterEach(async () => {
    jest.restoreAllMocks()
    for (const server of servers.splice(0)) server.close()
    await untilNoneIsOpen(before)
    folder[Symbol.dispose]()
  })

  function serve(
    model: DeviceOps = blockDevice({ capacity: 64 }),
    options: Partial<ServeVfioChannelOptions> = {},
  ): ChannelServer {
    const server = serveVfioChannel(model, {
      socket: folder.file('socket'),
      onRefusal: (error) => refused.push(error),
      ...options,
    })
    servers.push(server)
    return server as ChannelServer
  }

  /** A client's end whose waiting lets the server of the same thread work. */
  function connect(server: ChannelServer, timeout = 60_000): SocketRegion {
    const socket = backend().sockets.connect(server.path)
    return new SocketRegion(socket, { path: 'vfio-channel:test', timeout, rest: () => server.serve() })
  }
  const nodes = (server: ChannelServer) => new ChannelBackend(backend(), () => ({ region: connect(server) }))

  describe('drives', () => {
    it('a disk, whose kicks and interrupts are eventfds', async () => {
      const server = serve()
      const device = await openDevice('/dev/x', { backend: nodes(server), expect: 'block' })
      await device.negotiate(['VIRTIO_BLK_F_FLUSH'])
      const disk = await BlockDriver.start(device)
      await device.start()
      await disk.write(3, Buffer.alloc(512, 7))
      await disk.flush()
      expect(Buffer.from(await disk.read(3, 1)).equals(Buffer.alloc(512, 7))).toBe(true)
      await disk.close()
      await device.close()
      expect(refused).toEqual([])
    })

    it('a device again and again, as new each time, and one client at a time', async () => {
      const server = serve()
      const backendOfNodes = nodes(server)
      for (let round = 0; round < 3; round++) {
        const device = await openDevice('/dev/x', { backend: backendOfNodes })
        expect(device.queueCount).toBe(1)
        await expect(openDevice('/dev/x', { backend: nodes(server) })).rejects.toMatchObject({ code: 'ENODEV' })
        await device.close()
      }
      expect(server.refusals).toEqual(
        Array(3).fill(`ERR_VDPA_STATE: ${server.path}: a client was turned away: another is connected`),
      )
    })

    it('memory that a program adopted, at its place in the file', async () => {
      const server = serve()
      const channel = nodes(server)
      using file = backend().allocate(5 * 4096)
      const device = await openDevice('/dev/x', { backend: channel })
      await device.negotiate([])
      const memory = channel.adopt(Number(file.fd), { length: 2 * 4096, offset: 3n * 4096n })
      await device.addressSpace(0).map([{ iova: 0n, region: memory }])
      expect(() => memory.close()).toThrow('ERR_VDPA_MEMORY_HELD')
      memory.close({ unmap: true })
      expect(device.addressSpace(0).mappings).toEqual([])
      await device.close()
    })

    it('a disk by a draft', () => {
      const server = serve(undefined, { protocol: '2019' })
      using client = new DraftClient(connect(server), '2019')
      const features = client.features()
      client.setFeatures(features)
      expect(() => client.setVringNum(7, 8)).toThrow('EINVAL')
      expect(client.vringBase(0)).toBe(0)
    })

    it('nobody who speaks another protocol', async () => {
      const draft = serve(undefined, { protocol: '2018' })
      await expect(openDevice('/dev/x', { backend: nodes(draft) })).rejects.toMatchObject({
        code: 'ERR_VDPA_WRONG_DEVICE',
      })
      draft.close()
      const old = serve(undefined, { protocol: '2018', imitates: ['takes-unknown-requests'] })
      await expect(openDevice('/dev/x', { backend: nodes(old) })).rejects.toMatchObject({
        code: 'ERR_VDPA_PROTOCOL',
        message: expect.stringContaining('the far end speaks a draft'),
      })
    })
  })

  describe('whose model or program throws', () => {
    it('tells "uncaughtException", and the client that it failed', async () => {
      const model = Object.assign(blockDevice({ capacity: 64 }), {
        readConfig: () => {
          throw new Error('the model')
        },
      })
      const server = serve(model)
      const device = await openDevice('/dev/x', { backend: nodes(server) })
      const thrown = hearUncaught()
      expect(() => device.config.read(0, 8)).toThrow('EIO')
      await until(() => thrown.length > 0)
      expect(thrown).toEqual([new Error('the model')])
      await device.close()
    })

    it('may close the server where it hears that there are no descriptors left', async () => {
      const faulty = new FaultyBackend(backend())
      const server = serve(undefined, { backend: faulty, onRefusal: () => server.close() })
      const thrown = hearUncaught()
      faulty.fail({ with: 'EMFILE', when: ({ op }) => op === 'accept' })
      const socket = backend().sockets.connect(server.path)
      await until(() => server.isClosed)
      socket.close()
      expect(thrown).toEqual([])
    })

    it('may close the server where it hears of a client that the next one replaces', async () => {
      const heard: boolean[] = []
      const server = serve(undefined, {
        onRefusal: () => {
          heard.push(server.hasClient)
          server.close()
        },
      })
      const first = backend().sockets.connect(server.path)
      server.serve()
      expect(server.hasClient).toBe(true)
      const next = backend().sockets.connect(server.path)
      first.send(new Uint8Array(16).fill(0xff))
      server.serve()
      await until(() => heard.length > 0)
      expect([heard, server.isClosed, server.hasClient]).toEqual([[false], true, false])
      first.close()
      next.close()
    })

    it('from onRefusal goes to "uncaughtException", and serves on', async () => {
      const server = serve(undefined, {
        onRefusal: () => {
          throw new Error('the program')
        },
      })
      const thrown = hearUncaught()
      const socket = backend().sockets.connect(server.path)
      socket.send(new Uint8Array(16).fill(0xff))
      await until(() => thrown.length > 0)
      socket.close()
      expect(thrown).toEqual([new Error('the program')])
      const device = await openDevice('/dev/x', { backend: nodes(server) })
      await device.close()
    })
  })

  describe('and clients that do what none should', () => {
    /** Sends bytes as a client; the server's answer to it, in words. */
    async function provoke(server: ChannelServer, parts: readonly Uint8Array[], fds: readonly number[] = []) {
      const socket = backend().sockets.connect(server.path)
      try {
        for (const part of parts) socket.send(part, fds)
        await pause(1)
      } finally {
        socket.close()
      }
      await until(() => refused.length > 0)
      return refused.map(({ message }) => message).join('\n')
    }

    const word = (...numbers: number[]) => new Uint8Array(Uint32Array.from(numbers).buffer)
    it.each<[string, Uint8Array, string]>([
      ['a frame of no kind', encodeFrame(9, 0n), 'a frame of kind 9'],
      ['an answer', encodeFrame(frameKinds.REPLY, 0n), 'a frame of kind 3 from a client'],
      ['a frame without end', word(2, 0xffff_ffff, 0, 0), 'a frame of 4294967295 bytes'],
      ['a read without a length', encodeFrame(frameKinds.PREAD, 0n), 'a frame of 0 bytes, not 4'],
      ['a read without end', encodeFrame(frameKinds.PREAD, 0n, word(0xffff_ffff)), 'are to be read at once'],
      ['memory without a descriptor', encodeFrame(frameKinds.MAP_DMA, 0n, new Uint8Array(16)), 'without a descriptor'],
      ['memory without a length', encodeFrame(frameKinds.MAP_DMA, 0n), 'a frame of 0 bytes, not 16'],
      ['a vector past all', encodeFrame(frameKinds.SET_INTERRUPT, 1n << 40n), 'a vector'],
      [
        'half a frame',
        encodeFrame(frameKinds.PWRITE, 0n, new Uint8Array(64)).subarray(0, 40),
        'the client left in the middle',
      ],
      ['half a head', new Uint8Array(7), 'the client left in the middle of a header'],
    ])('%s', async (_name, bytes, text) => {
      const server = serve()
      expect(await provoke(server, [bytes])).toContain(text)
      const device = await openDevice('/dev/x', { backend: nodes(server) })
      await device.close()
    })

    it('descriptors where none are due, or of another kind', async () => {
      const server = serve()
      using eventfd = backend().eventfd()
      expect(await provoke(server, [encodeFrame(frameKinds.PWRITE, 0n)], [eventfd.fd])).toContain('a descriptor came')
      const socket = backend().sockets.connect(server.path)
      const memory = new Uint8Array(16)
      new DataView(memory.buffer).setBigUint64(0, 4096n, true)
      socket.send(encodeFrame(frameKinds.MAP_DMA, 0n, memory), [eventfd.fd])
      socket.send(encodeFrame(frameKinds.SET_INTERRUPT, 0n), [socket.fd])
      const answers = new Uint8Array(64)
      let length = 0
      await until(() => (length += socket.receive(answers, length, 64 - length)?.length ?? 0) >= 32)
      expect(length).toBe(32)
      const view = new DataView(answers.buffer)
      expect([view.getBigInt64(8, true), view.getBigInt64(24, true)].every((result) => result < 0n)).toBe(true)
      socket.close()
    })

    it('a flood without reading', async () => {
      const server = serve()
      const socket = backend().sockets.connect(server.path)
      const read = encodeFrame(frameKinds.PREAD, 0n, word(16))
      const flood = new Uint8Array(read.length * 1000)
      for (let at = 0; at < flood.length; at += read.length) flood.set(read, at)
      for (let round = 0; round < 400 && refused.length === 0; round++) {
        try {
          socket.send(flood.subarray(0, flood.length))
        } catch {
          break
        }
        await pause(1)
      }
      socket.close()
      await until(() => refused.length > 0)
      // A frame may have been cut by the full socket: the flood ends one way or the other, by name.
      expect(refused).toHaveLength(1)
      const device = await openDevice('/dev/x', { backend: nodes(server) })
      await device.close()
    })

    it('the rest of a frame that does not come', async () => {
      const server = serve(undefined, { messageTimeout: 20 })
      const socket = backend().sockets.connect(server.path)
      socket.send(new Uint8Array(3))
      await until(() => refused.length > 0)
      expect(refused.map(({ message }) => message)).toEqual([
        'ERR_VDPA_TIMEOUT: the rest of a frame did not come within 20 ms',
      ])
      socket.close()
    })

    it('arbitrary frames and messages', async () => {
      const server = serve()
      const numbers = Object.values(requests).map(({ number }) => BigInt(number))
      const message = fc
        .tuple(fc.constantFrom(...numbers, 1n << 32n, 7n), fc.nat(3), fc.uint8Array({ maxLength: 160 }), fc.boolean())
        .map(([request, flags, payload, lies]) => {
          const bytes = new Uint8Array(16 + payload.length)
          const view = new DataView(bytes.buffer)
          view.setBigUint64(0, request, true)
          view.setUint32(8, flags, true)
          view.setUint32(12, payload.length + (lies ? 1 : 0), true)
          bytes.set(payload, 16)
          return encodeFrame(frameKinds.PWRITE, 0n, bytes)
        })
      const frame = fc
        .tuple(fc.nat(8), fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }), fc.uint8Array({ maxLength: 64 }))
        .map(([kind, value, payload]) => encodeFrame(kind, value, payload))
      await fc.assert(
        fc.asyncProperty(
          fc.array(fc.oneof(message, message, frame), { minLength: 1, maxLength: 20 }),
          async (frames) => {
            const socket = backend().sockets.connect(server.path)
            for (const bytes of frames) {
              try {
                socket.send(bytes)
              } catch {
                break
              }
              server.serve()
            }
            socket.close()
            server.serve()
            await new Promise((resolve) => setImmediate(resolve))
            server.serve()
            expect(server.hasClient).toBe(false)
          },
        ),
        { numRuns: 150 },
      )
    })
  })

  describe('and servers that do what none should', () => {
    /** A client of a server that answers each frame with what it is told to. */
    function client(answer: (socket: StreamSocket) => void, timeout = 1000): SocketRegion {
      const [near, far] = backend().sockets.pair()
      const buffer = new Uint8Array(1 << 16)
      let isAnswered = false
      const rest = () => {
        if (isAnswered || far.isClosed || far.receive(buffer, 0, buffer.length, 2) === undefined) return
        isAnswered = true
        answer(far)
      }
      const region = new SocketRegion(near, { path: 'vfio-channel:test', timeout, rest })
      ends.push(far, region)
      return region
    }
    const ends: { close(): void }[] = []
    afterEach(() => {
      for (const end of ends.splice(0)) end.close()
    })

    const reply = (value: bigint, payload?: Uint8Array) => encodeFrame(frameKinds.REPLY, value, payload)
    it.each<[string, (socket: StreamSocket) => void, string]>([
      ['close', (socket) => socket.close(), 'ENODEV'],
      [
        'close in the middle',
        (socket) => {
          socket.send(reply(8n, new Uint8Array(8)).subarray(0, 20))
          socket.close()
        },
        'ERR_VDPA_CLOSED',
      ],
      ['say more than was asked', (socket) => void socket.send(reply(64n, new Uint8Array(64))), 'ERR_VDPA_PROTOCOL'],
      ['say other than they count', (socket) => void socket.send(reply(8n, new Uint8Array(4))), 'ERR_VDPA_PROTOCOL'],
      ['ask', (socket) => void socket.send(encodeFrame(frameKinds.PREAD, 0n)), 'ERR_VDPA_PROTOCOL'],
      ['send garbage', (socket) => void socket.send(new Uint8Array(32).fill(0xee)), 'ERR_VDPA_PROTOCOL'],
      ['give results that are none', (socket) => void socket.send(reply(-5000n)), 'ERR_VDPA_PROTOCOL'],
      ['send descriptors', (socket) => void socket.send(reply(0n), [socket.fd]), 'EMSGSIZE'],
      ['say nothing', () => undefined, 'ERR_VDPA_TIMEOUT'],
    ])('%s', (_name, answer, code) => {
      const region = client(answer, 100)
      const read = () => region.pread(new Uint8Array(32), 0n)
      expect(read).toThrow(expect.objectContaining({ code }))
      expect(read).toThrow(expect.objectContaining({ code: 'ENODEV' }))
    })

    it('end all that waits, in the order it was asked', async () => {
      const region = client((socket) => socket.close())
      const ended: number[] = []
      const calls = [1, 2, 3].map((number) =>
        region.preadAsync(new Uint8Array(8), 0n).catch((error: unknown) => {
          ended.push(number)
          return error
        }),
      )
      expect(() => region.pread(new Uint8Array(8), 0n)).toThrow('ENODEV')
      for (const error of await Promise.all(calls)) expect(error).toMatchObject({ code: 'ENODEV' })
      expect(ended).toEqual([1, 2, 3])
    })

    it('answer twice', () => {
      const region = client((socket) => {
        socket.send(reply(0n))
        socket.send(reply(0n))
      })
      expect(region.pread(new Uint8Array(8), 0n)).toBe(0)
      expect(() => region.pread(new Uint8Array(8), 0n)).toThrow()
    })

    it('answer something else than was asked', async () => {
      let answered = 0
      const [near, far] = backend().sockets.pair()
      const buffer = new Uint8Array(1 << 16)
      const rest = () => {
        if (far.receive(buffer, 0, buffer.length) === undefined) return
        // The message is taken, and the answer is to another request.
        if (answered++ === 0) far.send(reply(20n))
        else far.send(reply(BigInt(answerBytes(4)), new Uint8Array(answerBytes(4)).fill(1)))
      }
      const region = new SocketRegion(near, { path: 'vfio-channel:test', timeout: 200, rest })
      const channel = new ChannelBackend(backend(), () => ({ region }))
      await expect(openDevice('/dev/x', { backend: channel })).rejects.toMatchObject({ code: 'ERR_VDPA_PROTOCOL' })
      expect(region.isClosed).toBe(true)
      far.close()
    })
  })

  it('closes with calls under way', async () => {
    const server = serve()
    const region = connect(server)
    const waiting = region.preadAsync(new Uint8Array(8), 0n)
    region.close()
    region.close()
    await expect(waiting).rejects.toMatchObject({ code: 'ERR_VDPA_CLOSED' })
    expect(() => region.pread(new Uint8Array(8), 0n)).toThrow('ERR_VDPA_CLOSED')
  })
})
