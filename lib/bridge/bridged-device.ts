// A vDPA device as vhost-user hosts it. What a front end says is noted; settle() brings the device to it, one step after another, before the front end has its
// answer. A device runs as a whole: it is started when nothing is missing that the front end said would come, and stopped when a queue is to stop.

import { isVdpaError, vdpaError } from '../base/errors.js'
import { bit } from '../base/bits.js'
import { throwUncaught } from '../base/program-calls.js'
import type { Backend } from '../backend/backend.js'
import type { StateCommand } from '../control/control-state.js'
import { askPolicy } from '../control/shadow-policy.js'
import { netQueuePairs } from '../device/device-kinds.js'
import type { VdpaDevice } from '../device/vdpa-device.js'
import { encodeBase } from '../device/vring.js'
import { netFeatureBits, transportFeatureBits } from '../uapi/virtio-features.js'
import { netCommands, netFeatureBit } from '../uapi/virtio-net-commands.js'
import { deviceIds } from '../uapi/virtio-ids.js'
import { vhostUserProtocolBits as protocol } from '../uapi/vhost-user.js'
import { virtioStatus } from '../uapi/virtio-status.js'
import { protocolError } from '../vhost-user/codec.js'
import type { DeviceListener, HostedDevice } from '../vhost-user/hosted-device.js'
import { MemoryTable } from '../vhost-user/memory-table.js'
import { findAreas, startOf } from '../vhost-user/ring-places.js'
import { Vring } from '../vhost-user/vring.js'
import { WriteLog, type LogWishes } from '../vhost-user/write-log.js'
import { initialState } from '../virtqueue/layout.js'
import type { RingFormat } from '../virtqueue/virtqueue.js'
import { GuestMappings } from './guest-mappings.js'
import { featuresForDevice, hasControlQueue, problemWith, type DirtyLogVerdict, type Offer } from './offer.js'
import { Run, type QueuePlan, type RunHost, type RunPlan } from './run.js'

const PACKED = bit(transportFeatureBits.VIRTIO_F_RING_PACKED)
const MULTIQUEUE = bit(netFeatureBits.VIRTIO_NET_F_MQ) | bit(netFeatureBits.VIRTIO_NET_F_RSS)
const CONFIG_BYTES: Readonly<Record<number, number>> = { [deviceIds.net]: 12, [deviceIds.block]: 60 }

/** How a device is bridged. */
export interface BridgedDeviceOptions {
  readonly device: VdpaDevice
  readonly offer: Offer
  /** The system that front ends are of. */
  readonly host: Backend
  readonly memorySlots: number
  readonly shadow: RunHost['shadow']
}

/** One vDPA device with its one front end, or none. */
export class BridgedDevice implements HostedDevice {
  readonly table: MemoryTable
  readonly vrings: readonly Vring[]
  readonly writeLog: WriteLog
  readonly takesKicks = false
  readonly configSize: number
  readonly #device: VdpaDevice
  readonly #offer: Offer
  readonly #mappings: GuestMappings
  readonly #runHost: RunHost
  #listener: DeviceListener | undefined
  #features: bigint | undefined
  #kept: readonly StateCommand[] = []
  /** What is kept is what the front end brought, and not what a driver left that may be gone. */
  #isLoaded = false
  /** Changes with each reset, and when the device starts. */
  #life = 0
  #run: Run | undefined
  /** DRIVER_OK is waited for where the front end says that it sends it. */
  #hasStatus = false
  #status = 0
  readonly #resting = new Set<Vring>()
  #isChanged = false
  #mappedVersion = 0
  /** What was to be logged when the device was last brought to it. */
  #logWishes: LogWishes
  #last: Promise<void> = Promise.resolve()
  #waiting = 0
  readonly #onConfig = () => this.#listener?.configChanged()
  readonly #onNeedsReset = () => this.#listener?.needsReset()

