// A device of any kind, made of numbers and one function: for people who write models, and for tests that need an unusual device.

import { bit } from '../base/bits.js'
import { checkBytes, checkFunction, checkInteger, checkObject } from '../base/checks.js'
import { ProgramCalls } from '../base/program-calls.js'
import type { Range } from '../base/ranges.js'
import { transportFeatureBits } from '../uapi/virtio-features.js'
import type { DeviceQueue } from './device-queue.js'
import type { DeviceCapabilities } from './device-shape.js'
import { ModelDevice, type DeviceModel } from './model-device.js'
import { RoundRobin } from './turn-meter.js'

/** A queue that was kicked, one chain at a time. */
export interface ChainServer {
  /** The queue's index. */
  readonly index: number
  /** Bytes of the chain that the device may read. */
  readonly readableLength: number
  /** Bytes of the chain that the device may write. */
  readonly writableLength: number
  /** Reads on in the chain: bytes read, fewer than `length` at the end of the readable part, -1 when the memory cannot be read. */
  read(target: Uint8Array, offset: number, length: number): number
  /** Writes on in the chain: bytes written, fewer than `length` at its end, -1 when the memory cannot be written. They are counted for the used length. */
  write(source: Uint8Array, offset: number, length: number): number
}

/** What a device is made of. Only its kind must be said. */
export interface CustomDeviceOptions {
  /** The node; default: the next free `/dev/vhost-vdpa-N`. */
  readonly path?: string
  /** A virtio device id, of `deviceIds` or any other. */
  readonly deviceId: number
  /** Virtqueues, 1..65535; default 1. */
  readonly queues?: number
  /** The group of each queue. Default: all 0. */
  readonly groups?: readonly number[]
  /** The group of each queue's ring areas. Given, the device offers VHOST_BACKEND_F_DESC_ASID. */
  readonly descriptorGroups?: readonly number[]
  /** Address spaces, 1..255; default 1. */
  readonly addressSpaces?: number
  /** Default: VERSION_1 and ACCESS_PLATFORM. */
  readonly features?: bigint
  /** Descriptors of the largest ring; default 256. */
  readonly maxQueueSize?: number
  /** IOVAs that the device can reach; default: all. */
  readonly iovaRange?: Range
  /** The configuration space; default: none. */
  readonly config?: Uint8Array
  /** What the device lacks, or has besides. */
  readonly capabilities?: DeviceCapabilities
  /**
   * Serves one chain, and returns whether to complete it (default: yes). Without it the device takes nothing from its queues. When it throws, the chain is
   * completed with what was written to it, and what else there is is served, before the error reaches who ran the device's turn: `step()`, `drain()`, or
   * 'uncaughtException'. It may reset or close its own device; the chain is then gone.
   */
  readonly onKick?: (chain: ChainServer) => boolean | void
}

type OnKick = NonNullable<CustomDeviceOptions['onKick']>

const CHAINS_A_TURN = 256

class CustomModel implements DeviceModel {
  readonly #onKick: CustomDeviceOptions['onKick']
  readonly #queues = new RoundRobin()

  constructor(onKick: CustomDeviceOptions['onKick']) {
    this.#onKick = onKick
  }

  work(device: ModelDevice): boolean {
    const onKick = this.#onKick
    if (onKick === undefined) return false
    const calls = new ProgramCalls()
    const wantsMore = this.#queues.serveAll(device.queueCount, device.meter, (index) =>
      device.attempt(() => this.#serve(device, device.queues[index], onKick, calls)),
    )
    if (wantsMore) device.wake()
    calls.throwKept()
    return false
  }

  #serve(device: ModelDevice, queue: DeviceQueue | undefined, onKick: OnKick, calls: ProgramCalls): boolean {
    if (queue?.open(device.context) !== true) return false
    for (let count = 1; queue.next(); count++) {
      let isDone: boolean | void = true
      const { ring } = queue
      try {
        isDone = onKick(queue)
      } catch (failure) {
        calls.keep(failure)
      }
      // The handler may have ended the queue, or stopped the device.
      if (!queue.isOn(ring)) return false
      if (isDone !== false) {
        queue.complete()
        queue.publish()
      }
      if (!device.isRunning) return false
      device.meter.countUnknown()
      if (count === CHAINS_A_TURN || device.meter.isOver) return true
    }
    return queue.rest()
  }
}

/** A device with any number of queues, groups and address spaces. RangeError for numbers that no device can have. */
export function customDevice(options: CustomDeviceOptions): ModelDevice {
  checkObject(options, 'options')
  const { deviceId, queues = 1, addressSpaces = 1, config = new Uint8Array(0) } = options
  const features =
    options.features ??
    bit(transportFeatureBits.VIRTIO_F_VERSION_1) | bit(transportFeatureBits.VIRTIO_F_ACCESS_PLATFORM)
  checkInteger(deviceId, 'deviceId', 0, 0xffff_ffff)
  checkInteger(addressSpaces, 'addressSpaces', 1, 0xff)
  checkInteger(queues, 'queues', 0, 0xffff)
  checkBytes(config, 'config')
  if (options.onKick !== undefined) checkFunction(options.onKick, 'onKick')
  return new ModelDevice(
    {
      deviceId,
      queueCount: queues,
      addressSpaceCount: addressSpaces,
      features,
      config,
      ...(options.path !== undefined && { path: options.path }),
      ...(options.groups !== undefined && { groups: options.groups }),
      ...(options.descriptorGroups !== undefined && { descriptorGroups: options.descriptorGroups }),
      ...(options.maxQueueSize !== undefined && { maxQueueSize: options.maxQueueSize }),
      ...(options.iovaRange !== undefined && { iovaRange: options.iovaRange }),
      ...(options.capabilities !== undefined && { capabilities: options.capabilities }),
    },
    new CustomModel(options.onKick),
  )
}
