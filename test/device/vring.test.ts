// A virtqueue as the kernel knows it: which requests setting it up sends, with which words, and what is refused before.

import { afterEach, beforeEach, describe, expect, test } from '@jest/globals'
import fc from 'fast-check'
import { RecordingBackend } from '../../lib/backend/recording-backend.js'
import type { VdpaDevice } from '../../lib/device/vdpa-device.js'
import { decodeBase, encodeBase } from '../../lib/device/vring.js'
import { openDeviceSync } from '../../lib/open.js'
import { customDevice, Simulator } from '../../lib/simulator/index.js'
import { requestByNumber } from '../../lib/uapi/vhost.js'

const path = '/dev/vhost-vdpa-0'
const addresses = { descriptor: 0x1000n, driver: 0x2000n, device: 0x3000n }

describe('the word of SET_VRING_BASE', () => {
  test.each([
    ['split', 0, 0, 0],
    ['split', 0xffff, 0xffff, 0xffff],
    ['packed', 0x8000, 0x8000, 0x8000_8000],
    ['packed', 0x8001, 0x0002, 0x0002_8001],
    ['packed', 0x7fff, 0xffff, 0xffff_7fff],
  ] as const)('%s: available %i, used %i is %i', (format, available, used, word) => {
    expect(encodeBase(format, { available, used })).toBe(word)
    expect(decodeBase(format, word)).toEqual({ available, used })
  })

  test('loses nothing', () => {
    const half = fc.integer({ min: 0, max: 0xffff })
    fc.assert(
      fc.property(half, half, (available, used) => {
        expect(decodeBase('packed', encodeBase('packed', { available, used }))).toEqual({ available, used })
        expect(decodeBase('split', encodeBase('split', { available, used: available }))).toEqual({
          available,
          used: available,
        })
      }),
    )
  })

  test.each([-1, 0x1_0000, 0.5, NaN])('%s is no position', (bad) => {
    expect(() => encodeBase('packed', { available: bad, used: 0 })).toThrow(RangeError)
    expect(() => encodeBase('packed', { available: 0, used: bad })).toThrow(RangeError)
  })
})

