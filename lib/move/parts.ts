// A snapshot as device parts of virtio 1.4, and back. What the specification has a part for is in that part; the rest is in parts that are clearly our own: above the
// specification's range, and marked.

import { checkArray, checkObject, rangeError } from '../base/checks.js'
import { vdpaError } from '../base/errors.js'
import { tableCommand } from '../control/control-state.js'
import type { ControlCommand, DeviceSnapshot, QueueState } from '../device/snapshot.js'
import { DEVICE_PART_OPTIONAL, devicePartTypes, virtioDevPartVqCfg, type DevicePart } from '../uapi/device-parts.js'
import { netCommandOf } from '../uapi/virtio-net-commands.js'
import { bytesOf, checkSnapshot } from './check-snapshot.js'

/** Types of this package's own parts, in the range that the specification reserves. The value of each begins with `vhost-vdpa` and a version of two bytes. */
export const ownPartTypes = {
  /** All that no other part has, as JSON. */
  STATE: 0xfd00,
  /** Where a ring stands: the available and the used position, two bytes each. The selector begins with the queue's index, as in VQ_CFG. */
  RING_POSITION: 0xfd01,
  /** What a control command has set that NET_CONTROL does not provide for, with the same selector. */
  NET_CONTROL: 0xfd02,
} as const

const MARK = new TextEncoder().encode('vhost-vdpa')
const VERSION = 1
const HEAD_BYTES = MARK.length + 2
/** A queue that interrupts by no vector. */
const NO_VECTOR = 0xffff
const VLAN = 'VIRTIO_NET_CTRL_VLAN_ADD'
/** The classes of commands that NET_CONTROL provides for: RX, MAC, VLAN, ANNOUNCE, MQ. */
const CLASSES = 5

/** What was read of a list of parts. */
export interface ReadParts {
  /** The snapshot, looked through. */
  readonly snapshot: DeviceSnapshot
  /** Optional parts that this package does not know, for passing on. */
  readonly kept: readonly DevicePart[]
}

/** A snapshot as parts, with `kept` behind them. Errors of checkSnapshot(). */
export function snapshotToParts(snapshot: DeviceSnapshot, kept: readonly DevicePart[] = []): DevicePart[] {
  const it = checkSnapshot(snapshot)
  const { features, status, queues, control, ...rest } = it
  const own = queues.map(({ index, asid, descriptorAsid, books, isControl }) => {
    return { index, asid, descriptorAsid, books, isControl }
  })
  return [
    part(devicePartTypes.DRV_FEATURES, [], word64(BigInt(features))),
    part(devicePartTypes.DEVICE_STATUS, [], Uint8Array.of(status)),
    ...queues.map((queue) => part(devicePartTypes.VQ_CFG, le16(queue.index), vqCfg(queue))),
    ...queues.flatMap(({ index, position }) => {
      if (position === null) return []
      const value = Uint8Array.of(...le16(position.available), ...le16(position.used))
      return [part(ownPartTypes.RING_POSITION, le16(index), marked(value))]
    }),
    ...controlParts(control),
    part(ownPartTypes.STATE, [], marked(new TextEncoder().encode(JSON.stringify({ ...rest, queues: own })))),
    ...kept,
  ]
}

/**
 * The snapshot in a list of parts, looked through as what comes from elsewhere. Optional parts that are not known are kept; ERR_VDPA_NOT_SUPPORTED names a required one,
 * and what is missing. Errors of checkSnapshot().
 */
export function snapshotFromParts(parts: readonly DevicePart[]): ReadParts {
  checkArray(parts, 'parts')
  const reader = new PartReader()
  for (const one of parts) {
    checkObject(one, 'a part')
    reader.read(one)
  }
  return { snapshot: checkSnapshot(reader.snapshot()), kept: reader.kept }
}

class PartReader {
  readonly kept: DevicePart[] = []
  readonly #control: ControlCommand[] = []
  readonly #queues = new Map<number, { cfg?: object; position?: object }>()
  #features: string | undefined
  #status: number | undefined
  #state: Record<string, unknown> | undefined

  read(one: DevicePart): void {
    const { type, flags, selector, value } = one
    if (type === devicePartTypes.DRV_FEATURES) this.#features = featuresOf(value)
    else if (type === devicePartTypes.DEVICE_STATUS) this.#status = sized(value, 1, 'DEVICE_STATUS')[0]
    else if (type === devicePartTypes.VQ_CFG) this.#queue(selector).cfg = cfgOf(sized(value, 32, 'VQ_CFG'))
    else if (type === ownPartTypes.RING_POSITION) this.#queue(selector).position = positionOf(unmarked(value))
    else if (type === devicePartTypes.NET_CONTROL) this.#control.push(...commandsOf(selector, value))
    else if (type === ownPartTypes.NET_CONTROL) this.#control.push(...commandsOf(selector, unmarked(value)))
    else if (type === ownPartTypes.STATE) this.#state = stateOf(unmarked(value))
    else if ((flags & DEVICE_PART_OPTIONAL) !== 0) this.kept.push(one)
    else throw unknownPart(`a part of type 0x${type.toString(16)} is required, and nothing is known of it`)
  }

