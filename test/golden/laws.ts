// The laws that are easy to break, each provoked by hand: status, features, queues, configuration, groups, suspension.

import type { Backend } from '../../lib/backend/backend.js'
import { requests } from '../../lib/uapi/vhost.js'
import { Client, words } from './client.js'
import { GUEST, negotiate, start } from './lifecycle.js'

/** Ownership, features of both kinds, and the status register. */
export async function negotiation(backend: Backend, path: string): Promise<void> {
  const client = new Client(backend, path).open()
  client.ask('VHOST_SET_OWNER')
  client.ask('VHOST_SET_OWNER')
  client.ask('VHOST_RESET_OWNER')
  for (const features of [1n << 40n, 1n << 7n, 1n << 8n, 1n << 1n, 0n, 0x8an, 0xffff_ffff_ffff_ffffn, 0x7en])
    client.ask('VHOST_SET_BACKEND_FEATURES', features)
  const offered = client.get('VHOST_GET_FEATURES')
  for (const status of [1, 3, 2, 1, 0, 2, 0, 8, 0, 3]) {
    client.ask('VHOST_VDPA_SET_STATUS', status)
    client.ask('VHOST_VDPA_GET_STATUS')
  }
  for (const features of [0n, 1n << 32n, offered ^ (1n << 33n), offered | (1n << 60n), offered])
    client.ask('VHOST_SET_FEATURES', features)
  for (const status of [11, 11, 3, 9, 10]) {
    client.ask('VHOST_VDPA_SET_STATUS', status)
    client.ask('VHOST_VDPA_GET_STATUS')
  }
  client.ask('VHOST_SET_FEATURES', offered)
  client.ask('VHOST_SET_BACKEND_FEATURES', 0xen)
  for (const status of [128 | 11, 11, 64 | 128 | 11, 0, 0]) {
    client.ask('VHOST_VDPA_SET_STATUS', status)
    client.ask('VHOST_VDPA_GET_STATUS')
  }
  client.ask('VHOST_SET_FEATURES', offered)
  await client.close()
}

/** Sizes, addresses and bases of rings, in and out of their limits. */
export async function queues(backend: Backend, path: string): Promise<void> {
  const client = new Client(backend, path).open()
  const count = Number(client.get('VHOST_VDPA_GET_VQS_COUNT'))
  negotiate(client)
  for (const size of [0, 1, 2, 3, 255, 256, 257, 512, 32768, 65535, 65536, 0x8000_0000])
    client.ask('VHOST_SET_VRING_NUM', words(0, size))
  for (const [descriptors, available, used] of [
    [0n, 0n, 0n],
    [1n, 0n, 0n],
    [8n, 0n, 0n],
    [0n, 1n, 0n],
    [0n, 2n, 0n],
    [0n, 0n, 1n],
    [0n, 0n, 2n],
    [0n, 0n, 4n],
    [0xffff_ffff_ffff_fff0n, 0xffff_ffff_ffff_fff0n, 0xffff_ffff_ffff_fff0n],
  ] as const)
    client.ringsAt(0, descriptors, available, used)
  for (const flags of [1, 2, 0xffff_ffff]) client.rings(0, GUEST, flags)
  client.rings(count, GUEST)
  for (const base of [0, 1, 0x7fff, 0x8000, 0xffff, 0x1_0000, 0x8000_8000, 0xffff_ffff]) {
    client.ask('VHOST_SET_VRING_BASE', words(0, base))
    client.ask('VHOST_GET_VRING_BASE', words(0))
  }
  for (const enabled of [1, 1, 0, 2, 0xffff_ffff]) client.ask('VHOST_VDPA_SET_VRING_ENABLE', words(0, enabled))
  client.ask('VHOST_VDPA_SET_STATUS', 0)
  client.ask('VHOST_GET_VRING_BASE', words(0))
  client.ask('VHOST_VDPA_GET_VRING_SIZE', words(0))
  await client.close()
}

