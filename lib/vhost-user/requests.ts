// What each request of the front end does to a device. Handlers return the payload of an answer where the request has one; what they throw is a refusal.

import type { Backend } from '../backend/backend.js'
import type { PassedFile, UnixSockets } from '../backend/sockets.js'
import type { MemoryRegion } from '../memory/memory-region.js'
import { bit } from '../base/bits.js'
import { deviceIds } from '../uapi/virtio-ids.js'
import {
  vhostUserConfigHead,
  vhostUserFeatureBits,
  vhostUserInflight,
  vhostUserInflightSplit,
  vhostUserProtocolBits as protocol,
  vhostUserVringState,
  VHOST_USER_STATE_NO_FD,
} from '../uapi/vhost-user.js'
import { BackEndChannel } from './back-end-channel.js'
import { encodeNumber, protocolError, type KnownRequest, type RequestValue, type RequestValues } from './codec.js'
import { DirtyLog } from './dirty-log.js'
import { decodeDeviceState, encodeDeviceState } from './device-state.js'
import { StateTransfer } from './state-transfer.js'
import { kindOf, notifierOf } from './notifier.js'
import type { HostedDevice } from './hosted-device.js'
import type { Vring } from './vring.js'

const PROTOCOL = bit(vhostUserFeatureBits.VHOST_USER_F_PROTOCOL_FEATURES)
const LOG_ALL = bit(vhostUserFeatureBits.VHOST_F_LOG_ALL)
/** Addresses in the log are handled as numbers, which are exact up to here; the ring's length is added. */
const LOG_ADDRESS_LAST = 2n ** 52n
/** Of SET_CONFIG: what is set was so elsewhere. */
const MIGRATION = 1
/** What drivers may write of the configuration of a device, as [first, last] (spec sections 5.1.4.2 and 5.2.4); devices of other kinds say it themselves. */
const writable: Partial<Record<number, readonly [first: number, last: number]>> = {
  [deviceIds.net]: [0, -1],
  [deviceIds.block]: [32, 32],
}
/** Bytes of one descriptor's entry in an inflight file, and what the parts of queues are rounded up to. */
const INFLIGHT_ENTRY_BYTES = 16
const INFLIGHT_ALIGNMENT = 64

/** What a connection knows of its device. */
export interface Connection {
  readonly backend: Backend
  readonly sockets: UnixSockets
  readonly device: HostedDevice
  readonly memorySlots: number
  /** Protocol features that are offered, and those that were accepted. */
  readonly offered: bigint
  protocolFeatures: bigint
  /** As SET_STATUS said it: a note. What the device does follows from its rings, since some front ends say 0 before they ask where these stand. */
  status: number
  channel: BackEndChannel | undefined
  /** Files that were made for the front end go with an answer. */
  readonly answerFiles: MemoryRegion[]
  /** Milliseconds that a transfer of a device's state may take once its outcome is asked for. */
  readonly stateTimeout: number
  /** The last one. */
  transfer: StateTransfer | undefined
}

/** The payload of an answer, or how it is made once the device has settled. */
export type Answer = Uint8Array | (() => Uint8Array) | Promise<Uint8Array>

type Handlers = {
  readonly [N in KnownRequest]?: (
    connection: Connection,
    value: RequestValues[N],
    files: readonly PassedFile[],
  ) => Answer | void
}

