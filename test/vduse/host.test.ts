// How devices of VDUSE begin and end, whichever call is refused, and how a server follows one that died.

import { describe, expect, it } from '@jest/globals'
import { blockDevice } from '../../lib/models/block'
import { virtioBlkConfig } from '../../lib/uapi/virtio-blk'
import { hostVduse, type VduseHost } from '../../lib/vduse/host'
import { failureOf } from '../native/support'
import { PretendedKernel, type KernelDevice } from './pretended-kernel'
import { disk, host, IOVA, request, stage, turns, useStage } from './stage'

useStage()

/** The server of a device dies: its node is closed, and nothing else happens. */
async function dies(device: KernelDevice): Promise<void> {
  const [served] = stage.hosts.splice(0)
  await device.handle?.close()
  await served?.close().catch(() => undefined)
  stage.kernel.open = 0
  stage.kernel.devices.set('d0', device)
}

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
    await dies(world.device)
    // Meanwhile the driver goes on: this one is carried out by the next server.
    expect(await request(world, 0, 2)).toBe(-1)
    const next = await host(blockDevice({ capacity: 64 }), { takeOver: true })
    expect(next.wasTakenOver).toBe(true)
    await turns()
    expect(world.ring.take()).toBe(7)
    expect(await request(world, 0, 1)).toBe(0)
  })

  it('tells the driver of a device that was left behind what it is like now', async () => {
    const { device } = await disk()
    await dies(device)
    await host(blockDevice({ capacity: 128 }), { takeOver: true })
    expect(virtioBlkConfig.decode(device.config).capacity).toBe(128n)
    expect(device.configInterrupts).toBeGreaterThan(0)
  })

  it('leaves a driver that has not begun yet alone until it does', async () => {
    await host(blockDevice({ capacity: 64 }))
    const device = stage.kernel.device('d0')
    const memory = stage.kernel.simulator.allocate(0x1_0000)
    device.map(IOVA, memory)
    device.setStatus(3)
    device.accept(device.features)
    // Queues are ready before DRIVER_OK, as Linux' drivers make them.
    const ring = device.setUp(0, memory, IOVA)
    await dies(device)
    const model = blockDevice({ capacity: 64 })
    await host(model, { takeOver: true })
    expect(await request({ device, memory, ring }, 0, 1)).toBe(-1)
    expect(device.setStatus(15)).toBe(true)
    await turns()
    expect([ring.take(), model.counters.reads]).toEqual([7, 1])
  })

  it('sets up the queues of a device whose server died before it did', async () => {
    await host(blockDevice({ capacity: 64 }))
    const device = stage.kernel.device('d0')
    await dies(device)
    device.queue(0).maxSize = 0
    await host(blockDevice({ capacity: 64 }), { takeOver: true })
    expect(device.queue(0).maxSize).toBe(256)
  })

  it('goes on with a device of version 0 where the kernel has version 1', async () => {
    stage.kernel = new PretendedKernel(1)
    await host(blockDevice({ capacity: 64 }), { apiVersion: 0 })
    const device = stage.kernel.device('d0')
    const memory = stage.kernel.simulator.allocate(0x1_0000)
    device.map(IOVA, memory)
    const ring = device.setUp(0, memory, IOVA)
    device.begin()
    expect(await request({ device, memory, ring }, 0, 1)).toBe(0)
    await dies(device)
    expect((await host(blockDevice({ capacity: 64 }), { takeOver: true })).apiVersion).toBe(0)
    expect(await request({ device, memory, ring }, 0, 1)).toBe(0)
  })

  it.each([
    ['has accepted what the model does not offer', { moreFeatures: [29] }, {}, 'ERR_VDPA_FEATURES'],
    ['has more queues than the model', { queues: 2 }, {}, 'ERR_VDPA_NOT_SUPPORTED'],
    ['has fewer queues than the model', {}, { queues: 2 }, 'ERR_VDPA_NOT_SUPPORTED'],
  ])('does not take over a device that %s', async (_what, before, after, code) => {
    const { device } = await disk(blockDevice({ capacity: 64, ...before }))
    await dies(device)
    const again = () =>
      hostVduse(blockDevice({ capacity: 64, ...after }), stage.kernel.backend, { name: 'd0', takeOver: true })
    expect(await failureOf(again)).toMatchObject({ code })
    expect(stage.kernel.devices.has('d0')).toBe(true)
    stage.kernel.devices.clear()
  })

  it('does not take over packed rings, and leaves the device where it is', async () => {
    await host(blockDevice({ capacity: 64, moreFeatures: [34] }))
    const device = stage.kernel.device('d0')
    const memory = stage.kernel.simulator.allocate(0x1_0000)
    device.map(IOVA, memory)
    device.setUp(0, memory, IOVA, { format: 'packed' })
    device.begin()
    await dies(device)
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
