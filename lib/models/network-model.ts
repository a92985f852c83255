// How a network device works (spec section 5.1): frames from its transmit queues to the other end of a wire, or back to its own receive queues. What it is made
// of is in network.ts.

import { bit } from '../base/bits.js'
import { netFeatureBits } from '../uapi/virtio-features.js'
import type { StateCommand } from '../uapi/virtio-net-commands.js'
import { netHashReports, netStatus, virtioNetConfig, virtioNetHdrV1, virtioNetHdrV1Hash } from '../uapi/virtio-net.js'
import type { DeviceQueue } from './device-queue.js'
import type { QueueContext } from './queue-context.js'
import type { DeviceModel, ModelDevice } from './model-device.js'
import { serveControlQueue } from './network-control.js'
import { newControlState, type NetControlState, type TalliedQueue } from './network-control-state.js'
import { NetFilter } from './network-filter.js'
import { loadControl, rehearseControl, saveControl } from './network-saved.js'
import { NetOffloads } from './network-offloads.js'
import type { NetCounters } from './network-options.js'
import { frameHash, rssQueue } from './network-rss.js'
import { Inbox } from './network-wire.js'
import { RoundRobin } from './turn-meter.js'

// One frame in flight at a time in the whole process: models run to the end of a turn.
/** The longest header, a link header, one of IPv6, and the longest payload behind it (section 5.1.6.3.1). */
const FRAME_BYTES_LAST = virtioNetHdrV1Hash.size + 65_589
const frame = new Uint8Array(FRAME_BYTES_LAST)
const frameView = new DataView(frame.buffer)
/** Frames that a device moves before others get their turn. */
const FRAMES_A_TURN = 256
/** Chains that are completed before the driver sees them. */
const FRAMES_A_PUBLICATION = 64
const NUM_BUFFERS_AT = 10
const HASH_VALUE_AT = 12
const HASH_REPORT_AT = 16
/** Bytes that vdpa_sim_net copies of a frame. */
const PAGE_BYTES = 4096
const numBuffers = new Uint8Array(2)

/** Features that are commands need the queue that carries them. */
const needsControl: readonly number[] = [
  netFeatureBits.VIRTIO_NET_F_CTRL_RX,
  netFeatureBits.VIRTIO_NET_F_CTRL_VLAN,
  netFeatureBits.VIRTIO_NET_F_MQ,
  netFeatureBits.VIRTIO_NET_F_CTRL_MAC_ADDR,
]

/** The other end of a wire. */
export interface WireEnd {
  readonly device: ModelDevice
  readonly model: NetworkModel
}

/** What a network device does with its queues. */
export class NetworkModel implements DeviceModel {
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
  /** Where frames go: to the other end of a wire; undefined: back to the device itself. */
  peer: WireEnd | undefined
  /** What came over the wire and waits for this device's turn. */
  readonly inbox = new Inbox()
  readonly #filter: NetFilter
  #device: ModelDevice | undefined
  // What the fields below were looked up in: made anew when the features change.
  #context: QueueContext | undefined
  #hasControl = false
  #hasPairs = false
  #headerBytes = 12
  #hasMergeable = false
  #isStrict = false
  #offloads = new NetOffloads(() => false, virtioNetHdrV1.size, 0)
  #sendsHeadersAsTheyCame = false
  #hasHardLimits = false
  #stopsAtOddChains = false
  readonly #pairs = new RoundRobin()
  // Looked up at the beginning of each turn.
  #pairsInUse = 1

  constructor(config: Uint8Array, maxQueuePairs: number) {
    this.maxQueuePairs = maxQueuePairs
    this.state = newControlState(config.subarray(0, 6), config.subarray(6, 8))
    this.#filter = new NetFilter(this.state)
  }

  hasFeature(number: number): boolean {
    return this.#device?.hasFeature(number) === true
  }

  deviates(name: string): boolean {
    return this.#device?.host.deviates(name) === true
  }

  get isTurnOver(): boolean {
    return this.#device?.meter.isOver === true
  }