/** The protocol feature that a request needs. */
const gates: Partial<Record<KnownRequest, number>> = {
  SET_LOG_BASE: protocol.LOG_SHMFD,
  SET_LOG_FD: protocol.LOG_SHMFD,
  GET_QUEUE_NUM: protocol.MQ,
  SET_BACKEND_REQ_FD: protocol.BACKEND_REQ,
  GET_CONFIG: protocol.CONFIG,
  SET_CONFIG: protocol.CONFIG,
  GET_INFLIGHT_FD: protocol.INFLIGHT_SHMFD,
  SET_INFLIGHT_FD: protocol.INFLIGHT_SHMFD,
  RESET_DEVICE: protocol.RESET_DEVICE,
  VRING_KICK: protocol.INBAND_NOTIFICATIONS,
  GET_MAX_MEM_SLOTS: protocol.CONFIGURE_MEM_SLOTS,
  ADD_MEM_REG: protocol.CONFIGURE_MEM_SLOTS,
  REM_MEM_REG: protocol.CONFIGURE_MEM_SLOTS,
  SET_STATUS: protocol.STATUS,
  GET_STATUS: protocol.STATUS,
  SET_DEVICE_STATE_FD: protocol.DEVICE_STATE,
  CHECK_DEVICE_STATE: protocol.DEVICE_STATE,
}

/** Whether a protocol feature was accepted. */
export function has(connection: Connection, feature: number): boolean {
  return (connection.protocolFeatures & bit(feature)) !== 0n
}

function vringOf({ device }: Connection, index: number, request: string): Vring {
  const vring = device.vrings[index]
  if (vring === undefined) throw protocolError(request, `queue ${index}, and the device has ${device.vrings.length}`)
  return vring
}

function whileStopped(vring: Vring, request: string): void {
  if (vring.isLive) throw protocolError(request, `queue ${vring.index} runs`)
}

function isWritable(deviceId: number, offset: number, size: number): boolean {
  const range = writable[deviceId]
  return range === undefined || (offset >= range[0] && offset + size - 1 <= range[1])
}

function isInBand(connection: Connection): boolean {
  return has(connection, protocol.INBAND_NOTIFICATIONS)
}

/** Messages kick it, and call where no descriptor does, which is preferred. */
function startInBand(connection: Connection, vring: Vring): void {
  if (!isInBand(connection) || vring.isStarted) return
  vring.isStarted = true
  if (vring.call === undefined)
    vring.setCall({ signal: () => connection.channel?.call(vring.index), close: () => undefined })
}

/**
 * What is offered for one device. A network of one pair has no several queues to tell of: QEMU takes the number for pairs, cloud-hypervisor and crosvm for
 * virtqueues, and all of them have the one pair where there is no number.
 */
export function offeredFor(device: HostedDevice, offered: bigint): bigint {
  return device.deviceId === deviceIds.net && device.queueCount < 4 ? offered & ~bit(protocol.MQ) : offered
}

function inflightBytes(queueSize: number): number {
  const bytes = vhostUserInflightSplit.size + queueSize * INFLIGHT_ENTRY_BYTES
  return Math.ceil(bytes / INFLIGHT_ALIGNMENT) * INFLIGHT_ALIGNMENT
}