  snapshot(): unknown {
    if (this.#features === undefined) throw unknownPart('the part DRV_FEATURES is missing')
    if (this.#status === undefined) throw unknownPart('the part DEVICE_STATUS is missing')
    const state = this.#state
    if (state === undefined)
      throw unknownPart('the part with what only this package knows is missing: where rings stand is in no other')
    const own = state['queues']
    if (!Array.isArray(own)) throw rangeError('the own part', 'such that it has the queues', own)
    const queues = (own as readonly unknown[]).map((queue) => {
      const known = { ...(queue as Record<string, unknown> | null) }
      const index = Number(known['index'])
      const { cfg, position = null } = this.#queues.get(index) ?? {}
      this.#queues.delete(index)
      return { ...known, ...cfg, position }
    })
    for (const index of this.#queues.keys()) throw rangeError('the own part', `such that it has queue ${index}`, own)
    return { ...state, queues, features: this.#features, status: this.#status, control: this.#control }
  }

  #queue(selector: Uint8Array): { cfg?: object; position?: object } {
    const index = number16(selector, 0)
    let queue = this.#queues.get(index)
    if (queue === undefined) this.#queues.set(index, (queue = {}))
    return queue
  }
}

function unknownPart(text: string): Error {
  return vdpaError('ERR_VDPA_NOT_SUPPORTED', text, { request: 'device parts' })
}

function part(type: number, selector: readonly number[], value: Uint8Array): DevicePart {
  const place = new Uint8Array(8)
  place.set(selector)
  return { type, flags: 0, selector: place, value }
}

function controlParts(control: readonly ControlCommand[]): DevicePart[] {
  const result: DevicePart[] = []
  for (let at = 0; at < control.length; at++) {
    const { name, payload } = control[at] as ControlCommand
    const { class: commandClass, command } = tableCommand(name)
    // VLANs are one table, so that those which follow one another are one part.
    let text = payload
    while (name === VLAN && control[at + 1]?.name === VLAN) text += control[++at]?.payload ?? ''
    const value = bytesOf(text)
    const selector = [commandClass, command]
    if (commandClass < CLASSES) result.push(part(devicePartTypes.NET_CONTROL, selector, value))
    else result.push(part(ownPartTypes.NET_CONTROL, selector, marked(value)))
  }
  return result
}

function commandsOf(selector: Uint8Array, value: Uint8Array): ControlCommand[] {
  const [commandClass = 0, number = 0] = selector
  const command = netCommandOf(commandClass, number)
  if (command === undefined) throw unknownPart(`no control command is of class ${commandClass} and number ${number}`)
  const digits = hexBytes(value)
  const payloads = command.name === VLAN ? (digits.match(/.{1,4}/g) ?? []) : [digits]
  return payloads.map((payload) => ({ name: command.name, payload }))
}

function vqCfg({ size, isEnabled, addresses }: QueueState): Uint8Array {
  return virtioDevPartVqCfg.encode({
    queue_size: size,
    vector: NO_VECTOR,
    enabled: isEnabled ? 1 : 0,
    reserved: 0,
    queue_desc: BigInt(addresses.descriptor),
    queue_driver: BigInt(addresses.driver),
    queue_device: BigInt(addresses.device),
  })
}

function cfgOf(value: Uint8Array): Pick<QueueState, 'size' | 'isEnabled' | 'addresses'> {
  const { queue_size, enabled, queue_desc, queue_driver, queue_device } = virtioDevPartVqCfg.decode(value)
  const addresses = { descriptor: hex(queue_desc), driver: hex(queue_driver), device: hex(queue_device) }
  return { size: queue_size, isEnabled: enabled !== 0, addresses }
}

/** A list of words, the lowest bits first: only 64 can be negotiated through vhost-vdpa. */
function featuresOf(value: Uint8Array): string {
  if (value.length === 0 || value.length % 8 !== 0) throw rangeError('DRV_FEATURES', 'words of 8 bytes', value.length)
  const view = new DataView(value.buffer, value.byteOffset, value.byteLength)
  for (let at = 8; at < value.length; at += 8)
    if (view.getBigUint64(at, true) !== 0n)
      throw unknownPart('features beyond bit 63 were negotiated, which vhost-vdpa does not have')
  return hex(view.getBigUint64(0, true))
}

function positionOf(value: Uint8Array): QueueState['position'] & object {
  sized(value, 4, 'a ring position')
  return { available: number16(value, 0), used: number16(value, 2) }
}

function stateOf(value: Uint8Array): Record<string, unknown> {
  try {
    return Object(JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(value))) as Record<string, unknown>
  } catch {
    throw rangeError('the own part', 'JSON', value)
  }
}

function sized(value: Uint8Array, length: number, name: string): Uint8Array {
  if (value.length !== length) throw rangeError(name, `${length} bytes long`, value.length)
  return value
}

function marked(value: Uint8Array): Uint8Array {
  return Uint8Array.of(...MARK, ...le16(VERSION), ...value)
}

function unmarked(value: Uint8Array): Uint8Array {
  const isOurs = value.length >= HEAD_BYTES && MARK.every((byte, at) => value[at] === byte)
  if (!isOurs || number16(value, MARK.length) !== VERSION)
    throw unknownPart('a part of a private type is not of this package, or of another version of it')
  return value.slice(HEAD_BYTES)
}

function le16(value: number): [number, number] {
  return [value & 0xff, value >>> 8]
}

function number16(bytes: Uint8Array, at: number): number {
  return (bytes[at] ?? 0) + 256 * (bytes[at + 1] ?? 0)
}

function word64(word: bigint): Uint8Array {
  return Uint8Array.from({ length: 8 }, (_, at) => Number((word >> BigInt(8 * at)) & 0xffn))
}

function hex(word: bigint): string {
  return `0x${word.toString(16)}`
}

function hexBytes(value: Uint8Array): string {
  return Array.from(value, (byte) => byte.toString(16).padStart(2, '0')).join('')
}
