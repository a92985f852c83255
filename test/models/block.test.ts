import { describe, expect, test } from '@jest/globals'
import { blockDevice, DEFAULT_BLOCK_FEATURES, type BlockDeviceOptions } from '../../lib/models/block.js'
import type { SimulatorOptions } from '../../lib/simulator/simulator.js'
import { blockFeatureBits } from '../../lib/uapi/virtio-features.js'
import { blockRequestTypes as types, decodeBlockConfig, virtioBlkOutHdr } from '../../lib/uapi/virtio-blk.js'
import { send } from '../simulator/support.js'
import { drive } from './support.js'

const HEAD = 0x1_0000
const DATA = 0x1_1000
const STATUS = 0x1_0800
const [OK, IOERR, UNSUPP] = [0, 1, 2]

function disk(options: BlockDeviceOptions = {}, simulation: SimulatorOptions = {}) {
  const device = blockDevice({ capacity: 1024, ...options })
  const driven = drive(device, { options: simulation, memory: 0x8_0000 })
  const { bytes } = driven
  /** One request: its status (255: not answered) and the used length. */
  function request(type: number, sector: number | bigint, readable: Uint8Array, writable = 0, hasStatus = true) {
    virtioBlkOutHdr.encodeInto({ type, ioprio: 0, sector: BigInt(sector) }, bytes, HEAD)
    bytes[STATUS] = 255
    bytes.set(readable, DATA)
    const used = driven.exchange(0, [
      [BigInt(HEAD), 16, false],
      ...(readable.length > 0 ? [[BigInt(DATA), readable.length, false] as const] : []),
      ...(writable > 0 ? [[BigInt(DATA), writable, true] as const] : []),
      ...(hasStatus ? [[BigInt(STATUS), 1, true] as const] : []),
    ])
    return { status: bytes[STATUS], used, data: bytes.slice(DATA, DATA + writable) }
  }
  return { device, request, ...driven }
}

const none = new Uint8Array(0)

function range(sector: number, count: number, flags = 0): Uint8Array {
  const bytes = new Uint8Array(16)
  const view = new DataView(bytes.buffer)
  view.setBigUint64(0, BigInt(sector), true)
  view.setUint32(8, count, true)
  view.setUint32(12, flags, true)
  return bytes
}

