import { expect, test } from '@jest/globals'
import { isVlanTag, segmentHeaderBytes } from '../../lib/uapi/net-frame.js'
import { netGsoTypes } from '../../lib/uapi/virtio-net.js'

test.each([
  [0x81, 0x00, true],
  [0x88, 0xa8, true],
  [0x08, 0x00, false],
  [0x00, 0x81, false],
])('a type of %i, %i is a tag: %s', (high, low, is) => {
  expect(isVlanTag(Uint8Array.of(1, high, low), 1)).toBe(is)
})

test('there is no tag behind the end', () => {
  expect(isVlanTag(Uint8Array.of(0x88), 0)).toBe(false)
  expect(isVlanTag(new Uint8Array(4), 4)).toBe(false)
})

test('headers end behind that of TCP, as long as it says, or that of UDP', () => {
  const { VIRTIO_NET_HDR_GSO_TCPV4, VIRTIO_NET_HDR_GSO_TCPV6, VIRTIO_NET_HDR_GSO_UDP, VIRTIO_NET_HDR_GSO_UDP_L4 } =
    netGsoTypes
  const frame = new Uint8Array(100)
  frame[12 + 34 + 12] = 0x8f
  expect(segmentHeaderBytes(frame, 12, VIRTIO_NET_HDR_GSO_TCPV4, 34)).toBe(34 + 32)
  expect(segmentHeaderBytes(frame, 12, VIRTIO_NET_HDR_GSO_TCPV6, 34)).toBe(34 + 32)
  for (const type of [VIRTIO_NET_HDR_GSO_UDP, VIRTIO_NET_HDR_GSO_UDP_L4])
    expect(segmentHeaderBytes(frame, 12, type, 34)).toBe(42)
  expect(segmentHeaderBytes(frame, 12, VIRTIO_NET_HDR_GSO_TCPV4, 200)).toBe(200)
})
