// Procedures are whole, come one after another, and end past failures: what is left of each after a failure, a close, and calls without await.

import { afterEach, beforeEach, describe, expect, jest, test } from '@jest/globals'
import { FaultyBackend } from '../../lib/backend/faulty-backend.js'
import type { VdpaDevice } from '../../lib/device/vdpa-device.js'
import { openDeviceSync } from '../../lib/open.js'
import { networkDevice, Simulator } from '../../lib/simulator/index.js'

const path = '/dev/vhost-vdpa-0'
const withoutPersist = [
  'VHOST_BACKEND_F_IOTLB_MSG_V2',
  'VHOST_BACKEND_F_IOTLB_BATCH',
  'VHOST_BACKEND_F_IOTLB_ASID',
  'VHOST_BACKEND_F_SUSPEND',
  'VHOST_BACKEND_F_RESUME',
] as const

let simulator: Simulator
let backend: FaultyBackend
let device: VdpaDevice<'net'>
let model: ReturnType<typeof networkDevice>

beforeEach(() => {
  simulator = new Simulator()
  model = networkDevice({ path })
  simulator.add(model)
  backend = new FaultyBackend(simulator)
  device = openDeviceSync(path, { backend, expect: 'net', backendFeatures: withoutPersist })
})

afterEach(async () => {
  backend.clear()
  await device.close().catch(() => undefined)
})

const queue = (index: number) => device.createQueue(index, { addressSpace: device.addressSpace(0), size: 8 })
const code = (name: string) => expect.objectContaining({ code: name })
const enabled = () => model.queues.filter((one) => one.isReady).map((one) => one.index)
/** How many mappings the device sees; none where it is behind. */
const mapped = () => {
  const space = simulator.dump()[0]?.addressSpaces[0]
  return space === undefined || space.isBehind ? 0 : space.mappings.length
}

describe('calls without await', () => {
  test('do what the same calls do with it', async () => {
    await device.negotiate([])
    const first = await queue(0)
    await device.start()
    const calls = [device.reset(), device.negotiate([]), queue(0), queue(1), device.start()] as const
    await Promise.all(calls)
    expect([device.state, first.isClosed, device.addressSpace(0).size, enabled()]).toEqual(['running', true, 2, [0, 1]])
    expect((await calls[2]).isClosed).toBe(false)
  })

  test('are refused from close() on, and what was asked for before goes on', async () => {
    const negotiated = device.negotiate([])
    const made = queue(0)
    const started = device.start()
    const closing = device.close()
    expect(device.state).toBe('closing')
    await expect(device.start()).rejects.toThrow(code('ERR_VDPA_CLOSED'))
    await expect(device.reset()).rejects.toThrow(code('ERR_VDPA_CLOSED'))
    expect(() => device.controlQueueIndex).toThrow(code('ERR_VDPA_CLOSED'))
    expect(() => device.fd).toThrow(code('ERR_VDPA_CLOSED'))
    await negotiated
    await started
    await closing
    expect([(await made).isClosed, device.state, simulator.descriptors]).toEqual([true, 'closed', []])
  })

  test('take their arguments at the call', async () => {
    const wish: 'VIRTIO_NET_F_CTRL_VQ'[] = ['VIRTIO_NET_F_CTRL_VQ']
    const negotiating = device.negotiate(wish)
    wish.length = 0
    expect((await negotiating).has('VIRTIO_NET_F_CTRL_VQ')).toBe(true)
    const options = { addressSpace: device.addressSpace(0), size: 8 }
    const making = device.createQueue(0, options)
    options.size = 4
    expect((await making).ring.size).toBe(8)
  })

  test('rings and groups are not changed on the spot while the device changes', async () => {
    await device.negotiate([])
    const resetting = device.reset()
    for (const verb of [() => device.vring(0).enable(), () => device.groups.assign(0, 0)])
      expect(verb).toThrow(
        expect.objectContaining({ code: 'ERR_VDPA_STATE', message: expect.stringContaining('reset()') }),
      )
    await resetting
  })
})

describe('who is called in the middle of a procedure', () => {
  test('may ask for another, which comes after it, and none on the spot', async () => {
    await device.negotiate([])
    const one = await queue(0)
    const refused: unknown[] = []
    let negotiated: Promise<unknown> | undefined
    one.onClose(() => {
      negotiated = device.negotiate([])
      for (const verb of [() => device.resetSync(), () => device.closeSync(), () => device.negotiateSync([])])
        try {
          verb()
        } catch (failure) {
          refused.push(failure)
        }
    })
    device.resetSync()
    expect([device.state, one.isClosed]).toEqual(['claimed', true])
    expect(refused).toEqual([code('ERR_VDPA_STATE'), code('ERR_VDPA_STATE'), code('ERR_VDPA_STATE')])
    await negotiated
    expect(device.state).toBe('negotiated')
  })

  test('may close the device, whose end then comes after it', async () => {
    await device.negotiate([])
    const one = await queue(0)
    let closing: Promise<void> | undefined
    one.onClose(() => void (closing ??= device.close()))
    await device.reset()
    expect(device.isClosed).toBe(true)
    await closing
    expect(device.state).toBe('closed')
  })
})

