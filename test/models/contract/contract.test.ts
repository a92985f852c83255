// One contract: each model does the same in each of its hosts, and knows none of them.

import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, describe, expect, test } from '@jest/globals'
import { tryLoadAddon } from '../../../lib/kernel/addon.js'
import { KernelBackend } from '../../../lib/kernel/kernel-backend.js'
import { blockDevice } from '../../../lib/models/block.js'
import type { BlockStore } from '../../../lib/models/block-store.js'
import { customDevice } from '../../../lib/models/custom.js'
import { storedBlockDevice } from '../../../lib/models/stored-block.js'
import { networkDevice } from '../../../lib/models/network.js'
import type { DeviceOps } from '../../../lib/models/device-ops.js'
import { netFeatureBits, transportFeatureBits } from '../../../lib/uapi/virtio-features.js'
import { deviceIds } from '../../../lib/uapi/virtio-ids.js'
import { parseMac } from '../../../lib/uapi/virtio-net.js'
import { packageRoot } from '../../native/support.js'
import { hosts, pause, type ContractQueue, type Host, type Hosted } from './hosts.js'
import { until } from '../../until.js'

const { addon, reason } = tryLoadAddon()
const backend = addon === undefined ? undefined : new KernelBackend(addon)
const everyHost = hosts(backend, `skipped: its front end needs the addon: ${reason}; npm run build:native compiles it`)

const MAC = '02:11:22:33:44:55'
const VERSION_1 = 1n << BigInt(transportFeatureBits.VIRTIO_F_VERSION_1)
const PACKED = 1n << BigInt(transportFeatureBits.VIRTIO_F_RING_PACKED)
const PLATFORM = 1n << BigInt(transportFeatureBits.VIRTIO_F_ACCESS_PLATFORM)
const FLUSH = 1n << 9n
const CTRL_VQ = 1n << BigInt(netFeatureBits.VIRTIO_NET_F_CTRL_VQ)
const CTRL_MAC_ADDR = 1n << BigInt(netFeatureBits.VIRTIO_NET_F_CTRL_MAC_ADDR)
const moreFeatures = [transportFeatureBits.VIRTIO_F_RING_PACKED]
const formats = [
  ['split', 0n],
  ['packed', PACKED],
] as const

const open: Hosted[] = []
afterEach(async () => {
  for (const hosted of open.splice(0)) await hosted.close()
})

async function hostedBy(host: Host, model: DeviceOps): Promise<Hosted> {
  const hosted = await host.host(model)
  open.push(hosted)
  return hosted
}

function the<T>(thing: T | undefined): T {
  if (thing === undefined) throw new Error('it is not there')
  return thing
}

/** The next chain that comes back. */
async function taken({ ring }: ContractQueue): Promise<number> {
  let token = -1
  await until(() => (token = ring.take()) >= 0)
  return token
}

/** Asks a disk, and waits: its status and the data. */
async function ask(
  hosted: Hosted,
  queue: ContractQueue,
  type: number,
  sector: bigint,
  data: Uint8Array = new Uint8Array(512),
): Promise<{ readonly status: number; readonly data: Uint8Array }> {
  const [head, body, status] = [hosted.room(16), hosted.room(data.length), hosted.room(1)]
  const view = new DataView(head.bytes.buffer, head.bytes.byteOffset, 16)
  view.setUint32(0, type, true)
  view.setBigUint64(8, sector, true)
  body.bytes.set(data)
  status.bytes[0] = 0xff
  queue.ring.begin()
  queue.ring.pushAddress(head.address, 16, false)
  if (type !== 4) queue.ring.pushAddress(body.address, data.length, type !== 1)
  queue.ring.pushAddress(status.address, 1, true)
  queue.ring.commit(5)
  if (queue.ring.publish()) queue.kick()
  expect(await taken(queue)).toBe(5)
  return { status: the(status.bytes[0]), data: body.bytes }
}

const [IN, OUT, IN_FLUSH, UNKNOWN] = [0, 1, 4, 77]
const content = () => Uint8Array.from({ length: 32_768 }, (_, at) => at >> 9)