/** Reads and writes of the configuration space, at and past its ends. */
export async function config(backend: Backend, path: string): Promise<void> {
  const client = new Client(backend, path).open()
  const size = Number(client.get('VHOST_VDPA_GET_CONFIG_SIZE'))
  const first = client.config('VHOST_VDPA_GET_CONFIG', 0, size)
  for (const name of ['VHOST_VDPA_GET_CONFIG', 'VHOST_VDPA_SET_CONFIG'] as const) {
    client.config(name, 0, 0)
    client.config(name, size, 1)
    client.config(name, size - 1, 2)
    client.config(name, 1, size)
    client.config(name, 0, size + 1)
    client.config(name, 0xffff_ffff, 1)
    client.askPlain(requests[name].number, 0)
  }
  for (let offset = 0; offset < size; offset += 7)
    client.config('VHOST_VDPA_GET_CONFIG', offset, Math.min(7, size - offset))
  client.config('VHOST_VDPA_SET_CONFIG', 0, 6, 0x02)
  client.config('VHOST_VDPA_GET_CONFIG', 0, size)
  client.config('VHOST_VDPA_SET_CONFIG', 0, size, 0x5a)
  client.config('VHOST_VDPA_GET_CONFIG', 0, size)
  client.ask('VHOST_VDPA_SET_STATUS', 0)
  client.config('VHOST_VDPA_GET_CONFIG', 0, size)
  // Nothing else brings it back, on some devices.
  client.ask('VHOST_VDPA_SET_CONFIG', first)
  client.config('VHOST_VDPA_GET_CONFIG', 0, size)
  await client.close()
}

/** Groups and their address spaces, before and after DRIVER_OK and a reset. */
export async function groups(backend: Backend, path: string): Promise<void> {
  const client = new Client(backend, path).open()
  const count = Number(client.get('VHOST_VDPA_GET_VQS_COUNT'))
  client.ask('VHOST_VDPA_SET_GROUP_ASID', words(0, 0))
  const assign = (): void => {
    for (const group of [0, 1, 2, count, 99])
      for (const asid of [0, 1, 2, 0xffff_ffff]) client.ask('VHOST_VDPA_SET_GROUP_ASID', words(group, asid))
    for (let index = 0; index <= count; index++) {
      client.ask('VHOST_VDPA_GET_VRING_GROUP', words(index))
      client.ask('VHOST_VDPA_GET_VRING_DESC_GROUP', words(index))
    }
  }
  client.ask('VHOST_SET_OWNER')
  assign()
  await client.close()
  const running = new Client(backend, path).open()
  await start(running, count)
  running.ask('VHOST_VDPA_SET_GROUP_ASID', words(0, 0))
  running.ask('VHOST_VDPA_SET_GROUP_ASID', words(1, 1))
  running.ask('VHOST_VDPA_SET_GROUP_ASID', words(0, 9))
  await running.close()
}

/** Suspending and resuming, and what may be asked meanwhile. */
export async function suspension(backend: Backend, path: string): Promise<void> {
  const client = new Client(backend, path).open()
  await client.askLater('VHOST_VDPA_SUSPEND')
  await client.askLater('VHOST_VDPA_RESUME')
  const count = Number(client.get('VHOST_VDPA_GET_VQS_COUNT'))
  await start(client, count)
  const touch = (): void => {
    client.ask('VHOST_SET_VRING_NUM', words(0, 64))
    client.rings(0, GUEST)
    client.ask('VHOST_SET_VRING_BASE', words(0, 0))
    client.ask('VHOST_GET_VRING_BASE', words(0))
    client.ask('VHOST_SET_VRING_KICK', words(0, -1))
    client.ask('VHOST_SET_VRING_CALL', words(0, -1))
    client.ask('VHOST_VDPA_SET_VRING_ENABLE', words(0, 0))
    client.ask('VHOST_VDPA_SET_VRING_ENABLE', words(0, 1))
    client.ask('VHOST_SET_BACKEND_FEATURES', 0x17en)
    client.ask('VHOST_VDPA_GET_STATUS')
  }
  touch()
  for (const name of ['VHOST_VDPA_RESUME', 'VHOST_VDPA_SUSPEND', 'VHOST_VDPA_SUSPEND'] as const)
    await client.askLater(name)
  touch()
  await client.askLater('VHOST_VDPA_RESUME')
  touch()
  await client.askLater('VHOST_VDPA_SUSPEND')
  client.ask('VHOST_VDPA_SET_STATUS', 0)
  await client.askLater('VHOST_VDPA_RESUME')
  touch()
  await client.close()
}
