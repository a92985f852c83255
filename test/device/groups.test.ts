// Virtqueue groups on devices of every shape: what isolation says, and what assigning sends and refuses.

import { describe, expect, test } from '@jest/globals'
import type { VdpaDevice } from '../../lib/device/vdpa-device.js'
import { openDeviceSync } from '../../lib/open.js'
import { customDevice, networkDevice, Simulator } from '../../lib/simulator/index.js'

const path = '/dev/vhost-vdpa-0'

/** A device of `groups[i]` for queue i, negotiated and ready to be asked. */
function deviceOf(options: { groups?: readonly number[]; addressSpaces?: number; backendFeatures?: readonly [] }) {
  const { groups = [0, 0, 1], addressSpaces = 2 } = options
  const simulator = new Simulator()
  simulator.add(customDevice({ path, deviceId: 25, queues: groups.length, groups, addressSpaces }))
  const wish = options.backendFeatures === undefined ? {} : { backendFeatures: options.backendFeatures }
  const device: VdpaDevice = openDeviceSync(path, { backend: simulator, ...wish })
  device.negotiateSync([])
  return { simulator, device }
}

describe('isolation', () => {
  test('is there when a queue is alone in its group and there is a second address space', () => {
    const { device } = deviceOf({})
    expect(device.groups.isolation(2)).toEqual({ isolated: true, group: 1 })
  })

  test('is asked of each queue, the first one too', () => {
    const { device } = deviceOf({})
    expect(device.groups.isolation(0)).toMatchObject({
      isolated: false,
      reason: expect.stringMatching(/shares group 0/),
    })
  })

  test.each([
    ['another queue shares the group', { groups: [0, 1, 1] }, /shares group 1 with queue 1/],
    ['there is one address space', { addressSpaces: 1 }, /1 address space/],
    ['ASIDs were not acknowledged', { backendFeatures: [] as const }, /IOTLB_ASID/],
  ])('is not when %s', (_, options, reason) => {
    const { device } = deviceOf(options)
    expect(device.groups.isolation(2)).toMatchObject({ isolated: false, reason: expect.stringMatching(reason) })
  })

  test('is not, and the group unknown, where the device has no groups', () => {
    const { simulator, device } = deviceOf({})
    simulator.faults.fail({ request: 'VHOST_VDPA_GET_VRING_GROUP', with: 'EOPNOTSUPP', times: Infinity })
    expect(device.groups.of(0)).toBeUndefined()
    expect(device.groups.isolation(2)).toMatchObject({ isolated: false, group: undefined })
  })

  test('is not where no control queue was negotiated', async () => {
    const { device } = deviceOf({})
    await device.reset()
    await device.negotiate([])
    expect(device.groups.isolation(device.controlQueueIndex)).toEqual({
      isolated: false,
      reason: 'the device has no such queue under the negotiated features',
      group: undefined,
    })
  })

  test.each([
    [-1, 'ERR_OUT_OF_RANGE'],
    [3, 'ERR_OUT_OF_RANGE'],
    [0.5, 'ERR_OUT_OF_RANGE'],
    [Number.NaN, 'ERR_OUT_OF_RANGE'],
    ['2', 'ERR_INVALID_ARG_TYPE'],
    [2n, 'ERR_INVALID_ARG_TYPE'],
    [null, 'ERR_INVALID_ARG_TYPE'],
  ])('of queue %p is no question', (queue, code) => {
    const { device } = deviceOf({})
    expect(() => device.groups.isolation(queue as number)).toThrow(
      expect.objectContaining({ code, message: expect.stringMatching(/^queue must be/) }),
    )
  })

  test('another refusal is not taken for a no', () => {
    const { simulator, device } = deviceOf({})
    simulator.faults.fail({ request: 'VHOST_VDPA_GET_VRING_GROUP', with: 'EIO' })
    expect(() => device.groups.isolation(2)).toThrow(expect.objectContaining({ code: 'EIO' }))
  })

  test('counts only queues that the negotiated features put to use', async () => {
    const simulator = new Simulator()
    simulator.add(networkDevice({ path, mac: '02:11:22:33:44:55' }))
    const device = openDeviceSync(path, { backend: simulator, expect: 'net' })
    device.negotiateSync(['VIRTIO_NET_F_CTRL_VQ'])
    expect(device.controlQueueIndex).toBe(2)
    expect(device.groups.isolation(2)).toEqual({ isolated: true, group: 1 })
    await device.close()
  })
})