/** A store that answers a turn later, as a file does. */
function slowStore(): BlockStore {
  const bytes = content()
  return {
    size: bytes.length,
    read: async (at, target) => {
      await pause()
      target.set(bytes.subarray(at, at + target.length))
    },
    write: async (at, source) => {
      await pause()
      bytes.set(source, at)
    },
    clear: async (at, length) => {
      await pause()
      bytes.fill(0, at, at + length)
    },
    flush: () => pause(),
  }
}

/** The template that the guide has people copy, as it stands there. */
function templateStore(): BlockStore {
  const code = readFileSync(join(packageRoot(), 'examples/disk.mjs'), 'utf8')
  const body = code.replace(/^import .*$/m, '').replace('export default function', 'return function')
  // eslint-disable-next-line @typescript-eslint/no-implied-eval -- a program of our own, as text
  const makeWith = new Function('storedBlockDevice', body) as (make: (store: BlockStore) => BlockStore) => unknown
  const makeDisk = makeWith((store) => store) as (argument: { readonly size: number }) => BlockStore
  return makeDisk({ size: 32_768 })
}

/** The same sectors in it. */
function templateDisk(): DeviceOps {
  const store = templateStore()
  void store.write(0, content())
  return storedBlockDevice(store, { moreFeatures })
}

/** Each kind of disk, with the same 64 sectors. */
const disks: readonly (readonly [name: string, make: () => DeviceOps])[] = [
  ['in memory', () => blockDevice({ capacity: 64, content: content(), moreFeatures })],
  ['in a store', () => storedBlockDevice(slowStore(), { moreFeatures })],
  ['made by the template of the guide', templateDisk],
]

/** The tests of one host, or the reason why there are none. */
function suite({ name, missing }: Host, body: () => void): void {
  const run = missing === undefined ? describe : describe.skip
  run(missing === undefined ? `in ${name}` : `in ${name} (${missing})`, () => {
    body()
  })
}

describe.each(disks)('a disk %s', (_kind, disk) => {
  for (const host of everyHost)
    suite(host, () => {
      test('says what it is', async () => {
        const hosted = await hostedBy(host, disk())
        expect(hosted.offered & (VERSION_1 | PACKED | FLUSH)).toBe(VERSION_1 | PACKED | FLUSH)
        const config = await hosted.config(8)
        expect(new DataView(config.buffer, config.byteOffset).getBigUint64(0, true)).toBe(64n)
      })

      test.each(formats)('answers each request by a %s ring, with an interrupt', async (_name, more) => {
        const hosted = await hostedBy(host, disk())
        const queue = the((await hosted.begin(VERSION_1 | FLUSH | more, [0]))[0])
        expect((await ask(hosted, queue, IN, 9n)).data.every((byte) => byte === 9)).toBe(true)
        await until(() => queue.interrupts() > 0)
        expect(await ask(hosted, queue, OUT, 9n, new Uint8Array(512).fill(0xa5))).toMatchObject({ status: 0 })
        expect(await ask(hosted, queue, IN_FLUSH, 0n)).toMatchObject({ status: 0 })
        expect((await ask(hosted, queue, IN, 9n)).data.every((byte) => byte === 0xa5)).toBe(true)
        expect(await ask(hosted, queue, IN, 64n)).toMatchObject({ status: 1 })
        expect(await ask(hosted, queue, UNKNOWN, 0n)).toMatchObject({ status: 2 })
        expect(await ask(hosted, queue, IN, 3n, new Uint8Array(1024))).toMatchObject({ status: 0 })
      })

      test.each([
        ['split', 0n, 3],
        ['packed', PACKED, 0x8009_8009],
      ] as const)('says where its %s ring stands', async (_name, more, position) => {
        const hosted = await hostedBy(host, disk())
        const queue = the((await hosted.begin(VERSION_1 | more, [0]))[0])
        for (const sector of [1n, 2n, 3n]) await ask(hosted, queue, IN, sector)
        expect(await hosted.position(0)).toBe(position)
      })

      test('goes round its ring many times', async () => {
        const hosted = await hostedBy(host, disk())
        const queue = the((await hosted.begin(VERSION_1, [0]))[0])
        for (let round = 0; round < 50; round++) {
          const { data, status } = await ask(hosted, queue, IN, BigInt(round))
          expect([status, data[0], data[511]]).toEqual([0, round, round])
        }
      })

      test('is as new for the next driver, but for its bytes', async () => {
        const hosted = await hostedBy(host, disk())
        const first = the((await hosted.begin(VERSION_1 | PACKED, [0]))[0])
        expect(await ask(hosted, first, OUT, 1n, new Uint8Array(512).fill(7))).toMatchObject({ status: 0 })
        await hosted.leave()
        const second = the((await hosted.begin(VERSION_1, [0]))[0])
        expect((await ask(hosted, second, IN, 1n)).data.every((byte) => byte === 7)).toBe(true)
      })
    })
})

