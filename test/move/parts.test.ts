// A snapshot as device parts: the bytes of the specification, the way there and back, and what is refused.

import { describe, expect, test } from '@jest/globals'
import fc from 'fast-check'
import { checkSnapshot } from '../../lib/move/check-snapshot.js'
import { ownPartTypes, snapshotFromParts, snapshotToParts } from '../../lib/move/parts.js'
import { decodeDeviceParts, devicePartTypes, encodeDeviceParts, type DevicePart } from '../../lib/uapi/device-parts.js'
import { isVdpaError } from '../../lib/base/errors.js'
import { snapshots } from './arbitrary.js'

const code = (name: string) => expect.objectContaining({ code: name })
const sample = () => fc.sample(snapshots, { seed: 7, numRuns: 1 })[0] as ReturnType<typeof checkSnapshot>
const unknownPart = (flags: number): DevicePart => {
  return { type: 0x123, flags, selector: new Uint8Array(8), value: Uint8Array.of(1, 2, 3) }
}

describe('every snapshot', () => {
  test('passes the check as it is', () => {
    fc.assert(fc.property(snapshots, (snapshot) => expect(checkSnapshot(snapshot)).toEqual(snapshot)))
  })

  test('comes back from parts, from bytes, and from JSON', () => {
    fc.assert(
      fc.property(snapshots, (snapshot) => {
        const kept = [unknownPart(1)]
        const bytes = encodeDeviceParts(snapshotToParts(JSON.parse(JSON.stringify(snapshot)) as never, kept))
        const read = snapshotFromParts(decodeDeviceParts(bytes))
        expect(read).toEqual({ snapshot, kept })
      }),
    )
  })

  test('cut anywhere is a named error, or parts that are', () => {
    fc.assert(
      fc.property(snapshots, fc.double({ min: 0, max: 1, noNaN: true, maxExcluded: true }), (snapshot, share) => {
        const bytes = encodeDeviceParts(snapshotToParts(snapshot))
        const cut = bytes.slice(0, Math.floor(bytes.length * share))
        expect(named(() => snapshotFromParts(decodeDeviceParts(cut)))).toBe(true)
      }),
    )
  })

  test('with a byte changed is a snapshot or a named error', () => {
    fc.assert(
      fc.property(snapshots, fc.nat(), fc.integer({ min: 1, max: 255 }), (snapshot, at, difference) => {
        const bytes = encodeDeviceParts(snapshotToParts(snapshot))
        const index = at % bytes.length
        bytes[index] = (bytes[index] ?? 0) ^ difference
        named(() => snapshotFromParts(decodeDeviceParts(bytes)))
      }),
    )
  })
})

/** Whether it throws; only errors that say what is wrong count. */
function named(work: () => void): boolean {
  try {
    work()
    return false
  } catch (failure) {
    expect(isVdpaError(failure) || failure instanceof TypeError || failure instanceof RangeError).toBe(true)
    return true
  }
}

test('features, status, queues and commands are in the parts of the specification', () => {
  const snapshot = checkSnapshot({
    ...sample(),
    features: '0x300000020',
    status: 0x0f,
    queues: [
      {
        index: 3,
        size: 256,
        isEnabled: true,
        asid: 0,
        addresses: { descriptor: '0x1000', driver: '0x2000', device: '0x3000' },
        position: { available: 0x102, used: 0x101 },
      },
    ],
    control: [
      { name: 'VIRTIO_NET_CTRL_MAC_ADDR_SET', payload: '020000000001' },
      { name: 'VIRTIO_NET_CTRL_VLAN_ADD', payload: '0500' },
      { name: 'VIRTIO_NET_CTRL_VLAN_ADD', payload: '0600' },
      { name: 'VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET', payload: '0000000000000000' },
    ],
  })
  const parts = snapshotToParts(snapshot)
  const hex = (one: DevicePart) => Buffer.from(encodeDeviceParts([one])).toString('hex')
  const of = (type: number) => parts.filter((one) => one.type === type).map(hex)
  expect(of(devicePartTypes.DRV_FEATURES)).toEqual(['010100000000000000000000' + '08000000' + '2000000003000000'])
  expect(of(devicePartTypes.DEVICE_STATUS)).toEqual(['030100000000000000000000' + '01000000' + '0f'])
  expect(of(devicePartTypes.VQ_CFG)).toEqual([
    '040100000300000000000000' +
      '20000000' +
      '0001ffff01000000' +
      '0010000000000000' +
      '0020000000000000' +
      '0030000000000000',
  ])
  expect(of(devicePartTypes.NET_CONTROL)).toEqual([
    '000200000101000000000000' + '06000000' + '020000000001',
    '000200000200000000000000' + '04000000' + '05000600',
  ])
  expect(of(ownPartTypes.NET_CONTROL).length).toBe(1)
  const mark = Buffer.from('vhost-vdpa').toString('hex')
  expect(of(ownPartTypes.RING_POSITION)).toEqual(['01fd00000300000000000000' + '10000000' + mark + '0100' + '02010101'])
  expect(snapshotFromParts(parts).snapshot).toEqual(snapshot)
})

