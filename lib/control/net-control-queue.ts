// The control virtqueue of a network device (spec section 5.1.6.5): commands by name, with the payloads of the one table in uapi/virtio-net-commands.ts.

import { bit } from '../base/bits.js'
import { checkInteger, checkObject, plainBytes, toU64, typeError } from '../base/checks.js'
import type { Closeable } from '../base/closeable.js'
import { isVdpaError, vdpaError } from '../base/errors.js'
import { netAck, type NetConfig } from '../uapi/virtio-net.js'
import {
  netCommandOf,
  netCommands,
  netFeatureBit,
  netGuestOffloads,
  type NetCommand,
  type NetCommandAnswer,
  type NetCommandFeature,
  type NetCommandName,
  type NetCommandPayload,
} from '../uapi/virtio-net-commands.js'
import { checkMacTable, type Coalescing, type MacTable } from '../uapi/virtio-net-payloads.js'
import type { QueueStats, QueueStatsWish } from '../uapi/virtio-net-stats.js'
import type { HashConfig, RssConfig } from '../uapi/virtio-net-steering.js'
import type { BreakdownHost } from './breakdown.js'
import { SLOT_BYTES } from './command-memory.js'
import {
  type CommandFate,
  ControlQueue,
  type CommandOptions,
  type ControlAnswer,
  type ControlPort,
  type ExchangeOptions,
} from './control-queue.js'
import { checkCommands, ControlState, tableCommand, type StateCommand } from './control-state.js'
import { answerRoom, checkNetLimits } from './net-limits.js'
import { tellQueuePairs, type PairsEvent } from './queue-pairs.js'

/** What a control queue needs of an open device; VdpaDevice has it. */
export interface ControlHost<Space> extends BreakdownHost {
  /** What was negotiated; undefined where nothing is. */
  readonly features: { has(feature: number): boolean } | undefined
  /** Where the device says what it can. Where it is absent, what is too much is for the device to refuse. */
  readonly config?: { net(): NetConfig }
  /** Makes the control queue, its ring and `bufferBytes` beside it mapped in `addressSpace`. ERR_VDPA_NOT_SUPPORTED when there is none. */
  createQueue(
    index: 'control',
    options: {
      readonly addressSpace: Space
      readonly bufferBytes: number
      readonly size?: number
      readonly owner?: string
    },
  ): Promise<ControlPort>
}

/** How a network device's control queue is made. */
export interface NetControlOptions {
  /** Milliseconds to wait for an acknowledgement; default 10,000. */
  readonly timeout?: number
  /** Descriptors of the ring, 2 or more. */
  readonly size?: number
}

type Told = Pick<ControlHost<unknown>, 'path' | 'features' | 'config'>

const HEAD_BYTES = 2
/** Room for the longest command that the table knows, an RSS configuration of 32768 entries (65,593 bytes), and some short ones beside it. */
const BUFFER_BYTES = 20 * SLOT_BYTES

/** The commands of a network device by name. They may be given one after another without waiting; they are carried out in that order. */
export class NetControlQueue implements Closeable {
  readonly #queue: ControlQueue
  readonly #device: Told
  readonly #state = new ControlState()

  private constructor(queue: ControlQueue, device: Told) {
    this.#queue = queue
    this.#device = device
  }

  /**
   * Makes the control queue of a device in `addressSpace`, before device.start(); commands are answered after it. The space must be that of the queue's
   * group. ERR_VDPA_NOT_SUPPORTED when VIRTIO_NET_F_CTRL_VQ was not negotiated. A device that breaks down ends every command with ERR_VDPA_DEVICE_BROKEN.
   */
  static async start<Space>(
    device: ControlHost<Space>,
    addressSpace: Space,
    options: NetControlOptions = {},
  ): Promise<NetControlQueue> {
    // All that can be wrong with the arguments is found before the device is asked for anything.
    checkObject(options, 'options')
    const { timeout = 10_000, size } = options
    checkInteger(timeout, 'timeout', 1, 0x7fff_ffff)
    if (size !== undefined) checkInteger(size, 'size', 2, 0x8000)
    checkHost(device)
    const port = await device.createQueue('control', NetControlQueue.queueOptions(addressSpace, size))
    try {
      return NetControlQueue.over(device, port, timeout)
    } catch (failure) {
      await port.close().catch(() => undefined)
      throw failure
    }
  }

  /** @internal How its queue is made. */
  static queueOptions<Space>(addressSpace: Space, size: number | undefined) {
    return { addressSpace, bufferBytes: BUFFER_BYTES, owner: 'a NetControlQueue', ...(size !== undefined && { size }) }
  }

