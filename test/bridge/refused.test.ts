// A bridged device that refuses something: its front end goes on as if that had not been asked for, and of one that has gone nothing is left.

import { afterEach, expect, it, jest } from '@jest/globals'
import { openDevice } from '../../lib/open'
import { bridgeVhostUser } from '../../lib/serve'
import { networkDevice, Simulator } from '../../lib/simulator'
import { netFeatureBits as net } from '../../lib/uapi/virtio-features'
import { describeNative } from '../native/support'
import { hearUncaught } from '../uncaught'
import { until } from '../until'
import { readSector } from '../vhost-user/disk-requests'
import { FrontEnd, GUEST, USER, words } from '../vhost-user/front-end'
import { command } from './guest-command'
import { eventIdx, loggedWorlds, packed, STATUS } from './logged-worlds'

describeNative('a bridge whose device refuses', (backend) => {
  const { begin, disk, file } = loggedWorlds(backend)
  afterEach(() => void jest.restoreAllMocks())
  const ADDED = words(0n, GUEST * 2n, 1n << 16n, USER * 2n, 0n)

  /** A front end that comes, reads a sector, and leaves. */
  async function visit(path: string, sector: bigint) {
    using front = new FrontEnd(backend(), path)
    await front.begin(packed | eventIdx, STATUS)
    return await readSector(front, front.queue(0), sector)
  }

  it('memory that is added does without it, and hears no more of it', async () => {
    begin()
    await using world = await disk()
    const { bridge, simulator, device } = world
    using front = new FrontEnd(backend(), bridge.path)
    await front.begin(packed | eventIdx, STATUS)
    const queue = front.queue(0)
    await front.ask('GET_FEATURES')
    const more = backend().allocate(1 << 16)
    const add = () => front.acknowledged('ADD_MEM_REG', ADDED, [more.fd ?? -1])
    simulator.faults.fail({ request: 'write', with: 'ENOSPC', times: 100 })
    expect(await add()).toBe(1n)
    expect(await front.acknowledged('SET_VRING_ENABLE', words(0, 1))).toBe(0n)
    expect(await readSector(front, queue, 2n)).toEqual([2, 0])
    simulator.faults.clear()
    expect(await front.acknowledged('REM_MEM_REG', ADDED)).toBe(1n)
    expect(await add()).toBe(0n)
    expect([await readSector(front, queue, 3n), device.addressSpace(0).size]).toEqual([[3, 0], 2])
    expect(bridge.refusals).toEqual([expect.stringContaining('ENOSPC'), expect.stringContaining('no such region')])
    more.close()
  })

  it('a device that breaks down says so itself, and is set up anew', async () => {
    begin()
    await using world = await disk()
    const { bridge, simulator, device } = world
    using front = new FrontEnd(backend(), bridge.path)
    await front.begin(packed | eventIdx, STATUS)
    expect(await readSector(front, front.queue(0), 2n)).toEqual([2, 0])
    simulator.faults.needsReset(device.path)
    await until(() => bridge.refusals.length > 0)
    expect(bridge.refusals).toEqual([expect.stringContaining('ERR_VDPA_STATE: the device says NEEDS_RESET')])
    front.close()
    await until(() => bridge.frontEnds === 0)
    expect(await visit(bridge.path, 3n)).toEqual([3, 0])
  })

  it('a new table has the memory that stayed, and takes the next one', async () => {
    begin()
    await using world = await disk()
    const { bridge, simulator, device } = world
    using front = new FrontEnd(backend(), bridge.path)
    await front.begin(packed | eventIdx, STATUS)
    const queue = front.queue(0)
    await front.ask('GET_FEATURES')
    simulator.faults.fail({ request: 'write', with: 'ENOSPC', nth: 2, times: 100 })
    const half = words(1, 0, GUEST, 1n << 19n, USER, 0n)
    expect(await front.acknowledged('SET_MEM_TABLE', half, [front.fd])).toBe(1n)
    simulator.faults.clear()
    expect(device.addressSpace(0).size).toBe(0)
    expect(await front.acknowledged('SET_MEM_TABLE', front.table(), [front.fd])).toBe(0n)
    expect([await readSector(front, queue, 2n), device.addressSpace(0).size]).toEqual([[2, 0], 1])
  })

  it.each(['VHOST_VDPA_SUSPEND', 'reset'] as const)('%s has nothing of a front end that left', async (which) => {
    begin()
    const uncaught = hearUncaught()
    await using world = await disk()
    const { bridge, simulator, device } = world
    {
      using front = new FrontEnd(backend(), bridge.path)
      await front.begin(packed | eventIdx, STATUS)
      expect(await readSector(front, front.queue(0), 2n)).toEqual([2, 0])
      if (which === 'reset') simulator.faults.failReset({ with: 'EIO' })
      else simulator.faults.fail({ request: which, with: 'EIO' })
    }
    await until(() => uncaught.length > 0)
    expect([String(uncaught), bridge.isRunning]).toEqual([expect.stringContaining('EIO'), false])
    expect([device.state, device.addressSpace(0).size]).toEqual(['claimed', 0])
    using front = new FrontEnd(backend(), bridge.path)
    await front.begin(packed | eventIdx, STATUS)
    expect([await readSector(front, front.queue(0), 3n), bridge.refusals]).toEqual([[3, 0], []])
  })

  it('to be reset serves the next front end once it does not', async () => {
    begin()
    const uncaught = hearUncaught()
    await using world = await disk()
    const { bridge, simulator, device } = world
    expect(await visit(bridge.path, 2n)).toEqual([2, 0])
    simulator.faults.failReset({ with: 'EIO', times: 2 })
    await until(() => uncaught.length > 0)
    // It may reach the memory as long as nobody knows that it does not.
    expect([device.state, device.addressSpace(0).size, uncaught.length]).toEqual(['lost', 1, 1])
    expect(await visit(bridge.path, 2n)).toEqual([2, 0])
    await until(() => bridge.frontEnds === 0 && device.addressSpace(0).size === 0)
    expect([uncaught.length, bridge.refusals]).toEqual([1, []])
  })

  it('nothing has its control queue give way to memory that comes where it is', async () => {
    begin()
    const simulator = new Simulator()
    const moreFeatures = [net.VIRTIO_NET_F_CTRL_RX]
    const model = networkDevice({ queuePairs: 1, moreFeatures, capabilities: { groupAsid: false } })
    // The device has no addresses above the memory that its guest may have.
    Object.defineProperty(model, 'iovaRange', { value: { first: 0n, last: GUEST + (1n << 21n) - 1n } })
    await using device = await openDevice(simulator.add(model), { backend: simulator, expect: 'net' })
    await using bridge = await bridgeVhostUser(device, { socket: file('net'), mode: 'auto' })
    using front = new FrontEnd(backend(), bridge.path)
    await front.begin(0n, STATUS)
    const control = [0, 1, 2].map((index) => front.queue(index)).at(-1)
    if (control === undefined) throw new Error('there is no control queue')
    expect(await command(front, control, 0, 0, 1)).toBe(0)
    const more = backend().allocate(1 << 20)
    const region = words(0n, GUEST + (1n << 20n), BigInt(more.length), USER * 2n, 0n)
    expect(await front.acknowledged('ADD_MEM_REG', region, [more.fd ?? -1])).toBe(0n)
    expect([bridge.isRunning, model.control.isPromiscuous]).toEqual([true, true])
    expect(await command(front, control, 0, 0, 0)).toBe(0)
    expect([model.control.isPromiscuous, bridge.refusals]).toEqual([false, []])
    more.close()
  })
})