  /** Section 5.1.3.1, as every device that looks at it has it; with drivers held to the specification, all of the section was looked at before. */
  acceptFeatures(features: bigint): boolean {
    const has = (number: number) => (features & bit(number)) !== 0n
    return has(netFeatureBits.VIRTIO_NET_F_CTRL_VQ) || !needsControl.some(has)
  }

  reset(): void {
    const { mac, status } = this.state
    Object.assign(this.state, newControlState(mac, status))
    this.counters.rxDrops += this.inbox.clear()
  }

  /** What commands have set, for another device. */
  saved(): StateCommand[] {
    return saveControl({ state: this.state, hasFeature: (number) => this.hasFeature(number) })
  }

  /** The first of the commands that this device would refuse, had its driver accepted all that is offered. */
  problemWith(commands: readonly StateCommand[], offered: bigint): string | undefined {
    return rehearseControl(this, commands, (number) => (offered & bit(number)) !== 0n)
  }

  /** As if the driver had sent them. One that it may not send under the features that it accepted sets nothing. */
  load(device: ModelDevice, commands: readonly StateCommand[]): void {
    this.#begin(device)
    for (const command of commands) loadControl(this, [command])
  }

  readConfig(device: ModelDevice, config: Uint8Array): void {
    if (device.host.deviates('net-writable-config')) config.set([netStatus.VIRTIO_NET_S_LINK_UP, 0], 6)
  }

  /** All of it is for drivers to read only. */
  writeConfig(device: ModelDevice, offset: number, bytes: Uint8Array): void {
    if (device.isStrict) device.violate('the configuration of a network device was written', '5.1.4.2')
    if (device.host.deviates('net-writable-config')) device.config.set(bytes, offset)
  }

  work(device: ModelDevice): boolean {
    this.#begin(device)
    let wantsMore = device.attempt(() => this.#serveControl(device))
    this.#filter.passesAll = this.#isControlKept(device)
    this.#pairsInUse = this.#filter.passesAll ? this.#pairsEnabled(device) : this.state.queuePairs
    const transmit = (pair: number) => device.attempt(() => this.#transmit(device, pair))
    wantsMore = this.#pairs.serveAll(this.#pairsInUse, device.meter, transmit) || wantsMore
    if (this.inbox.length > 0) wantsMore = device.attempt(() => this.#receiveAll(device)) || wantsMore
    return wantsMore
  }

  /** Looks up what the features say, when they are others than the last time. */
  #begin(device: ModelDevice): void {
    if (this.#context === device.context) return
    this.#context = device.context
    this.#device = device
    this.#hasControl = device.hasFeature(netFeatureBits.VIRTIO_NET_F_CTRL_VQ)
    this.#hasPairs =
      device.hasFeature(netFeatureBits.VIRTIO_NET_F_MQ) || device.hasFeature(netFeatureBits.VIRTIO_NET_F_RSS)
    this.#hasMergeable = device.hasFeature(netFeatureBits.VIRTIO_NET_F_MRG_RXBUF)
    this.#filter.hasVlans = device.hasFeature(netFeatureBits.VIRTIO_NET_F_CTRL_VLAN)
    this.#headerBytes = device.hasFeature(netFeatureBits.VIRTIO_NET_F_HASH_REPORT)
      ? virtioNetHdrV1Hash.size
      : virtioNetHdrV1.size
    this.#sendsHeadersAsTheyCame = device.host.deviates('net-header-as-sent')
    this.#hasHardLimits = device.host.deviates('net-frame-of-a-page')
    this.#isStrict = device.isStrict
    this.#offloads = new NetOffloads(
      (number) => device.hasFeature(number),
      this.#headerBytes,
      virtioNetConfig.decode(device.config.subarray(0, virtioNetConfig.size)).mtu,
      (number) => device.hasFeature(number) && this.#isSwitchedOn(number),
    )
    this.#filter.comparesStrings = device.host.deviates('net-filter-of-strings')
    this.#stopsAtOddChains = device.host.deviates('net-stops-at-odd-chains')
  }

  /** True when commands are left for another turn. A control queue exists when it was negotiated; it is then the last of the queues that are used (section 5.1.2). */
  #serveControl(device: ModelDevice): boolean {
    if (!this.#hasControl) return false
    const queue = device.queues[this.controlIndex]
    return queue?.open(device.context) === true && serveControlQueue(queue, this)
  }

  /** Nobody can tell the device anything: not by a queue that the host never lets run. */
  #isControlKept(device: ModelDevice): boolean {
    if (device.host.mayKeepControlQueue !== true) return false
    return !this.#hasControl || device.queues[this.controlIndex]?.isReady !== true
  }

  #pairsEnabled(device: ModelDevice): number {
    const most = this.#hasPairs ? this.maxQueuePairs : 1
    let pairs = 1
    while (pairs < most && device.queues[2 * pairs]?.isReady === true) pairs++
    return pairs
  }