  /** @internal On a queue that was made so. */
  static over(device: ControlHost<never>, port: ControlPort, timeout = 10_000): NetControlQueue {
    return new NetControlQueue(new ControlQueue(port, device.path, timeout, device), device)
  }

  /** True from close() on, or when the device was closed or reset. */
  get isClosed(): boolean {
    return this.#queue.isClosed
  }

  /** @internal Whether it is the control queue of a device. */
  isOf(device: object): boolean {
    return this.#device === device
  }

  /** @internal Whether it is the one that drives a queue of a device. */
  drives(queue: object): boolean {
    return this.#queue.drives(queue)
  }

  /** Bytes of the longest payload. */
  get maxPayloadBytes(): number {
    return this.#queue.maxCommandBytes - HEAD_BYTES
  }

  /**
   * Sends a command and resolves, when the device has acknowledged it, with its answer, which most commands do not have. ERR_VDPA_NOT_SUPPORTED, and nothing is
   * sent, when the feature that the command needs was not negotiated; RangeError, and nothing is sent, when it asks for more than the device's configuration says
   * it can (queues, hash and tunnel types, the length of a key or of an indirection table: spec section 5.1.4); ERR_VDPA_REFUSED when the device says no, or answers
   * what is none; ERR_VDPA_TIMEOUT when it says nothing.
   */
  async send<N extends NetCommandName>(
    name: N,
    payload: NetCommandPayload<N>,
    options: CommandOptions = {},
  ): Promise<NetCommandAnswer<N>> {
    const command = tableCommand(name) as unknown as NetCommand<NetCommandPayload<N>, NetCommandAnswer<N>>
    const bytes = command.encode(payload)
    const table = netCommands.VIRTIO_NET_CTRL_MAC_TABLE_SET
    if (name === table.name) checkMacTable(table.decode(bytes))
    this.#checkFeatures(name, command.feature, payload)
    const { config } = this.#device
    if (config !== undefined) checkNetLimits(name, bytes, () => config.net())
    return this.#send(name, payload, bytes, options)
  }