describe('a network device', () => {
  const HEADER = 12
  const device = () => networkDevice({ mac: MAC, moreFeatures })

  /** A frame to its own address, which comes back. */
  function frame(seed: number): Uint8Array {
    const bytes = Uint8Array.from({ length: 60 }, (_, at) => (at + seed) & 0xff)
    bytes.set(parseMac(MAC))
    return bytes
  }

  function giveBuffer(hosted: Hosted, receive: ContractQueue): Uint8Array {
    const room = hosted.room(2048)
    receive.ring.begin()
    receive.ring.pushAddress(room.address, 2048, true)
    receive.ring.commit(1)
    if (receive.ring.publish()) receive.kick()
    return room.bytes
  }

  async function send(hosted: Hosted, transmit: ContractQueue, bytes: Uint8Array): Promise<void> {
    const room = hosted.room(HEADER + bytes.length)
    room.bytes.fill(0, 0, HEADER)
    room.bytes.set(bytes, HEADER)
    transmit.ring.begin()
    transmit.ring.pushAddress(room.address, HEADER + bytes.length, false)
    transmit.ring.commit(2)
    if (transmit.ring.publish()) transmit.kick()
    expect(await taken(transmit)).toBe(2)
  }

  for (const host of everyHost)
    suite(host, () => {
      test('says what it is', async () => {
        const hosted = await hostedBy(host, device())
        expect((await hosted.config(6)).slice(0, 6)).toEqual(Uint8Array.from(parseMac(MAC)))
      })

      test.each(formats)('gives frames back by %s rings, with interrupts', async (_name, more) => {
        const hosted = await hostedBy(host, device())
        const [receive, transmit] = (await hosted.begin(VERSION_1 | more, [0, 1])).map(the)
        for (const seed of [1, 2, 3]) {
          const buffer = giveBuffer(hosted, the(receive))
          await send(hosted, the(transmit), frame(seed))
          expect(await taken(the(receive))).toBe(1)
          expect(buffer.slice(HEADER, HEADER + 60)).toEqual(frame(seed))
        }
        await until(() => the(receive).interrupts() > 0)
        expect(await hosted.position(1)).toBe(more === 0n ? 3 : 0x8003_8003)
      })

      test('is as new for the next driver', async () => {
        const hosted = await hostedBy(host, device())
        const first = (await hosted.begin(VERSION_1 | PACKED, [0, 1])).map(the)
        giveBuffer(hosted, the(first[0]))
        await hosted.leave()
        const [receive, transmit] = (await hosted.begin(VERSION_1, [0, 1])).map(the)
        const buffer = giveBuffer(hosted, the(receive))
        await send(hosted, the(transmit), frame(9))
        expect(await taken(the(receive))).toBe(1)
        expect(buffer.slice(HEADER, HEADER + 60)).toEqual(frame(9))
      })

      const lacking = host.lacks.get(netFeatureBits.VIRTIO_NET_F_CTRL_VQ)
      const title = 'takes another address by its control queue'
      ;(lacking === undefined ? test : test.skip)(
        lacking === undefined ? title : `${title} (skipped: ${lacking})`,
        async () => {
          const model = device()
          const hosted = await hostedBy(host, model)
          const queues = await hosted.begin(VERSION_1 | CTRL_VQ | CTRL_MAC_ADDR, [0, 1, 2])
          const control = the(queues[2])
          const [command, ack] = [hosted.room(8), hosted.room(1)]
          command.bytes.set([1, 1, ...parseMac('02:00:00:00:00:77')])
          ack.bytes[0] = 0xff
          control.ring.begin()
          control.ring.pushAddress(command.address, 8, false)
          control.ring.pushAddress(ack.address, 1, true)
          control.ring.commit(3)
          if (control.ring.publish()) control.kick()
          expect(await taken(control)).toBe(3)
          expect(ack.bytes[0]).toBe(0)
          expect(model.mac).toBe('02:00:00:00:00:77')
        },
      )
    })
})

