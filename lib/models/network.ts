// A network device: loopback or one end of a wire, with a control queue in a group of its own. By default it has the shape and features of
// Linux' vdpa_sim_net.

import { bit } from '../base/bits.js'
import { checkInteger, rangeError } from '../base/checks.js'
import { deviceIds } from '../uapi/virtio-ids.js'
import { netFeatureBits } from '../uapi/virtio-features.js'
import {
  formatMac,
  netStatus,
  parseMac,
  virtioNetConfig,
  virtioNetHdrV1,
  virtioNetHdrV1Hash,
} from '../uapi/virtio-net.js'
import type { DeviceQueue, QueueContext } from './device-queue.js'
import { ModelDevice, type DeviceModel } from './model-device.js'
import { newControlState, serveControlQueue, type NetControlState } from './network-control.js'
import {
  DEFAULT_NET_FEATURES,
  type NetCounters,
  type NetworkDevice,
  type NetworkDeviceOptions,
} from './network-options.js'

// One frame in flight at a time in the whole process: models run to the end of a turn.
const FRAME_BYTES_LAST = 65_536 + 64
const frame = new Uint8Array(FRAME_BYTES_LAST)
/** Frames that a device moves before others get their turn. */
const FRAMES_A_TURN = 256
/** Chains that are completed before the driver sees them. */
const FRAMES_A_PUBLICATION = 64
const NUM_BUFFERS_AT = 10
/** Bytes that vdpa_sim_net copies of a frame. */
const PAGE_BYTES = 4096
const numBuffers = new Uint8Array(2)
/** Where the type, or the tag of a VLAN, is in an Ethernet frame. */
const ETHERTYPE_AT = 12

class NetworkModel implements DeviceModel {
  readonly counters: NetCounters = {
    txPackets: 0,
    txBytes: 0,
    txErrors: 0,
    rxPackets: 0,
    rxBytes: 0,
    rxErrors: 0,
    rxDrops: 0,
    rxOverruns: 0,
    commands: 0,
    commandErrors: 0,
  }
  readonly state: NetControlState
  readonly maxQueuePairs: number
  /** Where frames go: back to the device itself, or to the other end of a wire. */
  peer: { readonly device: ModelDevice; readonly model: NetworkModel } | undefined
  #device: ModelDevice | undefined
  // What the fields below were looked up in: made anew when the features change.
  #context: QueueContext | undefined
  #hasControl = false
  #hasPairs = false
  #headerBytes = 12
  #hasMergeable = false
  #sendsHeadersAsTheyCame = false
  #hasHardLimits = false
  #stopsAtOddChains = false
  #filtersStrings = false
  #filtersVlans = false

  constructor(config: Uint8Array, maxQueuePairs: number) {
    this.maxQueuePairs = maxQueuePairs
    this.state = newControlState(config.subarray(0, 6), config.subarray(6, 8))
  }

  hasFeature(number: number): boolean {
    return this.#device?.hasFeature(number) === true
  }

  deviates(name: string): boolean {
    return this.#device?.host.deviates(name) === true
  }

  acceptFeatures(features: bigint): boolean {
    const has = (number: number) => (features & bit(number)) !== 0n
    const needsControl = [
      netFeatureBits.VIRTIO_NET_F_CTRL_RX,
      netFeatureBits.VIRTIO_NET_F_CTRL_VLAN,
      netFeatureBits.VIRTIO_NET_F_MQ,
      netFeatureBits.VIRTIO_NET_F_CTRL_MAC_ADDR,
    ]
    // Section 5.1.3.1: features that are commands need the queue that carries them.
    return has(netFeatureBits.VIRTIO_NET_F_CTRL_VQ) || !needsControl.some(has)
  }

  reset(): void {
    const { mac, status } = this.state
    Object.assign(this.state, newControlState(mac, status))
    this.#filtersVlans = false
  }