describe('a block device', () => {
  test('has the shape of vdpa_sim_blk', () => {
    const device = blockDevice()
    expect(device).toMatchObject({ deviceId: 2, queueCount: 1, groupCount: 1, addressSpaceCount: 1, configSize: 96 })
    expect(device.features()).toBe(DEFAULT_BLOCK_FEATURES)
    expect(DEFAULT_BLOCK_FEATURES).toBe(0x3_0800_7646n)
    expect(decodeBlockConfig(device.config)).toMatchObject({ capacity: 0x4_0000n, blockSize: 512, segMax: 32 })
  })

  test('reads what was written, and zeros elsewhere', () => {
    const { request, device } = disk()
    const data = Uint8Array.from({ length: 1024 }, (_, index) => (index * 7) & 255)
    expect(request(types.VIRTIO_BLK_T_OUT, 127, data)).toMatchObject({ status: OK, used: 1 })
    const { status, used, data: read } = request(types.VIRTIO_BLK_T_IN, 126, none, 2048)
    expect([status, used]).toEqual([OK, 2049])
    expect([...read]).toEqual([...new Array<number>(512).fill(0), ...data, ...new Array<number>(512).fill(0)])
    expect(device.counters).toMatchObject({ reads: 1, writes: 1, bytesRead: 2048, bytesWritten: 1024, errors: 0 })
    // Two chunks of 64 KiB, because the write crossed from one into the next.
    expect(device.storage.allocated).toBe(131_072)
  })

  test('has nothing behind its last sector, not even no bytes', () => {
    const { request } = disk()
    const { VIRTIO_BLK_T_IN: read, VIRTIO_BLK_T_OUT: write } = types
    const statuses = [1023, 1024, 2n ** 53n].map((sector) =>
      [read, write].map((type) => request(type, sector, none).status),
    )
    expect(statuses).toEqual([
      [OK, OK],
      [IOERR, IOERR],
      [IOERR, IOERR],
    ])
  })

  test('looks at no sector where it is unused: FreeBSD names that of the first range of a discard', () => {
    const { request, device } = disk()
    request(types.VIRTIO_BLK_T_OUT, 8, new Uint8Array(512).fill(7))
    expect(request(types.VIRTIO_BLK_T_DISCARD, 8, range(8, 1)).status).toBe(OK)
    expect(request(types.VIRTIO_BLK_T_IN, 8, none, 512).data.every((byte) => byte === 0)).toBe(true)
    expect(request(types.VIRTIO_BLK_T_WRITE_ZEROES, 8, range(8, 1)).status).toBe(OK)
    expect(request(types.VIRTIO_BLK_T_GET_ID, 8, none, 20).status).toBe(OK)
    expect(device.violations).toEqual([])
  })

  test.each([true, false])('answers UNSUPP to flags that it does not know, read-only (%p) or not', (isReadOnly) => {
    const { request } = disk({ isReadOnly })
    expect(request(types.VIRTIO_BLK_T_DISCARD, 0, range(0, 8, 1)).status).toBe(UNSUPP)
    expect(request(types.VIRTIO_BLK_T_WRITE_ZEROES, 0, range(0, 8, 2)).status).toBe(UNSUPP)
    expect(request(types.VIRTIO_BLK_T_WRITE_ZEROES, 0, range(0, 8, 0)).status).toBe(isReadOnly ? IOERR : OK)
  })

  test('is as large as its configuration says, also when that changes while it runs', () => {
    const { device, request } = disk()
    const resize = (sectors: bigint) => device.changeConfig(0, new Uint8Array(BigUint64Array.of(sectors).buffer))
    const write = () => request(types.VIRTIO_BLK_T_OUT, 1500, new Uint8Array(512).fill(7)).status
    const clear = () => request(types.VIRTIO_BLK_T_WRITE_ZEROES, 0, range(1500, 1)).status
    expect([write(), clear()]).toEqual([IOERR, IOERR])
    expect(device.violations[0]).toMatch(/beyond the capacity of 1024/)
    resize(2000n)
    expect([write(), clear(), device.violationCount]).toEqual([OK, OK, 1])
    resize(1500n)
    expect([write(), clear()]).toEqual([IOERR, IOERR])
    expect(device.violations[1]).toMatch(/beyond the capacity of 1500/)
    resize(1n << 60n)
    expect(request(types.VIRTIO_BLK_T_IN, 2 ** 43, none, 512).status).toBe(IOERR)
  })

  test.each([
    ['moreFeatures', { moreFeatures: [blockFeatureBits.VIRTIO_BLK_F_RO] }],
    ['features', { features: DEFAULT_BLOCK_FEATURES | (1n << BigInt(blockFeatureBits.VIRTIO_BLK_F_RO)) }],
    ['isReadOnly', { isReadOnly: true }],
  ])('that offers to be read-only, by %s, refuses what would change it', (_, options) => {
    const { request } = disk(options)
    expect(request(types.VIRTIO_BLK_T_OUT, 0, new Uint8Array(512)).status).toBe(IOERR)
    expect(request(types.VIRTIO_BLK_T_WRITE_ZEROES, 0, range(0, 1)).status).toBe(IOERR)
    expect(request(types.VIRTIO_BLK_T_IN, 0, none, 512).status).toBe(OK)
  })

  test('answers a read whose memory it reaches in part with IOERR, in the last byte', () => {
    const driven = disk()
    const { device, bytes } = driven
    virtioBlkOutHdr.encodeInto({ type: types.VIRTIO_BLK_T_IN, ioprio: 0, sector: 0n }, bytes, HEAD)
    for (const place of [0, 1, 2]) {
      const data = [0, 1, 2].map((at) => [at === place ? 0x7000_0000n : BigInt(DATA + 512 * at), 512, true] as const)
      bytes[STATUS] = 255
      expect(driven.exchange(0, [[BigInt(HEAD), 16, false], ...data, [BigInt(STATUS), 1, true]])).toBe(1)
      expect(bytes[STATUS]).toBe(IOERR)
    }
    expect(device.counters).toMatchObject({ reads: 0, errors: 3 })
  })

  test('has its cache off for a driver that can switch and not flush it', () => {
    const { VIRTIO_BLK_F_CONFIG_WCE: wce, VIRTIO_BLK_F_FLUSH: flush } = blockFeatureBits
    const { device, client } = disk({ moreFeatures: [wce] })
    const at = 32
    device.changeConfig(at, Uint8Array.of(1))
    expect(device.config[at]).toBe(1)
    const negotiate = (features: bigint) => {
      client.set('VHOST_VDPA_SET_STATUS', 0)
      client.set('VHOST_VDPA_SET_STATUS', 3)
      client.set('VHOST_SET_FEATURES', features)
    }
    const all = DEFAULT_BLOCK_FEATURES | (1n << BigInt(wce))
    negotiate(all)
    // What a driver switched is forgotten with it.
    client.set('VHOST_VDPA_SET_STATUS', 11)
    device.writeConfig(at, Uint8Array.of(0))
    expect(device.config[at]).toBe(0)
    negotiate(all)
    expect(device.config[at]).toBe(1)
    negotiate(all & ~(1n << BigInt(wce)) & ~(1n << BigInt(flush)))
    expect(device.config[at]).toBe(1)
    negotiate(all & ~(1n << BigInt(flush)))
    expect(device.config[at]).toBe(0)
  })

  test('moves more than its scratch area at once', () => {
    // Without SIZE_MAX, which allows no such segment.
    const { request } = disk({ features: DEFAULT_BLOCK_FEATURES & ~2n })
    const data = Uint8Array.from({ length: 0x1_8000 }, (_, index) => (index >> 8) & 255)
    expect(request(types.VIRTIO_BLK_T_OUT, 0, data).status).toBe(OK)
    expect(request(types.VIRTIO_BLK_T_IN, 0, none, data.length).data).toEqual(data)
  })

  test('starts with the content it is given', () => {
    const { request } = disk({ content: new Uint8Array(600).fill(9) })
    const { data } = request(types.VIRTIO_BLK_T_IN, 1, none, 512)
    expect([data[87], data[88]]).toEqual([9, 0])
  })

  test.each([
    ['past the end', 1024, 512],
    ['over the end', 1023, 1024],
    ['not of whole sectors', 0, 100],
    ['at a sector beyond 2^53', 2n ** 64n - 1n, 512],
  ])('refuses a read %s', (_, sector, length) => {
    const { request, device } = disk()
    expect(request(types.VIRTIO_BLK_T_IN, sector, none, length)).toMatchObject({ status: IOERR, used: 1 })
    expect(device.counters.errors).toBe(1)
  })

  test('flushes, tells its name, and does not know the rest', () => {
    const { request } = disk({ id: 'disk seven' })
    expect(request(types.VIRTIO_BLK_T_FLUSH, 0, none).status).toBe(OK)
    const { status, used, data } = request(types.VIRTIO_BLK_T_GET_ID, 0, none, 20)
    expect([status, used, Buffer.from(data).toString('latin1')]).toEqual([OK, 21, 'disk seven'.padEnd(20, '\0')])
    expect(request(types.VIRTIO_BLK_T_GET_ID, 0, none, 19).status).toBe(IOERR)
    expect(request(99, 0, none).status).toBe(UNSUPP)
    expect(request(types.VIRTIO_BLK_T_FLUSH, 1, none).status).toBe(IOERR)
  })

  test('makes ranges zero', () => {
    const { request, device } = disk({ content: new Uint8Array(1024 * 512).fill(5) })
    expect(request(types.VIRTIO_BLK_T_WRITE_ZEROES, 0, range(1, 1, 1)).status).toBe(OK)
    expect(request(types.VIRTIO_BLK_T_DISCARD, 0, range(128, 128)).status).toBe(OK)
    const { data } = request(types.VIRTIO_BLK_T_IN, 0, none, 1536)
    expect([data[511], data[512], data[1023], data[1024]]).toEqual([5, 0, 0, 5])
    expect(device.storage.allocated).toBe(1024 * 512 - 65_536)
  })

  test.each([
    ['over the end', range(1023, 2), IOERR],
    ['of two ranges', new Uint8Array(32), IOERR],
    ['of half a range', new Uint8Array(8), IOERR],
    ['with a flag that discards do not have', range(0, 1, 1), UNSUPP],
    ['of nothing behind the last sector', range(1024, 0), IOERR],
  ])('refuses a discard %s', (_, ranges, status) => {
    expect(disk().request(types.VIRTIO_BLK_T_DISCARD, 0, ranges).status).toBe(status)
  })

  test('that is read-only says so and keeps its content', () => {
    const { request, client } = disk({ isReadOnly: true })
    expect(client.get('VHOST_GET_FEATURES') & (1n << 5n)).not.toBe(0n)
    expect(request(types.VIRTIO_BLK_T_OUT, 0, new Uint8Array(512)).status).toBe(IOERR)
    expect(request(types.VIRTIO_BLK_T_WRITE_ZEROES, 0, range(0, 1)).status).toBe(IOERR)
  })

  test('gives a request without a status byte back, and goes on', () => {
    const { request, queues } = disk()
    expect(request(types.VIRTIO_BLK_T_OUT, 0, new Uint8Array(512), 0, false).used).toBe(0)
    expect(queues[0]?.call.take()).toBe(1)
    expect(request(types.VIRTIO_BLK_T_FLUSH, 0, none).status).toBe(OK)
  })

  test('as vdpa_sim_blk uses such a chain, without an interrupt', () => {
    const { request, queues } = disk({}, { profile: 'linux-6.12' })
    expect(request(types.VIRTIO_BLK_T_OUT, 0, new Uint8Array(512), 0, false).used).toBe(0)
    expect(queues[0]?.call.take()).toBe(0)
    expect(request(types.VIRTIO_BLK_T_IN, 0, none, 100)).toMatchObject({ status: OK, used: 101 })
    expect(request(99, 0, none).status).toBe(IOERR)
  })

  test.each([
    ['strict', [1, 2], []],
    ['linux-6.12', [1], [2]],
  ] as const)(
    'goes on after such a chain by the law, and rests on 6.12 until the next kick (%s)',
    (profile, ...turns) => {
      const { bytes, queues, simulator } = disk({}, { profile })
      virtioBlkOutHdr.encodeInto({ type: types.VIRTIO_BLK_T_FLUSH, ioprio: 0, sector: 0n }, bytes, HEAD)
      const [queue] = queues
      if (queue === undefined) throw new Error('a disk has a queue')
      send(queue, [[BigInt(HEAD), 16, false]], 1)
      send(
        queue,
        [
          [BigInt(HEAD), 16, false],
          [BigInt(STATUS), 1, true],
        ],
        2,
      )
      for (const tokens of turns) {
        simulator.drain()
        for (const token of tokens) expect(queue.ring.take()).toBe(token)
        expect(queue.ring.take()).toBe(-1)
        queue.kick.signal()
      }
    },
  )

  test.each([
    [undefined, 32],
    [256, 32],
    [32, 30],
    [16, 14],
    [4, 2],
    [1, 1],
  ])('says that a request has no more segments than a ring of %p has room for: %i', (maxQueueSize, segments) => {
    const options = maxQueueSize === undefined ? {} : { maxQueueSize }
    expect(decodeBlockConfig(blockDevice(options).config).segMax).toBe(segments)
  })

  test('refuses options that no disk can have', () => {
    expect(() => blockDevice({ capacity: -1 })).toThrow(RangeError)
    // A cache that is switched and cannot be flushed (section 5.2.5.2).
    const features = DEFAULT_BLOCK_FEATURES & ~(1n << BigInt(blockFeatureBits.VIRTIO_BLK_F_FLUSH))
    expect(blockDevice({ features }).hasFeature(blockFeatureBits.VIRTIO_BLK_F_FLUSH)).toBe(false)
    const moreFeatures = [blockFeatureBits.VIRTIO_BLK_F_CONFIG_WCE]
    expect(() => blockDevice({ features, moreFeatures })).toThrow(/VIRTIO_BLK_F_FLUSH/)
    expect(() => blockDevice({ id: 'x'.repeat(21) })).toThrow(RangeError)
    expect(() => blockDevice({ capacity: 1, content: new Uint8Array(513) })).toThrow(RangeError)
  })
})

test('the write cache is switched by a write to its own byte, or to more than that', () => {
  const WCE_AT = 32
  const device = blockDevice({ moreFeatures: [blockFeatureBits.VIRTIO_BLK_F_CONFIG_WCE] })
  drive(device)
  device.writeConfig(WCE_AT, Uint8Array.of(1))
  expect(device.config[WCE_AT]).toBe(1)
  device.writeConfig(WCE_AT - 2, Uint8Array.of(9, 9, 0, 9))
  expect([...device.config.subarray(WCE_AT - 2, WCE_AT + 2)]).toEqual([0, 0, 0, 0])
  // A reset finds it as it was before the first of any number of switches.
  for (let count = 0; count < 2; count++) device.writeConfig(WCE_AT, Uint8Array.of(1))
  device.reset()
  expect(device.config[WCE_AT]).toBe(0)
})
