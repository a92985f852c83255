// Every request of the table with arguments good and bad, in each state a device can be in.

import type { Backend } from '../../lib/backend/backend.js'
import { requests, type RequestName } from '../../lib/uapi/vhost.js'
import { Client, words } from './client.js'
import { negotiate, start } from './lifecycle.js'

/** First and second word of the arguments that are tried: indexes, numbers, and descriptors that are there, past the last, or absurd. */
const patterns: readonly Uint8Array[] = [
  words(0, 0),
  words(0, 1),
  words(2, 64),
  words(1, 9999),
  words(99, 0),
  words(0xffff_ffff, 0xffff_ffff),
  words(0, 0x1_0000),
]

/** Not in the tour: they would change the state that it is about, or take a list; the other programs ask them. */
const left: ReadonlySet<RequestName> = new Set([
  'VHOST_SET_OWNER',
  'VHOST_SET_FEATURES',
  'VHOST_SET_BACKEND_FEATURES',
  'VHOST_VDPA_SET_STATUS',
  'VHOST_VDPA_SUSPEND',
  'VHOST_VDPA_RESUME',
  'VHOST_VDPA_GET_CONFIG',
  'VHOST_VDPA_SET_CONFIG',
  'VHOST_SET_MEM_TABLE',
  'VHOST_GET_FEATURES_ARRAY',
  'VHOST_SET_FEATURES_ARRAY',
])

/** Those that take a descriptor: which ones a process has by chance is no part of the law. */
const takesFd: Readonly<Partial<Record<RequestName, 'alone' | 'second'>>> = {
  VHOST_SET_VRING_KICK: 'second',
  VHOST_SET_VRING_CALL: 'second',
  VHOST_SET_VRING_ERR: 'second',
  VHOST_NET_SET_BACKEND: 'second',
  VHOST_VDPA_SET_CONFIG_CALL: 'alone',
  VHOST_SET_LOG_FD: 'alone',
}

function argumentsOf(name: RequestName, client: Client): Uint8Array[] {
  const { size, direction, family } = requests[name]
  const place = takesFd[name]
  if (place !== undefined) {
    const fds = [client.eventfd().fd, client.handle.fd, 0x7fff_0000, -1, -2]
    const indexes = place === 'alone' ? [0] : [0, 99]
    return indexes.flatMap((index) => fds.map((fd) => (place === 'alone' ? words(fd) : words(index, fd))))
  }
  const tried = direction === 'read' ? 1 : family === 'vhost' || family === 'vdpa' ? patterns.length : 2
  return patterns.slice(0, tried).map((pattern) => {
    const bytes = new Uint8Array(size)
    bytes.set(pattern.subarray(0, size))
    return bytes
  })
}

function tour(client: Client): void {
  for (const name of Object.keys(requests) as RequestName[]) {
    if (left.has(name)) continue
    const { number, size } = requests[name]
    if (size === 0) {
      client.ask(name)
      continue
    }
    client.askPlain(number, 0)
    const tried = new Map(argumentsOf(name, client).map((bytes) => [bytes.subarray(0, size).join(), bytes]))
    for (const bytes of tried.values()) client.ask(name, bytes)
  }
  for (const argument of [words(0), words(99), 0]) client.askPlain(0x4008_afee, argument)
  client.askPlain(0xbeef, 0)
}

/** The states, and how a device comes there. */
const states: Readonly<Record<string, (client: Client, queues: number) => void | Promise<void>>> = {
  unowned: () => undefined,
  owned: (client) => void client.ask('VHOST_SET_OWNER'),
  negotiated: (client) => negotiate(client),
  running: (client, queues) => start(client, queues),
  suspended: async (client, queues) => {
    await start(client, queues)
    await client.askLater('VHOST_VDPA_SUSPEND')
  },
  reset: async (client, queues) => {
    await start(client, queues)
    await client.askLater('VHOST_VDPA_SET_STATUS', 0)
  },
}

/** One program a state. */
export const tours: Readonly<Record<string, (backend: Backend, path: string) => Promise<void>>> = Object.fromEntries(
  Object.entries(states).map(([name, enter]) => [
    `tour-${name}`,
    async (backend: Backend, path: string) => {
      const client = new Client(backend, path).open()
      await enter(client, Number(client.get('VHOST_VDPA_GET_VQS_COUNT')))
      tour(client)
      client.ask('VHOST_VDPA_GET_STATUS')
      await client.close()
    },
  ]),
)