describe('a queue of a closing device', () => {
  test('is closed from the call on', async () => {
    await device.negotiate([])
    const one = await queue(0)
    expect(one.isClosed).toBe(false)
    const closing = device.close()
    expect(one.isClosed).toBe(true)
    await closing
  })
})

describe('the one reset', () => {
  test.each([
    ['negotiate()', { request: 'VHOST_SET_FEATURES', with: 'EINVAL' } as const],
    ['start()', { request: 'VHOST_VDPA_SET_STATUS', with: 'EINVAL', nth: 4 } as const],
  ])('of a %s that fails closes queues, forgets and maps again', async (_, fault) => {
    const memory = simulator.allocate(4096)
    await device.addressSpace(0).map({ iova: 0n, region: memory })
    backend.fail(fault)
    const calls = [device.negotiate([]), queue(0), device.start()]
    await Promise.allSettled(calls)
    expect([device.state, device.features, device.status]).toEqual(['claimed', undefined, 0])
    expect([device.vring(0).size, device.vring(0).isEnabled, enabled()]).toEqual([0, false, []])
    expect([device.addressSpace(0).size, mapped()]).toEqual([1, 1])
    await device.close()
    memory.close()
  })

  test('ends every queue although one cannot be unmapped, whose memory is freed by the next', async () => {
    await device.negotiate([])
    const queues = [await queue(0), await queue(1)]
    backend.fail({ request: 'VHOST_IOTLB_INVALIDATE', with: 'EFAULT', nth: 1 })
    await expect(device.reset()).rejects.toThrow(code('ERR_VDPA_REFUSED'))
    expect([device.state, ...queues.map((one) => one.isClosed)]).toEqual(['claimed', true, true])
    expect([device.addressSpace(0).size, queues.map((one) => one.buffers.buffer.byteLength > 0)]).toEqual([
      1,
      [false, true],
    ])
    await device.reset()
    expect([device.addressSpace(0).size, queues[1]?.buffers.buffer.byteLength]).toEqual([0, 0])
  })

  test('that is refused loses the device, and may be tried again', async () => {
    await device.negotiate([])
    const [one] = [await queue(0)]
    backend.fail({ request: 'VHOST_VDPA_SET_STATUS', with: 'EIO' })
    await expect(device.reset()).rejects.toMatchObject({ code: 'ERR_VDPA_DEVICE_BROKEN', cause: { code: 'EIO' } })
    expect([device.state, one?.isClosed, device.addressSpace(0).size]).toEqual(['lost', true, 1])
    await expect(device.negotiate([])).rejects.toThrow(code('ERR_VDPA_DEVICE_BROKEN'))
    await expect(device.start()).rejects.toThrow(code('ERR_VDPA_DEVICE_BROKEN'))
    await device.reset()
    expect([device.state, device.addressSpace(0).size]).toEqual(['claimed', 0])
    await device.negotiate([])
  })

  test('is not given up half-way', async () => {
    await device.negotiate([])
    const one = await queue(0)
    const controller = new AbortController()
    one.onClose(() => controller.abort())
    await device.reset({ signal: controller.signal })
    expect([device.state, one.isClosed, device.addressSpace(0).size]).toEqual(['claimed', true, 0])
  })
})

describe('start() and resume()', () => {
  test('a configuration interrupt that is refused leaves the device as it was', async () => {
    device.events.on('config', () => undefined)
    await device.negotiate([])
    const one = await queue(0)
    backend.fail({ request: 'VHOST_VDPA_SET_CONFIG_CALL', with: 'EIO' })
    await expect(device.start()).rejects.toThrow(code('EIO'))
    expect([device.state, one.isClosed]).toEqual(['negotiated', false])
    await device.start()
  })

  test('a kick that is refused is a failed start, and every queue was tried', async () => {
    await device.negotiate([])
    for (const one of [await queue(0), await queue(1)]) {
      one.ring.begin()
      one.ring.pushAddress(one.buffersIova, 1, false)
      one.ring.commit(0)
    }
    const fault = backend.fail({ op: 'signal', with: 'EIO', times: 2 })
    await expect(device.start()).rejects.toMatchObject({ errors: [{ code: 'EIO' }, { code: 'EIO' }] })
    expect([fault.hits, device.state, enabled()]).toEqual([2, 'claimed', []])
  })

  test('a kick that is refused suspends the device again, and one that finds its counter full is none', async () => {
    await device.negotiate([])
    const one = await queue(0)
    await device.start()
    await device.suspend()
    one.ring.begin()
    one.ring.pushAddress(one.buffersIova, 1, false)
    one.ring.commit(0)
    backend.fail({ op: 'signal', with: 'EIO' })
    await expect(device.resume()).rejects.toThrow(code('EIO'))
    expect([device.state, device.isSuspended]).toEqual(['suspended', true])
    backend.fail({ op: 'signal', with: 'EAGAIN' })
    await device.resume()
    expect(device.state).toBe('running')
  })
})