  async #send<N extends NetCommandName>(
    name: N,
    payload: NetCommandPayload<N>,
    bytes: Uint8Array,
    options: CommandOptions,
  ): Promise<NetCommandAnswer<N>> {
    const command = tableCommand(name) as unknown as NetCommand<NetCommandPayload<N>, NetCommandAnswer<N>>
    const answerBytes = answerRoom(command.answer, payload, this.maxPayloadBytes - bytes.length)
    const { ack, answer } = await this.#exchange(command, bytes, { ...options, answerBytes })
    if (ack !== netAck.VIRTIO_NET_OK)
      throw this.#refused(name, `the device refused the command (acknowledgement ${ack})`)
    if (command.answer === undefined) return undefined as NetCommandAnswer<N>
    try {
      return command.answer.decode(answer)
    } catch (cause) {
      throw this.#refused(name, `the answer of ${answer.length} bytes is none of this command`, cause)
    }
  }

  /**
   * Sends a command that need not be in the table, its feature unchecked: the two-byte head and `payload`. Resolves with whatever the device answered, a
   * refusal included: the acknowledgement (0 is VIRTIO_NET_OK) and up to `answerBytes` bytes behind it. Errors of ControlQueue.exchange().
   */
  async sendRaw(
    commandClass: number,
    command: number,
    payload: Uint8Array = new Uint8Array(0),
    options?: ExchangeOptions,
  ): Promise<ControlAnswer> {
    checkInteger(commandClass, 'commandClass', 0, 0xff)
    checkInteger(command, 'command', 0, 0xff)
    return this.#exchange({ class: commandClass, command }, plainBytes(payload, 'payload'), options)
  }

  /**
   * The commands that bring a device that was reset to where this one is: what was acknowledged on this queue and still counts, in the order of sending. Plain data,
   * for replay() on this or another device.
   */
  commands(): StateCommand[] {
    return this.#state.commands()
  }

  /**
   * Commands of which it is not known whether the device has carried them out: they were sent, and no answer came (a timeout, a cancellation, a device that broke down). What commands() says of
   * the same thing may not hold. An answer that comes late settles it, and so does a later command about the same thing; a reset of the device, which ends this queue, settles all of it.
   */
  uncertain(): StateCommand[] {
    return this.#state.uncertain()
  }

  /** Sends what commands() gave, one after another. Errors of send(); what came before the one that failed is in force. RangeError for a list that is none. */
  async replay(commands: readonly StateCommand[], options?: CommandOptions): Promise<void> {
    // What a device has taken once, from a guest perhaps, is not refused here.
    for (const { name, value, payload } of checkCommands(commands)) {
      this.#checkFeatures(name, tableCommand(name).feature, value)
      await this.#send(name, value as never, payload, options ?? {})
    }
  }

  /** Sends a command, and tells who sends frames what it says of queue pairs: before the device knows, and when it has answered. */
  async #exchange(
    head: CommandHead,
    payload: Uint8Array,
    options: ExchangeOptions | undefined,
  ): Promise<ControlAnswer> {
    const bytes = concat(head, payload)
    const pairs = options?.signal?.aborted === true ? undefined : pairsOf(head, payload)
    const told = { pairs: pairs ?? 0 }
    const tell = (event: PairsEvent) => pairs !== undefined && tellQueuePairs(this.#device, event, told)
    tell('asked')
    let settle: (ack: number | undefined) => void = () => undefined
    const fate: CommandFate = { isSent: false, onLate: (ack) => settle(ack) }
    let answer: ControlAnswer
    try {
      answer = await this.#queue.exchangeTold(bytes, options ?? {}, fate)
    } catch (failure) {
      if (fate.isSent) settle = this.#state.doubt(head.class, head.command, bytes.subarray(HEAD_BYTES))
      if (!isVdpaError(failure) || failure.code === 'ERR_VDPA_CLOSED') tell('refused')
      throw failure
    }
    const isDone = answer.ack === netAck.VIRTIO_NET_OK
    if (isDone) this.#state.note(head.class, head.command, bytes.subarray(HEAD_BYTES))
    tell(isDone ? 'acknowledged' : 'refused')
    return answer
  }

  #checkFeatures(name: NetCommandName, feature: NetCommandFeature, payload: unknown): void {
    this.#checkFeature(name, feature)
    if (name !== 'VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET') return
    const offloads = toU64(payload, 'offloads')
    for (const [number, needed] of netGuestOffloads)
      if ((offloads & bit(number)) !== 0n) this.#checkFeature(name, needed)
  }

  #checkFeature(name: NetCommandName, feature: NetCommandFeature): void {
    const number = netFeatureBit(feature)
    // A word of 64 bits is all that vhost-vdpa negotiates.
    if (number < 64 && this.#device.features?.has(number) === true) return
    const text =
      number < 64
        ? `the command needs ${feature}, which was not negotiated`
        : `the command needs ${feature} (bit ${number}), which vhost-vdpa cannot negotiate: it has 64 bits`
    throw vdpaError('ERR_VDPA_NOT_SUPPORTED', text, { path: this.#device.path, request: name })
  }

  #refused(name: NetCommandName, text: string, cause?: unknown): Error {
    const details = { path: this.#device.path, request: name }
    return vdpaError('ERR_VDPA_REFUSED', text, cause === undefined ? details : { ...details, cause })
  }

  /** The address of the device, as `02:00:00:00:00:01`. Needs VIRTIO_NET_F_CTRL_MAC_ADDR. */
  setMacAddress(mac: string, options?: CommandOptions): Promise<void> {
    return this.send('VIRTIO_NET_CTRL_MAC_ADDR_SET', mac, options)
  }

  /** Which addresses to receive besides the device's own. RangeError for one that is in the wrong of the two lists. Needs VIRTIO_NET_F_CTRL_RX. */
  setMacTable(table: MacTable, options?: CommandOptions): Promise<void> {
    return this.send('VIRTIO_NET_CTRL_MAC_TABLE_SET', table, options)
  }

  /** Receives every frame. Needs VIRTIO_NET_F_CTRL_RX. */
  setPromiscuous(isOn: boolean, options?: CommandOptions): Promise<void> {
    return this.send('VIRTIO_NET_CTRL_RX_PROMISC', isOn, options)
  }

  /** Receives every multicast frame. Needs VIRTIO_NET_F_CTRL_RX. */
  setAllMulticast(isOn: boolean, options?: CommandOptions): Promise<void> {
    return this.send('VIRTIO_NET_CTRL_RX_ALLMULTI', isOn, options)
  }

  /** Receives frames of a VLAN. RangeError outside 0..4095. Needs VIRTIO_NET_F_CTRL_VLAN. */
  async addVlan(vlan: number, options?: CommandOptions): Promise<void> {
    checkInteger(vlan, 'vlan', 0, 4095)
    return this.send('VIRTIO_NET_CTRL_VLAN_ADD', vlan, options)
  }

  /** Receives frames of a VLAN no more. RangeError outside 0..4095. Needs VIRTIO_NET_F_CTRL_VLAN. */
  async removeVlan(vlan: number, options?: CommandOptions): Promise<void> {
    checkInteger(vlan, 'vlan', 0, 4095)
    return this.send('VIRTIO_NET_CTRL_VLAN_DEL', vlan, options)
  }

  /** How many queue pairs carry traffic: 1 to what the device has, 32,768 at most. Needs VIRTIO_NET_F_MQ. */
  async setQueuePairs(pairs: number, options?: CommandOptions): Promise<void> {
    checkInteger(pairs, 'pairs', 1, 0x8000)
    return this.send('VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET', pairs, options)
  }

  /** Which offloads the driver accepts now, as feature bits. Needs VIRTIO_NET_F_CTRL_GUEST_OFFLOADS. */
  setGuestOffloads(offloads: bigint, options?: CommandOptions): Promise<void> {
    return this.send('VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET', offloads, options)
  }

  /** Tells the device that its announcement was made. Needs VIRTIO_NET_F_GUEST_ANNOUNCE. */
  acknowledgeAnnouncement(options?: CommandOptions): Promise<void> {
    return this.send('VIRTIO_NET_CTRL_ANNOUNCE_ACK', undefined, options)
  }

  /** How received packets are spread, by a hash of their own. Needs VIRTIO_NET_F_RSS. */
  configureRss(config: RssConfig, options?: CommandOptions): Promise<void> {
    return this.send('VIRTIO_NET_CTRL_MQ_RSS_CONFIG', config, options)
  }

  /** Which hash headers of received packets report. Needs VIRTIO_NET_F_HASH_REPORT. */
  configureHash(config: HashConfig, options?: CommandOptions): Promise<void> {
    return this.send('VIRTIO_NET_CTRL_MQ_HASH_CONFIG', config, options)
  }

  /** Tunnels whose inner packet is hashed: bits of `netTunnelTypes`. Needs VIRTIO_NET_F_HASH_TUNNEL. */
  setTunnels(types: number, options?: CommandOptions): Promise<void> {
    return this.send('VIRTIO_NET_CTRL_HASH_TUNNEL_SET', types, options)
  }

  /** When the device notifies of one virtqueue, by its index. Needs VIRTIO_NET_F_VQ_NOTF_COAL. */
  setCoalescing(queue: number, coalescing: Coalescing, options?: CommandOptions): Promise<void> {
    return this.send('VIRTIO_NET_CTRL_NOTF_COAL_VQ_SET', { queue, ...coalescing }, options)
  }

  /** What holds for one virtqueue. Needs VIRTIO_NET_F_VQ_NOTF_COAL. */
  coalescing(queue: number, options?: CommandOptions): Promise<Coalescing> {
    return this.send('VIRTIO_NET_CTRL_NOTF_COAL_VQ_GET', queue, options)
  }

  /** The kinds of statistics that the device has, as a word: bit numbers are in `netStatsTypes`. Needs VIRTIO_NET_F_DEVICE_STATS. */
  statisticsKinds(options?: CommandOptions): Promise<bigint> {
    return this.send('VIRTIO_NET_CTRL_STATS_QUERY', undefined, options)
  }

  /** Statistics of some virtqueues, counters and kinds of newer devices included, as `counter_<n>`; kinds that the device does not have, or not of that queue, are ERR_VDPA_REFUSED. Needs VIRTIO_NET_F_DEVICE_STATS. */
  statistics(queues: readonly QueueStatsWish[], options?: CommandOptions): Promise<readonly QueueStats[]> {
    return this.send('VIRTIO_NET_CTRL_STATS_GET', queues, options)
  }

  /** Closes the queue; VdpaDevice.close() and reset() do it as well. Close it before that only when the device is stopped. */
  close(): Promise<void> {
    return this.#queue.close()
  }

  /** Ends the use of the queue; where the device runs, the queue ends with that. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.#queue[Symbol.asyncDispose]()
  }
}

type CommandHead = Pick<NetCommand<unknown, unknown>, 'class' | 'command'>

function concat(head: CommandHead, payload: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(HEAD_BYTES + payload.byteLength)
  bytes[0] = head.class
  bytes[1] = head.command
  bytes.set(payload, HEAD_BYTES)
  return bytes
}

/** How many pairs the device serves after this command (spec section 5.1.6.5.5 and 5.1.6.5.7); undefined for one that says nothing of them. */
function pairsOf(head: CommandHead, payload: Uint8Array): number | undefined {
  const { VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET: pairs, VIRTIO_NET_CTRL_MQ_RSS_CONFIG: rss } = netCommands
  const name = netCommandOf(head.class, head.command)?.name
  try {
    if (name === pairs.name) return pairs.decode(payload)
    return name === rss.name ? rss.decode(payload).maxTxVq : undefined
  } catch {
    // What cannot be understood is for the device to refuse.
    return undefined
  }
}

function checkHost(device: unknown): void {
  if (typeof (device as Partial<ControlHost<unknown>> | null | undefined)?.createQueue !== 'function')
    throw typeError('device', 'an open device', device)
}
