// Opening: what a caller may pass, what is said of anything else, and that nothing is left open by a failure.

import { afterEach, beforeEach, describe, expect, test } from '@jest/globals'
import { FaultyBackend } from '../lib/backend/faulty-backend.js'
import { VdpaDevice } from '../lib/device/vdpa-device.js'
import { openDevice, openDeviceSync, type DeviceTarget } from '../lib/open.js'
import { networkDevice, Simulator } from '../lib/simulator/index.js'
import { VhostVdpaTransport } from '../lib/transport/vhost-vdpa.js'
import { KernelBackend } from '../lib/kernel/kernel-backend.js'
import { tryLoadAddon } from '../lib/kernel/addon.js'

const path = '/dev/vhost-vdpa-0'

describe('openDevice', () => {
  let backend: Simulator

  beforeEach(() => {
    backend = new Simulator()
    backend.add(networkDevice({ path, mac: '02:11:22:33:44:55' }))
  })

  afterEach(() => {
    expect(backend.dump(path).isOpen).toBe(false)
  })

  test('a path, a passed descriptor, and the synchronous form', async () => {
    const byPath = await openDevice(path, { backend })
    await byPath.close()
    const { fd } = backend.open(path)
    const byFd = await openDevice({ fd }, { backend, expect: 'net' })
    expect(byFd.kind).toBe('net')
    await byFd.close()
    const now = openDeviceSync(path, { backend })
    expect(now.negotiateSync(['VIRTIO_NET_F_MAC']).names).toContain('VIRTIO_NET_F_MAC')
    await now.close()
  })

  test("a program's own backend that can only open on the thread", async () => {
    const own = new Proxy(backend, {
      get: (target, key) => {
        const value: unknown = key === 'openAsync' ? undefined : Reflect.get(target, key, target)
        return typeof value === 'function' ? (value.bind(target) as unknown) : value
      },
    })
    const device = await openDevice(path, { backend: own })
    expect(device.path).toBe(path)
    await device.close()
    const nothing = { name: 'none' } as unknown as Simulator
    await expect(openDevice(path, { backend: nothing })).rejects.toThrow(TypeError)
  })

  test('does not wait on the event loop, neither to open nor to reset or to close what it may not have', async () => {
    const faulty = new FaultyBackend(backend)
    const held = [faulty.delay({ op: 'open' }), faulty.delay({ request: 'VHOST_VDPA_SET_STATUS' })]
    const handle = faulty.open(path)
    const transport = new VhostVdpaTransport(handle)
    transport.setStatus(1)
    const claiming = VdpaDevice.claimAsync(faulty, handle)
    await held[1]?.arrival()
    held[1]?.release()
    await (await claiming).close()
    held.push(faulty.delay({ op: 'close' }))
    const opening = openDevice(path, { backend: faulty, expect: 'block' })
    await held[0]?.arrival()
    held[0]?.release()
    await held[2]?.arrival()
    held[2]?.release()
    await expect(opening).rejects.toMatchObject({ code: 'ERR_VDPA_WRONG_DEVICE' })
  })

  test('the features asked for are those of the call', async () => {
    const backendFeatures: 'VHOST_BACKEND_F_IOTLB_MSG_V2'[] = ['VHOST_BACKEND_F_IOTLB_MSG_V2']
    const opening = openDevice(path, { backend, backendFeatures })
    backendFeatures.length = 0
    const device = await opening
    expect(device.backendFeatures.names).toEqual(['VHOST_BACKEND_F_IOTLB_MSG_V2'])
    await device.close()
  })

  test('a descriptor with the remains of another negotiation is reset', async () => {
    const handle = backend.open(path)
    const first = await openDevice({ fd: handle.fd }, { backend })
    await first.negotiate([])
    await first.close()
    const again = await openDevice(path, { backend })
    expect(again.status).toBe(0)
    await again.close()
  })

  test.each([
    [undefined, 'ERR_INVALID_ARG_TYPE'],
    [null, 'ERR_INVALID_ARG_TYPE'],
    [5, 'ERR_INVALID_ARG_TYPE'],
    ['', 'ERR_OUT_OF_RANGE'],
    ['/dev/a\0b', 'ERR_OUT_OF_RANGE'],
    [{}, 'ERR_INVALID_ARG_TYPE'],
    [{ fd: -1 }, 'ERR_OUT_OF_RANGE'],
    [{ fd: 1.5 }, 'ERR_OUT_OF_RANGE'],
    ['/dev/nothing', 'ENOENT'],
    [{ fd: 12345 }, 'EBADF'],
  ])('%p is refused with %s', async (target, code) => {
    await expect(openDevice(target as unknown as DeviceTarget, { backend })).rejects.toMatchObject({ code })
  })

  test.each([
    'VHOST_SET_OWNER',
    'VHOST_VDPA_GET_DEVICE_ID',
    'VHOST_GET_BACKEND_FEATURES',
    'VHOST_SET_BACKEND_FEATURES',
    'VHOST_VDPA_GET_VRING_NUM',
  ] as const)('a refusal of %s leaves nothing open', async (request) => {
    backend.faults.fail({ request, with: 'EIO', nth: 1 })
    await expect(openDevice(path, { backend })).rejects.toMatchObject({ code: 'EIO', request })
  })

  test.each([
    ['options that are null', null],
    ['a backend that is none', { backend: {} }],
  ])('%s are a TypeError', async (_, options) => {
    await expect(openDevice(path, options as never)).rejects.toThrow(TypeError)
  })

  test('an unknown kind or backend feature is a RangeError', async () => {
    await expect(openDevice(path, { backend, expect: 'toaster' as 'net' })).rejects.toThrow(RangeError)
    await expect(
      openDevice(path, { backend, backendFeatures: ['VHOST_BACKEND_F_TOAST' as 'VHOST_BACKEND_F_RESUME'] }),
    ).rejects.toThrow(RangeError)
  })
})

const { addon, reason } = { addon: undefined, reason: undefined, ...tryLoadAddon() }
const whenAddon = addon === undefined ? test.skip : test

whenAddon(
  `a node that is no vhost-vdpa device is named so${addon === undefined ? ` (skipped: ${String(reason)})` : ''}`,
  async () => {
    await expect(openDevice('/dev/null', { backend: new KernelBackend() })).rejects.toMatchObject({
      code: 'ERR_VDPA_WRONG_DEVICE',
      path: '/dev/null',
    })
  },
)
