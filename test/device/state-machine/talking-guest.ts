// A guest with a control queue: it sends commands, and whoever shadows the queue answers them, after a policy of which some commands make an error of the program.

import type { GuestControlRing } from '../../../lib/control/guest-ring.js'
import type { ControlPolicy } from '../../../lib/control/shadow-policy.js'
import { GuestMemory } from '../../../lib/memory/guest-memory.js'
import type { MemoryRegion } from '../../../lib/memory/memory-region.js'
import { RingMemory } from '../../../lib/memory/ring-memory.js'
import type { Simulator } from '../../../lib/simulator/index.js'
import { netFeatureBits } from '../../../lib/uapi/virtio-features.js'
import { netAck } from '../../../lib/uapi/virtio-net.js'
import { netCommands } from '../../../lib/uapi/virtio-net-commands.js'
import { areaSizes } from '../../../lib/virtqueue/layout.js'
import { createDriverRing } from '../../../lib/virtqueue/create.js'
import type { DriverRing, RingState } from '../../../lib/virtqueue/virtqueue.js'
import { among, same } from './same.js'
import { COMMANDS, type Judgement } from './verbs.js'

/** A descriptor to read and one to write for each command. */
const SIZE = 2 * COMMANDS
const BASE = 0x20_0000
const [DRIVER_AT, DEVICE_AT, SLOTS_AT, SLOT] = [0x100, 0x200, 0x400, 0x40] as const
const ACK_AT = 0x20
const judgements: readonly Judgement[] = ['allow', 'deny', 'throw', 'later']
const { VIRTIO_NET_CTRL_MAC_ADDR_SET: SET_MAC } = netCommands
const { VIRTIO_NET_OK: OK, VIRTIO_NET_ERR: ERR } = netAck
const features = [netFeatureBits.VIRTIO_NET_F_CTRL_VQ, netFeatureBits.VIRTIO_NET_F_CTRL_MAC_ADDR]

/** What the policy throws, which its caller is not to hear of. */
export class PolicyError extends Error {}

export class TalkingGuest {
  /** What was answered, in the order of sending. */
  readonly acks: number[] = []
  /** How often the policy threw. */
  thrown = 0
  readonly #sent: Judgement[] = []
  readonly #memory: GuestMemory
  readonly #region: MemoryRegion
  readonly #ring: DriverRing
  readonly #listeners = new Set<() => void>()

  constructor(simulator: Simulator) {
    this.#region = simulator.allocate(4096)
    this.#memory = new GuestMemory([{ address: BigInt(BASE), region: this.#region }])
    const sizes = areaSizes('split', SIZE)
    const area = (at: number, length: number) => new RingMemory(this.#region.buffer, at, length)
    const areas = {
      descriptor: area(0, sizes.descriptor),
      driver: area(DRIVER_AT, sizes.driver),
      device: area(DEVICE_AT, sizes.device),
    }
    const none = { eventIdx: false, indirect: false, inOrder: false }
    this.#ring = createDriverRing({ format: 'split', size: SIZE, areas, features: none })
  }

  /** Its queue, from where nobody serves it on. */
  queue(): GuestControlRing {
    const at = (offset: number) => BigInt(BASE + offset)
    const listen = (listener: () => void) => {
      this.#listeners.add(listener)
      const close = () => void this.#listeners.delete(listener)
      const subscription = {
        close,
        isClosed: false,
        ref: () => subscription,
        unref: () => subscription,
        [Symbol.dispose]: close,
      }
      return subscription
    }
    return {
      memory: this.#memory,
      features: features.reduce((word, number) => word | (1n << BigInt(number)), 0n),
      size: SIZE,
      addresses: { descriptor: at(0), driver: at(DRIVER_AT), device: at(DEVICE_AT) },
      state: this.position,
      kick: { onSignal: listen },
      call: { signal: () => this.#collect() },
    }
  }

  /** Where the ring stands: what was answered was taken, one command after another. */
  get position(): RingState {
    const used = new DataView(this.#region.buffer).getUint16(DEVICE_AT + 2, true)
    return { available: used, used }
  }

  /** Commands that were sent, and not answered. */
  get waiting(): readonly Judgement[] {
    return this.#sent.slice(this.acks.length)
  }

  /** Sends a command of which the policy will think so; it sets a MAC address that no other has set. */
  send(judgement: Judgement): void {
    if (this.waiting.length === COMMANDS) return
    const number = this.#sent.push(judgement) - 1
    const slot = number % COMMANDS
    const at = SLOTS_AT + slot * SLOT
    const bytes = this.#region.view(at, SLOT)
    bytes.fill(0xee)
    bytes.set([SET_MAC.class, SET_MAC.command, 2, judgements.indexOf(judgement), 0, 0, number >> 8, number & 0xff])
    this.#ring.begin()
    this.#ring.pushAddress(BigInt(BASE + at), 8, false)
    this.#ring.pushAddress(BigInt(BASE + at + ACK_AT), 1, true)
    this.#ring.commit(slot)
    if (this.#ring.publish()) for (const listener of [...this.#listeners]) listener()
  }

  /** Thinks of a command what the guest has written into it. */
  readonly policy: ControlPolicy = ({ payload }) => {
    const judgement = judgements[payload[1] ?? 0]
    if (judgement === 'throw') {
      this.thrown++
      throw new PolicyError('a bug of the policy')
    }
    if (judgement === 'later') return Promise.resolve('allow' as const)
    return judgement === 'deny' ? 'deny' : 'allow'
  }

  /** Each command was answered once, or not at all, and nobody listens any more. Frees all of it. */
  end(): void {
    this.#collect()
    same(this.position.used, this.acks.length & 0xffff)
    same(this.#listeners.size, 0)
    this.#region.close()
    same(this.#region.isClosed, true)
  }

  #collect(): void {
    do {
      for (let slot = this.#ring.take(); slot >= 0; slot = this.#ring.take()) {
        // They are answered in order.
        same(slot, this.acks.length % COMMANDS)
        same(this.#ring.usedLength, 1)
        const ack = this.#region.view(SLOTS_AT + slot * SLOT + ACK_AT, 1)[0] as number
        const judgement = this.#sent[this.acks.length] as Judgement
        among([ack], judgement === 'deny' || judgement === 'throw' ? [ERR] : [OK, ERR])
        this.acks.push(ack)
      }
    } while (!this.#ring.enableCalls())
  }
}
