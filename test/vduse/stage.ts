// A pretended kernel for one test at a time, a disk that is served on it, and what must be left when the test is over.

import { afterEach, beforeEach, expect } from '@jest/globals'
import type { MemoryRegion } from '../../lib/memory/memory-region'
import { blockDevice } from '../../lib/models/block'
import type { DeviceOps } from '../../lib/models/device-ops'
import type { DriverRing } from '../../lib/virtqueue/virtqueue'
import { hostVduse, type VduseHost, type VduseOptions } from '../../lib/vduse/host'
import { PretendedKernel, type KernelDevice } from './pretended-kernel'

/** Where memory is mapped, and where in it requests lie. */
export const IOVA = 0x10_0000n
export const DATA = 0x8000

/** What one test works with; a test may put another kernel here. */
export const stage: { kernel: PretendedKernel; hosts: VduseHost[]; refused: Error[] } = {
  kernel: new PretendedKernel(),
  hosts: [],
  refused: [],
}

/** A new stage for each test, on which nothing may be left. */
export function useStage(): void {
  beforeEach(() => {
    Object.assign(stage, { kernel: new PretendedKernel(), hosts: [], refused: [] })
  })
  afterEach(async () => {
    for (const host of stage.hosts) await host.close()
    const { open, devices } = stage.kernel
    expect({ open, devices: [...devices.keys()] }).toEqual({ open: 0, devices: [] })
  })
}

export async function host(ops: DeviceOps, options: Partial<VduseOptions> = {}): Promise<VduseHost> {
  const made = await hostVduse(ops, stage.kernel.backend, {
    name: 'd0',
    onRefusal: (error) => stage.refused.push(error),
    ...options,
  })
  stage.hosts.push(made)
  return made
}

export const turns = async (count = 5) => {
  for (let index = 0; index < count; index++) await new Promise((resolve) => setImmediate(resolve))
}

/** A driver of a disk. */
export interface Driven {
  readonly device: KernelDevice
  readonly memory: MemoryRegion
  readonly ring: DriverRing
}

/** A disk whose driver has one queue, and memory that is mapped. */
export async function disk(ops: DeviceOps = blockDevice({ capacity: 64 })): Promise<Driven> {
  await host(ops)
  const device = stage.kernel.device('d0')
  const memory = stage.kernel.simulator.allocate(0x1_0000)
  device.map(IOVA, memory)
  const ring = device.setUp(0, memory, IOVA)
  expect(device.begin()).toBe(true)
  return { device, memory, ring }
}

/** Sends a request for a sector by a queue's ring, and waits for its status; -1 when the device has not answered. */
export async function request(
  { device, memory, ring }: Driven,
  type: number,
  sector: number,
  queue = 0,
): Promise<number> {
  const bytes = new Uint8Array(memory.buffer)
  const view = new DataView(memory.buffer)
  view.setUint32(DATA, type, true)
  view.setBigUint64(DATA + 8, BigInt(sector), true)
  bytes[DATA + 2048] = 0xff
  ring.begin()
  ring.pushAddress(IOVA + BigInt(DATA), 16, false)
  ring.pushAddress(IOVA + BigInt(DATA + 1024), 512, type === 0)
  ring.pushAddress(IOVA + BigInt(DATA + 2048), 1, true)
  ring.commit(7)
  ring.publish()
  device.kick(queue)
  await turns()
  return ring.take() === 7 ? (bytes[DATA + 2048] ?? -1) : -1
}
