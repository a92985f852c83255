// The life of a device in raw requests, from opening to closing, and its beginnings for other programs to go on from.

import type { Backend } from '../../lib/backend/backend.js'
import { Client, encodeMessage, words } from './client.js'

const ACKNOWLEDGE = 1
const DRIVER = 2
const DRIVER_OK = 4
const FEATURES_OK = 8
/** Where rings are mapped. */
export const GUEST = 0x10_0000n

/** From an open node to FEATURES_OK, with all that the device offers. */
export function negotiate(client: Client): void {
  client.ask('VHOST_SET_OWNER')
  client.ask('VHOST_SET_BACKEND_FEATURES', client.get('VHOST_GET_BACKEND_FEATURES'))
  client.ask('VHOST_VDPA_SET_STATUS', ACKNOWLEDGE)
  client.ask('VHOST_VDPA_SET_STATUS', ACKNOWLEDGE | DRIVER)
  client.ask('VHOST_SET_FEATURES', client.get('VHOST_GET_FEATURES'))
  client.ask('VHOST_VDPA_SET_STATUS', ACKNOWLEDGE | DRIVER | FEATURES_OK)
  client.ask('VHOST_VDPA_GET_STATUS')
}

/** Maps rings for all queues at GUEST and gives them to the device, with eventfds. */
async function setUpQueues(client: Client, queues: number): Promise<void> {
  const memory = client.memory(queues * 4)
  const size = BigInt(queues * 4) * 4096n
  await client.sendAllLater([
    encodeMessage('BATCH_BEGIN'),
    encodeMessage('UPDATE', { iova: GUEST, size, uaddr: memory.address }),
    encodeMessage('BATCH_END'),
  ])
  for (let index = 0; index < queues; index++) {
    const [kick, call] = [client.eventfd(), client.eventfd()]
    client.ask('VHOST_SET_VRING_NUM', words(index, 128))
    client.ask('VHOST_SET_VRING_BASE', words(index, 0))
    client.rings(index, GUEST + BigInt(index) * 0x4000n)
    client.ask('VHOST_SET_VRING_KICK', words(index, kick.fd))
    client.ask('VHOST_SET_VRING_CALL', words(index, call.fd))
    client.ask('VHOST_VDPA_SET_VRING_ENABLE', words(index, 1))
  }
}

export async function start(client: Client, queues: number): Promise<void> {
  negotiate(client)
  await setUpQueues(client, queues)
  await client.askLater('VHOST_VDPA_SET_STATUS', ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK)
}

/** The whole life of a device: what a VMM asks, in its order. */
export async function lifecycle(backend: Backend, path: string): Promise<void> {
  const client = new Client(backend, path).open()
  client.openAgain()
  for (const name of [
    'VHOST_VDPA_GET_DEVICE_ID',
    'VHOST_VDPA_GET_STATUS',
    'VHOST_GET_FEATURES',
    'VHOST_VDPA_GET_IOVA_RANGE',
    'VHOST_VDPA_GET_CONFIG_SIZE',
    'VHOST_VDPA_GET_VRING_NUM',
    'VHOST_VDPA_GET_AS_NUM',
    'VHOST_VDPA_GET_GROUP_NUM',
  ] as const)
    client.ask(name)
  const queues = Number(client.get('VHOST_VDPA_GET_VQS_COUNT'))
  const spaces = Number(client.get('VHOST_VDPA_GET_AS_NUM'))
  negotiate(client)
  const configSize = Number(client.get('VHOST_VDPA_GET_CONFIG_SIZE'))
  client.config('VHOST_VDPA_GET_CONFIG', 0, configSize)
  for (let index = 0; index < queues; index++) {
    client.ask('VHOST_VDPA_GET_VRING_GROUP', words(index))
    client.ask('VHOST_VDPA_GET_VRING_DESC_GROUP', words(index))
    client.ask('VHOST_VDPA_GET_VRING_SIZE', words(index))
    client.ask('VHOST_GET_VRING_BASE', words(index))
  }
  client.ask('VHOST_VDPA_SET_GROUP_ASID', words(spaces - 1, spaces - 1))
  await setUpQueues(client, queues)
  const config = client.eventfd()
  client.ask('VHOST_VDPA_SET_CONFIG_CALL', config.fd)
  await client.askLater('VHOST_VDPA_SET_STATUS', 15)
  client.ask('VHOST_VDPA_GET_STATUS')
  await client.askLater('VHOST_VDPA_SUSPEND')
  for (let index = 0; index < queues; index++) client.ask('VHOST_GET_VRING_BASE', words(index))
  await client.askLater('VHOST_VDPA_RESUME')
  await client.askLater('VHOST_VDPA_SUSPEND')
  await client.askLater('VHOST_VDPA_SET_STATUS', 0)
  client.ask('VHOST_VDPA_GET_STATUS')
  client.ask('VHOST_VDPA_SET_CONFIG_CALL', -1)
  await client.sendAllLater([encodeMessage('INVALIDATE', { iova: GUEST, size: BigInt(queues * 4) * 4096n })])
  await client.close()
  const again = new Client(backend, path).open()
  again.ask('VHOST_VDPA_GET_STATUS')
  await again.close()
}
