// What a driver has switched off is not handed to it: the device does it, or drops the frame.

import { expect, test } from '@jest/globals'
import { NetOffloads } from '../../lib/models/network-offloads.js'
import { netFeatureBits } from '../../lib/uapi/virtio-features.js'

const HEADER = 12
const NEEDS_CSUM = 1
const TCPV4 = 1

function frame(flags: number, type: number): Uint8Array {
  const bytes = new Uint8Array(HEADER + 60)
  bytes.set([flags, type, 0, 0, 100, 0, 20, 0, 2, 0])
  return bytes
}

test('a checksum is handed on while the driver takes it, and computed when it does not', () => {
  let isOn = true
  const offloads = new NetOffloads(
    () => true,
    HEADER,
    1500,
    (number) => isOn || number !== netFeatureBits.VIRTIO_NET_F_GUEST_CSUM,
  )
  const kept = frame(NEEDS_CSUM, 0)
  expect([offloads.receive(kept, kept.length), kept[0], kept[HEADER + 22]]).toEqual([true, NEEDS_CSUM, 0])
  isOn = false
  const computed = frame(NEEDS_CSUM, 0)
  expect([offloads.receive(computed, computed.length), computed[0], computed[HEADER + 22]]).toEqual([true, 0, 0xff])
})

test.each([
  ['the driver does not take it', netFeatureBits.VIRTIO_NET_F_GUEST_TSO4],
  ['the driver takes no checksums: it would be given one without (5.1.6.4.1)', netFeatureBits.VIRTIO_NET_F_GUEST_CSUM],
])('a segment is dropped while %s', (_why, feature) => {
  let isOn = true
  const offloads = new NetOffloads(
    () => true,
    HEADER,
    1500,
    (number) => isOn || number !== feature,
  )
  expect(offloads.receive(frame(NEEDS_CSUM, TCPV4), HEADER + 60)).toBe(true)
  isOn = false
  expect(offloads.receive(frame(NEEDS_CSUM, TCPV4), HEADER + 60)).toBe(false)
})

test('no header is handed on that no device may give a driver (5.1.6.4.1)', () => {
  const offloads = new NetOffloads(() => true, HEADER, 1500)
  const without = frame(0, TCPV4)
  const sizeless = frame(NEEDS_CSUM, TCPV4)
  sizeless[4] = 0
  const [last, beyond] = [frame(NEEDS_CSUM, 0), frame(NEEDS_CSUM, 0)]
  last[6] = 56
  beyond[6] = 57
  const taken = [without, sizeless, last, beyond].map((bytes) => offloads.receive(bytes, bytes.length))
  expect(taken).toEqual([false, false, true, false])
})

test.each([
  ['TCP', TCPV4, 54, undefined],
  ['TCP', TCPV4, 0, 'hdr_len 0, its headers have 54 bytes'],
  ['TCP', TCPV4, 34, 'hdr_len 34, its headers have 54 bytes'],
  ['UDP', 5, 42, undefined],
  ['UDP', 5, 54, 'hdr_len 54, its headers have 42 bytes'],
] as const)('of %s (%i) headers of %i bytes are exact where that was negotiated: %p', (_, type, headers, rule) => {
  const bytes = frame(NEEDS_CSUM, type)
  bytes[2] = headers
  bytes[6] = 34
  bytes[HEADER + 34 + 12] = 0x50
  const withLengths = new NetOffloads(() => true, HEADER, 1500)
  expect(withLengths.violation(bytes, bytes.length)?.what).toEqual(rule && expect.stringContaining(rule))
  const without = new NetOffloads((number) => number !== netFeatureBits.VIRTIO_NET_F_GUEST_HDRLEN, HEADER, 1500)
  expect(without.violation(bytes, bytes.length)).toBeUndefined()
})
