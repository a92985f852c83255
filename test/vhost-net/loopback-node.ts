// /dev/vhost-net and /dev/net/tun for a simulator: a device that reaches everything through an IOTLB that asks, and gives back what it is sent.
// It has the law of the requests that a program makes of it, and no more.

import type { Handle } from '../../lib/backend/backend.js'
import { systemError, vdpaError } from '../../lib/base/errors.js'
import type { DemandIotlb } from '../../lib/simulator/demand-iotlb.js'
import { Simulator } from '../../lib/simulator/index.js'
import { errno, errnoName, type ErrnoName } from '../../lib/uapi/errno.js'
import { tunRequests } from '../../lib/uapi/tun.js'
import { u64Value, vhostVringAddr, vhostVringFile, vhostVringState } from '../../lib/uapi/vhost-types.js'
import { requests } from '../../lib/uapi/vhost.js'

type VringAddr = ReturnType<typeof vhostVringAddr.decode>
type Call = (argument: Uint8Array) => void

const refused = (name: ErrnoName, path: string): Error =>
  systemError(errnoName(errno[name]), errno[name], 'as planned', { syscall: 'ioctl', path })

/** What both nodes have: one ioctl after the other, and closing. */
abstract class Node implements Handle {
  readonly path: string
  readonly fd: number
  isClosed = false
  readonly #whenClosed: () => void

  constructor(path: string, fd: number, whenClosed: () => void) {
    this.path = path
    this.fd = fd
    this.#whenClosed = whenClosed
  }

  abstract ioctl(request: number, argument: Uint8Array | number): number
  abstract write(bytes: Uint8Array): number

  ioctlAsync(request: number, argument: Uint8Array | number): Promise<number> {
    return Promise.resolve().then(() => this.ioctl(request, argument))
  }

  writeEach = (): never => {
    throw new Error('nobody writes so to it')
  }
  writeEachAsync = (): never => this.writeEach()

  closeSync(): void {
    if (this.isClosed) return
    this.isClosed = true
    this.#whenClosed()
  }

  close(): Promise<void> {
    this.closeSync()
    return Promise.resolve()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }
}

class Tap extends Node {
  ioctl(request: number): number {
    if (!Object.values(tunRequests).some((known) => known === request)) throw refused('ENOTTY', this.path)
    return 0
  }

  write(): number {
    throw refused('EINVAL', this.path)
  }
}

/** One ring, as far as the device has got with it. */
class Vring {
  size = 0
  addr: VringAddr | undefined
  kick = -1
  call = -1
  error = -1
  backend = -1
  taken = 0
}

/** The device: what comes through queue 1 goes out through queue 0. Each access waits for its translation, as long as it takes. */
export class LoopbackVhostNet extends Node {
  readonly iotlb: DemandIotlb
  readonly vrings = [new Vring(), new Vring()] as const
  /** What it offers. */
  readonly #features: bigint
  readonly #simulator: Simulator
  readonly #stops: (() => void)[] = []
  #hasOwner = false
  #hasTable = false
  #waiting: Uint8Array[] = []
  #isAtWork = false
  #isKicked = false

