// The specification's law for drivers of a block device: what is refused by rule, and what a correct driver may do.

import { describe, expect, test } from '@jest/globals'
import { blockDevice } from '../../lib/models/block.js'
import type { Profile } from '../../lib/simulator/profiles.js'
import { blockRequestTypes as types, blockStatus } from '../../lib/uapi/virtio-blk.js'
import { blockFeatureBits as bits, transportFeatureBits as transport } from '../../lib/uapi/virtio-features.js'
import { VERSION_AND_PLATFORM } from '../simulator/support.js'
import { drive, type Segments } from './support.js'

const { VIRTIO_BLK_S_OK: OK, VIRTIO_BLK_S_IOERR: IOERR, VIRTIO_BLK_S_UNSUPP: UNSUPP } = blockStatus
const HEAD = 0x1_0000n
const DATA = 0x1_1000n
const STATUS = 0x1_0800
const LIMITS = [bits.VIRTIO_BLK_F_SIZE_MAX, bits.VIRTIO_BLK_F_SEG_MAX]
const CLEARS = [bits.VIRTIO_BLK_F_DISCARD, bits.VIRTIO_BLK_F_WRITE_ZEROES]

interface Request {
  readonly type: number
  readonly sector?: number
  readonly data?: Segments
  readonly range?: readonly [sector: number, count: number, flags: number]
}

function ask(
  features: readonly number[],
  { type, sector = 0, data = [], range }: Request,
  profile: Profile = 'strict',
) {
  const device = blockDevice({ capacity: 1024 })
  const word = features.reduce((all, number) => all | (1n << BigInt(number)), VERSION_AND_PLATFORM)
  const driven = drive(device, { features: word, options: { profile }, size: 128 })
  const { bytes } = driven
  const view = new DataView(bytes.buffer)
  view.setUint32(Number(HEAD), type, true)
  view.setUint32(Number(HEAD) + 8, sector, true)
  for (const [index, value] of (range ?? []).entries())
    view.setUint32(Number(DATA) + (index === 0 ? 0 : 4 + 4 * index), value, true)
  bytes[STATUS] = 0xee
  driven.exchange(0, [[HEAD, 16, false], ...data, [BigInt(STATUS), 1, true]])
  return { status: bytes[STATUS], device }
}

const read = (count: number, length: number): Segments =>
  Array.from({ length: count }, (_, index) => [DATA + BigInt(index * length), length, true] as const)
const given = (length: number): Segments => [[DATA, length, false]]

describe('is refused, by rule', () => {
  test.each<[string, readonly number[], Request, number, RegExp]>([
    [
      'a segment beyond size_max',
      LIMITS,
      { type: types.VIRTIO_BLK_T_IN, data: read(1, 8192) },
      IOERR,
      /size_max is 4096/,
    ],
    ['segments beyond seg_max', LIMITS, { type: types.VIRTIO_BLK_T_IN, data: read(33, 512) }, IOERR, /seg_max is 32/],
    ['a flush that was not negotiated', [], { type: types.VIRTIO_BLK_T_FLUSH }, UNSUPP, /VIRTIO_BLK_F_FLUSH was not/],
    [
      'a discard that was not negotiated',
      [],
      { type: types.VIRTIO_BLK_T_DISCARD, data: given(16), range: [0, 8, 0] },
      UNSUPP,
      /VIRTIO_BLK_F_DISCARD was not/,
    ],
    [
      'a flush with data',
      [bits.VIRTIO_BLK_F_FLUSH],
      { type: types.VIRTIO_BLK_T_FLUSH, data: given(512) },
      IOERR,
      /512 bytes of data/,
    ],
    [
      'a flush of a sector',
      [bits.VIRTIO_BLK_F_FLUSH],
      { type: types.VIRTIO_BLK_T_FLUSH, sector: 5 },
      IOERR,
      /sector 5/,
    ],
    [
      'an id of 4096 bytes',
      [],
      { type: types.VIRTIO_BLK_T_GET_ID, data: read(1, 4096) },
      IOERR,
      /4096 bytes, it has 20/,
    ],
    ['half a range', CLEARS, { type: types.VIRTIO_BLK_T_DISCARD, data: given(8) }, IOERR, /16 bytes each came in 8/],
    ['no range', CLEARS, { type: types.VIRTIO_BLK_T_WRITE_ZEROES }, IOERR, /16 bytes each came in 0/],
    [
      'two ranges where one is the most',
      CLEARS,
      { type: types.VIRTIO_BLK_T_DISCARD, data: given(32), range: [0, 8, 0] },
      IOERR,
      /2 ranges, max_discard_seg is 1/,
    ],
    [
      'two ranges of zeroes where one is the most',
      CLEARS,
      { type: types.VIRTIO_BLK_T_WRITE_ZEROES, data: given(32), range: [0, 8, 0] },
      IOERR,
      /2 ranges, max_write_zeroes_seg is 1/,
    ],
    [
      'a discard with the flag of write-zeroes',
      CLEARS,
      { type: types.VIRTIO_BLK_T_DISCARD, data: given(16), range: [0, 8, 1] },
      UNSUPP,
      /type 11 has flags 1/,
    ],
    [
      'write-zeroes with a flag that is reserved',
      CLEARS,
      { type: types.VIRTIO_BLK_T_WRITE_ZEROES, data: given(16), range: [0, 8, 2] },
      UNSUPP,
      /type 13 has flags 2/,
    ],
    [
      'a zone to be opened that was not negotiated',
      [],
      { type: types.VIRTIO_BLK_T_ZONE_OPEN, sector: 8 },
      UNSUPP,
      /VIRTIO_BLK_F_ZONED was not/,
    ],
    [
      'a report of zones that was not negotiated',
      [],
      { type: types.VIRTIO_BLK_T_ZONE_REPORT, sector: 8, data: read(1, 512) },
      UNSUPP,
      /VIRTIO_BLK_F_ZONED was not/,
    ],
    [
      'a lifetime that was not negotiated',
      [],
      { type: types.VIRTIO_BLK_T_GET_LIFETIME, data: read(1, 6) },
      UNSUPP,
      /VIRTIO_BLK_F_LIFETIME was not/,
    ],
    ['half a sector', [], { type: types.VIRTIO_BLK_T_OUT, data: given(100) }, IOERR, /not of whole sectors/],
    [
      'a read past the end',
      [],
      { type: types.VIRTIO_BLK_T_IN, sector: 1023, data: read(2, 512) },
      IOERR,
      /beyond the capacity of 1024/,
    ],
  ])('%s', (_, features, request, status, rule) => {
    const found = ask(features, request)
    expect(found.status).toBe(status)
    expect(found.device.violations).toEqual([expect.stringMatching(rule)])
    expect(found.device.violations[0]).toMatch(/against virtio 1\.2 section 5\.2\.\d/)
    expect(ask(features, request, 'linux-6.12').device.violations).toEqual([])
  })
})

