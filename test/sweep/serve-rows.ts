// The verbs that serve devices to other processes, and those of who comes to them, a row each: what is served at a socket, and a life of who connects.

import type { Backend } from '../../lib/backend/backend'
import { BlockDriver } from '../../lib/drivers/block-driver'
import type { KernelBackend } from '../../lib/kernel/kernel-backend'
import { openDevice } from '../../lib/open'
import { blockDevice, bridgeVhostUser, serveVfioChannel, serveVhostUser } from '../../lib/serve'
import { Simulator } from '../../lib/simulator'
import type { ErrnoName } from '../../lib/uapi/errno'
import { ChannelBackend } from '../../lib/vfio-channel/channel-backend'
import { DraftClient } from '../../lib/vfio-channel/draft-client'
import type { ChannelServer } from '../../lib/vfio-channel/server'
import { SocketRegion } from '../../lib/vfio-channel/socket-region'
import { FrontEnd, words } from '../vhost-user/front-end'

/** Who asks the system, each by its own way in: one of them is refused. */
export interface Systems {
  readonly server: Backend
  readonly client: Backend
  /** Where a device stands that is bridged. */
  readonly device: Backend
}

/** What is served, at `path`. */
export interface Served {
  readonly path: string
  readonly close: () => unknown
  /** Has the server look at once: its client waits on this very thread. */
  readonly serve?: () => void
}

export interface ServeRow {
  readonly verb: string
  /** Others that it calls and that have no row of their own. */
  readonly also?: readonly string[]
  /** Whose calls are refused. */
  readonly refused: keyof Systems
  /** By which errnos, and every how manieth call. */
  readonly codes: readonly (readonly [code: ErrnoName, stride: number])[]
  /** What is called at the least. */
  readonly least: number
  readonly begin: (socket: string, systems: Systems) => Promise<Served>
  /** Somebody comes, works and goes, when it is told to at the latest; whether all went well. */
  readonly live: (served: Served, visit: Visit) => Promise<boolean>
}

/** What somebody who comes has in his hands. */
export interface Visit {
  readonly systems: Systems
  readonly kernel: KernelBackend
  /** Aborted where nothing is to be waited for any more. */
  readonly end: AbortSignal
}

const model = () => blockDevice({ capacity: 64 })

/** A front end that comes, sets a queue up, has one question answered, and stops the queue. */
const frontEnd: ServeRow['live'] = async ({ path }, { kernel, end }) => {
  using front = new FrontEnd(kernel, path)
  end.addEventListener('abort', () => front.close())
  await front.begin(0n, 1n << 16n)
  front.queue(0)
  const config = await front.ask('GET_CONFIG', words(0, 8, 0, 0n))
  await front.ask('GET_VRING_BASE', words(0, 0))
  return config.payload.length > 0
}

/** One that has what the device writes logged for a while. */
const loggingFrontEnd: ServeRow['live'] = async ({ path }, { kernel, end }) => {
  using front = new FrontEnd(kernel, path)
  const log = kernel.allocate(1 << 16)
  try {
    end.addEventListener('abort', () => front.close())
    const features = await front.begin(0n, 1n << 16n)
    front.queue(0)
    await front.ask('SET_LOG_BASE', words(BigInt(log.length), 0n), [log.fd ?? -1])
    const begun = await front.acknowledged('SET_FEATURES', words(features | (1n << 26n)))
    const ended = await front.acknowledged('SET_FEATURES', words(features))
    await front.ask('GET_VRING_BASE', words(0, 0))
    return begun === 0n && ended === 0n
  } finally {
    log.close()
  }
}

/** One that has the device's state written, and read again. */
const movingFrontEnd: ServeRow['live'] = async ({ path }, { kernel, end }) => {
  using front = new FrontEnd(kernel, path)
  const [one, other] = kernel.sockets.pair()
  using from = one
  using into = other
  end.addEventListener('abort', () => front.close())
  await front.begin(0n, 1n << 16n)
  const outcomes: bigint[] = []
  for (const [direction, file] of [from, into].entries()) {
    outcomes.push((await front.ask('SET_DEVICE_STATE_FD', words(direction, 0), [file.fd])).value)
    file.close()
    outcomes.push((await front.ask('CHECK_DEVICE_STATE')).value)
  }
  return outcomes.every((outcome) => (outcome & 0xffn) === 0n)
}

function region({ path, serve }: Served, { systems: { client } }: Visit): SocketRegion {
  if (client.sockets === undefined || serve === undefined) throw new Error('no sockets')
  return new SocketRegion(client.sockets.connect(path), { path: 'vfio-channel:test', timeout: 200, rest: serve })
}

