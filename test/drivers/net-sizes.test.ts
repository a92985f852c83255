// How long receive buffers are: what a program asks for, and what it gets when it asks for nothing, by what was negotiated.

import { describe, expect, test } from '@jest/globals'
import { NetDriver } from '../../lib/drivers/net-driver.js'
import { NetHeaders, type HasFeature, type NetFeatureName } from '../../lib/drivers/net-header.js'
import {
  checkReceiveSizes,
  defaultBufferBytes,
  LONGEST_FRAME_BYTES,
  mtuOf,
  sendLimits,
} from '../../lib/drivers/net-sizes.js'
import { openDevice } from '../../lib/open.js'
import { networkDevice, Simulator } from '../../lib/simulator/index.js'
import { netFeatureBits } from '../../lib/uapi/virtio-features.js'
import { netGsoTypes, netHeaderFlags } from '../../lib/uapi/virtio-net.js'
import { mac, numbered, numberOf, path, run } from './support.js'

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

test('the longest frame that is sent: what has room, or what the MTU allows, but for segments that are cut', () => {
  const bare = negotiated()
  const sizes = { bufferBytes: 2048, size: 4 }
  const limits = (frameBytesLast: number, plainBytesLast: number, untaggedBytesLast: number) => ({
    frameBytesLast,
    plainBytesLast,
    untaggedBytesLast,
  })
  const room = limits(2036, 2036, 2036)
  expect(sendLimits(...bare, { ...sizes, mtu: undefined })).toEqual(room)
  expect(sendLimits(...bare, { ...sizes, mtu: 1500 })).toEqual(limits(1518, 1518, 1514))
  expect(sendLimits(...bare, { ...sizes, mtu: 2020 })).toEqual(limits(2036, 2036, 2034))
  expect(sendLimits(...bare, { ...sizes, mtu: 9000 })).toEqual(room)
  const cutting = negotiated('VIRTIO_NET_F_HOST_USO')
  expect(sendLimits(...cutting, { ...sizes, mtu: 1500 })).toEqual(limits(2036, 1518, 1514))
  expect(sendLimits(...cutting, { ...sizes, mtu: undefined })).toEqual(room)
})

const segmented = {
  flags: netHeaderFlags.VIRTIO_NET_HDR_F_NEEDS_CSUM,
  gsoType: netGsoTypes.VIRTIO_NET_HDR_GSO_TCPV4,
  headerLength: 54,
  gsoSize: 1400,
  checksumStart: 34,
  checksumOffset: 16,
}

describe('an MTU', () => {
  test('holds for every frame that the device does not cut, also where it cuts others', async () => {
    const { driver, device, simulator } = await run({
      features: ['VIRTIO_NET_F_MTU', 'VIRTIO_NET_F_CSUM', 'VIRTIO_NET_F_HOST_TSO4'],
      device: { mtu: 1500, moreFeatures: [netFeatureBits.VIRTIO_NET_F_CSUM, netFeatureBits.VIRTIO_NET_F_HOST_TSO4] },
      bufferBytes: 8192,
    })
    const plain = { ...segmented, gsoType: netGsoTypes.VIRTIO_NET_HDR_GSO_NONE, gsoSize: 0 }
    expect(() => driver.send(numbered(1, 1519))).toThrow('frame.byteLength must be an integer from 1 to 1518')
    expect(() => driver.send(numbered(1, 1519), 0, plain)).toThrow('from 1 to 1518')
    expect(() => driver.sendBatch([numbered(1, 60), numbered(1, 1519)])).toThrow('from 1 to 1518')
    expect(() => driver.sendInPlace(1519, () => undefined)).toThrow('from 1 to 1518')
    expect(driver.send(numbered(1, 4000), 0, segmented)).toBe(true)
    expect(driver.sendInPlace(4000, (frame) => frame.set(numbered(1)), 0, segmented)).toBe(true)
    expect(driver.frameBytesLast).toBe(8180)
    expect(() => driver.send(numbered(1, 8181), 0, segmented)).toThrow('from 1 to 8180')
    simulator.drain()
    expect(driver.counters.sentFrames).toBe(2)
    await device.close()
  })

  test.each([
    [1514, undefined, true],
    [1515, undefined, false],
    [1518, undefined, false],
    [1518, 0x8100, true],
    [1518, 0x88a8, true],
  ])('of 1500 lets %i bytes with tag %p pass: %p', async (length, tag, passes) => {
    const simulator = new Simulator()
    const model = networkDevice({ path, mac, moreFeatures: [netFeatureBits.VIRTIO_NET_F_CSUM] })
    simulator.add(model)
    const device = await openDevice(path, { backend: simulator, expect: 'net' })
    await device.negotiate(['VIRTIO_NET_F_MTU', 'VIRTIO_NET_F_CSUM'])
    const driver = await NetDriver.start(device, { size: 4 })
    await device.start()
    driver.kickReceive()
    const frame = numbered(7, length)
    if (tag !== undefined) frame.set([tag >> 8, tag & 0xff], 12)
    const plain = { ...segmented, gsoType: netGsoTypes.VIRTIO_NET_HDR_GSO_NONE, gsoSize: 0 }
    const sends = [
      () => driver.send(frame),
      () => driver.send(frame, 0, plain),
      () => driver.sendInPlace(length, (view) => view.set(frame)),
      () => driver.sendBatch([frame]) === 1,
    ]
    for (const send of sends) {
      if (passes) expect(send()).toBe(true)
      else expect(send).toThrow('frame.byteLength must be at most 1514 without a VLAN tag')
    }
    // Buffers of frames that were refused are free again.
    expect(driver.sendBatch(Array.from({ length: 4 }, () => numbered(1)))).toBe(passes ? 0 : 4)
    simulator.drain()
    expect(driver.counters.sentFrames).toBe(4)
    expect(model.violations).toEqual([])
    await device.close()
  })

  test('is found where the kernel does not tell the size of the configuration', async () => {
    const simulator = new Simulator()
    simulator.add(networkDevice({ path, mac, mtu: 9000 }))
    simulator.faults.fail({ request: 'VHOST_VDPA_GET_CONFIG_SIZE', with: 'ENOTTY' })
    const device = await openDevice(path, { backend: simulator, expect: 'net' })
    await device.negotiate(['VIRTIO_NET_F_MTU'])
    const driver = await NetDriver.start(device, { size: 4 })
    expect(driver.frameBytesLast).toBe(9018)
    await device.close()
  })

  test('counts from 68 on, which is the least that a device may have', () => {
    const config = (mtu: number) => () => ({ mac, mtu })
    expect([0, 67, 68, 65_535].map((mtu) => mtuOf(() => true, config(mtu)))).toEqual([undefined, undefined, 68, 65_535])
    expect(mtuOf(() => false, config(1500))).toBeUndefined()
    expect(
      mtuOf(
        () => true,
        () => ({ mac }),
      ),
    ).toBeUndefined()
  })
})

