// A driver of one network device by hand: frames and commands through rings, with the header and buffers as the test says.

import { expect } from '@jest/globals'
import type { NetworkDevice } from '../../lib/models/network-options.js'
import type { Simulator } from '../../lib/simulator/simulator.js'
import { netFeatureBits as net } from '../../lib/uapi/virtio-features.js'
import { parseMac } from '../../lib/uapi/virtio-net.js'
import { netCommands, type NetCommandName, type NetCommandPayload } from '../../lib/uapi/virtio-net-commands.js'
import { send, VERSION_AND_PLATFORM } from '../simulator/support.js'
import { drive, type Driven } from './support.js'

export interface HostOptions {
  readonly simulator?: Simulator
  /** Bit numbers besides VERSION_1 and ACCESS_PLATFORM. */
  readonly features?: readonly number[]
  readonly size?: number
}

export const HEADER = 12
export const TX = 0x10_0000
export const RX = 0x20_0000
export const COMMAND = 0x30_0000
export const ALL = 'ff:ff:ff:ff:ff:ff'
export const OTHER = '02:aa:bb:cc:dd:ee'
export const GROUP = '01:00:5e:00:00:01'
export const CONTROL: readonly number[] = [net.VIRTIO_NET_F_CTRL_VQ, net.VIRTIO_NET_F_CTRL_MAC_ADDR]
export const FILTERS = [
  ...CONTROL,
  net.VIRTIO_NET_F_CTRL_RX,
  net.VIRTIO_NET_F_CTRL_RX_EXTRA,
  net.VIRTIO_NET_F_CTRL_VLAN,
]

export function frame(to: string, length = 60, tag?: number): Uint8Array {
  const bytes = Uint8Array.from({ length }, (_, index) => index & 0xff)
  bytes.set(parseMac(to))
  if (tag === undefined) bytes.set([0x08, 0x00], 12)
  else bytes.set([0x81, 0, tag >> 8, tag & 0xff], 12)
  return bytes
}

export class Host {
  readonly running: Driven
  readonly #control: number

  constructor(device: NetworkDevice, { features = [], ...options }: HostOptions = {}) {
    const word = features.reduce((bits, number) => bits | (1n << BigInt(number)), VERSION_AND_PLATFORM)
    this.running = drive(device, { size: 256, ...options, features: word, memory: 0x40_0000 })
    this.#control = device.queueCount - 1
  }

  queue(index: number) {
    const queue = this.running.queues[index]
    if (queue === undefined) throw new Error(`no queue ${index}`)
    return queue
  }

  /** Gives the device receive buffers of the same size. */
  offer(count: number, size = 2048, queue = 0): void {
    for (let index = 0; index < count; index++)
      send(this.queue(queue), [[BigInt(RX + index * size), size, true]], index)
  }

  transmit(bytes: Uint8Array, queue = 1): void {
    this.running.bytes.fill(0, TX, TX + HEADER)
    this.running.bytes.set(bytes, TX + HEADER)
    send(this.queue(queue), [
      [BigInt(TX), HEADER, false],
      [BigInt(TX + HEADER), bytes.byteLength, false],
    ])
    this.running.simulator.drain()
    while (this.queue(queue).ring.take() >= 0);
  }

  /** Frames received so far, without their headers, in buffers of `size`. */
  received(size = 2048, queue = 0): Uint8Array[] {
    const frames: Uint8Array[] = []
    const { ring } = this.queue(queue)
    for (let token = ring.take(); token >= 0; token = ring.take()) {
      const at = RX + token * size
      frames.push(this.running.bytes.slice(at + HEADER, at + ring.usedLength))
    }
    return frames
  }

  /** Whether a frame comes back. */
  loops(bytes: Uint8Array): boolean {
    this.offer(1)
    this.transmit(bytes)
    const [back] = this.received()
    if (back !== undefined) expect(Buffer.compare(back, bytes)).toBe(0)
    return back !== undefined
  }

  /** The acknowledgement of a command. */
  command<N extends NetCommandName>(name: N, value: NetCommandPayload<N>): number {
    const entry = netCommands[name]
    return this.raw(Uint8Array.of(entry.class, entry.command), entry.encode(value as never))
  }

  raw(head: Uint8Array, payload: Uint8Array): number {
    const { bytes, simulator } = this.running
    bytes.set(head, COMMAND)
    bytes.set(payload, COMMAND + 16)
    bytes[COMMAND + 0x8000] = 0xff
    const segments: [bigint, number, boolean][] = [[BigInt(COMMAND), head.byteLength, false]]
    if (payload.byteLength > 0) segments.push([BigInt(COMMAND + 16), payload.byteLength, false])
    segments.push([BigInt(COMMAND + 0x8000), 1, true])
    send(this.queue(this.#control), segments)
    simulator.drain()
    expect(this.queue(this.#control).ring.take()).toBe(0)
    return bytes[COMMAND + 0x8000] ?? 0xff
  }
}