describe('a device of one’s own', () => {
  const config = Uint8Array.from({ length: 96 }, (_, at) => at)
  /** Gives back what it is sent, backwards. A disk by its number, since VDUSE carries no other kinds than disks and network devices. */
  const device = () =>
    customDevice({
      deviceId: deviceIds.block,
      features: VERSION_1 | PACKED | PLATFORM,
      config,
      onKick(chain) {
        const bytes = new Uint8Array(chain.readableLength)
        chain.read(bytes, 0, bytes.length)
        chain.write(bytes.reverse(), 0, bytes.length)
      },
    })

  async function sentBack(hosted: Hosted, queue: ContractQueue, text: string): Promise<string> {
    const [sent, back] = [hosted.room(64), hosted.room(64)]
    sent.bytes.set(Buffer.from(text, 'latin1'))
    queue.ring.begin()
    queue.ring.pushAddress(sent.address, text.length, false)
    queue.ring.pushAddress(back.address, 64, true)
    queue.ring.commit(4)
    if (queue.ring.publish()) queue.kick()
    expect(await taken(queue)).toBe(4)
    return Buffer.from(back.bytes.subarray(0, queue.ring.usedLength)).toString('latin1')
  }

  for (const host of everyHost)
    suite(host, () => {
      test('says what it is', async () => {
        const hosted = await hostedBy(host, device())
        expect(hosted.offered & (VERSION_1 | PACKED)).toBe(VERSION_1 | PACKED)
        expect(Buffer.from(await hosted.config(96)).equals(config)).toBe(true)
      })

      test.each([
        ['split', 0n, 5],
        ['packed', PACKED, 0x800a_800a],
      ] as const)(
        'is asked by its function, by a %s ring, and says where that stands',
        async (_name, more, position) => {
          const hosted = await hostedBy(host, device())
          const queue = the((await hosted.begin(VERSION_1 | more, [0]))[0])
          for (const word of ['one', 'two', 'three', 'four', 'five'])
            expect(await sentBack(hosted, queue, word)).toBe([...word].reverse().join(''))
          await pause(5)
          expect(queue.interrupts()).toBeGreaterThan(0)
          expect(await hosted.position(0)).toBe(position)
        },
      )

      test('is as new for the next driver', async () => {
        const hosted = await hostedBy(host, device())
        const first = the((await hosted.begin(VERSION_1 | PACKED, [0]))[0])
        expect(await sentBack(hosted, first, 'first')).toBe('tsrif')
        await hosted.leave()
        const second = the((await hosted.begin(VERSION_1, [0]))[0])
        expect(await sentBack(hosted, second, 'second')).toBe('dnoces')
      })
    })
})

test('no model names a host', () => {
  const folder = join(packageRoot(), 'lib/models')
  const named = /\b(vduse|vhost-user|vhostUser|simulator|vfio)\b/i
  const found = readdirSync(folder)
    .filter((name) => name.endsWith('.ts'))
    .flatMap((name) =>
      readFileSync(join(folder, name), 'utf8')
        .split('\n')
        // Comments may say where models live; code may not ask.
        .filter((line) => !/^\s*(\/\/|\*|\/\*\*)/.test(line) && named.test(line.replace(/\/\/.*$/, '')))
        .map((line) => `${name}: ${line.trim()}`),
    )
  expect(found).toEqual([])
})
