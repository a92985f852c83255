// The kernel's side of VDUSE as far as a server can tell, without one: the control node, the nodes of devices, and a driver behind them. It asks the server on the
// spot, as the kernel asks another thread, and every call may be refused by name.

import type { Backend, Handle, WriteEachOutcome } from '../../lib/backend/backend'
import type { AdoptOptions, MemoryRegion } from '../../lib/memory/memory-region'
import { Simulator } from '../../lib/simulator/index'
import { errno } from '../../lib/uapi/errno'
import { vduseRequests } from '../../lib/uapi/vduse'
import { isRefusal } from '../../lib/vduse/nodes'
import type { KernelDevice } from './kernel-device'
import { ControlHandle, DeviceHandle, refuse, type System } from './kernel-nodes'

export type { KernelDevice } from './kernel-device'

const names = new Map<number, string>(Object.values(vduseRequests).map(({ number, name }) => [number, name]))

/** A system with VDUSE in it. */
export class PretendedKernel implements System {
  readonly devices = new Map<string, KernelDevice>()
  /** What is open: nodes, files, memory, eventfds. */
  open = 0
  version: number
  /** Undefined before Linux 7.3. */
  features: bigint | undefined
  agreed = 0n
  /** The call that is refused next, by the count of calls until then. */
  refusal: { left: number; code: keyof typeof errno } | undefined
  /** Requests that are refused as often as they come. */
  readonly refused = new Map<string, keyof typeof errno>()
  /** Whether memory was cut off under a mapping. */
  isTorn = false
  calls = 0
  readonly simulator = new Simulator()
  readonly #files = new Map<number, MemoryRegion>()
  #nextFd = 1000

  constructor(version = 0, features?: bigint) {
    this.version = version
    this.features = features
  }

  /** Counts a call, and refuses it where it is its turn; its name, for requests. */
  reach(call: number | string): string {
    this.calls++
    if (this.refusal !== undefined && this.refusal.left-- === 0) {
      const { code } = this.refusal
      this.refusal = undefined
      throw refuse(code, String(call))
    }
    const name = typeof call === 'number' ? (names.get(call) ?? String(call)) : call
    const code = this.refused.get(name)
    if (code !== undefined) throw refuse(code, name)
    return name
  }

  /** As the kernel: whoever gave the descriptor may be gone. */
  signal(fd: number): void {
    try {
      using eventfd = this.simulator.eventfd(fd)
      eventfd.signal()
    } catch (error) {
      if (!isRefusal(error, errno.EBADF)) throw error
    }
  }

  give(region: MemoryRegion): number {
    const fd = this.#nextFd++
    this.#files.set(fd, region)
    this.open++
    return fd
  }

  device(name: string): KernelDevice {
    const device = this.devices.get(name)
    if (device === undefined) throw new Error(`there is no device ${name}`)
    return device
  }

  /** What a server sees of it. */
  get backend(): Backend {
    const openAsync = async (path: string): Promise<Handle> => {
      await Promise.resolve()
      this.reach('open')
      this.open++
      if (path === '/dev/vduse/control') return new ControlHandle(this) as unknown as Handle
      const device = this.devices.get(path.slice('/dev/vduse/'.length))
      if (device === undefined || device.handle !== undefined) {
        this.open--
        throw refuse(device === undefined ? 'ENOENT' : 'EBUSY', 'open', path)
      }
      return new DeviceHandle(this, device) as unknown as Handle
    }
    return {
      name: 'pretended',
      pageSize: 4096,
      open: () => {
        throw new Error('a server opens off the thread')
      },
      openAsync,
      openFd: (fd) => this.#file(fd),
      allocate: (length, options) => this.simulator.allocate(length, options),
      adopt: (fd, options) => this.#adopt(fd, options),
      eventfd: (fd) => {
        this.reach('eventfd')
        return this.simulator.eventfd(fd)
      },
      memlock: () => ({ limit: undefined, pinned: 0n }),
    }
  }

  #file(fd: number): Handle {
    const region = this.#files.get(fd)
    if (region === undefined) throw refuse('EBADF', 'fcntl')
    const closeSync = () => {
      if (this.#files.delete(fd)) this.open--
    }
    const pwrite = (bytes: Uint8Array, offset: bigint): number => {
      region.view(Number(offset), bytes.byteLength).set(bytes)
      return bytes.byteLength
    }
    const writeEach = (): WriteEachOutcome => ({ completed: 0 })
    return { path: `fd ${fd}`, fd, closeSync, pwrite, writeEach } as unknown as Handle
  }

  #adopt(fd: number, { length, offset = 0n, isReadOnly = false }: AdoptOptions): MemoryRegion {
    this.reach('mmap')
    const source = this.#files.get(fd)
    if (source === undefined) throw refuse('EBADF', 'mmap')
    this.open++
    let isClosed = false
    const isTorn = () => this.isTorn
    const view = (at: number, bytes: number): Uint8Array => {
      if (at + bytes > length) throw new RangeError(`the mapping has ${length} bytes`)
      const seen = source.view(Number(offset) + at, bytes)
      return isReadOnly ? seen.slice() : seen
    }
    return {
      length,
      pageSize: 4096,
      view,
      get isTorn() {
        return isTorn()
      },
      close: () => {
        if (!isClosed) this.open--
        isClosed = true
      },
    } as unknown as MemoryRegion
  }
}
