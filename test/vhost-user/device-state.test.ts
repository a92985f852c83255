// A network device whose front end carries its state elsewhere: from one server to another, and to a bridge; and pipes that are slow, closed, or full of something else.

import { expect, it, jest } from '@jest/globals'
import { closeSync, openSync, writeSync } from 'node:fs'
import fc from 'fast-check'
import { openDevice } from '../../lib/open'
import {
  blockDevice,
  bridgeVhostUser,
  networkDevice,
  serveVhostUser,
  type BridgeVhostUserOptions,
} from '../../lib/serve'
import { Simulator } from '../../lib/simulator'
import { netFeatureBits as net } from '../../lib/uapi/virtio-features'
import { decodeDeviceState, encodeDeviceState } from '../../lib/vhost-user/device-state'
import { describeNative } from '../native/support'
import { ownFolder } from '../own-folder'
import { hearUncaught } from '../uncaught'
import { until } from '../until'
import { FrontEnd, words, type GuestQueue } from './front-end'
import { fill, pipe, readAll } from './pipes'

const STATUS = 1n << 16n
const [SAVE, LOAD] = [0, 1]
const OK = 0x100n
const moreFeatures = [net.VIRTIO_NET_F_CTRL_RX, net.VIRTIO_NET_F_CTRL_VLAN]