test('unknown optional parts are kept, required ones and missing ones are named', () => {
  const parts = snapshotToParts(sample())
  expect(snapshotFromParts([...parts, unknownPart(1)]).kept).toEqual([unknownPart(1)])
  expect(() => snapshotFromParts([...parts, unknownPart(0)])).toThrow(code('ERR_VDPA_NOT_SUPPORTED'))
  for (const type of [devicePartTypes.DRV_FEATURES, devicePartTypes.DEVICE_STATUS, ownPartTypes.STATE])
    expect(() => snapshotFromParts(parts.filter((one) => one.type !== type))).toThrow(code('ERR_VDPA_NOT_SUPPORTED'))
})

describe('each part', () => {
  // One that has a part of each type.
  const parts = fc
    .sample(snapshots, { seed: 11, numRuns: 200 })
    .map((one) => snapshotToParts(one))
    .reduce((best, one) => (typesOf(one) > typesOf(best) ? one : best))

  /** The parts with one of them changed, as bytes and back. */
  const read = (at: number, ...others: readonly DevicePart[]) =>
    named(() =>
      snapshotFromParts(
        decodeDeviceParts(encodeDeviceParts([...parts.slice(0, at), ...others, ...parts.slice(at + 1)])),
      ),
    )

  test('is in the sample', () => {
    // What a device of PCI says of itself, which no driver of ours sets.
    const { DEV_FEATURES, PCI_COMMON_CFG, VQ_NOTIFY_CFG } = devicePartTypes
    const ofOthers = [DEV_FEATURES, PCI_COMMON_CFG, VQ_NOTIFY_CFG]
    const all: readonly number[] = [...Object.values(devicePartTypes), ...Object.values(ownPartTypes)]
    const there = new Set(parts.map(({ type }) => type))
    expect(all.filter((type) => !there.has(type))).toEqual(ofOthers)
  })

  test('missing, twice, or longer is a named error, or parts that are', () => {
    for (const [at, one] of parts.entries()) {
      read(at)
      read(at, one, one)
      read(at, { ...one, value: Uint8Array.of(...one.value, 0) })
    }
    expect(parts.length).toBeGreaterThan(8)
  })

  test('cut anywhere, or with any byte changed, is a named error, or parts that are', () => {
    let refused = 0
    for (const [at, one] of parts.entries()) {
      // The places of a long one are sampled.
      const step = Math.ceil(one.value.length / 120)
      for (let length = 0; length < one.value.length; length += step) {
        if (read(at, { ...one, value: one.value.slice(0, length) })) refused++
        for (const bits of [0x01, 0x80, 0xff]) {
          const value = Uint8Array.from(one.value)
          value[length] = (value[length] ?? 0) ^ bits
          read(at, { ...one, value })
        }
      }
      for (let place = 0; place < 8; place++)
        read(at, { ...one, selector: one.selector.map((byte, index) => (index === place ? ~byte : byte)) })
    }
    expect(refused).toBeGreaterThan(100)
  })

  test('of an unknown type is refused where it is required, by name', () => {
    for (const [at, one] of parts.entries())
      for (const type of [0, 0x102, 0x105, 0x1ff, 0x201, 0xfcff, 0xffff])
        expect([type, read(at, one, { ...one, type, flags: 0 })]).toEqual([type, true])
  })
})

/** Of how many types they are. */
function typesOf(parts: readonly DevicePart[]): number {
  return new Set(parts.map(({ type }) => type)).size
}

test('a part of a private type that is not ours is refused', () => {
  const parts = snapshotToParts(sample()).map((one) =>
    one.type === ownPartTypes.STATE ? { ...one, value: new TextEncoder().encode('somebody') } : one,
  )
  expect(() => snapshotFromParts(parts)).toThrow(code('ERR_VDPA_NOT_SUPPORTED'))
})

test('what is no snapshot is named by its place', () => {
  const wrong = (change: object) => () => checkSnapshot({ ...sample(), ...change })
  expect(wrong({ version: 2 })).toThrow('snapshot.version')
  expect(wrong({ features: '0x' })).toThrow('snapshot.features')
  expect(wrong({ control: [{ name: 'toString', payload: '' }] })).toThrow('snapshot.control[0]')
  expect(wrong({ spaces: [{ asid: 0, mappings: [{ iova: '0x0' }] }] })).toThrow('snapshot.spaces[0].mappings[0].size')
  expect(
    wrong({
      groups: [
        { group: 1, asid: 1 },
        { group: 1, asid: 0 },
      ],
    }),
  ).toThrow('names a group once')
})
