// An operating system with vDPA devices that exist only here, behind the same seam as the real one. The only maker of errno errors in this room.

import { channel } from 'node:diagnostics_channel'
import type { Backend } from '../backend/backend.js'
import { checkInteger, checkObject, checkOneOf, checkString, rangeError, typeError } from '../base/checks.js'
import { diagnosticsChannels } from '../base/diagnostics.js'
import { systemError } from '../base/errors.js'
import { whenLoopAllows } from '../base/loop-turn.js'
import type { AdoptOptions, AllocateOptions, MemoryRegion } from '../memory/memory-region.js'
import { showViolation } from '../models/driver-law.js'
import type { DeviceOps } from '../models/device-ops.js'
import { errno, errnoName, errnoText } from '../uapi/errno.js'
import { NETLINK_GENERIC } from '../uapi/netlink.js'
import { requestByNumber } from '../uapi/vhost.js'
import { DemandIotlb, type DemandIotlbOptions } from './demand-iotlb.js'
import { DeviceDma } from './address-space.js'
import { OpenFile, type DeviceNode } from './chardev.js'
import { DescriptorTable, EventCounter, SimulatedEventfd, type OpenDescriptor } from './descriptor-table.js'
import { dumpNode, type NodeDump } from './dump.js'
import { Faults } from './faults.js'
import { SimulatedHandle } from './handle.js'
import { IOTLB_ENTRIES_LAST } from './iotlb-table.js'
import { SimulatedManagement } from './management.js'
import type { SimulatedNetlinkSocket } from './management-socket.js'
import { MemoryFile, PAGE_BYTES, ProcessMemory, type SimulatedRegion } from './process-memory.js'
import { profiles, type Deviation, type Profile } from './profiles.js'
import type { Refuse } from './refusal.js'
import { Scheduler, type SchedulerMode } from './scheduler.js'

/** Rules of the specification that drivers broke, as `{ path, violation }`: `diagnostics_channel.subscribe('vhost-vdpa:violation', …)`. */
const violations = channel(diagnosticsChannels.violation)

const NODE_PREFIX = '/dev/vhost-vdpa-'

/** What kind of world a simulator pretends. */
export interface SimulatorOptions {
  /** Default `'strict'`: the law, the kernel's and the specification's. `'linux-6.12'`, `'linux-7'`: with these kernels' deviations. */
  readonly profile?: Profile
  /** When devices and listeners get their turn. Default `'automatic'`. */
  readonly scheduler?: SchedulerMode
  /** Milliseconds before work is done with `scheduler: 'realtime'`. Default 1. */
  readonly latency?: number
  /** RLIMIT_MEMLOCK of the pretended process: bytes that devices with `pinsMemory` may pin together. Default: no limit. */
  readonly memlock?: number
}

/**
 * A backend whose devices are models. Holds all state of one pretended process and kernel; any number may be made. It uses no timers, unless its scheduler
 * is `'realtime'`.
 */
export class Simulator implements Backend {
  readonly name = 'simulator'
  readonly pageSize = PAGE_BYTES
  readonly iotlbEntryLimit = IOTLB_ENTRIES_LAST
  /** What it was made with. */
  readonly profile: Profile
  /** Knobs that make things go wrong. */
  readonly faults: Faults
  /**
   * The management of its devices: management devices `vdpasim_net` and `vdpasim_blk`, asked through `netlink()`, and the small files of the host, for
   * `inventory({ backend: simulator, root: simulator.management.files })`.
   */
  readonly management: SimulatedManagement
  /** Numbers of nodes below this one are taken. */
  #freeFrom = 0
  readonly #deviations: ReadonlySet<string>
  readonly #deviates = (name: Deviation) => this.#deviations.has(name)
  readonly #scheduler: Scheduler
  readonly #memory: ProcessMemory
  readonly #table = new DescriptorTable()
  readonly #nodes = new Map<string, DeviceNode>()
  // Devices that no driver has which makes a node.
  readonly #hidden = new Map<string, DeviceNode>()
  readonly #attached = new WeakSet<DeviceOps>()