describe('close()', () => {
  test.each([
    ['was taken away', () => simulator.faults.remove(path)],
    [
      'answers nothing but errnos',
      () => {
        backend.fail({ op: 'ioctl', with: 'ENODEV', times: Infinity })
        backend.fail({ op: 'writeEach', with: 'EFAULT', times: Infinity })
      },
    ],
    [
      'refuses its reset as a dead VDUSE server does',
      () => backend.fail({ request: 'VHOST_VDPA_SET_STATUS', with: 'EIO', times: Infinity }),
    ],
    ['refuses a write', () => backend.fail({ op: 'writeEach', with: 'EIO' })],
  ])('of a device that %s ends everything and is no failure', async (_, harm) => {
    const memory = backend.allocate(4096)
    await device.addressSpace(1).map({ iova: 0n, region: memory })
    await device.negotiate([])
    const queues = [await queue(0), await queue(1)]
    await device.start()
    const told: number[] = []
    for (const one of queues) one.onClose(() => told.push(one.index))
    harm()
    await device.close()
    expect([told, device.state, simulator.descriptors]).toEqual([[1, 0], 'closed', []])
    expect(queues.map((one) => one.buffers.buffer.byteLength)).toEqual([0, 0])
    memory.close()
  })

  test('of a device that is gone still throws what the program threw', async () => {
    await device.negotiate([])
    const one = await queue(0)
    one.onClose(() => {
      throw new Error('of the program')
    })
    simulator.faults.remove(path)
    await expect(device.close()).rejects.toThrow('of the program')
    expect([device.state, simulator.descriptors]).toEqual(['closed', []])
  })

  test('throws at the end what it met, and has closed everything', async () => {
    await device.negotiate([])
    const queues = [await queue(0), await queue(1)]
    queues[1]?.onClose(() => {
      throw new Error('of the program')
    })
    backend.fail({ request: 'VHOST_IOTLB_INVALIDATE', with: 'EFAULT', nth: 2 })
    const closing = device.close()
    await expect(closing).rejects.toMatchObject({
      errors: [{ message: 'of the program' }, { code: 'ERR_VDPA_REFUSED' }],
    })
    expect([device.state, simulator.descriptors]).toEqual(['closed', []])
    expect(queues.map((one) => one.buffers.buffer.byteLength)).toEqual([0, 0])
  })

  test('is not disturbed by a listener of the events, whose error is an uncaught exception', async () => {
    const later: unknown[] = []
    const nextTick = jest.spyOn(process, 'nextTick').mockImplementation((work) => void later.push(work))
    const heard: string[] = []
    device.events.once('close', () => {
      throw new Error('listener')
    })
    device.events.on('close', () => heard.push('close'))
    try {
      await device.close()
    } finally {
      nextTick.mockRestore()
    }
    expect([heard, device.state, later.length]).toEqual([['close'], 'closed', 1])
    expect(later[0]).toThrow('listener')
  })
})

describe('the configuration interrupt', () => {
  test('that could not be armed is armed by the next listener, and nothing is left open', async () => {
    const before = simulator.descriptors
    for (const fault of [
      { op: 'eventfd', with: 'EMFILE' } as const,
      { request: 'VHOST_VDPA_SET_CONFIG_CALL', with: 'EBADF' } as const,
    ]) {
      backend.fail(fault)
      expect(() => device.events.on('config', () => undefined)).toThrow(code(fault.with))
      expect([simulator.descriptors, device.events.listenerCount('config')]).toEqual([before, 0])
    }
    const heard: string[] = []
    device.events.on('config', () => heard.push('config'))
    await device.negotiate([])
    await device.start()
    simulator.faults.changeConfig(path, 0, Uint8Array.of(2))
    await new Promise((resolve) => setImmediate(resolve))
    expect(heard).toEqual(['config'])
  })

  test('an iteration after close() ends at once, and one that is given up says so', async () => {
    const controller = new AbortController()
    const iteration = device.configChanges({ signal: controller.signal })
    const next = iteration.next()
    controller.abort()
    await expect(next).rejects.toThrow(code('ERR_VDPA_CANCELED'))
    await device.close()
    expect(await device.configChanges().next()).toEqual({ done: true, value: undefined })
  })
})
