// A vDPA device for virtual machines: who may connect, and what a program sees of it.

import { bit } from '../base/bits.js'
import { checkObject, checkOneOf, typeError } from '../base/checks.js'
import type { Closeable } from '../base/closeable.js'
import { vdpaError } from '../base/errors.js'
import type { Backend } from '../backend/backend.js'
import { checkShadowWishes, type ShadowControlQueue, type ShadowOptions } from '../control/shadow-queue.js'
import type { AddressSpace } from '../device/address-space.js'
import type { IsolationVerdict } from '../device/groups.js'
import { VdpaDevice } from '../device/vdpa-device.js'
import { vhostUserProtocolBits as protocol } from '../uapi/vhost-user.js'
import { OFFERED_ALWAYS, Server, settingsOf, socketsOf, type ServeVhostUserOptions } from '../vhost-user/server.js'
import { BridgedDevice } from './bridged-device.js'
import { offerOf, type DirtyLogVerdict } from './offer.js'

/** How a device is bridged. */
export interface BridgeVhostUserOptions
  extends
    Pick<ServeVhostUserOptions, 'socket' | 'memorySlots' | 'messageTimeout' | 'onRefusal'>,
    Pick<ShadowOptions<AddressSpace>, 'policy' | 'onAudit' | 'timeout' | 'macTableEntries'> {
  /** The system that front ends are of. Default: the kernel. One without `sockets` is refused (ERR_VDPA_NOT_SUPPORTED). */
  readonly backend?: Backend
  /**
   * Where the device's control queue may lie: `'isolated'` (default) in an address space that no guest reaches, and guests have none where the device cannot do that; `'auto'` then with the guest's
   * memory, at addresses that the guest is not told, but could name in a queue that the device serves by itself. Which it is, `isolation` of the bridge says.
   */
  readonly mode?: 'isolated' | 'auto'
}

/** A device that front ends may connect to, one at a time. */
export interface VhostUserBridge extends Closeable {
  /** Where it listens. */
  readonly path: string
  /** Whether the control queue can be alone, and why not: guests have one then only, or where `mode` is `'auto'`. Undefined on devices without one. */
  readonly isolation: IsolationVerdict | undefined
  /** Whether front ends are offered a dirty log, with which they migrate, and why not. Since 0.1.0. */
  readonly dirtyLog: DirtyLogVerdict
  /** Front ends that are connected: 0 or 1. */
  readonly frontEnds: number
  /** Whether the device runs for a guest. */
  readonly isRunning: boolean
  /** Whether the data queues are shadowed, because the front end wants to hear what the device writes. Since 0.1.0. */
  readonly isLogging: boolean
  /** What stands between the guest's control queue and the device's, while the device runs. */
  readonly shadow: ShadowControlQueue<AddressSpace> | undefined
  /** The first 100 refusals, as sentences. */
  readonly refusals: readonly string[]
  /** How many there were in all. */
  readonly refusalCount: number
  /** Ends the connection, resets the device, unmaps the guest's memory, and takes the socket away. The device stays open, as new. */
  close(): Promise<void>
}

class Bridge implements VhostUserBridge {
  readonly path: string
  readonly isolation: IsolationVerdict | undefined
  readonly #device: VdpaDevice
  readonly #bridged: BridgedDevice
  readonly #server: Server
  readonly #onClose: () => void
  #closing: Promise<void> | undefined

  constructor(device: VdpaDevice, bridged: BridgedDevice, server: Server, isolation: IsolationVerdict | undefined) {
    this.path = server.path
    this.isolation = isolation
    this.#device = device
    this.#bridged = bridged
    this.#server = server
    this.#onClose = () =>
      server.dismiss(vdpaError('ERR_VDPA_CLOSED', 'the device behind the bridge was closed', { path: device.path }))
    device.events.once('close', this.#onClose)
  }

  get frontEnds(): number {
    return this.#server.frontEnds
  }

  get isRunning(): boolean {
    return this.#bridged.run !== undefined
  }

  get dirtyLog(): DirtyLogVerdict {
    return this.#bridged.dirtyLog
  }

  get isLogging(): boolean {
    return this.#bridged.run?.isLogged === true
  }

  get shadow(): ShadowControlQueue<AddressSpace> | undefined {
    return this.#bridged.run?.shadow
  }

  get refusals(): readonly string[] {
    return this.#server.refusals
  }

  get refusalCount(): number {
    return this.#server.refusalCount
  }

  get isClosed(): boolean {
    return this.#closing !== undefined
  }

  close(): Promise<void> {
    this.#closing ??= this.#end()
    return this.#closing
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  async #end(): Promise<void> {
    this.#device.events.off('close', this.#onClose)
    try {
      this.#server.close()
      await this.#bridged.ended()
    } finally {
      bridgedDevices.delete(this.#device)
    }
  }
}

/** Devices that belong to a bridge, or to one that is being made. */
const bridgedDevices = new WeakSet<VdpaDevice>()

/** As bridgeVhostUser(), for a backend that is known. */
export async function bridgeOn(
  device: VdpaDevice,
  backend: Backend,
  options: BridgeVhostUserOptions,
): Promise<VhostUserBridge> {
  if (!(device instanceof VdpaDevice)) throw typeError('device', 'an open VdpaDevice', device)
  checkObject(options, 'options')
  if (bridgedDevices.has(device))
    throw vdpaError('ERR_VDPA_STATE', 'the device is bridged already: close that bridge first', { path: device.path })
  bridgedDevices.add(device)
  try {
    return await makeBridge(device, backend, options)
  } catch (failure) {
    bridgedDevices.delete(device)
    throw failure
  }
}

async function makeBridge(
  device: VdpaDevice,
  backend: Backend,
  options: BridgeVhostUserOptions,
): Promise<VhostUserBridge> {
  const settings = settingsOf(backend, options, OFFERED_ALWAYS)
  const sockets = socketsOf(backend)
  const { policy, onAudit, timeout, macTableEntries, mode = 'isolated' } = options
  checkOneOf(mode, 'mode', ['isolated', 'auto'])
  checkShadowWishes(options)
  const offer = await offerOf(device, mode === 'auto')
  if (device.queueCount === undefined)
    throw vdpaError('ERR_VDPA_NOT_SUPPORTED', 'this kernel does not say how many queues the device has', {
      path: device.path,
    })
  const offered = settings.offered | (offer.dirtyLog.isOffered ? bit(protocol.LOG_SHMFD) : 0n)
  const shadow = {
    ...(policy !== undefined && { policy }),
    ...(onAudit !== undefined && { onAudit }),
    ...(timeout !== undefined && { timeout }),
    ...(macTableEntries !== undefined && { macTableEntries }),
  }
  const { memorySlots } = settings
  let bridged: BridgedDevice | undefined
  const own = () => (bridged = new BridgedDevice({ device, offer, host: backend, memorySlots, shadow }))
  const server = new Server({ own }, { ...settings, offered }, sockets)
  if (bridged === undefined) throw new Error('no device was made')
  return new Bridge(device, bridged, server, offer.control)
}
