// What a session needs of the device behind it: a model, or a device of the kernel. Wishes are told one by one and are only noted; where bringing the device
// to them takes time, the session waits for it before it answers.

import type { StateCommand } from '../uapi/virtio-net-commands.js'
import type { MemoryTable } from './memory-table.js'
import type { Vring } from './vring.js'
import type { WriteLog } from './write-log.js'

/** What a front end hears of its device by itself. */
export interface DeviceListener {
  configChanged(): void
  /** The driver broke a rule: the device rests until it is made anew. */
  broken(): void
  /** The device says that it needs a reset, whoever is to blame. */
  needsReset(): void
  /** The front end made the memory shorter that it gave. */
  torn(): void
}

/** A device with its one front end, or none. */
export interface HostedDevice {
  readonly deviceId: number
  readonly queueCount: number
  /** Descriptors of the largest ring. */
  readonly maxQueueSize: number
  /** Bytes of the configuration space. */
  readonly configSize: number
  readonly table: MemoryTable
  readonly vrings: readonly Vring[]
  /** What of its writes is logged, and where. */
  readonly writeLog: WriteLog
  /** What a guest may be offered. */
  readonly features: bigint
  /** Whether any queue runs. */
  readonly isLive: boolean
  /** Whether kicks are to be told by kick(); otherwise they go elsewhere. */
  readonly takesKicks: boolean
  listen(listener: DeviceListener | undefined): void
  /** What the guest's driver accepted. `isOfLog`: logging begins or ends with it, and the driver may be the one that was there. */
  setFeatures(wanted: bigint, isOfLog: boolean): void
  /** A queue was told something: it runs when nothing is missing, and rests when something is. */
  update(vring: Vring, request: string): void
  /** Where the queue stands is its base from now on. */
  stop(vring: Vring): void
  /** The memory table changed. */
  relocate(request: string): void
  kick(index: number): void
  readConfig(offset: number, into: Uint8Array): void
  writeConfig(offset: number, bytes: Uint8Array): void
  /** What is to be logged changed. */
  logChanged(): void
  /** What its control queue has set, while no queue runs. */
  saveState(): readonly StateCommand[]
  /** What it is to be like when it runs next: all of it, or ERR_VDPA_PROTOCOL. Nothing of it once `isWanted` says false. */
  loadState(commands: readonly StateCommand[], isWanted: () => boolean): void | Promise<void>
  /** As after RESET_DEVICE: nothing runs, and the memory stays. */
  reset(): void
  /** The front end has gone: as if there had been none. */
  release(): void
  /** For good. */
  close(): void
  /** The front end accepted these features of the protocol. */
  acceptProtocol?(features: bigint): void
  /** What SET_STATUS said. */
  noteStatus?(status: number): void
  /** Resolves when the device is as it was told to be; undefined when it is already. What it rejects with is the refusal of `request`. */
  settle?(request: string): Promise<void> | undefined
}