  constructor(simulator: Simulator, features: bigint, fd: number, whenClosed: () => void) {
    super('/dev/vhost-net', fd, () => {
      for (const stop of this.#stops) stop()
      this.iotlb.end()
      whenClosed()
    })
    this.#simulator = simulator
    this.#features = features
    this.iotlb = simulator.demandIotlb({ path: this.path })
  }

  ioctl(request: number, argument: Uint8Array | number): number {
    const { features, ...calls } = this.#calls()
    const all: Readonly<Record<number, Call>> = { ...calls, [requests.VHOST_GET_FEATURES.number]: features }
    const call = all[request]
    if (call === undefined) throw refused('ENOTTY', this.path)
    call(argument as Uint8Array)
    return 0
  }

  #calls() {
    const offered = (bits: bigint) => (argument: Uint8Array) => u64Value.encodeInto({ value: bits }, argument)
    const owned = (call: Call) => (argument: Uint8Array) => {
      if (!this.#hasOwner) throw refused('EPERM', this.path)
      call(argument)
    }
    const file = (what: 'kick' | 'call' | 'error', watch: (fd: number) => void = () => undefined) =>
      owned((argument) => {
        const { index, fd } = vhostVringFile.decode(argument)
        this.#vring(index)[what] = fd
        watch(fd)
      })
    return {
      features: offered(this.#features),
      [requests.VHOST_SET_OWNER.number]: () => {
        this.#hasOwner = true
      },
      [requests.VHOST_GET_BACKEND_FEATURES.number]: offered(2n),
      [requests.VHOST_SET_BACKEND_FEATURES.number]: owned(() => undefined),
      [requests.VHOST_SET_FEATURES.number]: owned(() => undefined),
      [requests.VHOST_SET_MEM_TABLE.number]: owned(() => {
        this.#hasTable = true
      }),
      [requests.VHOST_SET_VRING_NUM.number]: owned((argument) => {
        const { index, num } = vhostVringState.decode(argument)
        this.#vring(index).size = num
      }),
      [requests.VHOST_SET_VRING_BASE.number]: owned(() => undefined),
      [requests.VHOST_SET_VRING_ADDR.number]: owned((argument) => {
        const addr = vhostVringAddr.decode(argument)
        this.#vring(addr.index).addr = addr
      }),
      [requests.VHOST_SET_VRING_KICK.number]: file('kick', (fd) => this.#watch(fd)),
      [requests.VHOST_SET_VRING_CALL.number]: file('call'),
      [requests.VHOST_SET_VRING_ERR.number]: file('error'),
      [requests.VHOST_NET_SET_BACKEND.number]: owned((argument) => {
        const { index, fd } = vhostVringFile.decode(argument)
        if (fd >= 0 && (!this.#hasTable || this.iotlb.size === 0)) throw refused('EFAULT', this.path)
        this.#vring(index).backend = fd
        this.#work()
      }),
    }
  }

  #vring(index: number): Vring {
    const vring = this.vrings[index]
    if (vring === undefined) throw refused('ENOBUFS', this.path)
    return vring
  }

  #watch(fd: number): void {
    const event = this.#simulator.eventfd(fd)
    const subscription = event.onSignal(() => this.#work())
    this.#stops.push(() => subscription.close())
  }

  read(bytes: Uint8Array): number {
    const record = this.iotlb.read()
    if (record === undefined) throw refused('EAGAIN', this.path)
    bytes.set(record)
    return record.length
  }

  write(bytes: Uint8Array): number {
    if (this.isClosed) throw vdpaError('ERR_VDPA_CLOSED', 'the handle is closed', { path: this.path })
    this.iotlb.write(bytes)
    return bytes.length
  }

  onReadable(listener: () => void) {
    if (this.isClosed) throw vdpaError('ERR_VDPA_CLOSED', 'the handle is closed', { path: this.path })
    const subscription = this.iotlb.onReadable(listener)
    const made = {
      isClosed: false,
      close: () => {
        made.isClosed = true
        subscription[Symbol.dispose]()
      },
      ref: () => made,
      unref: () => made,
      [Symbol.dispose]: () => made.close(),
    }
    return made
  }

  /** One look at a time; what a kick tells of meanwhile is looked at afterwards. */
  #work(): void {
    this.#isKicked = true
    if (this.#isAtWork) return
    this.#isAtWork = true
    const look = async () => {
      while (this.#isKicked && !this.isClosed) {
        this.#isKicked = false
        const [receive, transmit] = this.vrings
        await this.#transmit(transmit)
        await this.#receive(receive)
      }
    }
    // A translation that does not allow what is to be done, or none at all any more: it stops, until it is kicked.
    look()
      .catch(() => this.#tell(this.vrings[1].error))
      .finally(() => (this.#isAtWork = false))
  }

  async #transmit(vring: Vring): Promise<void> {
    for (let chain = await this.#next(vring); chain !== undefined; chain = await this.#next(vring)) {
      const frame = await this.iotlb.readMemory(chain.address, chain.length)
      this.#waiting.push(frame)
      await this.#giveBack(vring, chain.index, 0)
    }
  }

  async #receive(vring: Vring): Promise<void> {
    while (this.#waiting.length > 0) {
      const chain = await this.#next(vring)
      if (chain === undefined) return
      const frame = (this.#waiting[0] as Uint8Array).subarray(0, chain.length)
      await this.iotlb.writeMemory(chain.address, frame)
      await this.#giveBack(vring, chain.index, frame.length)
      this.#waiting.shift()
    }
  }

  /** The next chain, of one descriptor each. */
  async #next({ addr, size, backend, taken }: Vring) {
    if (addr === undefined || backend < 0 || this.isClosed) return undefined
    const available = await this.#u16(addr.avail_user_addr + 2n)
    if (available === (taken & 0xffff)) return undefined
    const index = await this.#u16(addr.avail_user_addr + 4n + 2n * BigInt(taken % size))
    const bytes = await this.iotlb.readMemory(addr.desc_user_addr + 16n * BigInt(index), 16)
    const view = new DataView(bytes.buffer)
    return { index, address: view.getBigUint64(0, true), length: view.getUint32(8, true) }
  }

  async #giveBack(vring: Vring, index: number, length: number): Promise<void> {
    const { addr, size, taken } = vring
    if (addr === undefined) return
    const bytes = new Uint8Array(8)
    const view = new DataView(bytes.buffer)
    view.setUint32(0, index, true)
    view.setUint32(4, length, true)
    await this.iotlb.writeMemory(addr.used_user_addr + 4n + 8n * BigInt(taken % size), bytes)
    vring.taken++
    view.setUint16(0, vring.taken & 0xffff, true)
    await this.iotlb.writeMemory(addr.used_user_addr + 2n, bytes.subarray(0, 2))
    if (((await this.#u16(addr.avail_user_addr)) & 1) === 0) this.#tell(vring.call)
  }

  async #u16(iova: bigint): Promise<number> {
    const bytes = await this.iotlb.readMemory(iova, 2)
    return new DataView(bytes.buffer).getUint16(0, true)
  }

  /** The program may have closed it, where the device would have a file of its own. */
  #tell(fd: number): void {
    if (!this.isClosed && this.#simulator.descriptors.some((open) => open.fd === fd))
      this.#simulator.eventfd(fd).signal()
  }
}

/** Gives a simulator both nodes. */
export class VhostNetNodes {
  /** What devices that are opened offer: VERSION_1 and ACCESS_PLATFORM. */
  features = (1n << 32n) | (1n << 33n)
  /** The one that was opened last. */
  device: LoopbackVhostNet | undefined
  readonly #open = new Set<Node>()
  #lastFd = 0x20_0000

  constructor(simulator: Simulator) {
    const open = simulator.open.bind(simulator)
    const made = (path: string): Node | undefined => {
      const fd = ++this.#lastFd
      const forget = () => node !== undefined && void this.#open.delete(node)
      let node: Node | undefined
      if (path === '/dev/net/tun') node = new Tap(path, fd, forget)
      if (path === '/dev/vhost-net') node = this.device = new LoopbackVhostNet(simulator, this.features, fd, forget)
      if (node !== undefined) this.#open.add(node)
      return node
    }
    const openEither = (path: string): Handle => made(path) ?? open(path)
    Object.assign(simulator, {
      open: openEither,
      openAsync: (path: string) => Promise.resolve().then(() => openEither(path)),
    })
  }

  /** What is open. */
  get open(): string[] {
    return [...this.#open].map(({ path }) => path)
  }
}

/** A simulator that has nothing else. */
export class LoopbackWorld {
  readonly simulator = new Simulator()
  readonly nodes = new VhostNetNodes(this.simulator)

  /** What is open, by what it is. */
  get descriptors(): string[] {
    return [...this.simulator.descriptors.map(({ what }) => what), ...this.nodes.open]
  }
}
