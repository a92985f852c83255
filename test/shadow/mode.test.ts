import { describe, expect, test } from '@jest/globals'
import type { NetworkDeviceOptions } from '../../lib/models/network-options.js'
import { planShadow, type ShadowPlanOptions } from '../../lib/shadow/mode.js'
import { makeNetWorld } from './guest.js'

async function plan(options: NetworkDeviceOptions, queue: number | 'control', mode?: ShadowPlanOptions['mode']) {
  const { device } = await makeNetWorld([], options)
  const [guest, own] = [device.addressSpace(0), device.addressSpace(device.addressSpaceCount - 1)]
  const made = planShadow(device, queue, { guest, ...(own !== guest && { own }), ...(mode && { mode }) })
  const { space, descriptorSpace, reason } = made
  const groups = Array.from({ length: device.groups.count }, (_, group) => device.groups.asidOf(group))
  await device.close()
  return { mode: made.mode, spaces: [space.asid, descriptorSpace.asid], reason, groups }
}

const descriptors = { groups: [0, 0, 1], descriptorGroups: [2, 2, 1], addressSpaces: 3 }

describe('planShadow()', () => {
  test.each([
    ['a control queue in a group of its own', {}, 'control', 'isolated', [1, 1], [0, 1]],
    ['a control queue in the group of the data', { groups: [0, 0, 0] }, 'control', 'shared', [0, 0], [0]],
    ['one address space', { addressSpaces: 1 }, 'control', 'shared', [0, 0], [0, 0]],
    ['a data queue with descriptors of a group of their own', descriptors, 0, 'isolated', [0, 2], [0, 0, 2]],
    ['a data queue without', {}, 0, 'shared', [0, 0], [0, 0]],
    [
      'descriptors in the group of buffers',
      { ...descriptors, descriptorGroups: [1, 1, 1] },
      0,
      'shared',
      [0, 0],
      [0, 0],
    ],
    // The kernel takes no group past the last queue.
    [
      'descriptors of a group that cannot be moved',
      { ...descriptors, descriptorGroups: [3, 3, 1] },
      0,
      'shared',
      [0, 0],
      [0, 0, 0, 0],
    ],
  ] as const)('%s', async (_, options, queue, ...expected) => {
    const made = await plan(options, queue)
    expect([made.mode, made.spaces, made.groups]).toEqual(expected)
    expect(made.reason).not.toBe('')
  })

  test('descriptors in the group of the buffers of any queue are not alone, also where there is no control queue', async () => {
    const groups = { groups: [0, 1, 1], descriptorGroups: [1, 2, 2], addressSpaces: 3 }
    const { device } = await makeNetWorld([], groups)
    await device.reset()
    await device.negotiate([])
    const [guest, own] = [device.addressSpace(0), device.addressSpace(2)]
    expect(planShadow(device, 0, { guest, own })).toMatchObject({
      mode: 'shared',
      reason: expect.stringContaining('share group 1 with the buffers of queue 1') as unknown,
    })
    expect(device.groups.asidOf(1)).toBe(0)
    expect(planShadow(device, 1, { guest, own }).mode).toBe('isolated')
    await device.close()
  })

  test('does what was asked for, or says why it cannot', async () => {
    expect(await plan(descriptors, 0, 'shared')).toMatchObject({ mode: 'shared', groups: [0, 0, 0] })
    expect(await plan({}, 'control', 'pass-through')).toMatchObject({ mode: 'pass-through', spaces: [0, 0] })
    await expect(plan({ groups: [0, 0, 0] }, 'control', 'isolated')).rejects.toMatchObject({
      code: 'ERR_VDPA_NOT_SUPPORTED',
      message: expect.stringMatching(/shares group 0/),
    })
    await expect(plan({}, 1, 'isolated')).rejects.toThrow(/DESC_ASID/)
    await expect(plan({}, 1, 'best' as 'auto')).rejects.toThrow(/mode/)
  })

  test('needs a control queue where it is asked for one', async () => {
    const { device } = await makeNetWorld()
    await device.reset()
    await device.negotiate([])
    const [guest, own] = [device.addressSpace(0), device.addressSpace(1)]
    expect(() => planShadow(device, 'control', { guest, own })).toThrow(/no control queue/)
    expect(() => planShadow(device, 0, { guest, own: guest })).toThrow(TypeError)
    await device.close()
  })
})
