// A driver of an IOMMU device, written from the specification (section 5.13): requests over the request queue, faults from the event queue.

import type { Backend } from '../../lib/backend/backend.js'
import type { DeviceQueue } from '../../lib/device/device-queue.js'
import type { VdpaDevice } from '../../lib/device/vdpa-device.js'
import { openDevice } from '../../lib/open.js'
import {
  iommuRequestTypes as types,
  virtioIommuConfig,
  virtioIommuFault,
  virtioIommuReqAttach,
  virtioIommuReqDetach,
  virtioIommuReqMap,
  virtioIommuReqProbe,
  virtioIommuReqUnmap,
} from '../../lib/uapi/virtio-iommu.js'
import { until } from '../until.js'

const ANSWER_AT = 1024
const TAIL_BYTES = 4
const FAULT_BUFFERS = 4

export interface Fault {
  readonly reason: number
  readonly flags: number
  readonly endpoint: number
  readonly address: bigint
}

const none = (length: number) => new Uint8Array(length)

export class GuestDriver {
  readonly device: VdpaDevice
  readonly faults: Fault[] = []
  /** Bytes of the buffers that are offered next for faults. */
  faultBufferBytes = virtioIommuFault.size
  /** Used lengths of reports that were none. */
  readonly emptyReports: number[] = []
  readonly #requests: DeviceQueue
  readonly #events: DeviceQueue
  readonly #probeSize: number

  static async start(backend: Backend, path: string, features: readonly string[] = []): Promise<GuestDriver> {
    const device = await openDevice(path, { backend })
    const wanted = ['VIRTIO_IOMMU_F_MAP_UNMAP', 'VIRTIO_IOMMU_F_PROBE', 'VIRTIO_IOMMU_F_BYPASS_CONFIG', ...features]
    await device.negotiate(wanted as never)
    const { probe_size } = virtioIommuConfig.decode(device.config.read(0, virtioIommuConfig.size))
    const addressSpace = device.addressSpace(0)
    const requests = await device.createQueue(0, { addressSpace, bufferBytes: ANSWER_AT + probe_size + TAIL_BYTES })
    const events = await device.createQueue(1, { addressSpace, bufferBytes: FAULT_BUFFERS * virtioIommuFault.size })
    const driver = new GuestDriver(device, requests, events, probe_size)
    await device.start()
    driver.#offerFaultBuffers()
    return driver
  }

  private constructor(device: VdpaDevice, requests: DeviceQueue, events: DeviceQueue, probeSize: number) {
    this.device = device
    this.#requests = requests
    this.#events = events
    this.#probeSize = probeSize
  }

  attach(domain: number, endpoint: number, flags = 0): Promise<number> {
    const head = { type: types.VIRTIO_IOMMU_T_ATTACH, head_reserved: none(3) }
    return this.ask(virtioIommuReqAttach.encode({ ...head, domain, endpoint, flags, reserved: none(4) }))
  }

  detach(domain: number, endpoint: number): Promise<number> {
    const head = { type: types.VIRTIO_IOMMU_T_DETACH, head_reserved: none(3) }
    return this.ask(virtioIommuReqDetach.encode({ ...head, domain, endpoint, reserved: none(8) }))
  }

  map(domain: number, first: bigint, last: bigint, physical: bigint, flags = 3): Promise<number> {
    const head = { type: types.VIRTIO_IOMMU_T_MAP, head_reserved: none(3) }
    const range = { virt_start: first, virt_end: last, phys_start: physical }
    return this.ask(virtioIommuReqMap.encode({ ...head, domain, ...range, flags }))
  }

  unmap(domain: number, first: bigint, last: bigint): Promise<number> {
    const head = { type: types.VIRTIO_IOMMU_T_UNMAP, head_reserved: none(3) }
    const range = { virt_start: first, virt_end: last }
    return this.ask(virtioIommuReqUnmap.encode({ ...head, domain, ...range, reserved: none(4) }))
  }

  /** The properties, or the status that is not OK. */
  async probe(endpoint: number): Promise<Uint8Array | number> {
    const head = { type: types.VIRTIO_IOMMU_T_PROBE, head_reserved: none(3) }
    const status = await this.ask(
      virtioIommuReqProbe.encode({ ...head, endpoint, reserved: none(64) }),
      this.#probeSize + TAIL_BYTES,
    )
    return status === 0 ? this.#requests.buffers.bytes(ANSWER_AT, this.#probeSize).slice() : status
  }

  /** Sends bytes and resolves with the status of the answer; -1 where nothing was written. */
  async ask(request: Uint8Array, room = TAIL_BYTES): Promise<number> {
    const { ring, buffers, buffersIova } = this.#requests
    buffers.bytes(0, request.length).set(request)
    ring.begin()
    ring.pushAddress(buffersIova, request.length, false)
    ring.pushAddress(buffersIova + BigInt(ANSWER_AT), room, true)
    ring.commit(1)
    this.#requests.publish()
    await until(() => ring.take() === 1)
    return ring.usedLength === 0 ? -1 : buffers.u8(ANSWER_AT + ring.usedLength - TAIL_BYTES)
  }

  /** Takes what the event queue has, and gives its buffers back. */
  takeFaults(): readonly Fault[] {
    const { ring, buffers } = this.#events
    for (let token = ring.take(); token >= 0; token = ring.take()) {
      if (ring.usedLength !== virtioIommuFault.size) {
        this.emptyReports.push(ring.usedLength)
        continue
      }
      const at = token * virtioIommuFault.size
      const { reason, flags, endpoint, address } = virtioIommuFault.decode(buffers.bytes(at, virtioIommuFault.size))
      this.faults.push({ reason, flags, endpoint, address })
    }
    if (ring.inFlight === 0) this.#offerFaultBuffers()
    return this.faults
  }

  #offerFaultBuffers(): void {
    const { ring, buffersIova } = this.#events
    for (let token = 0; token < FAULT_BUFFERS; token++) {
      ring.begin()
      ring.pushAddress(buffersIova + BigInt(token * virtioIommuFault.size), this.faultBufferBytes, true)
      ring.commit(token)
    }
    this.#events.publish()
  }
}
