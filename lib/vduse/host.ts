// A model as a device of VDUSE on the thread that asks: made, its queues set up, its messages answered, and all of it taken back.

import { bit } from '../base/bits.js'
import { checkBoolean, checkFunction, checkInteger, checkObject, checkString, rangeError } from '../base/checks.js'
import { CloseStack, type Closeable } from '../base/closeable.js'
import { vdpaError } from '../base/errors.js'
import { KeptErrors } from '../base/kept-errors.js'
import type { Backend } from '../backend/backend.js'
import type { DeviceOps } from '../models/device-ops.js'
import { withoutUnmetNeeds } from '../uapi/feature-needs.js'
import { blockFeatureBits, netFeatureBits, transportFeatureBits } from '../uapi/virtio-features.js'
import { deviceIds } from '../uapi/virtio-ids.js'
import { vduseFeatureBits } from '../uapi/vduse.js'
import { HostedDevice } from './hosted-device.js'
import { CONTROL_PATH, ControlNode, DeviceNode, devicePath, isThere, versionOf, type NewVduseDevice } from './nodes.js'

/** Version 1 has groups and address spaces. */
const VERSION_LAST = 1

const PLATFORM = bit(transportFeatureBits.VIRTIO_F_ACCESS_PLATFORM)
/** What VDUSE does not carry: of the transport, and by kind. Network devices have no control queue there; a disk's cache cannot be switched. */
const MASKED =
  bit(transportFeatureBits.VIRTIO_F_SR_IOV) |
  bit(transportFeatureBits.VIRTIO_F_NOTIFICATION_DATA) |
  bit(transportFeatureBits.VIRTIO_F_RING_RESET)
const maskedByKind = new Map<number, bigint>([
  [deviceIds.net, bit(netFeatureBits.VIRTIO_NET_F_CTRL_VQ)],
  [deviceIds.block, bit(blockFeatureBits.VIRTIO_BLK_F_CONFIG_WCE)],
])

/** How a model becomes a device. */
export interface VduseOptions {
  /** The device's name, 1 to 255 bytes without a slash: that of its node `/dev/vduse/NAME`, and on the vDPA bus. */
  readonly name: string
  /** What the device says of its maker, 0..2^32-1; default 0. */
  readonly vendorId?: number
  /** The newest version of the interface to speak: 0, or 1 (groups and address spaces, Linux 7.0). Default 1. */
  readonly apiVersion?: number
  /** Goes on with a device of this name that another process served until it died. Default false: EEXIST. */
  readonly takeOver?: boolean
  /** Hears of what was refused, and why. What it throws goes to 'uncaughtException'. */
  readonly onRefusal?: (error: Error) => void
}

/** A device of VDUSE that this process serves; not yet on the vDPA bus, or not any more. */
export interface VduseHost extends Closeable {
  /** What it is called below `/dev/vduse`, and on the vDPA bus. */
  readonly name: string
  /** `/dev/vduse/NAME`. */
  readonly path: string
  /** The version that is spoken: 0 or 1. */
  readonly apiVersion: number
  /** What drivers are offered. */
  readonly features: bigint
  /** Whether a device was there that goes on. */
  readonly wasTakenOver: boolean
  /** The first 100 refusals, as sentences. */
  readonly refusals: readonly string[]
}

/** What a driver may be offered of a model by VDUSE. */
export function offeredFeatures(ops: DeviceOps): bigint {
  const masked = MASKED | (maskedByKind.get(ops.deviceId) ?? 0n)
  return withoutUnmetNeeds(ops.features() & ~masked, ops.deviceId) | PLATFORM
}

/** Queues that a driver finds: all but a control queue, which is the last. */
function queueCountOf(ops: DeviceOps): number {
  const hasControl =
    ops.deviceId === deviceIds.net && (ops.features() & bit(netFeatureBits.VIRTIO_NET_F_CTRL_VQ)) !== 0n
  return hasControl ? ops.queueCount - 1 : ops.queueCount
}

/** What the kernel is asked to tell, where it can. */
function featuresToAsk(ops: DeviceOps): bigint {
  const ready = bit(vduseFeatureBits.VDUSE_F_QUEUE_READY)
  return ops.suspend === undefined ? ready : ready | bit(vduseFeatureBits.VDUSE_F_SUSPEND)
}

/** Checks what serving a device by VDUSE is asked with. TypeError, RangeError. */
export function checkVduseOptions(options: VduseOptions): Required<Omit<VduseOptions, 'onRefusal'>> & VduseOptions {
  checkObject(options, 'options')
  const { name, vendorId = 0, apiVersion = VERSION_LAST, takeOver = false, onRefusal } = options
  checkString(name, 'options.name')
  const bytes = Buffer.byteLength(name)
  if (bytes === 0 || bytes > 255 || /[/\0]/.test(name) || name === '.' || name === '..')
    throw rangeError('options.name', 'a name of 1 to 255 bytes without a slash', name)
  checkInteger(vendorId, 'options.vendorId', 0, 0xffff_ffff)
  checkInteger(apiVersion, 'options.apiVersion', 0, VERSION_LAST)
  checkBoolean(takeOver, 'options.takeOver')
  if (onRefusal !== undefined) checkFunction(onRefusal, 'options.onRefusal')
  return { name, vendorId, apiVersion, takeOver, ...(onRefusal !== undefined && { onRefusal }) }
}