  readConfig(device: ModelDevice, config: Uint8Array): void {
    if (device.host.deviates('net-writable-config')) config.set([netStatus.VIRTIO_NET_S_LINK_UP, 0], 6)
  }

  writeConfig(device: ModelDevice, offset: number, bytes: Uint8Array): void {
    if (device.host.deviates('net-writable-config')) device.config.set(bytes, offset)
  }

  work(device: ModelDevice): boolean {
    this.begin(device)
    device.attempt(() => this.#serveControl(device))
    let wantsMore = false
    for (let pair = 0; pair < this.state.queuePairs; pair++)
      wantsMore = device.attempt(() => this.#transmit(device, pair)) || wantsMore
    return wantsMore
  }

  /** Looks up what the features say, when they are others than the last time: a peer asks each turn, too. */
  begin(device: ModelDevice): void {
    if (this.#context === device.context) return
    this.#context = device.context
    this.#device = device
    this.#hasControl = device.hasFeature(netFeatureBits.VIRTIO_NET_F_CTRL_VQ)
    this.#hasPairs = device.hasFeature(netFeatureBits.VIRTIO_NET_F_MQ)
    this.#hasMergeable = device.hasFeature(netFeatureBits.VIRTIO_NET_F_MRG_RXBUF)
    this.#filtersVlans = device.hasFeature(netFeatureBits.VIRTIO_NET_F_CTRL_VLAN)
    this.#headerBytes = device.hasFeature(netFeatureBits.VIRTIO_NET_F_HASH_REPORT)
      ? virtioNetHdrV1Hash.size
      : virtioNetHdrV1.size
    this.#sendsHeadersAsTheyCame = device.host.deviates('net-header-as-sent')
    this.#hasHardLimits = device.host.deviates('net-frame-of-a-page')
    this.#filtersStrings = device.host.deviates('net-filter-of-strings')
    this.#stopsAtOddChains = device.host.deviates('net-stops-at-odd-chains')
  }

  /** A control queue exists when it was negotiated; it is then the last of the queues that are used (section 5.1.2). */
  #serveControl(device: ModelDevice): boolean {
    if (!this.#hasControl) return false
    const index = this.#hasPairs ? 2 * this.maxQueuePairs : Math.min(2, device.queueCount - 1)
    const queue = device.queues[index]
    if (queue?.open(device.context) === true) serveControlQueue(queue, this, this.counters)
    return false
  }

  #transmit(device: ModelDevice, pair: number): boolean {
    const transmit = device.queues[2 * pair + 1]
    if (transmit?.open(device.context) !== true) return false
    const { device: target, model: receiver } = this.peer ?? { device, model: this }
    // The other end may not even be in a simulator yet.
    if (target !== device && target.isRunning) receiver.begin(target)
    const receive = target.queues[2 * Math.min(pair, receiver.state.queuePairs - 1)]
    const canReceive = target.isRunning && receive?.open(target.context) === true
    // A wire whose other end is not there loses frames; a loopback without its receive queue does nothing yet, as vdpa_sim_net.
    if (!canReceive && target === device) return false
    try {
      return this.#move(transmit, canReceive ? receive : undefined, receiver)
    } finally {
      transmit.publish()
      if (canReceive && receive !== undefined) receive.publish()
    }
  }

  #move(transmit: DeviceQueue, receive: DeviceQueue | undefined, receiver: NetworkModel): boolean {
    const { counters } = this
    const limit = this.#hasHardLimits ? PAGE_BYTES : FRAME_BYTES_LAST
    for (let count = 1; transmit.next(); count++) {
      if (this.#stopsAtOddChains && transmit.ring.chain.readableCount < transmit.ring.chain.count) {
        counters.txErrors++
        return false
      }
      counters.txPackets++
      const length = transmit.read(frame, 0, Math.min(transmit.readableLength, limit))
      let hasBuffer: boolean | undefined = true
      if (length < 0) {
        counters.txErrors++
      } else {
        counters.txBytes += length
        hasBuffer = receive === undefined || receiver.receive(receive, length)
      }
      if (hasBuffer === undefined) return false
      transmit.complete()
      // No buffer: the frame is lost, and what is behind it waits for the next kick.
      if (!hasBuffer) return false
      if (count % FRAMES_A_PUBLICATION === 0) {
        transmit.publish()
        receive?.publish()
      }
      if (count === FRAMES_A_TURN) return true
    }
    transmit.ring.enableKicks()
    return false
  }

  /** Takes the frame of `length` bytes in the scratch area; false when there is no buffer for it, undefined when both chains are to be forgotten. */
  receive(queue: DeviceQueue, length: number): boolean | undefined {
    const { counters } = this
    if (length < this.#headerBytes + 6 || !this.#passes(this.#headerBytes, length)) {
      counters.rxDrops++
      return true
    }
    if (!queue.next()) {
      counters.rxOverruns++
      // vdpa_sim_net does not look twice; there may have been a chain that could not be followed.
      if (this.#stopsAtOddChains) return false
      queue.ring.enableKicks()
      return queue.next() ? this.#fill(queue, length) : false
    }
    return this.#fill(queue, length)
  }

  #fill(queue: DeviceQueue, length: number): boolean | undefined {
    const { counters } = this
    if (this.#stopsAtOddChains && queue.ring.chain.readableCount > 0) {
      counters.rxOverruns++
      return false
    }
    if (queue.writableLength < length && !this.#sendsHeadersAsTheyCame) return this.#spread(queue, length)
    if (!this.#sendsHeadersAsTheyCame) {
      frame[NUM_BUFFERS_AT] = 1
      frame[NUM_BUFFERS_AT + 1] = 0
    }
    const written = queue.write(frame, 0, length)
    if (written < 0) {
      counters.rxErrors++
      // vdpa_sim_net forgets both chains.
      if (this.#stopsAtOddChains) return undefined
    } else {
      counters.rxPackets++
      counters.rxBytes += written
    }
    queue.complete()
    return true
  }

  /** A frame larger than its first buffer: in several with MRG_RXBUF, lost without. */
  #spread(queue: DeviceQueue, length: number): boolean {
    const { counters } = this
    if (!this.#hasMergeable) {
      queue.ring.rewind()
      counters.rxDrops++
      return true
    }
    const chains: { id: number; written: number }[] = []
    const places = [NUM_BUFFERS_AT, NUM_BUFFERS_AT + 1].map((at) => queue.writablePlace(at))
    let done = 0
    do {
      const written = queue.write(frame, done, Math.min(queue.writableLength, length - done))
      chains.push({ id: queue.ring.chain.id, written: Math.max(written, 0) })
      if (written <= 0) break
      done += written
    } while (done < length && queue.next())
    // The count of buffers is in the header, in the first of them (section 5.1.6.3.1).
    numBuffers[0] = chains.length & 0xff
    numBuffers[1] = chains.length >> 8
    for (const [index, place] of places.entries()) if (place !== undefined) queue.writeAt(place, numBuffers, index)
    for (const { id, written } of chains) queue.ring.complete(id, written)
    if (done < length) counters.rxErrors++
    else counters.rxPackets++
    counters.rxBytes += done
    return true
  }

  /** The receive filter: own address, broadcast and multicast unless commands say otherwise. `at` is where the destination address begins. */
  #passes(at: number, length: number): boolean {
    const { state } = this
    if (state.isPromiscuous) return true
    if (this.#filtersVlans && !this.#passesVlan(at + ETHERTYPE_AT, length)) return false
    if (((frame[at] ?? 0) & 1) === 1) return this.#passesGroup(at)
    if (state.acceptsAllUnicast) return true
    if (state.refusesUnicast) return false
    const { mac } = state
    let isOwn = true
    for (let index = 0; index < 6 && isOwn; index++) {
      isOwn = mac[index] === frame[at + index]
      if (isOwn && mac[index] === 0 && this.#filtersStrings) break
    }
    return isOwn || (state.table.unicast.length > 0 && state.table.unicast.includes(formatMac(frame.slice(at, at + 6))))
  }

  /** Frames with a tag pass when their VLAN was added (section 5.1.6.5.3); those without one always. */
  #passesVlan(at: number, length: number): boolean {
    if (length < at + 4 || frame[at] !== 0x81 || frame[at + 1] !== 0) return true
    return this.state.vlans.has((((frame[at + 2] ?? 0) & 0xf) << 8) | (frame[at + 3] ?? 0))
  }

  #passesGroup(at: number): boolean {
    const { state } = this
    let isBroadcast = true
    for (let index = 0; index < 6 && isBroadcast; index++) isBroadcast = frame[at + index] === 0xff
    if (isBroadcast) return !state.refusesBroadcast
    if (state.refusesMulticast) return false
    return state.acceptsAllMulticast || state.table.multicast.includes(formatMac(frame.slice(at, at + 6)))
  }
}

const models = new WeakMap<ModelDevice, NetworkModel>()

/**
 * A network device with `queuePairs` receive and transmit queues and a control queue. A frame that is sent comes back when its destination is the device's
 * own address, or a group; `pair()` connects two devices instead. RangeError for options that contradict each other.
 */
export function networkDevice(options: NetworkDeviceOptions = {}): NetworkDevice {
  const { queuePairs = 1, mtu = 1500, mac = '00:00:00:00:00:00' } = options
  checkInteger(queuePairs, 'queuePairs', 1, 0x8000)
  checkInteger(mtu, 'mtu', 68, 65535)
  const queueCount = 2 * queuePairs + 1
  const groups = options.groups ?? Array.from({ length: queueCount }, (_, index) => (index === queueCount - 1 ? 1 : 0))
  if (groups.length !== queueCount)
    throw rangeError('groups.length', `${queueCount}, a group for each queue`, groups.length)
  let features = options.features ?? DEFAULT_NET_FEATURES
  for (const number of options.moreFeatures ?? []) features |= bit(number)
  if (queuePairs > 1) features |= bit(netFeatureBits.VIRTIO_NET_F_MQ)
  const config = virtioNetConfig.encode({
    mac: parseMac(mac),
    status: netStatus.VIRTIO_NET_S_LINK_UP,
    max_virtqueue_pairs: queuePairs > 1 ? queuePairs : 0,
    mtu,
    speed: 0,
    duplex: 0,
    rss_max_key_size: 0,
    rss_max_indirection_table_length: 0,
    supported_hash_types: 0,
  })
  const model = new NetworkModel(config, queuePairs)
  const device = new ModelDevice(
    {
      deviceId: deviceIds.net,
      queueCount,
      groups,
      addressSpaceCount: options.addressSpaces ?? 2,
      features,
      config,
      ...(options.path !== undefined && { path: options.path }),
      ...(options.descriptorGroups !== undefined && { descriptorGroups: options.descriptorGroups }),
      ...(options.maxQueueSize !== undefined && { maxQueueSize: options.maxQueueSize }),
      ...(options.capabilities !== undefined && { capabilities: options.capabilities }),
    },
    model,
  )
  models.set(device, model)
  return Object.defineProperties(device, {
    counters: { value: model.counters, enumerable: true },
    control: { value: model.state, enumerable: true },
    mac: { get: () => formatMac(model.state.mac), enumerable: true },
  }) as NetworkDevice
}

/** Connects two network devices as by a wire: what one sends, the other receives, subject to its filter. */
export function pair(first: ModelDevice, second: ModelDevice): void {
  const [a, b] = [models.get(first), models.get(second)]
  if (a === undefined || b === undefined) throw rangeError('pair()', 'given two devices of networkDevice()', undefined)
  a.peer = { device: second, model: b }
  b.peer = { device: first, model: a }
}
