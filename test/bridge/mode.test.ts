// A bridged device whose control queue cannot be alone, or not under all features, on a simulator: guests have none, or one that lies beside their memory.

import { expect, it } from '@jest/globals'
import { bit } from '../../lib/base/bits'
import type { Range } from '../../lib/base/ranges'
import { openDevice } from '../../lib/open'
import { bridgeVhostUser, type BridgeVhostUserOptions } from '../../lib/serve'
import { networkDevice, Simulator } from '../../lib/simulator'
import { netFeatureBits as net } from '../../lib/uapi/virtio-features'
import { describeNative } from '../native/support'
import { ownFolder } from '../own-folder'
import { FrontEnd, GUEST, USER, words } from '../vhost-user/front-end'
import { until } from '../until'
import { command } from './guest-command'

const controlQueue = bit(net.VIRTIO_NET_F_CTRL_VQ)
const multiqueue = bit(net.VIRTIO_NET_F_MQ)
/** No STATUS: rings alone say when to start. */
const STATUS = bit(16)

describeNative('a bridged device whose control queue may not be alone', (backend) => {
  const { begin, file } = ownFolder(backend)
  const network = async (
    settings: Partial<BridgeVhostUserOptions> = {},
    groupAsid = false,
    reach: { readonly iovaRange?: Range } = {},
  ) => {
    const simulator = new Simulator()
    const model = networkDevice({
      ...{ mac: '02:00:00:00:00:01', queuePairs: 2, capabilities: { groupAsid } },
      moreFeatures: [net.VIRTIO_NET_F_CTRL_RX, net.VIRTIO_NET_F_CTRL_VLAN],
    })
    // As a device behind an IOMMU of few bits.
    Object.assign(model, reach)
    const device = await openDevice(simulator.add(model), { backend: simulator, expect: 'net' })
    const bridge = await bridgeVhostUser(device, { socket: file('net'), ...settings })
    const end = async () => {
      await bridge.close()
      await device.close()
      expect(simulator.descriptors).toEqual([])
    }
    return { model, device, bridge, [Symbol.asyncDispose]: end }
  }

  it('masks it', async () => {
    begin()
    await using world = await network()
    const { bridge } = world
    expect(bridge.isolation).toMatchObject({ isolated: false })
    using front = new FrontEnd(backend(), bridge.path)
    const features = await front.begin(0n, STATUS)
    expect(features & (controlQueue | bit(net.VIRTIO_NET_F_MQ) | bit(net.VIRTIO_NET_F_CTRL_MAC_ADDR))).toBe(0n)
    for (const index of [0, 1]) front.queue(index)
    await front.ask('GET_FEATURES')
    expect([bridge.isRunning, bridge.shadow]).toEqual([true, undefined])
  })

  it('serves it where that is allowed, beside the guest’s memory, which stays mapped', async () => {
    begin()
    await using world = await network({ mode: 'auto' })
    const { model, bridge, device } = world
    expect(bridge.isolation).toMatchObject({ isolated: false })
    using front = new FrontEnd(backend(), bridge.path)
    const features = await front.begin(0n, STATUS)
    expect(features & controlQueue).toBe(controlQueue)
    for (let round = 0; round < 2; round++) {
      const control = [0, 1, 2, 3, 4].map((index) => front.queue(index)).at(-1)
      if (control === undefined) throw new Error('there is no control queue')
      expect(await command(front, control, 0, 0, 1)).toBe(0)
      expect(await command(front, control, 2, 0, 5, 0)).toBe(0)
      expect([model.control.isPromiscuous, [...model.control.vlans]]).toEqual([true, [5]])
      const whole = device.addressSpace(0).size
      for (const index of [4, 3, 2, 1, 0])
        expect(await front.acknowledged('SET_VRING_ENABLE', words(index, 0))).toBe(0n)
      expect([bridge.isRunning, device.addressSpace(0).size < whole]).toEqual([false, true])
      front.send('SET_FEATURES', words((await front.ask('GET_FEATURES')).value))
    }
    front.close()
    await until(() => device.addressSpace(0).size === 0)
    expect(bridge.refusals).toEqual([])
  })

  it('gives way with it to memory that comes where it is, and has the rest as it was where the device refuses more', async () => {
    begin()
    const last = GUEST + (1n << 21n) - 1n
    await using world = await network({ mode: 'auto' }, false, { iovaRange: { first: 0n, last } })
    const { model, bridge, device } = world
    using front = new FrontEnd(backend(), bridge.path)
    await front.begin(0n, STATUS)
    const control = [0, 1, 2, 3, 4].map((index) => front.queue(index)).at(-1)
    if (control === undefined) throw new Error('there is no control queue')
    expect(await command(front, control, 2, 0, 5, 0)).toBe(0)
    const isHigh = () => device.addressSpace(0).mappings.some(({ iova }) => iova > GUEST)
    expect(isHigh()).toBe(true)
    using more = backend().allocate(1 << 20)
    const region = (at: bigint) => words(0n, at, BigInt(more.length), USER * 2n, 0n)
    expect(await front.acknowledged('ADD_MEM_REG', region(last + 1n), [more.fd ?? -1])).toBe(1n)
    expect([await command(front, control, 2, 0, 6, 0), isHigh()]).toEqual([0, true])
    expect(await front.acknowledged('ADD_MEM_REG', region(last - 0xfffffn), [more.fd ?? -1])).toBe(0n)
    expect(await command(front, control, 2, 0, 7, 0)).toBe(0)
    expect([[...model.control.vlans], bridge.refusalCount]).toEqual([[5, 6, 7], 1])
    expect(bridge.refusals).toEqual([expect.stringContaining('outside of what the device reaches')])
  })

  it('runs it itself where that is allowed and the front end keeps it', async () => {
    begin()
    await using world = await network({ mode: 'auto' })
    const { model, bridge } = world
    using front = new FrontEnd(backend(), bridge.path)
    await front.begin(controlQueue, 0n)
    for (const index of [0, 1, 2, 3]) front.queue(index)
    expect(await front.acknowledged('SET_STATUS', words(15n))).toBe(0n)
    expect([model.control.isPromiscuous, model.control.queuePairs]).toEqual([true, 2])
    expect(bridge.refusals).toEqual([])
  })

  it.each([
    ['that has a control queue', [0, 1, 2], 0n],
    ['whose front end keeps it', [0, 1], controlQueue],
  ] as const)('is kept from a guest without MQ %s, where it can be alone with MQ only', async (_, queues, without) => {
    begin()
    await using world = await network({}, true)
    const { model, bridge, device } = world
    expect(bridge.isolation).toMatchObject({ isolated: true })
    using front = new FrontEnd(backend(), bridge.path)
    await front.begin(multiqueue | without, STATUS)
    const control = queues.map((index) => front.queue(index)).at(2)
    await front.ask('GET_FEATURES')
    // Of the guest's own memory alone the device's address space 0 consists.
    expect([bridge.isRunning, device.addressSpace(0).size]).toEqual([true, 1])
    if (control === undefined) expect(model.control.isPromiscuous).toBe(true)
    else {
      expect(await command(front, control, 2, 0, 5, 0)).toBe(0)
      // Pairs are no business of this guest's.
      expect(await command(front, control, 4, 0, 2, 0)).toBe(1)
      expect([[...model.control.vlans], model.control.queuePairs]).toEqual([[5], 1])
    }
    expect(bridge.refusals).toEqual([])
  })

  it('is bridged in modes that there are only', async () => {
    begin()
    await using world = await network()
    await world.bridge.close()
    for (const mode of ['shared', 1, null])
      await expect(bridgeVhostUser(world.device, { socket: file('other'), mode: mode as never })).rejects.toMatchObject(
        { name: 'RangeError' },
      )
  })
})