  constructor(options: SimulatorOptions = {}) {
    checkObject(options, 'options')
    const { profile = 'strict', scheduler, latency, memlock = Infinity } = options
    checkOneOf(profile, 'profile', Object.keys(profiles) as Profile[])
    this.profile = profile
    this.#deviations = new Set(profiles[profile])
    if (memlock !== Infinity) checkInteger(memlock, 'memlock', 0, Number.MAX_SAFE_INTEGER)
    this.#memory = new ProcessMemory(memlock)
    this.#scheduler = new Scheduler(scheduler, latency)
    this.faults = new Faults({
      device: (path) => this.#nodes.get(path)?.ops,
      remove: (path) => this.#remove(this.#nodes.get(path)),
    })
    this.management = new SimulatedManagement({
      table: this.#table,
      scheduler: this.#scheduler,
      refuse: this.#refuse,
      add: (device) => this.#add(device),
      drop: (node) => this.#remove(node),
      hide: (node) => move(node, this.#nodes, this.#hidden),
      show: (node) => move(node, this.#hidden, this.#nodes),
    })
  }

  /** Gives a device a node: the path it wants, or the next free `/dev/vhost-vdpa-N`. Returns the path. RangeError for a path or device that is there already. */
  add<D extends DeviceOps>(device: D): string {
    const node = this.#add(device)
    this.management.appear(node)
    return node.path
  }

  #add(device: DeviceOps): DeviceNode {
    if (typeof (device as Partial<DeviceOps> | null | undefined)?.attach !== 'function')
      throw typeError('device', 'a device model', device)
    const path = device.path ?? this.#freePath()
    checkString(path, 'device.path')
    if (this.#isTaken(path)) throw rangeError('device.path', 'one that no other device has', path)
    if (this.#attached.has(device)) throw rangeError('device', 'one that has no host yet', device)
    const dma = new DeviceDma(this.#memory, {
      pinsMemory: device.pinsMemory === true,
      imitatesPassthrough: this.#deviations.has('passthrough-before-first-map'),
    })
    const name = `${path} works`
    this.#attached.add(device)
    const node: DeviceNode = {
      path,
      ops: device,
      dma,
      file: undefined,
      isRemoved: false,
      whenReleased: [],
      complaint: undefined,
    }
    device.attach({
      dma,
      schedule: (work) => this.#scheduler.schedule(work, name),
      isTurnOver: () => this.#scheduler.isTurnOver,
      deviates: this.#deviates,
      report: (violation) => {
        node.complaint = showViolation(violation)
        violations.publish({ path, violation: node.complaint })
      },
    })
    this.#nodes.set(path, node)
    return node
  }

  /** Opens the node of a device. ENOENT; EBUSY (a vhost-vdpa node is opened once). */
  open(path: string): SimulatedHandle {
    checkString(path, 'path')
    const code = this.faults.isArmed ? this.faults.refusal('open', path) : 0
    const node = this.#nodes.get(path)
    if (code !== 0) throw this.#refuse(code, { syscall: 'open', path })
    if (node === undefined) throw this.#refuse(errno.ENOENT, { syscall: 'open', path })
    if (node.file !== undefined) throw this.#refuse(errno.EBUSY, { syscall: 'open', path })
    const file = this.#openNode(node)
    const result = file.begin()
    if (result !== 0) throw this.#refuse(-result, { syscall: 'open', path })
    return this.#handle(file, path, this.#table.add({ kind: 'node', path, node: file }))
  }

  /** The same; nothing sleeps here, and the event loop has its turn where many are opened one after the other. */
  async openAsync(path: string): Promise<SimulatedHandle> {
    await whenLoopAllows()
    return this.open(path)
  }

  /** Opens a node and gives the bare descriptor, as a program that passes it on would have it. ENOENT, EBUSY. */
  openDescriptor(path: string): number {
    return this.open(path).fd
  }

  /** Takes over a descriptor of openDescriptor(). EBADF for what is no open node of this simulator. */
  openFd(fd: number, path?: string): SimulatedHandle {
    checkInteger(fd, 'fd', 0, 0x7fff_ffff)
    if (path !== undefined) checkString(path, 'path')
    const target = this.#table.get(fd)
    if (target?.kind !== 'node' || !(target.node instanceof OpenFile))
      throw this.#refuse(errno.EBADF, { syscall: 'fcntl', path: path ?? `fd ${fd}` })
    return this.#handle(target.node, path ?? target.path, fd)
  }

  allocate(length: number, options?: AllocateOptions): SimulatedRegion {
    return this.#memory.allocate(length, options)
  }

  /** Makes an anonymous file of `length` bytes (rounded up to pages) for adopt(): memory as another program would pass it. Returns its descriptor. */
  memoryFile(length: number): number {
    checkInteger(length, 'length', 1, Number.MAX_SAFE_INTEGER)
    return this.#table.add({ kind: 'memory', file: new MemoryFile(Math.ceil(length / PAGE_BYTES) * PAGE_BYTES) })
  }

  /**
   * Shows a part of a file of memoryFile(), rounded up to pages. EBADF for no descriptor, ENODEV for one of another kind; RangeError for a part that is not
   * there, or that crosses one already shown.
   */
  adopt(fd: number, options: AdoptOptions): SimulatedRegion {
    checkInteger(fd, 'fd', 0, 0x7fff_ffff)
    const target = this.#table.get(fd)
    if (target?.kind !== 'memory') {
      const code = target === undefined ? errno.EBADF : errno.ENODEV
      throw this.#refuse(code, { syscall: 'mmap', path: `fd ${fd}` })
    }
    return this.#memory.adopt(target.file, options)
  }

  /** Memory that this simulator allocated, adopted or shares. Another one has the same addresses, and the operating system others: `share()` shows both. */
  reaches(region: MemoryRegion): boolean {
    checkObject(region, 'region')
    return this.#memory.has(region)
  }

  /**
   * Shows memory of another backend at an address of this process, so that devices reach it: a real guest's, in front of a pretended device. It is held until the
   * region is closed. RangeError for what is not in whole pages of 4 KiB; ERR_VDPA_CLOSED.
   */
  share(region: MemoryRegion): SimulatedRegion {
    if (typeof region !== 'object' || region === null || typeof region.hold !== 'function')
      throw typeError('region', 'a MemoryRegion', region)
    return this.#memory.share(region)
  }

  /** A new eventfd, or a wrapper of one that the program has in this simulator. EBADF; RangeError for a descriptor of another kind. */
  eventfd(fd?: number): SimulatedEventfd {
    const host = { table: this.#table, scheduler: this.#scheduler, refuse: this.#refuse }
    if (fd === undefined) return new SimulatedEventfd(host, new EventCounter())
    checkInteger(fd, 'fd', 0, 0x7fff_ffff)
    const counter = this.#table.counter(fd)
    if (counter === -errno.EBADF) throw this.#refuse(errno.EBADF, { syscall: 'fcntl', path: `fd ${fd}` })
    if (typeof counter === 'number') throw rangeError('fd', 'an eventfd', `fd ${fd}`)
    return new SimulatedEventfd(host, counter, fd)
  }

  /** Opens a socket of generic netlink to the management. EPROTONOSUPPORT for other protocols. */
  netlink(protocol: number): SimulatedNetlinkSocket {
    checkInteger(protocol, 'protocol', 0, 31)
    if (protocol !== NETLINK_GENERIC)
      throw this.#refuse(errno.EPROTONOSUPPORT, { syscall: 'socket', path: `netlink ${protocol}` })
    return this.management.socket()
  }

  /** A device IOTLB that asks for translations, as vhost-net's: the port of a `MissServer`, whose device reads and writes this simulator's memory. */
  demandIotlb(options: DemandIotlbOptions = {}): DemandIotlb {
    checkObject(options, 'options')
    return new DemandIotlb(
      { memory: this.#memory, scheduler: this.#scheduler, refuse: this.#refuse, deviates: this.#deviates },
      options,
    )
  }

  /** The limit of the options, and what devices pin that do so (`pinsMemory`). */
  memlock(): { readonly limit: bigint | undefined; readonly pinned: bigint } {
    const { pinLimit, pinned } = this.#memory
    return { limit: pinLimit === Infinity ? undefined : BigInt(pinLimit), pinned: BigInt(pinned) }
  }

  /** What the program has open, in the order of opening: what should be empty at the end of a test. */
  get descriptors(): OpenDescriptor[] {
    return this.#table.list()
  }

  /** Pieces of device work and listeners' calls that wait. */
  get pending(): number {
    return this.#scheduler.pending
  }

  /** Runs one piece of work now and says what it was (`/dev/vhost-vdpa-0 works`); undefined when there is none. */
  step(): string | undefined {
    return this.#scheduler.step()
  }

  /**
   * Runs work until there is none, that which it causes included; returns how many pieces. What they throw (a listener, a model of the program) is thrown when
   * all have run. RangeError after a million: it would not end.
   */
  drain(): number {
    return this.#scheduler.drain()
  }

  /** The state of one device, or of all, as plain data: for a person, or for comparing. RangeError for a path without a device. */
  dump(path: string): NodeDump
  dump(): NodeDump[]
  dump(path?: string): NodeDump | NodeDump[] {
    if (path === undefined) return [...this.#nodes.values()].map(dumpNode)
    const node = this.#nodes.get(path)
    if (node === undefined) throw rangeError('path', 'that of a device in this simulator', path)
    return dumpNode(node)
  }

  #handle(file: OpenFile, path: string, fd: number): SimulatedHandle {
    const host = {
      memory: this.#memory,
      table: this.#table,
      scheduler: this.#scheduler,
      faults: this.faults,
      refuse: this.#refuse,
    }
    return new SimulatedHandle(host, file, path, fd)
  }

  #openNode(node: DeviceNode): OpenFile {
    return new OpenFile(node, {
      table: this.#table,
      deviates: this.#deviates,
      resetRefusal: () => this.faults.resetRefusal(node.path),
    })
  }

  #isTaken(path: string): boolean {
    return this.#nodes.has(path) || this.#hidden.has(path)
  }

  #remove(node: DeviceNode | undefined): void {
    if (node === undefined) return
    node.isRemoved = true
    // What is unplugged does no more work, and touches no memory.
    node.ops.reset()
    node.dma.clear()
    this.#nodes.delete(node.path)
    this.#hidden.delete(node.path)
    if (node.path.startsWith(NODE_PREFIX)) {
      const number = Number(node.path.slice(NODE_PREFIX.length))
      if (number < this.#freeFrom) this.#freeFrom = number
    }
    this.management.vanish(node)
  }

  #freePath(): string {
    while (this.#isTaken(`${NODE_PREFIX}${this.#freeFrom}`)) this.#freeFrom++
    return `${NODE_PREFIX}${this.#freeFrom}`
  }

  readonly #refuse: Refuse = (number, { syscall, path, request, reason }) =>
    systemError(errnoName(number), number, reason ?? errnoText(number), {
      syscall,
      ...(path !== undefined && { path }),
      ...(request !== undefined && { request: requestByNumber(request)?.name ?? `ioctl 0x${request.toString(16)}` }),
    })
}

/** A device that went away while somebody waited for its node has none to be moved. */
function move(node: DeviceNode, from: Map<string, DeviceNode>, to: Map<string, DeviceNode>): void {
  if (from.delete(node.path)) to.set(node.path, node)
}
