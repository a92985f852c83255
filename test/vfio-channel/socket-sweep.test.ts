// The sweep of a channel at a socket: each call of the serving end, and each of the client's, refused in turn while a disk is opened, read and closed. Nothing is left on
// either side, nobody waits for ever, and the next client is served.

import { afterEach, beforeEach, expect, it } from '@jest/globals'
import { FaultyBackend } from '../../lib/backend/faulty-backend'
import type { Backend } from '../../lib/backend/backend'
import { BlockDriver } from '../../lib/drivers/block-driver'
import { openDevice } from '../../lib/open'
import { blockDevice, serveVfioChannel } from '../../lib/serve'
import type { ErrnoName } from '../../lib/uapi/errno'
import { ChannelBackend } from '../../lib/vfio-channel/channel-backend'
import type { ChannelServer } from '../../lib/vfio-channel/server'
import { SocketRegion } from '../../lib/vfio-channel/socket-region'
import { describeNative, openDescriptors, TemporaryFolder } from '../native/support'
import { until } from '../until'

const MOST_CALLS = 400
/** Milliseconds for what a refusal may have made impossible, and for what must be possible, however slow the machine is. */
const BRIEFLY = 250
const LONG = 30_000

const pause = (milliseconds: number) => new Promise<void>((resolve) => void setTimeout(resolve, milliseconds))

/** A client that comes, reads a sector and goes; whether all went well. */
async function live(backend: Backend, server: ChannelServer, patience: number): Promise<boolean> {
  const connect = () => {
    const { sockets } = backend
    if (sockets === undefined) throw new Error('no sockets')
    const path = 'vfio-channel:test'
    return {
      region: new SocketRegion(sockets.connect(server.path), { path, timeout: patience, rest: () => server.serve() }),
    }
  }
  let device: Awaited<ReturnType<typeof openDevice<'block'>>> | undefined
  try {
    device = await openDevice('/dev/x', { backend: new ChannelBackend(backend, connect), expect: 'block' })
    await device.negotiate([])
    const disk = await BlockDriver.start(device)
    await device.start()
    const isOver = AbortSignal.timeout(patience)
    const timeout = new Promise<undefined>((resolve) => void isOver.addEventListener('abort', () => resolve(undefined)))
    const read = await Promise.race([disk.read(0, 1).catch(() => undefined), timeout])
    return read !== undefined
  } catch {
    return false
  } finally {
    await device?.close().catch(() => undefined)
  }
}

describeNative('a channel at a socket', (backend) => {
  let folder: TemporaryFolder
  let before = 0
  beforeEach(() => {
    backend()
    folder = new TemporaryFolder()
    before = openDescriptors()
  })
  afterEach(() => {
    folder[Symbol.dispose]()
  })

  /** One end's nth call is refused, and what is left of it; undefined when it makes no more than that. */
  async function refuse(end: 'server' | 'client', code: ErrnoName, nth: number): Promise<string[] | undefined> {
    const faulty = new FaultyBackend(backend())
    // Looks for bytes are as many as the machine is slow; those that find the end of the connection are in socket.test.ts.
    const fault = faulty.fail({ with: code, nth, when: ({ op }) => op !== 'close' && op !== 'recvmsg' })
    const left: string[] = []
    let server: ChannelServer | undefined
    try {
      const options = { socket: folder.file('socket'), backend: end === 'server' ? faulty : backend() }
      server = serveVfioChannel(blockDevice({ capacity: 64 }), options) as ChannelServer
      await live(end === 'client' ? faulty : backend(), server, BRIEFLY)
      fault.close()
      await pause(1)
      if (!(await live(backend(), server, LONG))) left.push('the next client is not served')
    } catch (failure) {
      // Who cannot listen says so, with the errno.
      if ((failure as { code?: unknown }).code !== code) left.push(String(failure))
    } finally {
      server?.close()
    }
    await until(() => openDescriptors() === before).catch((failure: unknown) => left.push(String(failure)))
    return fault.hits === 0 && left.length === 0 ? undefined : left
  }

  it.each([
    ['server', 'EMFILE', 3],
    ['server', 'EIO', 5],
    ['client', 'ECONNRESET', 2],
    ['client', 'EIO', 3],
  ] as const)('with each call of the %s refused by %s leaves nothing', async (end, code, stride) => {
    const leftovers: string[] = []
    let nth = 1
    for (; nth <= MOST_CALLS; nth += stride) {
      const left = await refuse(end, code, nth)
      if (left === undefined) break
      leftovers.push(...left.map((what) => `call ${nth}: ${what}`))
    }
    expect(leftovers).toEqual([])
    expect(nth).toBeGreaterThan(20)
    expect(nth).toBeLessThan(MOST_CALLS)
  })
})
