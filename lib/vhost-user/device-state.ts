// The state of a device that a front end carries elsewhere: the commands that set again what its control queue has set, as device parts of virtio 1.4. Guest memory and where rings stand are
// not in it: front ends carry these themselves.

import { vdpaError, type VdpaError } from '../base/errors.js'
import { decodeDeviceParts, devicePartTypes, encodeDeviceParts, type DevicePart } from '../uapi/device-parts.js'
import { deviceIds } from '../uapi/virtio-ids.js'
import { netCommandOf, netCommands, type NetCommandName, type StateCommand } from '../uapi/virtio-net-commands.js'

/** Bytes of the longest state that is read. */
export const STATE_LAST = 1 << 20
/** The part that says whose state it is, in the range that the specification reserves: a mark, a version of two bytes, and the virtio device id in four. */
const HEAD = 0xfd03
const MARK = new TextEncoder().encode('vhost-vdpa')
const VERSION = 1

/** What a device is after it was moved. */
export interface DeviceState {
  readonly deviceId: number
  /** In the order of sending. */
  readonly commands: readonly StateCommand[]
}

/** A state as bytes. */
export function encodeDeviceState({ deviceId, commands }: DeviceState): Uint8Array {
  const head = new Uint8Array(MARK.length + 6)
  head.set(MARK)
  const view = new DataView(head.buffer)
  view.setUint16(MARK.length, VERSION, true)
  view.setUint32(MARK.length + 2, deviceId, true)
  const parts = commands.map(({ name, payload }) => {
    const { class: commandClass, command } = netCommands[name]
    return part(devicePartTypes.NET_CONTROL, payload, [commandClass, command])
  })
  return encodeDeviceParts([part(HEAD, head), ...parts])
}

/** The state in bytes that came from elsewhere, for a device of the kind `deviceId`. ERR_VDPA_PROTOCOL says what is wrong with them. */
export function decodeDeviceState(bytes: Uint8Array, deviceId: number): DeviceState {
  let parts: DevicePart[]
  try {
    parts = decodeDeviceParts(bytes)
  } catch (failure) {
    throw wrong((failure as Error).message)
  }
  const [head, ...rest] = parts
  if (head?.type !== HEAD || head.value.length !== MARK.length + 6 || MARK.some((byte, at) => head.value[at] !== byte))
    throw wrong('it does not begin as one of this package')
  const view = new DataView(head.value.buffer, head.value.byteOffset)
  const version = view.getUint16(MARK.length, true)
  if (version !== VERSION) throw wrong(`its version is ${version}, and ${VERSION} is known`)
  const of = view.getUint32(MARK.length + 2, true)
  if (of !== deviceId) throw wrong(`it is of a device of kind ${of}, and this one is of kind ${deviceId}`)
  if (deviceId !== deviceIds.net && rest.length > 0) throw wrong('it has commands, and the device has no control queue')
  return { deviceId, commands: rest.map(commandOf) }
}

function commandOf({ type, selector, value: payload }: DevicePart): StateCommand {
  const [commandClass = 0, number = 0] = selector
  const command = type === devicePartTypes.NET_CONTROL ? netCommandOf(commandClass, number) : undefined
  if (command === undefined) throw wrong(`a part of type 0x${type.toString(16)} sets nothing that is known`)
  try {
    command.decode(payload)
  } catch (failure) {
    throw wrong(`${command.name}: ${(failure as Error).message}`)
  }
  return { name: command.name as NetCommandName, payload }
}

function part(type: number, value: Uint8Array, place: readonly number[] = []): DevicePart {
  const selector = new Uint8Array(8)
  selector.set(place)
  return { type, flags: 0, selector, value }
}

function wrong(text: string): VdpaError {
  return vdpaError('ERR_VDPA_PROTOCOL', `the device's state is refused: ${text}`, {
    request: 'VHOST_USER_SET_DEVICE_STATE_FD',
  })
}