describe('isolation of rings', () => {
  const layouts: [string, readonly number[], object][] = [
    ['rings that go with the buffers', [2, 2, 1], { isolated: true, group: 1 }],
    ['rings of their own', [2, 2, 3], { isolated: true, group: 1, descriptorGroup: 3 }],
    [
      'rings beside those of others',
      [2, 2, 2],
      { isolated: false, group: 1, reason: expect.stringContaining('rings of queue 0') },
    ],
    [
      "others' rings in the group",
      [2, 1, 1],
      { isolated: false, group: 1, reason: expect.stringContaining('rings of queue 1') },
    ],
    [
      "rings where others' buffers are",
      [2, 2, 0],
      { isolated: false, group: 1, reason: 'queue 2 shares group 0 with queue 0' },
    ],
  ]
  test.each(layouts)('%s', (_, descriptorGroups, verdict) => {
    const simulator = new Simulator()
    simulator.add(
      customDevice({
        path,
        deviceId: 25,
        queues: 4,
        groups: [0, 0, 1, 0],
        descriptorGroups: [...descriptorGroups, 2],
        addressSpaces: 2,
      }),
    )
    const device = openDeviceSync(path, { backend: simulator })
    device.negotiateSync([])
    const found = device.groups.isolation(2)
    expect(found).toEqual(verdict)
    if (!found.isolated) {
      expect(() => device.groups.assign(found, 1)).toThrow(expect.objectContaining({ code: 'ERR_VDPA_STATE' }))
      return
    }
    device.groups.assign(found, device.addressSpace(1))
    expect([found.group, found.descriptorGroup ?? found.group].map((group) => device.groups.asidOf(group))).toEqual([
      1, 1,
    ])
  })

  test('is not where groups cannot be moved, and says so', () => {
    const { simulator, device } = deviceOf({})
    simulator.faults.fail({ request: 'VHOST_VDPA_SET_GROUP_ASID', with: 'EOPNOTSUPP' })
    expect(device.groups.isolation(2)).toMatchObject({
      isolated: false,
      reason: expect.stringContaining('cannot be moved'),
    })
  })
})

describe('descriptor groups', () => {
  /** Rings in group 2, buffers in group 0 or 1, as DESC_ASID means it. */
  function descriptorDevice(backendFeatures?: readonly []) {
    const simulator = new Simulator()
    simulator.add(
      customDevice({ path, deviceId: 25, queues: 2, groups: [0, 1], descriptorGroups: [2, 2], addressSpaces: 3 }),
    )
    return openDeviceSync(path, { backend: simulator, ...(backendFeatures === undefined ? {} : { backendFeatures }) })
  }

  test('are told where DESC_ASID was acknowledged', () => {
    const device = descriptorDevice()
    expect(device.backendFeatures.has('VHOST_BACKEND_F_DESC_ASID')).toBe(true)
    expect([0, 1].map((queue) => device.groups.descriptorGroupOf(queue))).toEqual([2, 2])
  })

  test('are told where it was not acknowledged, because the device goes through them all the same', () => {
    expect([0, 1].map((queue) => descriptorDevice([]).groups.descriptorGroupOf(queue))).toEqual([2, 2])
  })

  test('are unknown where there are none', () => {
    expect(deviceOf({}).device.groups.descriptorGroupOf(0)).toBeUndefined()
  })
})

