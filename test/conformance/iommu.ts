// A guest's IOMMU in front of a network device, as one suite for every backend: what its driver maps is what the device reaches, exactly as long as it is mapped.
// The IOMMU itself is served in a simulator of its own, the network device is the target's.

import { afterEach, beforeEach, describe, expect, test } from '@jest/globals'
import type { Backend } from '../../lib/backend/backend.js'
import type { DeviceQueue } from '../../lib/device/device-queue.js'
import type { VdpaDevice } from '../../lib/device/vdpa-device.js'
import { iommuDevice } from '../../lib/iommu/iommu-device.js'
import { VirtioIommu } from '../../lib/iommu/virtio-iommu.js'
import { GuestMemory } from '../../lib/memory/guest-memory.js'
import type { MemoryRegion } from '../../lib/memory/memory-region.js'
import { openDevice } from '../../lib/open.js'
import { Simulator } from '../../lib/simulator/index.js'
import { GuestDriver } from '../iommu/guest-driver.js'
import { frameNumber, numberedFrame } from './net-frames.js'
import { turns } from './support.js'
import { until } from '../until.js'

export interface IommuTarget {
  readonly name: string
  readonly backend: () => Backend
  readonly path: () => string
}

const IOMMU = '/dev/vhost-vdpa-9'
const [GUEST, IOVA, PAGE] = [0x4000_0000n, 0x10_0000n, 4096n]
const HEADER = 12
const RECEIVE_BYTES = 2048

/** The network device with two bare queues, and the IOMMU in front of its address space. */
class IommuScene {
  readonly #target: IommuTarget
  readonly region: MemoryRegion
  readonly guest: GuestDriver
  readonly net: VdpaDevice<'net'>
  readonly iommu: VirtioIommu
  readonly #receive: DeviceQueue
  readonly #transmit: DeviceQueue
  readonly arrived: number[] = []
  #sent = 0

  static async open(target: IommuTarget): Promise<IommuScene> {
    const backend = target.backend()
    const net = await openDevice(target.path(), { backend, expect: 'net' })
    await net.negotiate(['VIRTIO_NET_F_MAC'])
    const region = backend.allocate(0x1_0000)
    const memory = new GuestMemory([{ address: GUEST, region }])
    const iommu = new VirtioIommu({ memory, endpoints: [{ id: 1, sink: net.addressSpace(0).sink }] })
    const simulator = new Simulator()
    simulator.add(iommuDevice(iommu, { path: IOMMU }))
    const guest = await GuestDriver.start(simulator, IOMMU)
    const addressSpace = net.addressSpace(0)
    const receive = await net.createQueue(0, { addressSpace, size: 16, bufferBytes: 8 * RECEIVE_BYTES })
    const transmit = await net.createQueue(1, { addressSpace, size: 16 })
    return new IommuScene(target, { region, guest, net, iommu, receive, transmit })
  }

  constructor(
    target: IommuTarget,
    parts: {
      readonly region: MemoryRegion
      readonly guest: GuestDriver
      readonly net: VdpaDevice<'net'>
      readonly iommu: VirtioIommu
      readonly receive: DeviceQueue
      readonly transmit: DeviceQueue
    },
  ) {
    this.#target = target
    this.region = parts.region
    this.guest = parts.guest
    this.net = parts.net
    this.iommu = parts.iommu
    this.#receive = parts.receive
    this.#transmit = parts.transmit
  }

  async start(): Promise<void> {
    for (let token = 0; token < 8; token++) this.#offer(token)
    this.#receive.publish()
    await this.net.start()
  }

  /** Sends a frame whose bytes lie at IOVA; its number. */
  send(): number {
    const number = ++this.#sent
    const to = 'ff:ff:ff:ff:ff:ff'
    const frame = numberedFrame({ from: '02:00:00:00:00:02', to }, number)
    const bytes = this.region.view(Number(PAGE), 4096).fill(0)
    bytes.set(frame, HEADER)
    const { ring } = this.#transmit
    ring.take()
    ring.begin()
    ring.pushAddress(IOVA, HEADER + frame.length, false)
    ring.commit(0)
    this.#transmit.publish()
    this.#transmit.kick()
    return number
  }

  /** Whether the frame came back by now. */
  has(number: number): boolean {
    const { ring, buffers } = this.#receive
    for (let token = ring.take(); token >= 0; token = ring.take()) {
      const at = token * RECEIVE_BYTES + HEADER
      const found = frameNumber(buffers.bytes(at, ring.usedLength - HEADER))
      if (found !== undefined) this.arrived.push(found)
      this.#offer(token)
      this.#receive.publish()
    }
    return this.arrived.includes(number)
  }

  /** The mappings of the device that are not of our own queues. */
  mapped(): (readonly [bigint, bigint])[] {
    const all = this.net.addressSpace(0).snapshot()
    return all.filter(({ iova }) => iova < 0x1000_0000n).map(({ iova, size }) => [iova, size] as const)
  }

  async close(): Promise<void> {
    await this.guest.device.close()
    await this.iommu.close()
    await this.net.close()
    this.region.close()
    expect(this.#target.name).not.toBe('')
  }

  #offer(token: number): void {
    const { ring, buffersIova } = this.#receive
    ring.begin()
    ring.pushAddress(buffersIova + BigInt(token * RECEIVE_BYTES), RECEIVE_BYTES, true)
    ring.commit(token)
  }
}

/** Defines the suite for a network device that loops frames. */
export function describeIommu(target: IommuTarget): void {
  describe(`an IOMMU in front of ${target.name}`, () => {
    let scene: IommuScene
    beforeEach(async () => {
      scene = await IommuScene.open(target)
    })
    afterEach(() => scene.close())

    test('frames flow exactly while their memory is mapped', async () => {
      const { guest } = scene
      await scene.start()
      expect(await guest.attach(1, 1)).toBe(0)
      for (let round = 0; round < 3; round++) {
        expect(await guest.map(1, IOVA, IOVA + PAGE - 1n, GUEST + PAGE, 1)).toBe(0)
        expect(scene.mapped()).toEqual([[IOVA, PAGE]])
        const first = scene.send()
        await until(() => scene.has(first))
        expect(await guest.unmap(1, IOVA, IOVA + PAGE - 1n)).toBe(0)
        expect(scene.mapped()).toEqual([])
        const second = scene.send()
        await turns(50)
        expect(scene.has(second)).toBe(false)
      }
      expect(await guest.map(1, IOVA, IOVA + PAGE - 1n, GUEST + PAGE, 1)).toBe(0)
      const last = scene.send()
      await until(() => scene.has(last))
    })

    test('attached again, the domain is mapped anew; detached, nothing is', async () => {
      const { guest } = scene
      await scene.start()
      expect(await guest.attach(1, 1)).toBe(0)
      expect(await guest.map(1, IOVA, IOVA + PAGE - 1n, GUEST + PAGE, 3)).toBe(0)
      expect(await guest.map(1, IOVA + PAGE, IOVA + 2n * PAGE - 1n, GUEST, 3)).toBe(0)
      expect(await guest.attach(2, 1)).toBe(0)
      expect(scene.mapped()).toEqual([])
      expect(await guest.map(2, IOVA, IOVA + PAGE - 1n, GUEST + PAGE, 3)).toBe(0)
      const number = scene.send()
      await until(() => scene.has(number))
      expect(await guest.detach(2, 1)).toBe(0)
      expect(scene.mapped()).toEqual([])
    })
  })
}
