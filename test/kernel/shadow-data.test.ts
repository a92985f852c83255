// A data queue of a guest on a real device, vdpa_sim_blk: shadowed in the middle of verified writes, and not any more.

import { expect, test } from '@jest/globals'
import { KernelBackend } from '../../lib/kernel/kernel-backend.js'
import { openDevice } from '../../lib/open.js'
import { ShadowQueue } from '../../lib/shadow/shadow-queue.js'
import { BlockGuest } from '../shadow/block-guest.js'
import { labVariable } from './support.js'

test('vdpa_sim_blk reads what was written, shadowed or not', async () => {
  const backend = new KernelBackend()
  const device = await openDevice(labVariable('VHOST_VDPA_BLOCK'), { backend, expect: 'block' })
  const guest = new BlockGuest(backend, 24)
  try {
    await device.negotiate([])
    const space = device.addressSpace(0)
    await space.map(guest.memory)
    const shadow = new ShadowQueue(device, { index: 0, guest: guest.queue(), space })
    shadow.attach()
    await device.start()
    for (let round = 0; round < 8; round++) {
      await guest.work(37)
      await (shadow.isShadowing ? shadow.end() : shadow.begin())
    }
    await guest.work(50)
    expect(guest.wrong).toEqual([])
  } finally {
    await device.close()
    guest.close()
  }
})