describe('assigning', () => {
  test('takes no address space of another device, though it has the same number', () => {
    const [{ device }, { device: other }] = [deviceOf({}), deviceOf({})]
    expect(() => device.groups.assign(1, other.addressSpace(1))).toThrow(RangeError)
    expect(device.groups.asidOf(1)).toBe(0)
  })

  test('is seen by the device, and forgotten at a reset', async () => {
    const { simulator, device } = deviceOf({})
    device.groups.assign(1, device.addressSpace(1))
    expect(device.groups.asidOf(1)).toBe(1)
    expect(simulator.dump(path).queues.map(({ asid }) => asid)).toEqual([0, 0, 1])
    await device.reset()
    expect(device.groups.asidOf(1)).toBe(0)
    expect(simulator.dump(path).queues.map(({ asid }) => asid)).toEqual([0, 0, 0])
  })

  test.each([
    ['a group that there is not', 2, 1, 'ERR_OUT_OF_RANGE'],
    ['an address space that there is not', 1, 2, 'ERR_VDPA_ASID'],
    ['a negative address space', 1, -1, 'ERR_VDPA_ASID'],
    ['a string', 1, '1' as never, 'ERR_INVALID_ARG_TYPE'],
    ['null', 1, null as never, 'ERR_INVALID_ARG_TYPE'],
  ])('refuses %s', (_, group, asid, code) => {
    const { device } = deviceOf({})
    expect(() => device.groups.assign(group, asid)).toThrow(expect.objectContaining({ code }))
  })

  test('is refused once the device runs', () => {
    const { device } = deviceOf({})
    device.startSync()
    expect(() => device.groups.assign(1, 1)).toThrow(expect.objectContaining({ code: 'ERR_VDPA_STATE' }))
  })

  test('needs ASIDs for any space but 0', () => {
    const { device } = deviceOf({ backendFeatures: [] })
    device.groups.assign(1, 0)
    expect(() => device.groups.assign(1, 1)).toThrow(expect.objectContaining({ code: 'ERR_VDPA_NOT_SUPPORTED' }))
  })

  test('is named as missing where the device has no groups', () => {
    const { simulator, device } = deviceOf({})
    simulator.faults.fail({ request: 'VHOST_VDPA_SET_GROUP_ASID', with: 'EOPNOTSUPP' })
    expect(() => device.groups.assign(1, 1)).toThrow(expect.objectContaining({ code: 'ERR_VDPA_NOT_SUPPORTED' }))
  })
})

test('a verdict moves both groups or none', () => {
  const simulator = new Simulator()
  const layout = { groups: [0, 1, 0, 0], descriptorGroups: [2, 3, 2, 2], addressSpaces: 2 }
  simulator.add(customDevice({ path, deviceId: 25, queues: 4, ...layout }))
  const device = openDeviceSync(path, { backend: simulator })
  device.negotiateSync([])
  const verdict = device.groups.isolation(1)
  expect(verdict).toMatchObject({ isolated: true, group: 1, descriptorGroup: 3 })
  const asids = () => [1, 3].map((group) => device.groups.asidOf(group))
  simulator.faults.fail({ request: 'VHOST_VDPA_SET_GROUP_ASID', with: 'EIO', nth: 2 })
  expect(() => device.groups.assign(verdict, 1)).toThrow(expect.objectContaining({ code: 'EIO' }))
  expect(asids()).toEqual([0, 0])
  simulator.faults.fail({ request: 'VHOST_VDPA_SET_GROUP_ASID', with: 'EIO', nth: 2, times: 2 })
  expect(() => device.groups.assign(verdict, 1)).toThrow(
    expect.objectContaining({ errors: [{ code: 'EIO' }, { code: 'EIO' }].map((one) => expect.objectContaining(one)) }),
  )
  expect(asids()).toEqual([1, 0])
  device.groups.assign(verdict, 1)
  expect(asids()).toEqual([1, 1])
})