describe.each(['split', 'packed'] as const)('a %s vring', (format) => {
  let simulator: Simulator
  let backend: RecordingBackend
  let device: VdpaDevice

  beforeEach(() => {
    simulator = new Simulator()
    simulator.add(customDevice({ path, deviceId: 25, queues: 2, features: (1n << 32n) | (1n << 33n) | (1n << 34n) }))
    backend = new RecordingBackend(simulator)
    device = openDeviceSync(path, { backend })
    device.negotiateSync(format === 'packed' ? ['VIRTIO_F_RING_PACKED'] : [])
    backend.clear()
  })

  afterEach(() => device.close())

  /** Name and argument of each request since negotiation, in hexadecimal. */
  const sent = () =>
    backend.trace.events.flatMap((event) => {
      if (event.op !== 'ioctl' || typeof event.argument === 'number') return []
      return [`${requestByNumber(event.request)?.name} ${event.argument}`]
    })

  test('begins where the format says', () => {
    device.vring(1).setUp({ size: 128, addresses })
    const base = format === 'packed' ? '00800080' : '00000000'
    expect(sent().filter((line) => !line.startsWith('VHOST_VDPA_GET'))).toEqual([
      'VHOST_SET_VRING_NUM 0100000080000000',
      `VHOST_SET_VRING_BASE 01000000${base}`,
      'VHOST_SET_VRING_ADDR 01000000000000000010000000000000003000000000000000200000000000000000000000000000',
    ])
    expect(device.vring(1).state()).toEqual(
      format === 'packed' ? { available: 0x8000, used: 0x8000 } : { available: 0, used: 0 },
    )
  })

  test('is not set up while the device runs', async () => {
    await device.start()
    const before = sent().length
    expect(() => device.vring(1).setUp({ size: 128, addresses })).toThrow(
      expect.objectContaining({ code: 'ERR_VDPA_STATE', message: expect.stringMatching(/not running/) }),
    )
    expect(sent().slice(before)).toEqual([])
  })

  test('begins where it stood before', () => {
    const state = format === 'packed' ? { available: 0x8003, used: 0x0002 } : { available: 7, used: 7 }
    device.vring(0).setUp({ size: 128, addresses, state })
    expect(device.vring(0).state()).toEqual(state)
  })

  test('knows whether it is enabled, and forgets it at a reset', async () => {
    const vring = device.vring(0)
    vring.setUp({ size: 64, addresses })
    vring.enable()
    expect([vring.isEnabled, vring.size]).toEqual([true, 64])
    vring.disable()
    expect(vring.isEnabled).toBe(false)
    vring.enable()
    await device.reset()
    expect([vring.isEnabled, vring.size]).toEqual([false, 0])
  })

  test('is enabled while the device runs only with ENABLE_AFTER_DRIVER_OK', async () => {
    device.startSync()
    device.vring(0).enable()
    await device.close()
    device = openDeviceSync(path, { backend, backendFeatures: ['VHOST_BACKEND_F_IOTLB_MSG_V2'] })
    device.negotiateSync([])
    device.startSync()
    expect(() => device.vring(0).enable()).toThrow(expect.objectContaining({ code: 'ERR_VDPA_STATE' }))
  })

  test.each([
    ['no size', { size: 0, addresses }],
    ['a size above the largest', { size: 0x1_0000, addresses }],
    ['a descriptor area that is not aligned', { size: 64, addresses: { ...addresses, descriptor: 0x1008n } }],
    ['a driver area that is not aligned', { size: 64, addresses: { ...addresses, driver: 0x2001n } }],
    ['a device area that is not aligned', { size: 64, addresses: { ...addresses, device: 0x3002n } }],
    ['an area behind the end', { size: 64, addresses: { ...addresses, descriptor: 2n ** 64n - 16n } }],
    ['areas that overlap', { size: 64, addresses: { ...addresses, driver: 0x1010n } }],
    ['a number for an address', { size: 64, addresses: { ...addresses, driver: 0x2000 as never } }],
  ])('refuses %s and sends nothing', (_, setup) => {
    expect(() => device.vring(0).setUp(setup)).toThrow(RangeError)
    expect(sent().filter((line) => line.startsWith('VHOST_SET'))).toEqual([])
  })

  test('takes an eventfd of ours, a descriptor of anybody, and null', () => {
    using kick = backend.eventfd()
    const vring = device.vring(1)
    vring.setKick(kick)
    vring.setCall(kick.fd)
    vring.setErr(kick)
    for (const unbind of [() => vring.setKick(null), () => vring.setCall(null), () => vring.setErr(null)]) unbind()
    const minusOne = '01000000ffffffff'
    expect(sent().slice(-3)).toEqual([
      `VHOST_SET_VRING_KICK ${minusOne}`,
      `VHOST_SET_VRING_CALL ${minusOne}`,
      `VHOST_SET_VRING_ERR ${minusOne}`,
    ])
    expect(() => vring.setKick(0x7fff_fff0)).toThrow(expect.objectContaining({ code: 'EBADF' }))
  })

  test.each(['VHOST_SET_VRING_BASE', 'VHOST_SET_VRING_ADDR', 'VHOST_SET_VRING_KICK'] as const)(
    'that was set up half-way, up to %s, is not enabled before it is set up again',
    (request) => {
      const vring = device.vring(0)
      using kick = backend.eventfd()
      const setup = { size: 4, addresses, kick }
      vring.setUp(setup)
      simulator.faults.fail({ request, with: 'EIO' })
      expect(() => vring.setUp({ ...setup, size: 8 })).toThrow(expect.objectContaining({ code: 'EIO' }))
      expect(() => vring.enable()).toThrow(
        expect.objectContaining({ code: 'ERR_VDPA_STATE', message: expect.stringContaining('Set it up again') }),
      )
      vring.setUp(setup)
      vring.enable()
      simulator.faults.fail({ request, with: 'EIO' })
      expect(() => vring.setUp({ ...setup, size: 8 })).toThrow(expect.objectContaining({ code: 'EIO' }))
      expect(() => device.startSync()).toThrow(expect.objectContaining({ code: 'ERR_VDPA_STATE' }))
      device.resetSync()
      expect([vring.size, vring.isEnabled]).toEqual([0, false])
    },
  )
})

test('the largest size is what the device said before there was a ring: from then on some tell the size of the ring', async () => {
  const simulator = new Simulator()
  simulator.add(
    customDevice({ path, deviceId: 25, queues: 2, features: 1n << 32n, capabilities: { queueMaxSize: true } }),
  )
  const device = openDeviceSync(path, { backend: simulator })
  device.negotiateSync([])
  const [first, other] = [device.vring(0), device.vring(1)]
  first.setUp({ size: 16, addresses })
  first.setUp({ size: 8, addresses })
  expect(first.maxSize).toBe(256)
  first.enable()
  await device.start()
  // The device says 8 of the first now.
  expect(device.transport.vringSize(0)).toBe(8)
  expect([first.maxSize, other.maxSize]).toEqual([256, 256])
  await device.suspend()
  first.setUp({ size: 32, addresses })
  expect(first.size).toBe(32)
  await device.reset()
  expect(first.maxSize).toBe(256)
  await device.close()
})
