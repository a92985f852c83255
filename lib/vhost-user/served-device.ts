// A model as vhost-user hosts it: its memory, its turns, and its queues as far as a front end let them run. It knows no message and no socket.

import { bit } from '../base/bits.js'
import { ProgramCalls } from '../base/program-calls.js'
import type { Backend } from '../backend/backend.js'
import type { WriteMarks } from '../memory/write-marks.js'
import type { DeviceOps } from '../models/device-ops.js'
import type { ModelDevice } from '../models/model-device.js'
import { networkModelOf } from '../models/network.js'
import type { StateCommand } from '../uapi/virtio-net-commands.js'
import { transportFeatureBits as transport } from '../uapi/virtio-features.js'
import { missingFeatureNeed } from '../uapi/feature-needs.js'
import { netFeatureBits } from '../uapi/virtio-features.js'
import { virtioStatus } from '../uapi/virtio-status.js'
import { vhostUserFeatureBits } from '../uapi/vhost-user.js'
import { areaSizes } from '../virtqueue/layout.js'
import type { RingFormat } from '../virtqueue/virtqueue.js'
import { maskOf, protocolError } from './codec.js'
import type { DeviceListener, HostedDevice } from './hosted-device.js'
import { MemoryTable } from './memory-table.js'
import { beginningOf, findAreas, startOf, type RingPlace } from './ring-places.js'
import { TableDma } from './table-dma.js'
import { Turns } from '../base/turns.js'
import { Vring } from './vring.js'
import { WriteLog, type UsedArea } from './write-log.js'

/** What this transport does not carry, or what front ends cannot live with: ACCESS_PLATFORM makes User Mode Linux fail. */
export const MASKED = maskOf([
  transport.VIRTIO_F_ACCESS_PLATFORM,
  transport.VIRTIO_F_SR_IOV,
  transport.VIRTIO_F_NOTIFICATION_DATA,
  transport.VIRTIO_F_NOTIF_CONFIG_DATA,
  transport.VIRTIO_F_RING_RESET,
  transport.VIRTIO_F_ADMIN_VQ,
  vhostUserFeatureBits.VHOST_USER_F_PROTOCOL_FEATURES,
  vhostUserFeatureBits.VHOST_F_LOG_ALL,
])
const PLATFORM = bit(transport.VIRTIO_F_ACCESS_PLATFORM)
const CONTROL_QUEUE = bit(netFeatureBits.VIRTIO_NET_F_CTRL_VQ)
const MULTIQUEUE = bit(netFeatureBits.VIRTIO_NET_F_MQ) | bit(netFeatureBits.VIRTIO_NET_F_RSS)
const RUNNING = virtioStatus.ACKNOWLEDGE | virtioStatus.DRIVER | virtioStatus.FEATURES_OK | virtioStatus.DRIVER_OK

/** What may end a queue, and is answered when nothing of it is under way. Some front ends stop a device by ENABLE alone. */
const endsQueues: ReadonlySet<string> = new Set(['GET_VRING_BASE', 'SET_VRING_ENABLE', 'RESET_DEVICE', 'RESET_OWNER'])

/** Where the areas that a device writes of a queue lie, and where that is told. */
interface WrittenAreas {
  readonly marks: WriteMarks
  readonly areas: readonly UsedArea[]
}

/** One model with its one front end, or none. */
export class ServedDevice implements HostedDevice {
  readonly takesKicks = true
  readonly ops: DeviceOps
  readonly table: MemoryTable
  readonly dma: TableDma
  readonly vrings: readonly Vring[]
  readonly #turns = new Turns()
  readonly writeLog: WriteLog
  readonly #written = new Map<number, WrittenAreas>()
  /** Where the queues that run lie. */
  readonly #places = new Map<number, RingPlace>()
  #listener: DeviceListener | undefined
  #features: bigint | undefined
  #loaded: readonly StateCommand[] | undefined
  /** What commands had set before the driver said its features again: one that goes on finds it. */
  #kept: readonly StateCommand[] = []

