// A state that a front end brings to a bridged device whose policy takes its time: what is told of it is so.

import { expect, it } from '@jest/globals'
import { closeSync, writeSync } from 'node:fs'
import { openDevice } from '../../lib/open'
import { bridgeVhostUser } from '../../lib/serve'
import { networkDevice, Simulator } from '../../lib/simulator'
import { netFeatureBits as net } from '../../lib/uapi/virtio-features'
import { encodeDeviceState } from '../../lib/vhost-user/device-state'
import { describeNative } from '../native/support'
import { ownFolder } from '../own-folder'
import { FrontEnd, words } from '../vhost-user/front-end'
import { pipe } from '../vhost-user/pipes'
import { until } from '../until'

const STATUS = 1n << 16n
const LOAD = 1
const OK = 0x100n

describeNative('a state that comes to a bridge whose policy takes its time', (backend) => {
  let count = 0
  const { begin, file } = ownFolder(backend)
  const vlan = (id: number) =>
    encodeDeviceState({
      deviceId: 1,
      commands: [{ name: 'VIRTIO_NET_CTRL_VLAN_ADD', payload: Uint8Array.of(id, 0) }],
    })
  /** A bridge whose policy says nothing of VLAN 3 before it is told to, and a front end of it. */
  const slow = async (messageTimeout: number) => {
    const asked: (() => void)[] = []
    let isSlow = true
    const simulator = new Simulator()
    const moreFeatures = [net.VIRTIO_NET_F_CTRL_RX, net.VIRTIO_NET_F_CTRL_VLAN]
    const model = networkDevice({ mac: '02:00:00:00:00:01', queuePairs: 2, moreFeatures })
    const device = await openDevice(simulator.add(model), { backend: simulator, expect: 'net' })
    const bridge = await bridgeVhostUser(device, {
      socket: file('bridge'),
      messageTimeout,
      policy: ({ payload }) =>
        isSlow && payload[0] === 3 ? new Promise((resolve) => asked.push(() => resolve('allow'))) : 'allow',
    })
    const front = new FrontEnd(backend(), bridge.path)
    await front.begin(0n, STATUS)
    /** All that the policy was asked is allowed, and heard of. */
    const allow = async () => {
      isSlow = false
      for (const one of asked.splice(0)) one()
      await new Promise((resolve) => setImmediate(resolve))
    }
    const begin = async (bytes: Uint8Array) => {
      const { read, write } = pipe(file(`pipe${count++}`))
      writeSync(write, bytes)
      closeSync(write)
      expect((await front.ask('SET_DEVICE_STATE_FD', words(LOAD, 0), [read])).value).toBe(OK)
      closeSync(read)
    }
    /** What the device is like that is started now. */
    const vlans = async () => {
      for (const index of [0, 1, 2, 3, 4]) front.queue(index)
      await front.ask('GET_FEATURES')
      return [...model.control.vlans]
    }
    const end = async () => {
      front.close()
      await bridge.close()
      await device.close()
      expect(simulator.descriptors).toEqual([])
    }
    return { bridge, front, asked, allow, begin, vlans, [Symbol.asyncDispose]: end }
  }

  it('is not loaded any more once its front end was told that it was not', async () => {
    begin()
    await using world = await slow(50)
    await world.begin(vlan(3))
    expect((await world.front.ask('CHECK_DEVICE_STATE')).value).toBe(0x101n)
    expect(world.asked).toHaveLength(1)
    await world.allow()
    expect([await world.vlans(), world.bridge.refusals]).toEqual([[], [expect.stringContaining('has not ended')]])
  })

  it('gives way to the one that comes after it', async () => {
    begin()
    await using world = await slow(5000)
    await world.begin(vlan(3))
    await until(() => world.asked.length > 0)
    await world.begin(vlan(4))
    expect((await world.front.ask('CHECK_DEVICE_STATE')).value).toBe(0n)
    await world.allow()
    expect([await world.vlans(), world.bridge.refusals]).toEqual([[4], []])
  })

  it('is refused where the device ran meanwhile', async () => {
    begin()
    await using world = await slow(5000)
    await world.begin(vlan(3))
    await until(() => world.asked.length > 0)
    expect(await world.vlans()).toEqual([])
    for (const index of [0, 1, 2, 3, 4]) await world.front.ask('GET_VRING_BASE', words(index, 0))
    await world.allow()
    expect((await world.front.ask('CHECK_DEVICE_STATE')).value).toBe(0x101n)
    expect([await world.vlans(), world.bridge.refusals]).toEqual([[], [expect.stringContaining('under the transfer')]])
  })

  it('is refused where the device was reset meanwhile', async () => {
    begin()
    await using world = await slow(5000)
    await world.begin(vlan(3))
    await until(() => world.asked.length > 0)
    expect(await world.front.acknowledged('RESET_DEVICE')).toBe(0n)
    await world.allow()
    expect((await world.front.ask('CHECK_DEVICE_STATE')).value).toBe(0x101n)
    await world.front.begin(0n, STATUS)
    expect([await world.vlans(), world.bridge.refusals]).toEqual([[], [expect.stringContaining('under the transfer')]])
  })

  it('is of the driver that goes on, and not of the one that begins its rings anew after it', async () => {
    begin()
    await using world = await slow(5000)
    await world.begin(vlan(4))
    expect((await world.front.ask('CHECK_DEVICE_STATE')).value).toBe(0n)
    expect(await world.vlans()).toEqual([4])
    for (const index of [0, 1, 2, 3, 4]) await world.front.ask('GET_VRING_BASE', words(index, 0))
    expect([await world.vlans(), world.bridge.refusals]).toEqual([[], []])
  })

  it('is refused once it is longer than any, however much is to come', async () => {
    begin()
    await using world = await slow(5000)
    const { front, bridge } = world
    const { read, write } = pipe(file('long'))
    expect((await front.ask('SET_DEVICE_STATE_FD', words(LOAD, 0), [read])).value).toBe(OK)
    closeSync(read)
    // Nobody reads any more: EPIPE.
    await until(() => {
      try {
        for (;;) writeSync(write, new Uint8Array(4096))
      } catch (failure) {
        return (failure as { code?: unknown }).code === 'EPIPE'
      }
    })
    closeSync(write)
    expect((await front.ask('CHECK_DEVICE_STATE')).value).toBe(0x101n)
    expect(bridge.refusals).toEqual([expect.stringContaining('more than 1048576 bytes')])
  })
})
