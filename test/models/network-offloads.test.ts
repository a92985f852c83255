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

test('a segment is dropped while the driver does not take it', () => {
  let isOn = true
  const offloads = new NetOffloads(
    () => true,
    HEADER,
    1500,
    (number) => isOn || number !== netFeatureBits.VIRTIO_NET_F_GUEST_TSO4,
  )
  expect(offloads.receive(frame(NEEDS_CSUM, TCPV4), HEADER + 60)).toBe(true)
  isOn = false
  expect(offloads.receive(frame(NEEDS_CSUM, TCPV4), HEADER + 60)).toBe(false)
})