test.each([true, false])(
  'the headers of a segmented frame are as long as they say with HDRLEN (%p)',
  async (isExact) => {
    const offloads = ['VIRTIO_NET_F_CSUM', 'VIRTIO_NET_F_HOST_TSO4', 'VIRTIO_NET_F_GUEST_HDRLEN'] as const
    const simulator = new Simulator()
    const model = networkDevice({ path, mac, moreFeatures: offloads.map((name) => netFeatureBits[name]) })
    simulator.add(model)
    const device = await openDevice(path, { backend: simulator, expect: 'net' })
    await device.negotiate(isExact ? [...offloads] : offloads.slice(0, 2))
    const driver = await NetDriver.start(device, { size: 4, bufferBytes: 8192 })
    await device.start()
    driver.kickReceive()
    const frame = numbered(1, 4000)
    frame[34 + 12] = 0x50
    const wrong = { ...segmented, headerLength: 34 }
    const nested = () => driver.send(frame, 0, segmented)
    for (const send of [
      () => driver.send(frame, 0, wrong),
      // A frame that is sent meanwhile has a header of its own.
      () => driver.sendInPlace(4000, (view) => (view.set(frame), nested()), 0, wrong),
    ]) {
      if (isExact) expect(send).toThrow('header.headerLength must be 54, as the frame has it')
      else expect(send()).toBe(true)
    }
    expect(driver.send(frame, 0, segmented)).toBe(true)
    simulator.drain()
    expect([driver.counters.sentFrames, model.violations]).toEqual([isExact ? 2 : 4, []])
    await device.close()
  },
)

test('the longest frame comes back whole, and a longer one not at all', async () => {
  const { device, driver, simulator } = await run({
    features: ['VIRTIO_NET_F_MRG_RXBUF'],
    bufferBytes: 66_560,
    size: 4,
  })
  try {
    const longest = numbered(1, LONGEST_FRAME_BYTES)
    expect(driver.send(longest)).toBe(true)
    expect(Buffer.compare(await driver.nextFrame(), longest)).toBe(0)
    // With a header of 12 bytes there is room for 8 more in what the device has for one of 20.
    for (const length of [LONGEST_FRAME_BYTES + 9, 66_548]) expect(driver.send(numbered(2, length))).toBe(true)
    expect(driver.send(numbered(3))).toBe(true)
    expect(numberOf(await driver.nextFrame())).toBe(3)
    simulator.drain()
    expect(driver.receive(() => undefined)).toBe(0)
  } finally {
    await device.close()
  }
})