const handlers: Handlers = {
  GET_FEATURES: ({ device, offered }) => {
    const log = (offered & bit(protocol.LOG_SHMFD)) === 0n ? 0n : LOG_ALL
    return encodeNumber(device.features | PROTOCOL | log)
  },
  SET_FEATURES: (connection, { value }) => {
    const { device, offered } = connection
    const marksAll = (value & LOG_ALL) !== 0n
    if (marksAll && (offered & bit(protocol.LOG_SHMFD)) === 0n)
      throw protocolError('SET_FEATURES', 'VHOST_F_LOG_ALL was not offered')
    // A front end that takes whatever is offered has no log.
    const isOfLog = marksAll !== device.writeLog.marksAll && device.writeLog.base !== undefined
    device.setFeatures(value & ~(PROTOCOL | LOG_ALL), isOfLog)
    device.writeLog.marksAll = marksAll
    device.logChanged()
    // Who does not know the protocol's features cannot enable rings.
    if ((value & PROTOCOL) === 0n) for (const vring of device.vrings) vring.isEnabled = true
    for (const vring of device.vrings) device.update(vring, 'SET_FEATURES')
  },
  SET_OWNER: () => undefined,
  RESET_OWNER: ({ device }) => {
    for (const vring of device.vrings) {
      vring.isEnabled = false
      device.update(vring, 'RESET_OWNER')
    }
  },
  GET_PROTOCOL_FEATURES: ({ offered }) => encodeNumber(offered),
  SET_PROTOCOL_FEATURES: (connection, { value }) => {
    const unknown = value & ~connection.offered
    if (unknown !== 0n) throw protocolError('SET_PROTOCOL_FEATURES', `0x${unknown.toString(16)} was not offered`)
    const inBand = bit(protocol.INBAND_NOTIFICATIONS)
    const needed = bit(protocol.BACKEND_REQ) | bit(protocol.REPLY_ACK)
    if ((value & inBand) !== 0n && (value & needed) !== needed)
      throw protocolError('SET_PROTOCOL_FEATURES', 'INBAND_NOTIFICATIONS without BACKEND_REQ and REPLY_ACK')
    connection.protocolFeatures = value
    connection.device.acceptProtocol?.(value)
  },
  // Virtqueues, all of them. cloud-hypervisor counts so, and would refuse two pairs where it was told of 2; QEMU, which takes the number for pairs, refuses none that there are.
  GET_QUEUE_NUM: ({ device }) => encodeNumber(BigInt(device.queueCount)),
  GET_MAX_MEM_SLOTS: ({ memorySlots }) => encodeNumber(BigInt(memorySlots)),
  SET_MEM_TABLE: ({ device }, { regions }, files) => {
    device.table.replace(regions, files)
    device.relocate('SET_MEM_TABLE')
  },
  ADD_MEM_REG: ({ device }, { region }, [file]) => {
    if (file === undefined) return
    device.table.add(region, file)
    device.relocate('ADD_MEM_REG')
  },
  REM_MEM_REG: ({ device }, { region }) => {
    device.table.remove(region)
    device.relocate('REM_MEM_REG')
  },
  SET_VRING_NUM: (connection, { index, num }) => {
    const vring = vringOf(connection, index, 'SET_VRING_NUM')
    whileStopped(vring, 'SET_VRING_NUM')
    const most = connection.device.maxQueueSize
    if (num === 0 || num > most) throw protocolError('SET_VRING_NUM', `${num} descriptors, and ${most} are the most`)
    vring.size = num
  },
  SET_VRING_ADDR: (connection, { index, flags, descriptor, available, used, log }) => {
    const vring = vringOf(connection, index, 'SET_VRING_ADDR')
    const areas = { descriptor, available, used }
    const now = vring.areas
    // A running ring is told of again when logging begins or ends.
    if (now?.descriptor !== descriptor || now.available !== available || now.used !== used)
      whileStopped(vring, 'SET_VRING_ADDR')
    if (flags !== 0 && log > LOG_ADDRESS_LAST)
      throw protocolError('SET_VRING_ADDR', `the used ring is to be logged at 0x${log.toString(16)}, above 2^52`)
    vring.areas = areas
    vring.usedLog = flags === 0 ? undefined : Number(log)
    connection.device.update(vring, 'SET_VRING_ADDR')
    connection.device.logChanged()
  },
  SET_VRING_BASE: (connection, { index, num }) => {
    const vring = vringOf(connection, index, 'SET_VRING_BASE')
    whileStopped(vring, 'SET_VRING_BASE')
    vring.base = num
  },
  GET_VRING_BASE: (connection, { index }) => {
    const vring = vringOf(connection, index, 'GET_VRING_BASE')
    connection.device.stop(vring)
    vring.stop()
    return () => vhostUserVringState.encode({ index, num: vring.base ?? 0 })
  },
  SET_VRING_KICK: (connection, { index, hasFile }, [file]) => {
    const vring = vringOf(connection, index, 'SET_VRING_KICK')
    if (!hasFile && !isInBand(connection))
      throw protocolError('SET_VRING_KICK', 'a ring that is to be polled, which this back end does not do')
    if (file !== undefined && kindOf(file) !== 'anon_inode:[eventfd]')
      throw protocolError('SET_VRING_KICK', `a descriptor that is ${kindOf(file)}, and no eventfd`)
    const { device } = connection
    vring.setKick(connection.backend, file?.fd, device.takesKicks ? () => device.kick(index) : undefined)
    connection.device.update(vring, 'SET_VRING_KICK')
  },
  SET_VRING_CALL: (connection, { index }, [file]) => {
    const vring = vringOf(connection, index, 'SET_VRING_CALL')
    vring.setCall(file === undefined ? undefined : notifierOf(file, connection.backend, connection.sockets))
    // What was announced to the one before may not have been heard.
    if (vring.isLive) vring.call?.signal()
  },
  SET_VRING_ERR: (connection, { index }, [file]) => {
    const vring = vringOf(connection, index, 'SET_VRING_ERR')
    vring.setError(file === undefined ? undefined : notifierOf(file, connection.backend, connection.sockets))
  },
  SET_VRING_ENABLE: (connection, { index, num }) => {
    const vring = vringOf(connection, index, 'SET_VRING_ENABLE')
    if (num > 1) throw protocolError('SET_VRING_ENABLE', `${num}, neither 0 nor 1`)
    vring.isEnabled = num === 1
    startInBand(connection, vring)
    connection.device.update(vring, 'SET_VRING_ENABLE')
  },
  VRING_KICK: (connection, { index }) => {
    const vring = vringOf(connection, index, 'VRING_KICK')
    startInBand(connection, vring)
    connection.device.update(vring, 'VRING_KICK')
    connection.device.kick(index)
  },
  SET_BACKEND_REQ_FD: (connection, _value, [file]) => {
    if (file === undefined) return
    const channel = new BackEndChannel(connection.sockets.socketOf(file.fd))
    connection.channel?.close()
    connection.channel = channel
  },
  GET_CONFIG: ({ device }, { offset, size, flags }) => {
    const bytes = new Uint8Array(size)
    const there = Math.max(0, Math.min(size, device.configSize - offset))
    if (there > 0) device.readConfig(offset, bytes.subarray(0, there))
    const payload = new Uint8Array(vhostUserConfigHead.size + size)
    vhostUserConfigHead.encodeInto({ offset, size, flags }, payload)
    payload.set(bytes, vhostUserConfigHead.size)
    return payload
  },
  SET_CONFIG: ({ device }, { offset, size, flags, bytes }) => {
    if (offset + size > device.configSize)
      throw protocolError('SET_CONFIG', `${size} bytes at ${offset} of ${device.configSize}`)
    if (flags > MIGRATION) throw protocolError('SET_CONFIG', `unknown flags 0x${flags.toString(16)}`)
    if (isWritable(device.deviceId, offset, size)) return device.writeConfig(offset, bytes)
    const now = new Uint8Array(size)
    device.readConfig(offset, now)
    // A front end that brings a guest says what its configuration was: what is the same is set already.
    if (now.every((byte, at) => byte === bytes[at])) return undefined
    throw protocolError('SET_CONFIG', `${size} bytes at ${offset}, which are to be read only`)
  },
  SET_STATUS: (connection, { value }) => {
    if (value > 0xffn) throw protocolError('SET_STATUS', `0x${value.toString(16)} is no status`)
    connection.status = Number(value)
    connection.device.noteStatus?.(connection.status)
  },
  GET_STATUS: ({ status }) => encodeNumber(BigInt(status)),
  RESET_DEVICE: (connection) => {
    connection.device.reset()
    connection.status = 0
  },
  SET_LOG_BASE: (connection, { size, offset }, [file]) => {
    if (file === undefined) return undefined
    const { device, backend } = connection
    const before = device.writeLog.base
    device.writeLog.base = DirtyLog.of(file, { offset, size }, backend)
    device.logChanged()
    before?.close()
    return encodeNumber(0n)
  },
  // An eventfd that a front end may want signaled with each page: bits are enough.
  SET_LOG_FD: () => undefined,
  /** Models answer in order, one request after another: none is ever in flight across a restart, and the file says so. */
  GET_INFLIGHT_FD: (connection, { queues, queueSize }) => {
    if (queues === 0 || queues > connection.device.vrings.length || queueSize === 0)
      throw protocolError('GET_INFLIGHT_FD', `${queues} queues of ${queueSize} descriptors`)
    const each = inflightBytes(queueSize)
    const region = connection.backend.allocate(queues * each, { name: 'vhost-inflight' })
    connection.answerFiles.push(region)
    const head = { features: 0n, version: 1, desc_num: queueSize, last_batch_head: 0, used_idx: 0 }
    for (let queue = 0; queue < queues; queue++)
      vhostUserInflightSplit.encodeInto(head, region.view(0, region.length), queue * each)
    const value = { mmap_size: BigInt(queues * each), mmap_offset: 0n, num_queues: queues, queue_size: queueSize }
    return vhostUserInflight.encode(value)
  },
  SET_INFLIGHT_FD: () => undefined,
  SET_DEVICE_STATE_FD: (connection, { direction, phase }, [file]) => {
    const { device, sockets } = connection
    if (file === undefined) return undefined
    if (direction > 1 || phase !== 0)
      throw protocolError('SET_DEVICE_STATE_FD', `direction ${direction} in phase ${phase}`)
    if (device.isLive)
      throw protocolError('SET_DEVICE_STATE_FD', 'queues run: a state is moved of a device that stands still')
    connection.transfer?.close()
    connection.transfer = undefined
    const { deviceId } = device
    connection.transfer =
      direction === 0
        ? StateTransfer.save(sockets, file, encodeDeviceState({ deviceId, commands: device.saveState() }))
        : StateTransfer.load(sockets, file, (bytes, isWanted) => {
            if (device.isLive) throw protocolError('SET_DEVICE_STATE_FD', 'queues were started under the transfer')
            return device.loadState(decodeDeviceState(bytes, deviceId).commands, isWanted)
          })
    return encodeNumber(BigInt(VHOST_USER_STATE_NO_FD))
  },
  CHECK_DEVICE_STATE: async ({ transfer, stateTimeout }) => {
    if (transfer === undefined) throw protocolError('CHECK_DEVICE_STATE', 'no state was moved')
    let timer: NodeJS.Timeout | undefined
    const late = new Promise<Error>((resolve) => {
      const give = () => {
        resolve(protocolError('CHECK_DEVICE_STATE', 'the transfer has not ended'))
        // The front end is told that nothing was moved: so it stays.
        transfer.close()
      }
      timer = setTimeout(give, stateTimeout)
    })
    const outcome = await Promise.race([transfer.ended, late])
    clearTimeout(timer)
    if (outcome !== undefined) throw outcome
    return encodeNumber(0n)
  },
}

/** Requests that have an answer of their own, whether one is asked for or not. */
export const answered: ReadonlySet<KnownRequest> = new Set<KnownRequest>([
  'GET_FEATURES',
  'GET_PROTOCOL_FEATURES',
  'GET_QUEUE_NUM',
  'GET_VRING_BASE',
  'GET_CONFIG',
  'GET_INFLIGHT_FD',
  'GET_MAX_MEM_SLOTS',
  'GET_STATUS',
  'SET_LOG_BASE',
  'SET_DEVICE_STATE_FD',
  'CHECK_DEVICE_STATE',
])

/** Carries a request out, as far as it takes no time; returns its answer. */
export function carryOut(
  connection: Connection,
  request: RequestValue,
  files: readonly PassedFile[],
): Answer | undefined {
  const gate = gates[request.name]
  if (gate !== undefined && !has(connection, gate))
    throw protocolError(request.name, 'its protocol feature was not accepted')
  const handler = handlers[request.name] as
    ((connection: Connection, value: RequestValue, files: readonly PassedFile[]) => Answer | void) | undefined
  return handler?.(connection, request, files) ?? undefined
}
