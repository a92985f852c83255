// What a row has in its hands: one device, as its requests or as the object that a user holds, memory, and what is known of the device.

import type { Backend, Handle } from '../../../lib/backend/backend.js'
import { isVdpaError } from '../../../lib/base/errors.js'
import type { ClaimOptions } from '../../../lib/device/claim.js'
import type { VdpaDevice } from '../../../lib/device/vdpa-device.js'
import type { MemoryRegion } from '../../../lib/memory/memory-region.js'
import { openDevice } from '../../../lib/open.js'
import { VhostVdpaTransport } from '../../../lib/transport/vhost-vdpa.js'
import { encodeMessage, type Message, type MessageName } from '../../golden/client.js'
import type { Scene } from '../target.js'
import type { DeviceFacts } from './facts.js'

export const PAGE = 0x1000n
/** Where rows map things: inside every window, on no page that a process has. */
export const AT = 0x10_0000n
/** Status bytes by the step that they say. */
export const ready = 3
export const featuresOk = 11
export const driverOk = 15

/** VIRTIO_F_VERSION_1 and VIRTIO_F_ACCESS_PLATFORM: what every negotiation has. */
export const plainFeatures = 0x3_0000_0000n

export class Bench {
  readonly scene: Scene
  readonly facts: DeviceFacts

  constructor(scene: Scene, facts: DeviceFacts) {
    this.scene = scene
    this.facts = facts
  }

  get backend(): Backend {
    return this.scene.backend
  }

  get path(): string {
    return this.scene.path('device')
  }

  /** The first index that is no queue's. */
  get pastQueues(): number {
    return this.facts.queues
  }

  /** The device's requests, before anybody owns it. */
  unowned(path = this.path): VhostVdpaTransport {
    return new VhostVdpaTransport(this.scene.keep(this.backend.open(path)))
  }

  /** The same after SET_OWNER, with all backend features acknowledged. */
  owned(path = this.path): VhostVdpaTransport {
    const transport = this.unowned(path)
    transport.setOwner()
    transport.setBackendFeatures(transport.backendFeatures())
    return transport
  }

  /** The same after FEATURES_OK. */
  negotiated(features?: bigint): VhostVdpaTransport {
    const transport = this.owned()
    negotiate(transport, features)
    return transport
  }

  /** The same after DRIVER_OK, with no queue enabled. */
  running(): VhostVdpaTransport {
    const transport = this.negotiated()
    transport.setStatus(driverOk)
    return transport
  }

  /** The device as a user holds it. */
  async device(options: ClaimOptions & { backend?: Backend; path?: string } = {}): Promise<VdpaDevice> {
    const { backend = this.backend, path = this.path, ...rest } = options
    return this.scene.keep(await openDevice(path, { backend, ...rest }))
  }

  /** The same as a network device; the row must need one. */
  async network(options: { backend?: Backend; path?: string } = {}): Promise<VdpaDevice<'net'>> {
    const { backend = this.backend, path = this.path } = options
    return this.scene.keep(await openDevice(path, { backend, expect: 'net' }))
  }

  memory(pages = 1): MemoryRegion {
    return this.scene.allocate(pages * Number(PAGE))
  }
}

/** ACKNOWLEDGE, DRIVER, features, FEATURES_OK. */
export function negotiate(transport: VhostVdpaTransport, features = plainFeatures): void {
  transport.setStatus(ready)
  transport.setFeatures(features)
  transport.setStatus(featuresOk)
}

/** Writes one IOTLB message: 72, or the code it was refused with. */
export function send(
  { handle }: { readonly handle: Handle },
  name: MessageName,
  message?: Message,
  version?: 1 | 2,
): unknown {
  return codeOf(() => handle.write(encodeMessage(name, message, version)))
}

/** An UPDATE of `memory` from its beginning on. */
export function map(
  transport: { readonly handle: Handle },
  memory: MemoryRegion,
  { iova = AT, asid = 0, size = BigInt(memory.length), perm = 3 }: Message = {},
): unknown {
  return send(transport, 'UPDATE', { iova, asid, size, perm, uaddr: memory.address })
}

export function unmap(
  transport: { readonly handle: Handle },
  { iova = AT, asid = 0, size = PAGE }: Message = {},
): unknown {
  return send(transport, 'INVALIDATE', { iova, asid, size })
}

/** What a call returned, or the code of its refusal by the system or by us. */
export function codeOf(call: () => unknown): unknown {
  try {
    return call()
  } catch (error) {
    if (isVdpaError(error)) return error.code
    if (error instanceof RangeError || error instanceof TypeError) return (error as { code?: unknown }).code
    throw error
  }
}

/** The same for a promise. */
export async function laterCodeOf(call: () => Promise<unknown>): Promise<unknown> {
  try {
    return await call()
  } catch (error) {
    return codeOf(() => {
      throw error
    })
  }
}

/** A call that succeeds with nothing to say. */
export const OK = undefined