  constructor(ops: DeviceOps, backend: Backend, slots: number) {
    this.ops = ops
    this.table = new MemoryTable(backend, slots)
    this.dma = new TableDma(this.table)
    this.vrings = Array.from({ length: ops.queueCount }, (_, index) => new Vring(index))
    this.writeLog = new WriteLog(this.vrings)
    ops.attach({
      dma: this.dma,
      schedule: (work) => this.#turns.schedule(() => this.#turn(work)),
      // Front ends run control queues of their own, and tell devices features without their parents.
      deviates: (name) => name === 'takes-drivers-as-they-are',
      isTurnOver: () => this.#turns.isOver,
      mayKeepControlQueue: true,
    })
    ops.setConfigCallback(() => this.#configCallback())
  }

  get deviceId(): number {
    return this.ops.deviceId
  }

  get queueCount(): number {
    return this.ops.queueCount
  }

  /** Front ends cannot ask for it, and some have rings of 512 (SPDK) or 1024 (crosvm) descriptors. */
  get maxQueueSize(): number {
    return this.ops.largestRing ?? this.ops.maxQueueSize
  }

  get configSize(): number {
    return this.ops.configSize
  }

  readConfig(offset: number, into: Uint8Array): void {
    this.ops.readConfig(offset, into)
  }

  writeConfig(offset: number, bytes: Uint8Array): void {
    this.ops.writeConfig(offset, bytes)
  }

  logChanged(): void {
    this.dma.log = this.writeLog.isWanted ? this.writeLog : undefined
  }

  saveState(): readonly StateCommand[] {
    if (this.#loaded !== undefined || this.#kept.length > 0) return this.#loaded ?? this.#kept
    return networkModelOf(this.ops)?.saved() ?? []
  }

  /** Kept until a queue starts: the driver's features, which begin all anew, come after it. */
  loadState(commands: readonly StateCommand[]): void {
    const problem = networkModelOf(this.ops)?.problemWith(commands, this.features)
    if (problem !== undefined) throw protocolError('SET_DEVICE_STATE_FD', `the device refuses ${problem} of the state`)
    this.#loaded = commands
  }

  /** What a guest may be offered. */
  get features(): bigint {
    return this.ops.features() & ~MASKED
  }

  get isLive(): boolean {
    return this.vrings.some((vring) => vring.isLive)
  }

  listen(listener: DeviceListener | undefined): void {
    this.#listener = listener
  }

  /** What the guest's driver accepted. A driver that comes while no ring runs is a new one: User Mode Linux tells of it in no other way. */
  setFeatures(wanted: bigint, isOfLog: boolean): void {
    if ((wanted & ~this.features) !== 0n)
      throw protocolError('SET_FEATURES', `0x${(wanted & ~this.features).toString(16)} was not offered`)
    if ((this.isLive || isOfLog) && wanted === this.#features) return
    if (this.isLive) throw protocolError('SET_FEATURES', 'other features while rings run')
    const kept = this.saveState()
    this.ops.reset()
    this.ops.setStatus(virtioStatus.ACKNOWLEDGE)
    this.ops.setStatus(virtioStatus.ACKNOWLEDGE | virtioStatus.DRIVER)
    if (!this.ops.setFeatures(this.#forModel(wanted)))
      throw protocolError('SET_FEATURES', `the device refuses 0x${wanted.toString(16)}`)
    this.#features = wanted
    this.#kept = (wanted & CONTROL_QUEUE) === 0n || this.#loaded !== undefined ? [] : kept
  }

  get format(): RingFormat {
    return (this.ops.driverFeatures() & bit(transport.VIRTIO_F_RING_PACKED)) === 0n ? 'split' : 'packed'
  }

  /** Has a queue run when nothing is missing, and rest when something is. */
  update(vring: Vring, request: string): void {
    if (vring.isReady && !vring.isLive && this.#features !== undefined) this.#start(vring, request)
    else if (!vring.isReady && vring.isLive) this.stop(vring)
  }

  /** Where the queue stands is its base from now on. */
  stop(vring: Vring): void {
    if (!vring.isLive) return
    vring.isLive = false
    this.#written.delete(vring.index)
    this.#places.delete(vring.index)
    this.ops.setQueueCallback(vring.index, undefined)
    this.ops.setQueueReady(vring.index, false)
    vring.base = this.ops.queueState(vring.index) ?? vring.base
  }

  /** A front end that was told where a queue stands goes on elsewhere: nothing of the queue may be under way here by then. */
  settle(request: string): Promise<void> | undefined {
    return endsQueues.has(request) ? this.ops.whenQuiet?.() : undefined
  }

  /** The table changed: rings are where the front end has them, which may be elsewhere for the guest, or nowhere. What stays where it is runs on; what lies in memory again goes on where it stood. */
  relocate(request: string): void {
    if (this.#features === undefined) return
    let refusal: Error | undefined
    for (const vring of this.vrings) {
      try {
        if (vring.isReady) this.#place(vring, request)
      } catch (failure) {
        refusal ??= failure as Error
      }
    }
    if (refusal !== undefined) throw refusal
  }

  #place(vring: Vring, request: string): void {
    const before = this.#places.get(vring.index)
    try {
      const { descriptor, driver, device } = findAreas(this.table, vring, this.format, request)
      const isThere = before?.descriptor === descriptor && before.driver === driver && before.device === device
      if (vring.isLive && isThere) return
    } catch (failure) {
      const wasLive = vring.isLive
      this.stop(vring)
      if (wasLive) throw failure
      return
    }
    this.stop(vring)
    this.#start(vring, request)
  }

  kick(index: number): void {
    const { ops } = this
    if (this.vrings[index]?.isLive !== true) return
    if (ops.kickByDriver === undefined) ops.kick(index)
    else ops.kickByDriver(index)
  }

  /** As after RESET_DEVICE: nothing runs, and the memory stays. What the model throws does not stop it, and is thrown at the end; so below. */
  reset(): void {
    const calls = new ProgramCalls()
    this.#reset(calls)
    calls.throwKept()
  }

  /** The front end has gone: as if there had been none. */
  release(): void {
    const calls = new ProgramCalls()
    this.#release(calls)
    calls.throwKept()
  }

  /** For good. */
  close(): void {
    const calls = new ProgramCalls()
    this.#release(calls)
    calls.call(() => this.ops.setConfigCallback(undefined))
    this.#turns.stop()
    calls.throwKept()
  }

  #reset(calls: ProgramCalls): void {
    for (const vring of this.vrings) {
      calls.call(() => this.stop(vring))
      vring.reset()
    }
    this.#features = this.#loaded = undefined
    this.#kept = []
    calls.call(() => this.ops.reset())
  }

  #release(calls: ProgramCalls): void {
    this.#listener = undefined
    this.#reset(calls)
    this.dma.log = undefined
    this.table.clear()
  }

  #forModel(wanted: bigint): bigint {
    let features = wanted | (this.ops.features() & PLATFORM)
    if (missingFeatureNeed(features, this.ops.deviceId) !== undefined) features |= this.ops.features() & CONTROL_QUEUE
    return features
  }

  #start(vring: Vring, request: string): void {
    const { index, size, areas } = vring
    const { format, ops } = this
    if (areas === undefined) return
    const base = startOf(this.table, vring, format, request)
    const sizes = areaSizes(format, size)
    const { descriptor, driver, device } = findAreas(this.table, vring, format, request)
    if ((ops.status() & virtioStatus.DRIVER_OK) === 0) {
      ops.setStatus(RUNNING & ~virtioStatus.DRIVER_OK)
      ops.setStatus(RUNNING)
    }
    this.#load(index, base === beginningOf(format))
    ops.setQueueSize(index, size)
    if (!ops.setQueueAddresses(index, descriptor, driver, device) || ops.setQueueState(index, base) !== true)
      throw protocolError(request, `the device refuses queue ${index} as it is`)
    ops.setQueueCallback(index, () => this.#called(vring))
    ops.setQueueReady(index, true)
    const used = { at: Number(device), bytes: sizes.device }
    const written = format === 'packed' ? [used, { at: Number(descriptor), bytes: sizes.descriptor }] : [used]
    this.#written.set(index, { marks: this.writeLog.ofQueue(vring, used), areas: written })
    this.#places.set(index, { descriptor, driver, device })
    vring.isLive = true
    // What was there before may have been kicked before: a receive queue is kicked once, and then maybe never.
    ops.kick(index)
    // And what was announced before may not have been heard: whoever served the ring may have ended between its index and its interrupt.
    vring.call?.signal()
  }

  /** A driver whose control queue begins anew is a new one, whatever was there before. */
  #load(index: number, isNew: boolean): void {
    const { ops } = this
    const control = (ops.driverFeatures() & MULTIQUEUE) === 0n ? 2 : ops.queueCount - 1
    const kept = index === control && !isNew ? this.#kept : []
    const commands = this.#loaded ?? kept
    this.#loaded = undefined
    if (index === control) this.#kept = []
    if (commands.length > 0) networkModelOf(ops)?.load(ops as ModelDevice, commands)
  }

  #turn(work: () => void): void {
    try {
      work()
    } finally {
      this.#afterTurn()
    }
  }

  /** Interrupts are sent after the log: who is interrupted may look at once, and a migration must have seen the page. */
  #called(vring: Vring): void {
    this.#logRings()
    vring.call?.signal()
  }

  #logRings(): void {
    if (this.dma.log === undefined) return
    for (const { marks, areas } of this.#written.values()) for (const { at, bytes } of areas) marks.mark(at, bytes)
  }

  #afterTurn(): void {
    this.#logRings()
    if (this.table.isTorn || this.writeLog.isTorn) this.#listener?.torn()
  }

  #configCallback(): void {
    if ((this.ops.status() & virtioStatus.NEEDS_RESET) === 0) this.#listener?.configChanged()
    else this.#listener?.needsReset()
  }
}
