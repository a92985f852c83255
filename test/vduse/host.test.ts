// How devices of VDUSE begin and end, whichever call is refused, and how a server follows one that died.

import { describe, expect, it } from '@jest/globals'
import { blockDevice } from '../../lib/models/block'
import { hostVduse, type VduseHost } from '../../lib/vduse/host'
import { failureOf } from '../native/support'
import { PretendedKernel } from './pretended-kernel'
import { disk, host, IOVA, request, stage, turns, useStage } from './stage'

useStage()

describe('the way in and out', () => {
  it('takes back what was made, whichever call is refused', async () => {
    stage.kernel = new PretendedKernel(1, 3n)
    await (await hostVduse(blockDevice(), stage.kernel.backend, { name: 'd0' })).close()
    const most = stage.kernel.calls
    expect(most).toBeGreaterThan(7)
    for (const code of ['EINVAL', 'EPERM', 'ENOMEM', 'EIO'] as const) {
      for (let left = 0; left < most; left++) {
        stage.kernel = new PretendedKernel(1, 3n)
        stage.kernel.refusal = { left, code }
        const begun = await hostVduse(blockDevice(), stage.kernel.backend, { name: 'd0' }).catch(
          (error: unknown) => error,
        )
        if (begun instanceof Error) expect(begun).toMatchObject({ code })
        else await (begun as VduseHost).close().catch((error: unknown) => expect(error).toMatchObject({ code }))
        const hasLeft = stage.kernel.devices.size > 0
        // Only the refusal of DESTROY_DEV itself leaves a device.
        if (hasLeft) expect(stage.kernel.refusal).toBeUndefined()
        expect({ code, left, open: stage.kernel.open }).toEqual({ code, left, open: 0 })
        if (hasLeft) expect(left).toBe(most - 1)
      }
    }
    stage.kernel = new PretendedKernel()
  })

  it('refuses a name in use, and goes on with one that was left behind where that is wanted', async () => {
    const world = await disk()
    expect(await failureOf(() => hostVduse(blockDevice(), stage.kernel.backend, { name: 'd0' }))).toMatchObject({
      code: 'ERR_VDPA_STATE',
    })
    expect(await request(world, 0, 1)).toBe(0)
    // The server dies: its node is closed, and nothing else happens.
    const [served] = stage.hosts.splice(0)
    await world.device.handle?.close()
    stage.kernel.open = 0
    await served?.close().catch(() => undefined)
    stage.kernel.open = 0
    stage.kernel.devices.set('d0', world.device)
    // Meanwhile the driver goes on: this one is carried out by the next server.
    expect(await request(world, 0, 2)).toBe(-1)
    const next = await host(blockDevice({ capacity: 64 }), { takeOver: true })
    expect(next.wasTakenOver).toBe(true)
    await turns()
    expect(world.ring.take()).toBe(7)
    expect(await request(world, 0, 1)).toBe(0)
  })

  it('does not take over packed rings, and leaves the device where it is', async () => {
    await host(blockDevice({ capacity: 64, moreFeatures: [34] }))
    const device = stage.kernel.device('d0')
    const memory = stage.kernel.simulator.allocate(0x1_0000)
    device.map(IOVA, memory)
    device.setUp(0, memory, IOVA, { format: 'packed' })
    device.begin()
    const [served] = stage.hosts.splice(0)
    await device.handle?.close()
    await served?.close().catch(() => undefined)
    stage.kernel.open = 0
    stage.kernel.devices.set('d0', device)
    const again = () =>
      hostVduse(blockDevice({ capacity: 64, moreFeatures: [34] }), stage.kernel.backend, { name: 'd0', takeOver: true })
    expect(await failureOf(again)).toMatchObject({ code: 'ERR_VDPA_NOT_SUPPORTED' })
    expect(stage.kernel.devices.has('d0')).toBe(true)
    stage.kernel.devices.clear()
  })

  it.each([
    [{ name: '' }, /options.name must be a string that is not empty/],
    [{ name: 'a/b' }, /options.name must be a name/],
    [{ name: '..' }, /options.name must be a name/],
    [{ name: 'x'.repeat(256) }, /options.name must be a name/],
    [{ name: 5 }, /options.name must be a string/],
    [{ name: 'd', vendorId: -1 }, /options.vendorId must be/],
    [{ name: 'd', apiVersion: 2 }, /options.apiVersion must be/],
    [{ name: 'd', takeOver: 1 }, /options.takeOver must be a boolean/],
    [{ name: 'd', onRefusal: 1 }, /options.onRefusal must be/],
    [null, /options must be an object/],
  ])('refuses %p', async (options, sentence) => {
    const asked = hostVduse(blockDevice(), stage.kernel.backend, options as never)
    await expect(asked).rejects.toThrow(sentence)
    expect(stage.kernel.calls).toBe(0)
  })
})
