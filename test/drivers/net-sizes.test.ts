// How long receive buffers are: what a program asks for, and what it gets when it asks for nothing, by what was negotiated.

import { describe, expect, test } from '@jest/globals'
import { NetHeaders, type HasFeature, type NetFeatureName } from '../../lib/drivers/net-header.js'
import {
  checkReceiveSizes,
  defaultBufferBytes,
  LONGEST_FRAME_BYTES,
  sendableBytes,
} from '../../lib/drivers/net-sizes.js'

function negotiated(...names: readonly NetFeatureName[]) {
  const has: HasFeature = (name) => names.includes(name)
  return [has, new NetHeaders(has)] as const
}

const segments = ['TSO4', 'TSO6', 'UFO', 'USO4', 'USO6'].map((name) => [`VIRTIO_NET_F_GUEST_${name}` as NetFeatureName])

describe('without MRG_RXBUF', () => {
  test('a buffer has room for a frame of Ethernet, 1526 with its header, by default', () => {
    for (const names of [[], ['VIRTIO_NET_F_HASH_REPORT']] as const) {
      const [has, headers] = negotiated(...names)
      const bufferBytes = defaultBufferBytes(has, headers, { size: 256, mtu: undefined })
      expect(bufferBytes).toBe(2048)
      expect(bufferBytes).toBeGreaterThanOrEqual(headers.size + 1514)
      checkReceiveSizes(has, headers, { bufferBytes, size: 256, mtu: undefined })
    }
  })

  test.each(segments)('%s: a buffer has room for a segment, and a smaller one is refused', (name) => {
    const [has, headers] = negotiated(name)
    const sizes = { size: 4, mtu: 9000 }
    const bufferBytes = defaultBufferBytes(has, headers, sizes)
    expect(bufferBytes).toBe(12 + LONGEST_FRAME_BYTES)
    checkReceiveSizes(has, headers, { ...sizes, bufferBytes })
    expect(() => checkReceiveSizes(has, headers, { ...sizes, bufferBytes: bufferBytes - 1 })).toThrow(/at least 65601/)
  })

  test('an MTU makes them as long as it, with a tag', () => {
    const [has, headers] = negotiated('VIRTIO_NET_F_MTU')
    for (const [mtu, expected] of [
      [68, 2048],
      [2018, 2048],
      [2019, 2049],
      [9000, 9030],
    ] as const)
      expect(defaultBufferBytes(has, headers, { size: 16, mtu })).toBe(expected)
    expect(() => checkReceiveSizes(has, headers, { bufferBytes: 9029, size: 16, mtu: 9000 })).toThrow(/an MTU of 9000/)
  })
})

describe('with MRG_RXBUF', () => {
  test.each([
    [256, 2048],
    [33, 2048],
    [32, 2051],
    [16, 4101],
    [1, 65_601],
  ])('all %d buffers together have room for a segment: %d bytes each', (size, expected) => {
    const [has, headers] = negotiated('VIRTIO_NET_F_MRG_RXBUF', 'VIRTIO_NET_F_GUEST_TSO4')
    const bufferBytes = defaultBufferBytes(has, headers, { size, mtu: undefined })
    expect(bufferBytes).toBe(expected)
    checkReceiveSizes(has, headers, { bufferBytes, size, mtu: undefined })
    const least = Math.ceil(65_601 / size) - 1
    expect(() => checkReceiveSizes(has, headers, { bufferBytes: least, size, mtu: undefined })).toThrow(RangeError)
  })

  test('a header must have room in any case', () => {
    const [has, headers] = negotiated('VIRTIO_NET_F_MRG_RXBUF', 'VIRTIO_NET_F_HASH_REPORT')
    expect(headers.size).toBe(20)
    expect(() => checkReceiveSizes(has, headers, { bufferBytes: 19, size: 1, mtu: undefined })).toThrow(RangeError)
    checkReceiveSizes(has, headers, { bufferBytes: 20, size: 1, mtu: undefined })
  })
})

test('the longest frame that is sent: what has room, or what the MTU allows where nobody cuts segments', () => {
  const bare = negotiated()
  const sizes = { bufferBytes: 2048, size: 4 }
  expect(sendableBytes(...bare, { ...sizes, mtu: undefined })).toBe(2036)
  expect(sendableBytes(...bare, { ...sizes, mtu: 1500 })).toBe(1518)
  expect(sendableBytes(...bare, { ...sizes, mtu: 9000 })).toBe(2036)
  expect(sendableBytes(...negotiated('VIRTIO_NET_F_HOST_USO'), { ...sizes, mtu: 1500 })).toBe(2036)
})