describeNative('the state of a device that is moved', (backend) => {
  let count = 0
  const { begin, file, untilClosed } = ownFolder(backend)
  const model = () => networkDevice({ mac: '02:00:00:00:00:01', queuePairs: 2, moreFeatures })
  const command = async (front: FrontEnd, queue: GuestQueue, ...bytes: number[]) => {
    const [head, ack] = [front.room(bytes.length), front.room(1)]
    head.bytes.set(bytes)
    queue.ring.begin()
    queue.ring.pushAddress(head.guest, bytes.length, false)
    queue.ring.pushAddress(ack.guest, 1, true)
    queue.ring.commit(1)
    if (queue.ring.publish()) queue.kick.signal()
    await queue.take()
    expect(ack.bytes[0]).toBe(0)
  }
  /** A guest's modes, MAC table, VLANs, pairs and address. */
  const settle = async (front: FrontEnd) => {
    await front.begin(0n, STATUS)
    const queues = [0, 1, 2, 3, 4].map((index) => front.queue(index))
    const control = queues[4] as GuestQueue
    await command(front, control, 4, 0, 2, 0)
    await command(front, control, 0, 1, 0)
    await command(front, control, 1, 0, ...words(1), 2, 0, 0, 0, 0, 5, ...words(1), 0x33, 0x33, 0, 0, 0, 9)
    await command(front, control, 1, 1, 2, 0, 0, 0, 0, 9)
    for (const vlan of [7, 9]) await command(front, control, 2, 0, vlan, 0)
  }
  const stop = async (front: FrontEnd) => {
    const bases: Uint8Array[] = []
    for (const index of [0, 1, 2, 3, 4]) bases.push((await front.ask('GET_VRING_BASE', words(index, 0))).payload)
    return bases
  }
  const save = async (front: FrontEnd): Promise<Uint8Array> => {
    const { read, write } = pipe(file(`pipe${count++}`))
    expect((await front.ask('SET_DEVICE_STATE_FD', words(SAVE, 0), [write])).value).toBe(OK)
    closeSync(write)
    const bytes = await readAll(read)
    closeSync(read)
    expect((await front.ask('CHECK_DEVICE_STATE')).value).toBe(0n)
    return bytes
  }
  const load = async (front: FrontEnd, bytes: Uint8Array): Promise<bigint> => {
    const { read, write } = pipe(file(`pipe${count++}`))
    const { value } = await front.ask('SET_DEVICE_STATE_FD', words(LOAD, 0), [read])
    closeSync(read)
    // A slow one.
    const half = bytes.length >> 1
    writeSync(write, bytes.subarray(0, half))
    await new Promise((resolve) => setImmediate(resolve))
    writeSync(write, bytes.subarray(half))
    closeSync(write)
    return value === OK ? (await front.ask('CHECK_DEVICE_STATE')).value : value
  }
  /** Goes on with the driver's rings where they stood. */
  const goOn = async (front: FrontEnd, bases: readonly Uint8Array[]) => {
    await front.begin(0n, STATUS)
    for (const index of [0, 1, 2, 3, 4]) front.queue(index, { base: bases[index] as Uint8Array })
    await front.ask('GET_FEATURES')
  }
  type Control = ReturnType<typeof model>['control']
  const about = ({ control, mac }: { readonly control: Control; readonly mac: string }) => ({
    mac,
    pairs: control.queuePairs,
    vlans: [...control.vlans],
    table: control.table,
    acceptsAllMulticast: control.acceptsAllMulticast,
    isPromiscuous: control.isPromiscuous,
  })
  const expected = {
    mac: '02:00:00:00:00:09',
    pairs: 2,
    vlans: [7, 9],
    table: { unicast: ['02:00:00:00:00:05'], multicast: ['33:33:00:00:00:09'] },
    acceptsAllMulticast: false,
    isPromiscuous: false,
  }
  const bridged = async (settings: Partial<BridgeVhostUserOptions> = {}) => {
    const simulator = new Simulator()
    const device = model()
    const open = await openDevice(simulator.add(device), { backend: simulator, expect: 'net' })
    const bridge = await bridgeVhostUser(open, { socket: file(`bridge${count++}`), ...settings })
    const end = async () => {
      await bridge.close()
      await open.close()
      expect(simulator.descriptors).toEqual([])
    }
    return { device, bridge, path: bridge.path, [Symbol.asyncDispose]: end }
  }

  it('is the same in another server, and in a bridge, and in a server again', async () => {
    begin()
    const [first, last] = [model(), model()]
    using source = serveVhostUser(first, { socket: file('first') })
    using target = serveVhostUser(last, { socket: file('last') })
    await using middle = await bridged()
    let bytes: Uint8Array
    let bases: readonly Uint8Array[]
    {
      using front = new FrontEnd(backend(), source.path)
      await settle(front)
      expect(about(first)).toEqual(expected)
      expect((await front.ask('SET_DEVICE_STATE_FD', words(SAVE, 0), [0])).value).toBe(0x101n)
      bases = await stop(front)
      bytes = await save(front)
    }
    // Before the driver's features are known, as QEMU does: what follows is the driver's that goes on.
    for (const [path, device] of [
      [middle.path, middle.device],
      [target.path, last],
    ] as const) {
      using front = new FrontEnd(backend(), path)
      front.send('SET_PROTOCOL_FEATURES', words((await front.ask('GET_PROTOCOL_FEATURES')).value))
      expect(await load(front, bytes)).toBe(0n)
      await goOn(front, bases)
      expect(about(device)).toEqual(expected)
      bases = await stop(front)
      bytes = await save(front)
    }
    expect([...target.refusals, ...middle.bridge.refusals]).toEqual([])
    expect(source.refusals).toEqual([expect.stringContaining('queues run')])
    await until(() => target.frontEnds === 0 && source.frontEnds === 0)
    // The next front end is another's.
    using next = new FrontEnd(backend(), middle.path)
    await next.begin(0n, STATUS)
    for (const index of [0, 1, 2, 3, 4]) next.queue(index)
    await next.ask('GET_FEATURES')
    expect(about(middle.device).vlans).toEqual([])
  })

  it.each(['a server', 'a bridge'] as const)(
    'is a guest’s that is stopped and goes on, saved or not, and no new driver’s: %s',
    async (what) => {
      begin()
      const device = model()
      using server = serveVhostUser(device, { socket: file('s') })
      await using other = await bridged()
      const [of, path, refusals] =
        what === 'a server' ? [device, server.path, server.refusals] : [other.device, other.path, other.bridge.refusals]
      {
        using front = new FrontEnd(backend(), path)
        await settle(front)
        for (let round = 0; round < 2; round++) {
          const bases = await stop(front)
          // A migration that failed on its way.
          if (round > 0) await save(front)
          await goOn(front, bases)
          expect(about(of)).toEqual(expected)
        }
        await stop(front)
        await front.begin(0n, STATUS)
        for (const index of [0, 1, 2, 3, 4]) front.queue(index)
        await front.ask('GET_FEATURES')
        expect(about(of)).toMatchObject({ vlans: [], table: { unicast: [], multicast: [] } })
      }
      await until(() => server.frontEnds + other.bridge.frontEnds === 0)
      expect(refusals).toEqual([])
    },
  )

  it('is asked for at the policy of a bridge, and refused as a whole', async () => {
    begin()
    await using world = await bridged({
      policy: ({ name }) => (name === 'VIRTIO_NET_CTRL_MAC_ADDR_SET' ? 'deny' : 'allow'),
    })
    using front = new FrontEnd(backend(), world.path)
    await front.begin(0n, STATUS)
    const vlan = { name: 'VIRTIO_NET_CTRL_VLAN_ADD', payload: Uint8Array.of(3, 0) } as const
    const mac = { name: 'VIRTIO_NET_CTRL_MAC_ADDR_SET', payload: Uint8Array.of(2, 0, 0, 0, 0, 7) } as const
    expect(await load(front, encodeDeviceState({ deviceId: 1, commands: [vlan, mac] }))).toBe(0x101n)
    for (const index of [0, 1, 2, 3, 4]) front.queue(index)
    await front.ask('GET_FEATURES')
    expect([world.device.mac, [...world.device.control.vlans]]).toEqual(['02:00:00:00:00:01', []])
    expect(world.bridge.refusals).toEqual([expect.stringContaining('the policy denies')])
  })

  it.each<[string, Uint8Array]>([
    ['nothing', new Uint8Array(0)],
    ['garbage', new Uint8Array(100).fill(0xa5)],
    ['half a part', encodeDeviceState({ deviceId: 1, commands: [] }).subarray(0, 20)],
    ['another device’s', encodeDeviceState({ deviceId: 2, commands: [] })],
    [
      'a VLAN that is none',
      encodeDeviceState({
        deviceId: 1,
        commands: [{ name: 'VIRTIO_NET_CTRL_VLAN_ADD', payload: Uint8Array.of(0, 0xff) }],
      }),
    ],
    [
      'more pairs than there are',
      encodeDeviceState({
        deviceId: 1,
        commands: [{ name: 'VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET', payload: Uint8Array.of(9, 0) }],
      }),
    ],
  ])('is refused where it is %s, and the device goes on without it', async (_, bytes) => {
    begin()
    const device = model()
    using server = serveVhostUser(device, { socket: file('s') })
    using front = new FrontEnd(backend(), server.path)
    await front.begin(0n, STATUS)
    expect(await load(front, bytes)).toBe(0x101n)
    await settle(front)
    expect(about(device)).toEqual(expected)
    expect(server.refusalCount).toBe(1)
    front.close()
    await until(() => server.frontEnds === 0)
  })

  it.each(['a pipe that sleeps', 'a socket', 'a file'] as const)('goes through %s', async (what) => {
    begin()
    const [first, last] = [model(), model()]
    using source = serveVhostUser(first, { socket: file('first') })
    using target = serveVhostUser(last, { socket: file('last') })
    using front = new FrontEnd(backend(), source.path)
    await settle(front)
    const bases = await stop(front)
    using next = new FrontEnd(backend(), target.path)
    next.send('SET_PROTOCOL_FEATURES', words((await next.ask('GET_PROTOCOL_FEATURES')).value))
    const pair = backend().sockets.pair()
    const [into = -1, from = -1] = {
      'a socket': () => pair.map(({ fd }) => fd),
      'a file': () => [openSync(file('state'), 'w'), openSync(file('state'), 'r')],
      'a pipe that sleeps': () => {
        const { read, write } = pipe(file('sleeping'))
        const sleeping = [openSync(file('sleeping'), 'w'), openSync(file('sleeping'), 'r')]
        for (const fd of [read, write]) closeSync(fd)
        return sleeping
      },
    }[what]()
    expect((await front.ask('SET_DEVICE_STATE_FD', words(SAVE, 0), [into])).value).toBe(OK)
    expect((await front.ask('CHECK_DEVICE_STATE')).value).toBe(0n)
    expect((await next.ask('SET_DEVICE_STATE_FD', words(LOAD, 0), [from])).value).toBe(OK)
    if (what !== 'a socket') for (const fd of [into, from]) closeSync(fd)
    for (const socket of pair) socket.close()
    expect((await next.ask('CHECK_DEVICE_STATE')).value).toBe(0n)
    await goOn(next, bases)
    expect(about(last)).toEqual(expected)
    expect([source.refusals, target.refusals]).toEqual([[], []])
  })

  it('is refused by what is no stream, in another phase, without a transfer, and where its pipe never ends', async () => {
    begin()
    using server = serveVhostUser(blockDevice({ capacity: 8 }), { socket: file('s'), messageTimeout: 50 })
    using front = new FrontEnd(backend(), server.path)
    await front.begin(0n, STATUS)
    const { read, write } = pipe(file('pipe'))
    expect((await front.ask('CHECK_DEVICE_STATE')).value).toBe(0x101n)
    {
      using eventfd = backend().eventfd()
      expect((await front.ask('SET_DEVICE_STATE_FD', words(SAVE, 0), [eventfd.fd])).value).toBe(0x101n)
      expect(server.refusals.at(-1)).toContain('anon_inode:[eventfd], and no pipe, stream socket or file')
    }
    expect((await front.ask('SET_DEVICE_STATE_FD', words(SAVE, 1), [write])).value).toBe(0x101n)
    expect((await front.ask('SET_DEVICE_STATE_FD', words(2, 0), [write])).value).toBe(0x101n)
    expect((await front.ask('SET_DEVICE_STATE_FD', words(LOAD, 0), [read])).value).toBe(OK)
    expect((await front.ask('CHECK_DEVICE_STATE')).value).toBe(0x101n)
    // A disk has no state besides its kind: what it saves it takes.
    const bytes = await save(front)
    expect(await load(front, bytes)).toBe(0n)
    closeSync(read)
    closeSync(write)
    front.close()
    await until(() => server.frontEnds === 0)
  })

  it('is refused by a pipe that nobody reads, and the next one is taken', async () => {
    begin()
    const uncaught = hearUncaught()
    using server = serveVhostUser(model(), { socket: file('s') })
    using front = new FrontEnd(backend(), server.path)
    await front.begin(0n, STATUS)
    const { read, write } = pipe(file('pipe'))
    closeSync(read)
    expect((await front.ask('SET_DEVICE_STATE_FD', words(SAVE, 0), [write])).value).toBe(OK)
    closeSync(write)
    expect((await front.ask('CHECK_DEVICE_STATE')).value).toBe(0x101n)
    expect((await save(front)).length).toBeGreaterThan(0)
    expect(server.refusals).toEqual([expect.stringContaining('EPIPE')])
    front.close()
    await until(() => server.frontEnds === 0)
    expect(uncaught).toEqual([])
    jest.restoreAllMocks()
  })

  it('is read to its end where who wrote it has gone already', async () => {
    begin()
    using server = serveVhostUser(model(), { socket: file('s') })
    using front = new FrontEnd(backend(), server.path)
    await front.begin(0n, STATUS)
    const { read, write } = pipe(file('pipe'))
    writeSync(write, await save(front))
    closeSync(write)
    expect((await front.ask('SET_DEVICE_STATE_FD', words(LOAD, 0), [read])).value).toBe(OK)
    closeSync(read)
    expect((await front.ask('CHECK_DEVICE_STATE')).value).toBe(0n)
    front.close()
    await until(() => server.frontEnds === 0)
  })

  it.each(['server', 'bridge'] as const)('sets nothing in a %s that the driver did not accept', async (where) => {
    begin()
    const own = model()
    await using world = await bridged()
    using server = serveVhostUser(own, { socket: file('s') })
    const device = where === 'server' ? own : world.device
    const front = new FrontEnd(backend(), where === 'server' ? server.path : world.path)
    const features = await front.begin(1n << BigInt(net.VIRTIO_NET_F_CTRL_VLAN), STATUS)
    const commands = [
      { name: 'VIRTIO_NET_CTRL_VLAN_ADD', payload: Uint8Array.of(3, 0) },
      { name: 'VIRTIO_NET_CTRL_RX_PROMISC', payload: Uint8Array.of(1) },
    ] as const
    expect(features & (1n << BigInt(net.VIRTIO_NET_F_CTRL_RX))).not.toBe(0n)
    expect(await load(front, encodeDeviceState({ deviceId: 1, commands }))).toBe(0n)
    for (const index of [0, 1, 2, 3, 4]) front.queue(index)
    await front.ask('GET_FEATURES')
    expect([device.control.isPromiscuous, [...device.control.vlans]]).toEqual([true, []])
    expect([...server.refusals, ...world.bridge.refusals]).toEqual([])
    front.close()
    await until(() => server.frontEnds === 0)
  })

  it.each(['the front end', 'the server'] as const)('leaves nothing where %s ends under a transfer', async (who) => {
    begin()
    for (const direction of [SAVE, LOAD]) {
      const server = serveVhostUser(model(), { socket: file(`s${direction}`) })
      const front = new FrontEnd(backend(), server.path)
      await settle(front)
      await stop(front)
      const { read, write } = pipe(file(`pipe${direction}`))
      // A pipe that is full already, and one that nobody writes to.
      if (direction === SAVE) fill(write)
      const fd = direction === SAVE ? write : read
      expect((await front.ask('SET_DEVICE_STATE_FD', words(direction, 0), [fd])).value).toBe(OK)
      expect((await front.ask('GET_QUEUE_NUM')).value).toBe(5n)
      if (who === 'the server') server.close()
      else front.close()
      await until(() => server.frontEnds === 0)
      server.close()
      front.close()
      closeSync(read)
      closeSync(write)
      await untilClosed()
    }
  })

  it('is denied by a policy that throws, and ends with a bridge that its policy closes', async () => {
    begin()
    const uncaught = hearUncaught()
    const vlan = { name: 'VIRTIO_NET_CTRL_VLAN_ADD', payload: Uint8Array.of(3, 0) } as const
    const bytes = encodeDeviceState({ deviceId: 1, commands: [vlan] })
    let act = (): void => {
      throw new Error('of the policy')
    }
    await using world = await bridged({
      policy: () => {
        act()
        return 'allow'
      },
    })
    const front = new FrontEnd(backend(), world.path)
    await front.begin(0n, STATUS)
    expect(await load(front, bytes)).toBe(0x101n)
    await until(() => uncaught.length > 0)
    expect(uncaught).toEqual([expect.objectContaining({ message: 'of the policy' })])
    act = () => void world.bridge.close()
    await load(front, bytes).catch(() => undefined)
    await until(() => world.bridge.frontEnds === 0)
    await world.bridge.close()
    expect(world.bridge.refusals).toEqual([expect.stringContaining('the policy denies')])
    front.close()
    jest.restoreAllMocks()
  })

  it('may be any bytes', () => {
    backend()
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
        const own = encodeDeviceState({ deviceId: 1, commands: [] })
        for (const state of [bytes, Uint8Array.of(...own, ...bytes)]) {
          try {
            decodeDeviceState(state, 1)
          } catch (failure) {
            expect(failure).toMatchObject({ code: 'ERR_VDPA_PROTOCOL' })
          }
        }
      }),
    )
  })
})
