// A guest of 256 GiB in one region: described by one piece, mapped by one message, and reached by DMA through windows.

import { expect, test } from '@jest/globals'
import { GuestMemory } from '../../lib/memory/guest-memory.js'
import { dmaAccess } from '../../lib/models/device-ops.js'
import { DeviceDma } from '../../lib/simulator/address-space.js'
import { PAGE_BYTES, ProcessMemory } from '../../lib/simulator/process-memory.js'
import { networkDevice, Simulator } from '../../lib/simulator/index.js'
import { openDevice } from '../../lib/open.js'
import { RecordingBackend } from '../../lib/backend/recording-backend.js'

const guestBytes = 2 ** 38

test('a guest in one region is mapped by one message', async () => {
  const simulator = new Simulator()
  simulator.add(networkDevice({ path: '/dev/vhost-vdpa-0' }))
  const backend = new RecordingBackend(simulator)
  const region = backend.allocate(guestBytes)
  const guest = new GuestMemory([{ address: 0n, region }])
  expect(guest.snapshot()).toEqual([{ address: 0n, size: guestBytes, uaddr: region.address }])
  {
    await using device = await openDevice('/dev/vhost-vdpa-0', { backend })
    await device.addressSpace(0).map(guest)
    expect(simulator.dump('/dev/vhost-vdpa-0').addressSpaces).toMatchObject([
      { mappings: [{ range: '[0x0, 0x3fffffffff]', offset: 0 }] },
    ])
  }
  region.close()
  expect(region.isClosed).toBe(true)
})

test('DMA crosses the edges of windows and of 4 GiB', () => {
  const memory = new ProcessMemory()
  const region = memory.allocate(guestBytes)
  const dma = new DeviceDma(memory, { pinsMemory: false, imitatesPassthrough: false })
  dma
    .need(0)
    .tracked.insert([0, 0], [guestBytes / 2 ** 32 - 1, 0xffff_ffff], region, 0, dmaAccess.READ | dmaAccess.WRITE)
  dma.publish(0)
  const bytes = Uint8Array.from({ length: 64 }, (_, index) => index + 1)
  for (const edge of [2 ** 30, 2 ** 32, 2 ** 37]) {
    const at = edge - 32
    const [high, low] = [Math.floor(at / 2 ** 32), at % 2 ** 32]
    expect(dma.write(0, high, low, bytes, 0, 64)).toBe(true)
    const back = new Uint8Array(64)
    expect(dma.read(0, high, low, back, 0, 64)).toBe(true)
    expect(back).toEqual(bytes)
    expect([...region.view(edge - 2, 2), ...region.view(edge, 2)]).toEqual([31, 32, 33, 34])
    const located = dma.locate(0, Math.floor(edge / 2 ** 32), edge % 2 ** 32, PAGE_BYTES, dmaAccess.READ)
    expect(located?.memory.u8(located.offset)).toBe(33)
  }
})
