// What a network device's control queue does (spec section 5.1.6.5): one command in, an acknowledgement and perhaps an answer out. What each command
// does is in network-control-acts.ts.

import { netAck } from '../uapi/virtio-net.js'
import { netCommandOf, netCommands } from '../uapi/virtio-net-commands.js'
import type { DeviceQueue } from './device-queue.js'
import { carryOut } from './network-control-acts.js'
import type { NetControlTarget } from './network-control-state.js'

const HEAD_BYTES = 2
// The longest command that is listened to: an RSS configuration of 32768 entries, or a MAC table of some thousand addresses.
const COMMAND_BYTES_LAST = 80 * 1024
/** Commands that are answered before frames move. */
const COMMANDS_A_TURN = 64
/** -EFAULT as the unsigned word that vdpa_sim_net writes for a length when the acknowledgement cannot be written. */
const EFAULT_AS_LENGTH = 0xffff_fff2
let scratch = new Uint8Array(256)
const ack = new Uint8Array(1)
const nothing = new Uint8Array(0)
let result: Uint8Array = nothing

/**
 * Carries one command out: VIRTIO_NET_OK, or VIRTIO_NET_ERR for one that is unknown, not negotiated, or malformed. `previous` is the answer to the command
 * before it in the same turn. What stands behind the acknowledgement is left in `result`.
 */
function answer(command: Uint8Array, target: NetControlTarget, previous: number): number {
  const entry = netCommandOf(command[0] ?? 0, command[1] ?? 0)
  result = nothing
  if (target.deviates('net-control-of-vdpa-sim')) return answerAsVdpaSim(entry, command, target, previous)
  const answered = entry && carryOut(entry, command.subarray(HEAD_BYTES), target)
  if (answered === undefined) return netAck.VIRTIO_NET_ERR
  result = answered
  return netAck.VIRTIO_NET_OK
}

/** Only the address can be set; what follows it, and whether commands were negotiated, does not matter. Another class is answered as the command before it was. */
function answerAsVdpaSim(entry: unknown, command: Uint8Array, { state }: NetControlTarget, previous: number): number {
  if (command[0] !== netCommands.VIRTIO_NET_CTRL_MAC_ADDR_SET.class) return previous
  if (entry !== netCommands.VIRTIO_NET_CTRL_MAC_ADDR_SET || command.byteLength < HEAD_BYTES + 6)
    return netAck.VIRTIO_NET_ERR
  state.mac.set(command.subarray(HEAD_BYTES, HEAD_BYTES + 6))
  return netAck.VIRTIO_NET_OK
}

/**
 * Serves the commands that are there, and counts them; true when the turn ended before all were. One that cannot be followed is
 * answered VIRTIO_NET_ERR in its turn; where the answer cannot be written it is used with nothing written. One in memory that the device cannot reach is no
 * command at all: the chain is lost, as a fault of DMA loses it, and gets neither acknowledgement nor interrupt.
 */
export function serveControlQueue(queue: DeviceQueue, target: NetControlTarget): boolean {
  const { counters } = target
  const isVdpaSim = target.deviates('net-control-of-vdpa-sim')
  let last: number = netAck.VIRTIO_NET_ERR
  for (let count = 1; queue.next(); count++) {
    counters.commands++
    const command = readCommand(queue)
    if (command === undefined || command === 'unreachable') counters.commandErrors++
    // vdpa_sim_net forgets the chain, and does not go on by itself.
    if (isVdpaSim && typeof command !== 'object') return false
    if (command !== 'unreachable') {
      last = command === undefined ? netAck.VIRTIO_NET_ERR : answer(command, target, last)
      if (command !== undefined && last !== netAck.VIRTIO_NET_OK) counters.commandErrors++
      acknowledge(queue, last, isVdpaSim)
    }
    // What vdpa_sim_net answers depends on the commands before it in the turn.
    if ((count >= COMMANDS_A_TURN && !isVdpaSim) || target.isTurnOver) return true
  }
  return queue.rest()
}

function acknowledge(queue: DeviceQueue, answered: number, isVdpaSim: boolean): void {
  ack[0] = answered
  const isWritten = queue.write(ack, 0, 1) >= 0
  // As much of the answer as there is room for (section 5.1.6.5.9).
  if (isWritten && answered === netAck.VIRTIO_NET_OK && result.length > 0) queue.write(result, 0, result.length)
  if (isWritten || !isVdpaSim) queue.complete()
  else queue.completeWith(EFAULT_AS_LENGTH)
  queue.publish()
}

/** The bytes of the command in hand; undefined when they are too few or too many. */
function readCommand(queue: DeviceQueue): Uint8Array | 'unreachable' | undefined {
  const length = queue.readableLength
  if (length < HEAD_BYTES || length > COMMAND_BYTES_LAST) return undefined
  if (scratch.byteLength < length) scratch = new Uint8Array(length)
  return queue.read(scratch, 0, length) === length ? scratch.subarray(0, length) : 'unreachable'
}