  get controlIndex(): number {
    return this.#hasPairs ? 2 * this.maxQueuePairs : 2
  }

  dataQueue(index: number): TalliedQueue | undefined {
    return index < this.controlIndex ? this.#device?.queues[index] : undefined
  }

  /** An offload is on from its negotiation until a command says otherwise (section 5.1.6.5.6.1). */
  #isSwitchedOn(number: number): boolean {
    const { offloads } = this.state
    return offloads === undefined || (offloads & bit(number)) !== 0n
  }

  #transmit(device: ModelDevice, pair: number): boolean {
    const transmit = device.queues[2 * pair + 1]
    if (transmit?.open(device.context) !== true) return false
    if (this.peer !== undefined) return this.#pass(device, transmit, pair, this.peer)
    const receive = device.queues[2 * pair]
    // A loopback without its receive queue does nothing yet, as vdpa_sim_net.
    if (receive?.open(device.context) !== true) return false
    try {
      return this.#loop(device, transmit, receive)
    } finally {
      transmit.publish()
      receive.publish()
    }
  }

  /** Over the wire: the other device places the frame in its own turn. While it has its fill, this one waits. */
  #pass(device: ModelDevice, transmit: DeviceQueue, pair: number, { device: other, model }: WireEnd): boolean {
    try {
      for (let count = 1; transmit.next(); count++) {
        if (model.inbox.isFull) {
          transmit.ring.rewind()
          return true
        }
        const length = this.#take(device, transmit)
        if (length >= 0) model.#accept(other, pair, this.#headerBytes, length)
        transmit.complete()
        if (count % FRAMES_A_PUBLICATION === 0) transmit.publish()
        if (count === FRAMES_A_TURN || device.meter.isOver) return true
      }
      return transmit.rest()
    } finally {
      transmit.publish()
    }
  }

  /** The frame of the chain in hand goes to the scratch area: its length with the header, or -1 when it is not to be sent. */
  #take(device: ModelDevice, transmit: DeviceQueue): number {
    const { counters } = this
    counters.txPackets++
    const wanted = this.#hasHardLimits ? Math.min(transmit.readableLength, PAGE_BYTES) : transmit.readableLength
    // What is longer than any frame is not sent in part.
    const length = wanted > FRAME_BYTES_LAST ? -1 : transmit.read(frame, 0, wanted)
    const { tally } = transmit
    if (length < this.#headerBytes) {
      if (length >= 0 && this.#isStrict)
        device.violate(`${length} bytes were sent, a header alone has ${this.#headerBytes}`, '5.1.6')
      counters.txErrors++
      tally.drops++
      tally.missed++
      return -1
    }
    counters.txBytes += length
    tally.packets++
    tally.bytes += length - this.#headerBytes
    const isPlain =
      frame[0] === 0 &&
      frame[1] === 0 &&
      frame[NUM_BUFFERS_AT] === 0 &&
      frame[NUM_BUFFERS_AT + 1] === 0 &&
      length <= this.#offloads.plainBytesLast
    if (isPlain || !this.#isStrict) return length
    const problem = this.#offloads.violation(frame, length)
    if (problem === undefined) return length
    device.violate(problem.what, problem.section)
    counters.txErrors++
    tally.packets--
    tally.bytes -= length - this.#headerBytes
    tally.drops++
    tally.missed++
    return -1
  }

  /** A frame in the scratch area comes from the wire. Where the device does not run, it is lost. */
  #accept(device: ModelDevice, pair: number, headerBytes: number, length: number): void {
    if (!device.isRunning) {
      this.counters.rxDrops++
      return
    }
    this.inbox.push(pair, frame, headerBytes, length)
    device.wake()
  }

  /** Places what came from the wire. */
  #receiveAll(device: ModelDevice): boolean {
    const { inbox, counters } = this
    let open: DeviceQueue | undefined
    try {
      for (let count = 0; inbox.length > 0 && count < FRAMES_A_TURN; count++) {
        const { pair } = inbox
        const length = inbox.take(frame, this.#headerBytes)
        const queue = this.#steered(device, length) ?? device.queues[2 * Math.min(pair, this.#pairsInUse - 1)]
        if (queue !== open) {
          open?.publish()
          open = queue?.open(device.context) === true ? queue : undefined
        }
        if (open === undefined) counters.rxOverruns++
        else this.#receive(device, open, length)
        if (device.meter.isOver) break
      }
    } finally {
      open?.publish()
    }
    return inbox.length > 0
  }

  /** The receive queue that RSS chooses for the frame in the scratch area (section 5.1.6.4.3); undefined while it is not configured. */
  #steered(device: ModelDevice, length: number): DeviceQueue | undefined {
    const { rss } = this.state
    if (rss === undefined) return undefined
    return device.queues[2 * rssQueue(rss, frame, this.#headerBytes, length, this.state.tunnels)]
  }

  #loop(device: ModelDevice, transmit: DeviceQueue, receive: DeviceQueue): boolean {
    for (let count = 1; transmit.next(); count++) {
      if (this.#stopsAtOddChains && transmit.ring.chain.readableCount < transmit.ring.chain.count) {
        this.counters.txErrors++
        return false
      }
      const length = this.#take(device, transmit)
      const chosen = length < 0 ? undefined : this.#steered(device, length)
      const into = chosen?.open(device.context) === true ? chosen : receive
      const hasBuffer = length < 0 || this.#receive(device, into, length)
      if (into !== receive) into.publish()
      if (hasBuffer === undefined) return false
      transmit.complete()
      // vdpa_sim_net: no buffer, the frame is lost, and what is behind it waits for the next kick.
      if (!hasBuffer && this.#stopsAtOddChains) return false
      if (count % FRAMES_A_PUBLICATION === 0) {
        transmit.publish()
        receive.publish()
      }
      if (count === FRAMES_A_TURN || device.meter.isOver) return true
    }
    return transmit.rest()
  }

  /** Takes the frame of `length` bytes in the scratch area; false when there is no buffer for it, undefined when both chains are to be forgotten. */
  #receive(device: ModelDevice, queue: DeviceQueue, length: number): boolean | undefined {
    const { counters } = this
    if (length < this.#headerBytes + 6 || !this.#filter.passes(frame, this.#headerBytes, length)) {
      counters.rxDrops++
      queue.tally.drops++
      return true
    }
    const isPlain = frame[0] === 0 && frame[1] === 0 && length <= this.#offloads.plainBytesLast
    if (!isPlain && !this.#sendsHeadersAsTheyCame && !this.#offloads.receive(frame, length)) {
      counters.rxDrops++
      queue.tally.drops++
      return true
    }
    if (!queue.next()) {
      // vdpa_sim_net does not look twice; there may have been a chain that could not be followed.
      if (!this.#stopsAtOddChains) queue.ring.enableKicks()
      if (this.#stopsAtOddChains || !queue.next()) {
        counters.rxOverruns++
        queue.tally.drops++
        queue.tally.missed++
        return false
      }
    }
    return this.#fill(device, queue, length)
  }

  #fill(device: ModelDevice, queue: DeviceQueue, length: number): boolean | undefined {
    const { counters } = this
    if (this.#stopsAtOddChains && queue.ring.chain.readableCount > 0) {
      counters.rxOverruns++
      return false
    }
    if (queue.writableLength < length && !this.#sendsHeadersAsTheyCame) return this.#spread(device, queue, length)
    if (!this.#sendsHeadersAsTheyCame) {
      frame[NUM_BUFFERS_AT] = 1
      frame[NUM_BUFFERS_AT + 1] = 0
      this.#reportHash(length)
    }
    const written = queue.write(frame, 0, length)
    if (written < 0) {
      counters.rxErrors++
      queue.tally.drops++
      // vdpa_sim_net forgets both chains.
      if (this.#stopsAtOddChains) return undefined
    } else {
      counters.rxPackets++
      counters.rxBytes += written
      queue.tally.packets++
      // vdpa_sim_net cuts a frame to its buffer, and if need be its header.
      queue.tally.bytes += Math.max(written - this.#headerBytes, 0)
    }
    queue.complete()
    return true
  }

  /** The end of a header of 20 bytes (section 5.1.6.4.4): the hash by what RSS was told where that was negotiated, by what the report was told otherwise. */
  #reportHash(length: number): void {
    if (this.#headerBytes === virtioNetHdrV1.size) return
    const { rss, hash, tunnels } = this.state
    const config = this.hasFeature(netFeatureBits.VIRTIO_NET_F_RSS) ? rss : hash
    const found = config === undefined ? undefined : frameHash(config, frame, this.#headerBytes, length, tunnels)
    frameView.setUint32(HASH_VALUE_AT, found?.value ?? 0, true)
    frameView.setUint16(HASH_REPORT_AT, found?.report ?? netHashReports.VIRTIO_NET_HASH_REPORT_NONE, true)
    frameView.setUint16(HASH_REPORT_AT + 2, 0, true)
  }

  /** A frame larger than its first buffer: whole in several with MRG_RXBUF, or lost, and the buffers stay for the next. */
  #spread(device: ModelDevice, queue: DeviceQueue, length: number): boolean {
    const { counters } = this
    const { ring } = queue
    if (!this.#hasMergeable) {
      ring.rewind()
      counters.rxDrops++
      queue.tally.drops++
      return true
    }
    if (this.#isStrict && queue.writableLength < this.#headerBytes)
      device.violate(`a receive buffer has ${queue.writableLength} bytes, less than a header`, '5.1.6.3.1')
    // All that is completed is shown first, so that the ring may be put back where it was when the buffers are not enough.
    ring.rewind()
    queue.publish()
    const before = ring.state()
    const chains = this.#scatter(queue, length)
    if (chains === undefined) {
      ring.reset(before)
      counters.rxOverruns++
      queue.tally.drops++
      queue.tally.missed++
      return false
    }
    // Memory that cannot be written: the buffers are given back empty, so that nobody takes them for a frame.
    const isWhole = chains.every(({ written }) => written > 0)
    for (const { id, written } of chains) ring.complete(id, isWhole ? written : 0)
    if (isWhole) {
      counters.rxPackets++
      counters.rxBytes += length
      queue.tally.packets++
      queue.tally.bytes += length - this.#headerBytes
    } else {
      counters.rxErrors++
      queue.tally.drops++
    }
    return true
  }

  /** Writes the frame to as many chains as it needs; undefined when there are not so many. A chain whose memory cannot be written has 0 bytes. */
  #scatter(queue: DeviceQueue, length: number): { id: number; written: number }[] | undefined {
    const chains: { id: number; written: number }[] = []
    let places: (readonly [number, number] | undefined)[] = []
    this.#reportHash(length)
    for (let done = 0; done < length;) {
      if (!queue.next()) return undefined
      if (done === 0) places = [NUM_BUFFERS_AT, NUM_BUFFERS_AT + 1].map((at) => queue.writablePlace(at))
      const written = queue.write(frame, done, Math.min(queue.writableLength, length - done))
      chains.push({ id: queue.ring.chain.id, written: Math.max(written, 0) })
      if (written <= 0) return chains
      done += written
    }
    // The count of buffers is in the header, in the first of them (section 5.1.6.3.1).
    numBuffers[0] = chains.length & 0xff
    numBuffers[1] = chains.length >> 8
    for (const [index, place] of places.entries()) if (place !== undefined) queue.writeAt(place, numBuffers, index)
    return chains
  }
}
