// Calls of a channel's client that are made without waiting for those before: any number of them, whatever the sockets have room for.

import { afterEach, beforeEach, expect, it } from '@jest/globals'
import { blockDevice, serveVfioChannel } from '../../lib/serve'
import { errno } from '../../lib/uapi/errno'
import { requests } from '../../lib/uapi/vhost'
import { encodeMessage } from '../../lib/vfio-channel/codec'
import type { ChannelServer } from '../../lib/vfio-channel/server'
import { SocketRegion } from '../../lib/vfio-channel/socket-region'
import { answerBytes, IOTLB_BYTES, IOTLB_LAST } from '../../lib/vfio-channel/today'
import { TodayClient } from '../../lib/vfio-channel/today-client'
import { describeNative, openDescriptors, TemporaryFolder, untilNoneIsOpen } from '../native/support'

describeNative('many calls at once', (backend) => {
  let folder: TemporaryFolder
  let before = openDescriptors()
  let server: ChannelServer

  beforeEach(() => {
    backend()
    folder = new TemporaryFolder()
    before = openDescriptors()
    server = serveVfioChannel(blockDevice({ capacity: 64 }), { socket: folder.file('socket') }) as ChannelServer
  })
  afterEach(async () => {
    server.close()
    await untilNoneIsOpen(before)
    folder[Symbol.dispose]()
  })

  /** A client's end; `rest` lets the server of the same thread work while it waits. */
  function connect(rest?: () => void): SocketRegion {
    const options = { path: 'vfio-channel:test', timeout: 60_000, ...(rest !== undefined && { rest }) }
    return new SocketRegion(backend().sockets.connect(server.path), options)
  }

  /** Reads where nothing is to be read; the code of each failure, and the order in which they came. */
  function read(region: SocketRegion, count: number) {
    const ended: number[] = []
    const codes = Array.from({ length: count }, (_, index) =>
      region.preadAsync(new Uint8Array(8), 0n).catch((error: unknown) => {
        ended.push(index)
        return (error as { readonly code: string }).code
      }),
    )
    return { ended, codes: Promise.all(codes) }
  }
  const order = (count: number) => Array.from({ length: count }, (_, index) => index)

  it.each([
    ['on the event loop', false],
    ['on this thread as well', true],
  ])('are answered %s, in their order', async (_where, isMixed) => {
    const region = connect(isMixed ? () => server.serve() : undefined)
    const { ended, codes } = read(region, 1000)
    if (isMixed) expect(() => region.pread(new Uint8Array(8), 0n)).toThrow('EAGAIN')
    expect(await codes).toEqual(Array(1000).fill('EAGAIN'))
    expect(ended).toEqual(order(1000))
    region.close()
    expect(server.refusals).toEqual([])
  })

  it('are answered however long they are', async () => {
    const region = connect()
    const client = new TodayClient(region, 'vfio-channel:test')
    const records = new Uint8Array(IOTLB_LAST * IOTLB_BYTES)
    const writes = await Promise.all(Array.from({ length: 100 }, () => client.writeAsync(records)))
    expect(writes).toEqual(Array(100).fill({ completed: 0, errno: errno.EINVAL }))
    region.close()
    expect(server.refusals).toEqual([])
  })

  it('end with the connection, those that were not sent after those that were', async () => {
    const region = connect()
    const { ended, codes } = read(region, 200)
    region.close()
    expect(await codes).toEqual(Array(200).fill('ERR_VDPA_CLOSED'))
    expect(ended).toEqual(order(200))
  })

  it('are all over when that is waited for on this thread', async () => {
    const region = connect(() => server.serve())
    const { codes } = read(region, 200)
    region.finish()
    region.close()
    expect(await codes).toEqual(Array(200).fill('EAGAIN'))
  })

  it('of which one is refused are not answered by what was asked before it', () => {
    const region = connect(() => server.serve())
    region.pwrite(encodeMessage(BigInt(requests.VHOST_GET_FEATURES.number), 1, new Uint8Array(8)), 0n)
    expect(() => region.pwrite(new Uint8Array(7), 0n)).toThrow('EINVAL')
    expect(() => region.pread(new Uint8Array(answerBytes(8)), 0n)).toThrow('EAGAIN')
    region.close()
  })
})