describe('is carried out', () => {
  test.each<[string, readonly number[], Request]>([
    ['as many segments as seg_max', LIMITS, { type: types.VIRTIO_BLK_T_IN, data: read(32, 512) }],
    ['a segment of size_max', LIMITS, { type: types.VIRTIO_BLK_T_IN, data: read(2, 4096) }],
    ['a large segment where SIZE_MAX was not negotiated', [], { type: types.VIRTIO_BLK_T_IN, data: read(1, 65_536) }],
    ['a read of nothing', LIMITS, { type: types.VIRTIO_BLK_T_IN }],
    ['a read of the last sector', [], { type: types.VIRTIO_BLK_T_IN, sector: 1023, data: read(1, 512) }],
    ['a flush', [bits.VIRTIO_BLK_F_FLUSH], { type: types.VIRTIO_BLK_T_FLUSH }],
    ['an identification', LIMITS, { type: types.VIRTIO_BLK_T_GET_ID, data: read(1, 20) }],
    // Linux sets the flag whatever write_zeroes_may_unmap says, and the specification lets it.
    [
      'write-zeroes that may unmap',
      CLEARS,
      { type: types.VIRTIO_BLK_T_WRITE_ZEROES, data: given(16), range: [0, 8, 1] },
    ],
    ['a discard', CLEARS, { type: types.VIRTIO_BLK_T_DISCARD, data: given(16), range: [0, 8, 0] }],
  ])('%s', (_, features, request) => {
    const { status, device } = ask(features, request)
    expect(device.violations).toEqual([])
    expect(status).toBe(OK)
  })
})

test.each([8, 12])('a limit of 0 (at %i) is none, as our driver takes it', (at) => {
  const device = blockDevice({ capacity: 1024 })
  device.changeConfig(at, new Uint8Array(4))
  const word = LIMITS.reduce((all, number) => all | (1n << BigInt(number)), VERSION_AND_PLATFORM)
  const driven = drive(device, { features: word, size: 128 })
  const { bytes } = driven
  bytes.fill(0, Number(HEAD), Number(HEAD) + 16)
  driven.exchange(0, [[HEAD, 16, false], ...read(2, 512), [BigInt(STATUS), 1, true]])
  expect([bytes[STATUS], device.violations]).toEqual([OK, []])
})

describe('requests for zones, on a disk that has none (section 5.2.6.2)', () => {
  const zones = Object.entries(types).filter(([name]) => name.startsWith('VIRTIO_BLK_T_ZONE_'))
  test.each(zones)('%s is UNSUPP, whatever its sector', (_, type) => {
    for (const profile of ['strict', 'kernel'] as const)
      for (const sector of [0, 8]) expect(ask([], { type, sector, data: read(1, 512) }, profile).status).toBe(UNSUPP)
  })
})

describe('a chain that is no request (section 5.2.6) comes back', () => {
  test.each<[string, Segments, number | undefined, number]>([
    ['with half a head', [[HEAD, 8, false], ...read(1, 512), [BigInt(STATUS), 1, true]], IOERR, 1],
    ['without a head', [[BigInt(STATUS), 1, true]], IOERR, 1],
    ['without a status', [[HEAD, 16, false], ...given(512)], undefined, 0],
  ])('%s', (_, chain, status, used) => {
    for (const features of [[], [transport.VIRTIO_F_IN_ORDER], [transport.VIRTIO_F_RING_PACKED]]) {
      const device = blockDevice({ capacity: 1024, moreFeatures: features })
      const word = features.reduce((all, number) => all | (1n << BigInt(number)), VERSION_AND_PLATFORM)
      const driven = drive(device, { features: word, size: 128 })
      const { bytes } = driven
      bytes[STATUS] = 0xee
      new DataView(bytes.buffer).setUint32(Number(HEAD), types.VIRTIO_BLK_T_OUT, true)
      expect(driven.exchange(0, chain)).toBe(used)
      expect(bytes[STATUS]).toBe(status ?? 0xee)
      expect(device.violations).toEqual([expect.stringMatching(/^a request has .* section 5\.2\.6$/)])
      expect(driven.exchange(0, [[HEAD, 16, false], ...given(512), [BigInt(STATUS), 1, true]])).toBe(1)
      expect([bytes[STATUS], device.status()]).toEqual([OK, 0x0f])
    }
  })
})