class Host implements VduseHost {
  readonly name: string
  readonly path: string
  readonly #kept = new KeptErrors()
  readonly #stack = new CloseStack()
  readonly #options: ReturnType<typeof checkVduseOptions>
  apiVersion = 0
  features = 0n
  wasTakenOver = false
  #isReady = false

  constructor(options: ReturnType<typeof checkVduseOptions>) {
    this.#options = options
    this.name = options.name
    this.path = devicePath(options.name)
  }

  get refusals(): readonly string[] {
    return this.#kept.sentences
  }

  get isClosed(): boolean {
    return this.#stack.isClosed
  }

  close(): Promise<void> {
    return this.#stack.close()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  async begin(ops: DeviceOps, backend: Backend): Promise<void> {
    try {
      await this.#begin(ops, backend)
    } catch (error) {
      // What stands in the way is the failure; what its undoing met is not.
      await this.close().catch(() => undefined)
      throw error
    }
  }

  async #begin(ops: DeviceOps, backend: Backend): Promise<void> {
    const control = new ControlNode(await backend.openAsync(CONTROL_PATH))
    this.#stack.push(() => control.close())
    this.apiVersion = control.choose(this.#options.apiVersion)
    const agreed = control.accept(featuresToAsk(ops))
    this.features = offeredFeatures(ops)
    const queueCount = queueCountOf(ops)
    const addressSpaces = this.apiVersion === 0 ? 1 : ops.addressSpaceCount
    const onRefusal = (error: Error) => this.#refused(error)
    const { features } = this
    const device = new HostedDevice({ ops, backend, features, queueCount, addressSpaces, onRefusal })
    this.#stack.push(() => device.close())
    this.wasTakenOver = !(await this.#create(control, ops, { config: device.config, alignment: backend.pageSize }))
    if (this.wasTakenOver && !this.#options.takeOver)
      throw vdpaError('ERR_VDPA_STATE', `there is a VDUSE device of the name ${this.name}`, {
        path: this.path,
        hint: 'with takeOver, a device whose server has died goes on',
      })
    const handle = await backend.openAsync(this.path)
    this.#stack.push(() => handle.close())
    if (this.wasTakenOver && this.apiVersion > 0) this.apiVersion = versionOf(handle)
    const node = new DeviceNode(handle, this.apiVersion)
    // One that was left behind may have been made by somebody who asked for less.
    device.open(node, this.wasTakenOver ? 0n : agreed)
    // Before the node is closed, which the ending of queues still asks.
    this.#stack.push(() => device.close())
    if (!this.wasTakenOver || !device.takeOver()) this.#setUpQueues(node, ops, queueCount)
    const subscription = node.onReadable(() => device.serve()).ref()
    this.#stack.push(() => subscription.close())
    this.#isReady = true
  }

  #setUpQueues(node: DeviceNode, ops: DeviceOps, count: number): void {
    for (let index = 0; index < count; index++)
      node.setUpQueue(index, ops.maxQueueSize, this.apiVersion === 0 ? 0 : (ops.queueGroup?.(index) ?? 0))
  }

  /** False when there is one of the name. */
  async #create(
    control: ControlNode,
    ops: DeviceOps,
    made: Pick<NewVduseDevice, 'config' | 'alignment'>,
  ): Promise<boolean> {
    const { name, vendorId } = this.#options
    const hasGroups = this.apiVersion > 0
    let wasThere = false
    try {
      await control.create({
        name,
        vendorId,
        deviceId: ops.deviceId,
        features: this.features,
        queueCount: queueCountOf(ops),
        ...made,
        groups: hasGroups ? ops.groupCount : 0,
        addressSpaces: hasGroups ? ops.addressSpaceCount : 0,
      })
    } catch (error) {
      if (!isThere(error)) throw error
      wasThere = true
    }
    // One that was there is ours from when it goes on.
    this.#stack.push(async () => {
      if (!wasThere || this.#isReady) await control.destroy(name)
    })
    return !wasThere
  }

  #refused(error: Error): void {
    this.#kept.add(error, this.#options.onRefusal)
  }
}

/**
 * Makes a model a device of VDUSE, served on this thread. Who drives the device's own vhost-vdpa node from the same thread may wait for himself until the
 * kernel gives up: see the threaded form.
 */
export async function hostVduse(ops: DeviceOps, backend: Backend, options: VduseOptions): Promise<VduseHost> {
  const host = new Host(checkVduseOptions(options))
  await host.begin(ops, backend)
  return host
}
