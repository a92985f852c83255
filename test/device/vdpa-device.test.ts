// One open device from claiming to closing: order, states, events, giving up, and what is left when something fails.

import { afterEach, beforeEach, describe, expect, test } from '@jest/globals'
import type { VdpaDevice } from '../../lib/device/vdpa-device.js'
import { openDevice, openDeviceSync } from '../../lib/open.js'
import { customDevice, networkDevice, Simulator } from '../../lib/simulator/index.js'

const path = '/dev/vhost-vdpa-0'
const turn = () => new Promise<void>((resolve) => setImmediate(resolve))

describe('a device', () => {
  let simulator: Simulator
  let device: VdpaDevice<'net'>

  beforeEach(() => {
    simulator = new Simulator()
    simulator.add(networkDevice({ path, mac: '02:11:22:33:44:55' }))
    device = openDeviceSync(path, { backend: simulator, expect: 'net' })
  })

  afterEach(() => device.close())

  test('does the whole job on the calling thread, and lets go of the node', () => {
    {
      using other = openDeviceSync(simulator.add(networkDevice({ mac: '02:11:22:33:44:66' })), { backend: simulator })
      const memory = simulator.allocate(4096)
      other.negotiateSync([])
      other.addressSpace(0).mapSync({ iova: 0n, region: memory })
      other.startSync()
      other.suspendSync()
      other.resumeSync()
      other.resetSync()
      expect(other.status).toBe(0)
      expect(other.addressSpace(0).size).toBe(1)
      other.closeSync()
      memory.close()
      other.closeSync()
    }
    expect(simulator.descriptors).toMatchObject([{ what: path }])
  })

  test('closeSync() does not overtake a call that is under way', async () => {
    const negotiating = device.negotiate([])
    expect(() => device.closeSync()).toThrow(expect.objectContaining({ code: 'ERR_VDPA_STATE' }))
    await negotiating
    device.closeSync()
    expect(device.isClosed).toBe(true)
    expect(simulator.descriptors).toEqual([])
  })

  test('close() waits for what was asked before, and both callers for the same end', async () => {
    const negotiating = device.negotiate([])
    const closing = device.close()
    expect(device.close()).toBe(closing)
    await expect(negotiating).resolves.toBeDefined()
    await closing
    expect(simulator.descriptors).toEqual([])
    expect(() => device.status).toThrow(expect.objectContaining({ code: 'ERR_VDPA_CLOSED' }))
  })

  test.each(['negotiate', 'start', 'suspend', 'resume', 'reset'] as const)(
    'a signal that has aborted ends %s() before the device is asked',
    async (verb) => {
      const signal = AbortSignal.abort('why')
      if (verb !== 'negotiate') device.negotiateSync([])
      if (verb === 'suspend' || verb === 'resume') device.startSync()
      if (verb === 'resume') device.suspendSync()
      const before = device.status
      const call = verb === 'negotiate' ? device.negotiate([], { signal }) : device[verb]({ signal })
      await expect(call).rejects.toMatchObject({ code: 'ERR_VDPA_CANCELED', path, cause: 'why' })
      expect(device.status).toBe(before)
    },
  )

  test('negotiation that is given up half way leaves the device reset', async () => {
    const controller = new AbortController()
    const negotiating = device.negotiate([], { signal: controller.signal })
    await Promise.resolve()
    await Promise.resolve()
    controller.abort()
    await expect(negotiating).rejects.toMatchObject({ code: 'ERR_VDPA_CANCELED' })
    expect(device.status).toBe(0)
    expect(device.features).toBeUndefined()
    await device.negotiate([])
  })

  test('the same address space and vring each time', () => {
    expect(device.addressSpace(1)).toBe(device.addressSpace(1))
    expect(device.vring(2)).toBe(device.vring(2))
  })

  test.each([-1, 2, 0.5, NaN, '0' as never])('there is no address space %p', (asid) => {
    expect(() => device.addressSpace(asid)).toThrow(expect.objectContaining({ code: 'ERR_VDPA_ASID' }))
  })

  test.each([-1, 3, 1.5])('there is no vring %p', (index) => {
    expect(() => device.vring(index)).toThrow(RangeError)
  })

  test('says which step was left out', async () => {
    await expect(device.start()).rejects.toMatchObject({ code: 'ERR_VDPA_STATE', path })
    await expect(device.suspend()).rejects.toMatchObject({ code: 'ERR_VDPA_STATE' })
    await device.negotiate([])
    await expect(device.negotiate([])).rejects.toMatchObject({ code: 'ERR_VDPA_STATE' })
    await device.start()
    await expect(device.start()).rejects.toMatchObject({ code: 'ERR_VDPA_STATE' })
    expect(() => device.vring(0).setState({ available: 0, used: 0 })).toThrow(
      expect.objectContaining({ code: 'ERR_VDPA_STATE' }),
    )
  })

  test('changes of the configuration are events, and an iteration that ends with the device', async () => {
    const seen: string[] = []
    device.events.on('config', () => seen.push('config'))
    const iterated = (async () => {
      let count = 0
      for await (const _ of device.configChanges()) count++
      return count
    })()
    device.negotiateSync(['VIRTIO_NET_F_MAC'])
    device.startSync()
    simulator.faults.changeConfig(path, 0, Uint8Array.of(2, 2, 2, 2, 2, 2))
    await turn()
    expect(seen).toEqual(['config'])
    expect(device.config.net().mac).toBe('02:02:02:02:02:02')
    await device.close()
    expect(await iterated).toBe(1)
  })

  test("an eventfd of the caller's takes the place of the events, until it is taken away", async () => {
    const seen: string[] = []
    device.events.on('config', () => seen.push('config'))
    using own = simulator.eventfd()
    device.setConfigCall(own.fd)
    device.negotiateSync(['VIRTIO_NET_F_MAC'])
    device.startSync()
    simulator.faults.changeConfig(path, 0, Uint8Array.of(2, 2, 2, 2, 2, 2))
    await turn()
    expect([own.take(), seen]).toEqual([1, []])
    device.setConfigCall(null)
    simulator.faults.changeConfig(path, 0, Uint8Array.of(2, 2, 2, 2, 2, 4))
    await turn()
    expect([own.take(), seen]).toEqual([0, ['config']])
    expect(() => device.setConfigCall('3' as never)).toThrow(TypeError)
    expect(() => device.setConfigCall(0x7fff_fff0)).toThrow(expect.objectContaining({ code: 'EBADF' }))
  })

  test('a breakdown is an event of its own', async () => {
    const seen: string[] = []
    device.events.on('config', () => seen.push('config'))
    device.events.on('needsReset', () => seen.push('needsReset'))
    device.negotiateSync([])
    device.startSync()
    simulator.faults.needsReset(path)
    await turn()
    expect(seen).toEqual(['needsReset'])
    await device.reset()
    await device.negotiate([])
  })

  test('a device that was taken away can be closed all the same', async () => {
    const memory = simulator.allocate(4096)
    device.addressSpace(0).mapSync({ iova: 0n, region: memory })
    simulator.faults.remove(path)
    await device.close()
    memory.close()
    expect(simulator.descriptors).toEqual([])
  })

  test('a device that answers DRIVER_OK with NEEDS_RESET does not run', async () => {
    device.negotiateSync([])
    simulator.faults.needsReset(path)
    await expect(device.start()).rejects.toMatchObject({ code: 'ERR_VDPA_DEVICE_BROKEN' })
    expect(device.isRunning).toBe(false)
  })
})

describe('opening', () => {
  test.each([
    ['VHOST_SET_OWNER', 'EBUSY'],
    ['VHOST_VDPA_GET_DEVICE_ID', 'EIO'],
    ['VHOST_VDPA_GET_VRING_NUM', 'EIO'],
    ['VHOST_SET_BACKEND_FEATURES', 'EOPNOTSUPP'],
    ['VHOST_VDPA_GET_CONFIG_SIZE', 'EIO'],
  ] as const)('that fails at %s leaves nothing open', async (request, errno) => {
    const simulator = new Simulator()
    simulator.add(networkDevice({ path, mac: '02:11:22:33:44:55' }))
    simulator.faults.fail({ request, with: errno, times: Infinity })
    await expect(openDevice(path, { backend: simulator })).rejects.toThrow()
    expect(simulator.descriptors).toEqual([])
  })

  test('a device of another kind is refused, by its kind', async () => {
    const simulator = new Simulator()
    simulator.add(customDevice({ path, deviceId: 25, queues: 2 }))
    await expect(openDevice(path, { backend: simulator, expect: 'net' })).rejects.toMatchObject({
      code: 'ERR_VDPA_WRONG_DEVICE',
      path,
    })
    expect(simulator.descriptors).toEqual([])
  })
})