  constructor({ device, offer, host, memorySlots, shadow }: BridgedDeviceOptions) {
    this.#device = device
    this.#offer = offer
    this.#mappings = new GuestMappings(device)
    this.table = new MemoryTable(host, memorySlots, (memory) => this.#mappings.retire(memory))
    this.vrings = Array.from({ length: device.queueCount ?? 0 }, (_, index) => new Vring(index))
    this.writeLog = new WriteLog(this.vrings)
    this.#logWishes = this.writeLog.wishes
    this.configSize = device.config.size ?? CONFIG_BYTES[device.deviceId] ?? 0
    const onInterrupt = () => this.#checkMemory()
    const { onAudit, onBroken } = shadow
    this.#runHost = {
      device,
      table: this.table,
      mappings: this.#mappings,
      writeLog: this.writeLog,
      isControlAlone: offer.control?.isolated === true,
      onBroken: () => this.#listener?.broken(),
      onInterrupt,
      shadow: {
        ...shadow,
        onAudit: (event) => {
          this.#checkMemory()
          onAudit?.(event)
        },
        onBroken: (failure) => {
          this.#listener?.broken()
          onBroken?.(failure)
        },
      },
    }
    device.events.on('config', this.#onConfig)
    device.events.on('needsReset', this.#onNeedsReset)
  }

  get deviceId(): number {
    return this.#device.deviceId
  }

  get queueCount(): number {
    return this.vrings.length
  }

  get maxQueueSize(): number {
    return this.#device.maxQueueSize
  }

  get features(): bigint {
    return this.#offer.features
  }

  get isLive(): boolean {
    return this.vrings.some((vring) => vring.isLive)
  }

  /** Whether front ends are offered a dirty log. */
  get dirtyLog(): DirtyLogVerdict {
    return this.#offer.dirtyLog
  }

  /** What runs now. */
  get run(): Run | undefined {
    return this.#run
  }

  listen(listener: DeviceListener | undefined): void {
    this.#listener = listener
  }

  acceptProtocol(features: bigint): void {
    this.#hasStatus = (features & bit(protocol.STATUS)) !== 0n
  }

  noteStatus(status: number): void {
    this.#status = status
    this.#isChanged = true
  }

  setFeatures(wanted: bigint, isOfLog: boolean): void {
    const problem = problemWith(wanted, this.#offer)
    if (problem !== undefined) throw protocolError('SET_FEATURES', problem)
    if (this.isLive && wanted !== this.#features) throw protocolError('SET_FEATURES', 'other features while rings run')
    const isSameDriver = isOfLog && wanted === this.#features
    this.#features = wanted
    this.#isChanged = true
    if (this.#resting.size === 0 || isSameDriver) return
    // A driver ended, and this is a new one: User Mode Linux tells of it in no other way.
    for (const vring of this.#resting) vring.stop()
    this.#kept = []
    this.#isLoaded = false
  }

  update(vring: Vring, request: string): void {
    this.#isChanged = true
    if (request === 'SET_FEATURES') return
    // When all are disabled a driver has ended, and may have been the last: what it said of a queue counts again when the queue is spoken of.
    const isDisabling = request === 'RESET_OWNER' || (request === 'SET_VRING_ENABLE' && !vring.isEnabled)
    if (!isDisabling) this.#resting.delete(vring)
    else if (!this.vrings.some((one) => one.isEnabled && one.areas !== undefined))
      for (const one of this.vrings) if (one.areas !== undefined) this.#resting.add(one)
  }

  /** The queue's base is known when the device has settled. */
  stop(): void {
    this.#isChanged = true
  }

  relocate(): void {
    this.#isChanged = true
  }

  kick(): void {
    // Kicks go to the device.
  }

  readConfig(offset: number, into: Uint8Array): void {
    into.set(this.#device.config.read(offset, into.byteLength))
  }

  writeConfig(offset: number, bytes: Uint8Array): void {
    this.#device.config.write(offset, bytes)
  }

  /** A vDPA device has no log: its queues are shadowed while one is wanted. */
  logChanged(): void {
    this.#isChanged = true
  }

  saveState(): readonly StateCommand[] {
    return this.#kept
  }

  /** What the policy denies a guest it denies a front end that brings it. */
  async loadState(commands: readonly StateCommand[], isWanted: () => boolean): Promise<void> {
    const { features } = this.#offer
    const strange = commands.find(({ name }) => (features & commandFeature(name)) === 0n)
    if (strange !== undefined)
      throw protocolError('SET_DEVICE_STATE_FD', `the state has ${strange.name}, which this device does not offer`)
    const { policy, timeout = 10_000 } = this.#runHost.shadow
    const life = this.#life
    const judged: StateCommand[] = []
    for (const { name, payload } of commands) {
      const value = netCommands[name].decode(payload)
      const verdict = await askPolicy(policy, { name, value, payload, isFallback: false }, timeout)
      if (verdict === 'deny') throw protocolError('SET_DEVICE_STATE_FD', `the policy denies ${name} of the state`)
      judged.push(verdict === 'allow' ? { name, payload } : { name, payload: verdict.payload.slice() })
    }
    if (!isWanted()) return
    if (life !== this.#life)
      throw protocolError('SET_DEVICE_STATE_FD', 'the device was reset or started under the transfer')
    this.#kept = judged
    this.#isLoaded = true
  }

  reset(): void {
    this.#isLoaded = false
    this.#life++
    for (const vring of this.vrings) vring.reset()
    this.#resting.clear()
    this.#features = undefined
    this.#kept = []
    this.#status = 0
    this.#isChanged = true
  }

  release(): void {
    this.#listener = undefined
    this.reset()
    this.#hasStatus = false
    this.table.clear()
    // Nobody waits for it: what fails now is the program's to hear of.
    this.settle('the end of a connection')?.catch((failure: unknown) => {
      if (!this.#device.isClosed) throwUncaught(failure)
    })
  }

  close(): void {
    this.#device.events.off('config', this.#onConfig)
    this.#device.events.off('needsReset', this.#onNeedsReset)
    this.release()
  }

  /** Resolves when nothing is under way any more. */
  async ended(): Promise<void> {
    await this.#last
  }

  settle(request: string): Promise<void> | undefined {
    if (!this.#isChanged && this.#waiting === 0 && this.table.version === this.#mappedVersion) return undefined
    this.#waiting++
    const settled = this.#last.then(async () => this.#bring(request)).finally(() => this.#waiting--)
    this.#last = settled.catch(() => undefined)
    return settled.catch((failure: unknown) => {
      throw asRefusal(failure, request)
    })
  }

  async #bring(request: string): Promise<void> {
    this.#isChanged = false
    const device = this.#device
    if (device.isClosed) {
      await this.#stop().catch(() => undefined)
      await device.close().catch(() => undefined)
      this.#mappings.forget()
      if (this.#features === undefined) return
      throw vdpaError('ERR_VDPA_CLOSED', 'the device behind the bridge was closed', { path: device.path })
    }
    let plan: RunPlan | undefined
    let refusal: Error | undefined
    try {
      plan = this.#plan(request)
    } catch (failure) {
      refusal = failure as Error
    }
    const run = this.#run
    if (run !== undefined && (plan === undefined || !run.isLike(plan) || this.#loses())) {
      try {
        await this.#stop()
        // Where the queues stand now is where they go on.
        if (plan !== undefined) plan = this.#plan(request)
      } catch (failure) {
        // Memory that is to go is taken from the device all the same.
        refusal = failure as Error
      }
    }
    // A device that could not be reset may be asked again: it has no memory and does not run before it was.
    const isBehind = !this.#mappings.isLike(this.table)
    if (device.phase === 'lost' && (isBehind || plan !== undefined)) await device.reset()
    if (isBehind) await this.#mappings.follow(this.table)
    this.#mappedVersion = this.table.version
    if (refusal !== undefined) throw refusal
    if (plan === undefined) return
    const running = this.#run ?? (await this.#start(plan))
    const control = this.#controlPlan(plan, request)
    await running.refresh(control, this.#enabledPairs())
    // From here on its ring says whether a driver goes on.
    if (control !== undefined) this.#isLoaded = false
    await this.#followLog(running, request)
  }

  async #start(plan: RunPlan): Promise<Run> {
    this.#life++
    const run = await Run.start(this.#runHost, plan, this.#keptFor(plan))
    // What a front end before this one wanted is nothing to go back to.
    this.#logWishes = this.writeLog.wishes
    return (this.#run = run)
  }

  /** Whether the table takes away what the device has, or wants a place where a ring of ours is. */
  #loses(): boolean {
    return this.#mappings.loses(this.table) || this.#mappings.isObstructed(this.table)
  }

  /** What is refused is as if it had not been asked for. A device that was reset for it goes on where its queues stood. */
  async #followLog(run: Run, request: string): Promise<void> {
    const { writeLog } = this
    try {
      if (run.isLogged !== writeLog.isWanted) await run.setLogged(writeLog.isWanted)
      this.#logWishes = writeLog.wishes
    } catch (failure) {
      writeLog.goBackTo(this.#logWishes)
      if (this.#device.isRunning || this.#device.isClosed) throw failure
      await this.#stop()
      const plan = this.#plan(request)
      if (plan === undefined) throw failure
      this.#run = await Run.start(this.#runHost, plan, this.#kept)
      await this.#run.refresh(this.#controlPlan(plan, request), this.#enabledPairs())
      throw failure
    }
  }

  async #stop(): Promise<void> {
    const run = this.#run
    this.#run = undefined
    if (run === undefined) return
    try {
      await run.stop()
    } finally {
      this.#kept = run.kept
    }
  }

  /** What the device is to run with; undefined while something is missing. ERR_VDPA_PROTOCOL where it cannot. */
  #plan(request: string): RunPlan | undefined {
    const taken = this.#features
    if (taken === undefined) return undefined
    if (this.#hasStatus && (this.#status & virtioStatus.DRIVER_OK) === 0) return undefined
    const told = this.vrings.filter((vring) => vring.size > 0 && vring.areas !== undefined && !this.#resting.has(vring))
    if (told.length === 0 || told.some(({ isStarted }) => !isStarted)) return undefined
    const control = this.#controlIndex(taken)
    const data = told.filter(({ index }) => index !== control)
    if (!data.some(({ isEnabled }) => isEnabled)) return undefined
    // The queues of a pair come one after another.
    const isNet = this.deviceId === deviceIds.net
    if (isNet && data.some(({ index }) => !data.some((other) => other.index === (index ^ 1)))) return undefined
    const format: RingFormat = (taken & PACKED) === 0n ? 'split' : 'packed'
    const features = featuresForDevice(taken, this.#offer, this.deviceId)
    const queues = data.map((vring) => this.#queuePlan(vring, format, request))
    return { taken, features, format, queues, isShadowing: control !== undefined }
  }

  #queuePlan(vring: Vring, format: RingFormat, request: string): QueuePlan {
    const base = startOf(this.table, vring, format, request)
    return { vring, size: vring.size, addresses: findAreas(this.table, vring, format, request), base }
  }

  /** The guest's control queue, where its driver has one. */
  #controlIndex(taken: bigint): number | undefined {
    if (!hasControlQueue(taken, this.deviceId)) return undefined
    return controlQueueOf(this.#device, taken)
  }

  #controlPlan({ taken, format }: RunPlan, request: string): QueuePlan | undefined {
    const vring = this.vrings[this.#controlIndex(taken) ?? -1]
    return vring?.isReady === true ? this.#queuePlan(vring, format, request) : undefined
  }

  /** What was set counts for a driver that goes on, and not for a new one, whose control queue begins anew. What a driver may not send under the features that it accepted sets nothing. */
  #keptFor({ taken, format }: RunPlan): readonly StateCommand[] {
    const vring = this.vrings[this.#controlIndex(taken) ?? -1]
    if (vring === undefined) return []
    const base = startOf(this.table, vring, format, 'SET_VRING_BASE')
    if (base === encodeBase(format, initialState(format)) && !this.#isLoaded) return []
    return this.#kept.filter(({ name }) => (taken & commandFeature(name)) !== 0n)
  }

  #enabledPairs(): number {
    return this.vrings.filter(({ index, isEnabled, areas }) => isEnabled && areas !== undefined && index % 2 === 0)
      .length
  }

  #checkMemory(): void {
    if (this.table.isTorn || this.writeLog.isTorn) this.#listener?.torn()
  }
}

/** The feature without which a driver does not send a command. */
function commandFeature(name: StateCommand['name']): bigint {
  return bit(netFeatureBit(netCommands[name].feature))
}

/** Where the control queue is under features that need not be negotiated yet (spec section 5.1.2). */
function controlQueueOf(device: VdpaDevice, taken: bigint): number {
  return (taken & MULTIQUEUE) === 0n ? 2 : 2 * netQueuePairs(device.config.net())
}

/** A failure as the front end's refusal: several at once are one sentence with its cause. */
function asRefusal(failure: unknown, request: string): unknown {
  if (isVdpaError(failure) || failure instanceof RangeError) return failure
  const text = failure instanceof Error ? failure.message : String(failure)
  return vdpaError('ERR_VDPA_REFUSED', text, { request: `VHOST_USER_${request}`, cause: failure })
}
