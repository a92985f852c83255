// The control virtqueue of a network device (spec section 5.1.6.5): commands by name, with the payloads of the one table in uapi/virtio-net.ts.

import { checkBytes, checkInteger } from '../base/checks.js'
import type { Closeable } from '../base/closeable.js'
import { isVdpaError, vdpaError } from '../base/errors.js'
import {
  netAck,
  netCommandOf,
  netCommands,
  type MacTable,
  type NetCommand,
  type NetCommandName,
  type NetCommandPayload,
} from '../uapi/virtio-net.js'
import { SLOT_BYTES } from './command-memory.js'
import {
  ControlQueue,
  type CommandOptions,
  type ControlAnswer,
  type ControlPort,
  type ExchangeOptions,
} from './control-queue.js'
import { tellQueuePairs } from './queue-pairs.js'

/** What a control queue needs of an open device; VdpaDevice has it. */
export interface ControlHost<Space> {
  /** Names the device in errors. */
  readonly path: string
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

/** Room for the longest command that the table knows, an RSS configuration of 32768 entries (65,593 bytes), and some short ones beside it. */
const BUFFER_BYTES = 20 * SLOT_BYTES

/** The commands of a network device by name. They may be given one after another without waiting; they are carried out in that order. */
export class NetControlQueue implements Closeable {
  readonly #queue: ControlQueue
  readonly #device: { readonly path: string }

  private constructor(queue: ControlQueue, device: { readonly path: string }) {
    this.#queue = queue
    this.#device = device
  }

  /**
   * Makes the control queue of a device in `addressSpace`, before device.start(); commands are answered after it. The space must be that of the queue's
   * group. ERR_VDPA_NOT_SUPPORTED when VIRTIO_NET_F_CTRL_VQ was not negotiated.
   */
  static async start<Space>(
    device: ControlHost<Space>,
    addressSpace: Space,
    options: NetControlOptions = {},
  ): Promise<NetControlQueue> {
    // All that can be wrong with the arguments is found before the device is asked for anything.
    const { timeout = 10_000, size } = options
    checkInteger(timeout, 'timeout', 1, 0x7fff_ffff)
    if (size !== undefined) checkInteger(size, 'size', 2, 0x8000)
    const port = await device.createQueue('control', {
      addressSpace,
      bufferBytes: BUFFER_BYTES,
      owner: 'a NetControlQueue',
      ...(size !== undefined && { size }),
    })
    try {
      return new NetControlQueue(new ControlQueue(port, device.path, timeout), device)
    } catch (failure) {
      await port.close().catch(() => undefined)
      throw failure
    }
  }

  /** True from close() on, or when the device was closed or reset. */
  get isClosed(): boolean {
    return this.#queue.isClosed
  }

  /** Sends a command and resolves when the device has acknowledged it. ERR_VDPA_REFUSED when the device says no; ERR_VDPA_TIMEOUT when it says nothing. */
  async send<N extends NetCommandName>(
    name: N,
    payload: NetCommandPayload<N>,
    options?: CommandOptions,
  ): Promise<void> {
    const command = netCommands[name] as unknown as NetCommand<NetCommandPayload<N>>
    const { ack } = await this.#exchange(command, command.encode(payload), options)
    if (ack !== netAck.VIRTIO_NET_OK) {
      throw vdpaError('ERR_VDPA_REFUSED', `the device refused the command (acknowledgement ${ack})`, {
        path: this.#device.path,
        request: name,
      })
    }
  }

  /** Sends a command, and tells who sends frames what it says of queue pairs: before the device knows, and when it has answered. */
  async #exchange(
    head: CommandHead,
    payload: Uint8Array,
    options: ExchangeOptions | undefined,
  ): Promise<ControlAnswer> {
    const pairs = options?.signal?.aborted === true ? undefined : pairsOf(head, payload)
    if (pairs === undefined) return this.#queue.exchange(concat(head, payload), options)
    const told = { pairs }
    tellQueuePairs(this.#device, 'asked', told)
    let answer: ControlAnswer
    try {
      answer = await this.#queue.exchange(concat(head, payload), options)
    } catch (failure) {
      if (!isVdpaError(failure) || failure.code === 'ERR_VDPA_CLOSED') tellQueuePairs(this.#device, 'refused', told)
      throw failure
    }
    tellQueuePairs(this.#device, answer.ack === netAck.VIRTIO_NET_OK ? 'acknowledged' : 'refused', told)
    return answer
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
    checkBytes(payload, 'payload')
    return this.#exchange({ class: commandClass, command }, payload, options)
  }

  /** The address of the device, as `02:00:00:00:00:01`. Needs VIRTIO_NET_F_CTRL_MAC_ADDR. */
  setMacAddress(mac: string, options?: CommandOptions): Promise<void> {
    return this.send('VIRTIO_NET_CTRL_MAC_ADDR_SET', mac, options)
  }

  /** Which addresses to receive besides the device's own. Needs VIRTIO_NET_F_CTRL_RX. */
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

  /** How many queue pairs carry traffic: 1 to 32,768, as far as the device has them. Needs VIRTIO_NET_F_MQ. */
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

  /** Closes the queue; VdpaDevice.close() and reset() do it as well. Close it before that only when the device is stopped. */
  close(): Promise<void> {
    return this.#queue.close()
  }

  /** Ends the use of the queue; where the device runs, the queue ends with that. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.#queue[Symbol.asyncDispose]()
  }
}

type CommandHead = Pick<NetCommand<unknown>, 'class' | 'command'>

function concat(head: CommandHead, payload: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(2 + payload.byteLength)
  bytes[0] = head.class
  bytes[1] = head.command
  bytes.set(payload, 2)
  return bytes
}

/** How many pairs the device serves after this command (spec section 5.1.6.5.5 and 5.1.6.5.7); undefined for one that says nothing of them. */
function pairsOf(head: CommandHead, payload: Uint8Array): number | undefined {
  const { VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET: pairs, VIRTIO_NET_CTRL_MQ_RSS_CONFIG: rss } = netCommands
  const entry = netCommandOf(head.class, head.command)
  try {
    if (entry === pairs) return pairs.decode(payload)
    return entry === rss ? rss.decode(payload).maxTxVq : undefined
  } catch {
    // What cannot be understood is for the device to refuse.
    return undefined
  }
}