/** A client that comes, reads a sector and goes. */
const reader: ServeRow['live'] = async (served, visit) => {
  const connect = () => ({ region: region(served, visit) })
  const backend = new ChannelBackend(visit.systems.client, connect)
  const device = await openDevice('/dev/x', { backend, expect: 'block' })
  try {
    await device.negotiate([])
    const disk = await BlockDriver.start(device)
    await device.start()
    const ended = new Promise<undefined>((resolve) => {
      visit.end.addEventListener('abort', () => resolve(undefined))
    })
    return (await Promise.race([disk.read(0, 1), ended])) !== undefined
  } finally {
    await device.close()
  }
}

/** A client of a draft that comes, asks, shows memory and goes. */
const drafter: ServeRow['live'] = async (served, visit) => {
  await Promise.resolve()
  using client = new DraftClient(region(served, visit), '2019')
  const memory = visit.systems.client.allocate(4096)
  try {
    client.setFeatures(client.features())
    client.mapDma(0n, { region: memory, fileOffset: 0n })
    client.unmapDma(0n)
    return true
  } finally {
    memory.close()
  }
}

function serveChannel(protocol: 'today' | '2019'): ServeRow['begin'] {
  return (socket, { server: backend }) => {
    const server = serveVfioChannel(model(), { socket, backend, protocol }) as ChannelServer
    return Promise.resolve({ path: server.path, close: () => server.close(), serve: () => server.serve() })
  }
}

async function bridge(socket: string, { server, device: backend }: Systems): Promise<Served> {
  const device = await openDevice('/dev/vhost-vdpa-0', { backend, expect: 'block' })
  try {
    const bridged = await bridgeVhostUser(device, { socket, backend: server })
    const close = async () => {
      await bridged.close().catch(() => undefined)
      await device.close().catch(() => undefined)
    }
    return { path: bridged.path, close }
  } catch (failure) {
    await device.close().catch(() => undefined)
    throw failure
  }
}

/** A system that has a disk, for `device`. */
export function diskSystem(): Simulator {
  const simulator = new Simulator()
  simulator.add(blockDevice({ path: '/dev/vhost-vdpa-0', capacity: 64 }))
  return simulator
}

export const serveRows: readonly ServeRow[] = [
  {
    verb: 'serveVhostUser()',
    refused: 'server',
    codes: [
      ['EMFILE', 1],
      ['EIO', 1],
      ['ECONNRESET', 1],
    ],
    least: 5,
    begin: (socket, { server: backend }) => Promise.resolve(serveVhostUser(model(), { socket, backend })),
    live: frontEnd,
  },
  {
    verb: 'serveVhostUser(), while its front end carries the state elsewhere',
    refused: 'server',
    codes: [
      ['EMFILE', 1],
      ['EIO', 1],
    ],
    least: 12,
    begin: (socket, { server: backend }) => Promise.resolve(serveVhostUser(model(), { socket, backend })),
    live: movingFrontEnd,
  },
  {
    verb: 'bridgeVhostUser()',
    refused: 'server',
    codes: [
      ['EMFILE', 1],
      ['EIO', 2],
    ],
    least: 5,
    begin: bridge,
    live: frontEnd,
  },
  {
    verb: 'bridgeVhostUser() with its device',
    refused: 'device',
    codes: [
      ['EIO', 1],
      ['ENOMEM', 2],
    ],
    least: 20,
    begin: bridge,
    live: frontEnd,
  },
  {
    verb: 'bridgeVhostUser() with its device, while its front end logs',
    refused: 'device',
    codes: [
      ['EIO', 1],
      ['EOPNOTSUPP', 5],
    ],
    least: 60,
    begin: bridge,
    live: loggingFrontEnd,
  },
  {
    verb: 'serveVfioChannel()',
    refused: 'server',
    codes: [
      ['EMFILE', 7],
      ['EIO', 11],
    ],
    least: 20,
    begin: serveChannel('today'),
    live: reader,
  },
  {
    verb: 'openDevice() of a channel',
    refused: 'client',
    codes: [
      ['ECONNRESET', 3],
      ['EIO', 5],
    ],
    least: 20,
    begin: serveChannel('today'),
    live: reader,
  },
  {
    verb: 'connectVfioChannel()',
    refused: 'client',
    codes: [
      ['ECONNRESET', 1],
      ['EMFILE', 1],
    ],
    least: 5,
    begin: serveChannel('2019'),
    live: drafter,
  },
]
