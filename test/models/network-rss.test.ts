// The Toeplitz hash against the published verification vectors of receive-side scaling, and the queue that a frame goes to.

import { describe, expect, test } from '@jest/globals'
import { frameHash, rssQueue, toeplitz } from '../../lib/models/network-rss.js'
import { netHashTypes as types, netTunnelTypes } from '../../lib/uapi/virtio-net.js'

const key = Uint8Array.from(
  Buffer.from('6d5a56da255b0ec24167253d43a38fb0d0ca2bcbae7b30b477cb2da38030f20c6a42b73bbeac01fa', 'hex'),
)

const v4 = (text: string) => text.split('.').map(Number)

function v6(text: string): number[] {
  const [head = '', tail = ''] = text.split('::')
  const words = (part: string) => (part === '' ? [] : part.split(':').map((word) => parseInt(word, 16)))
  const [left, right] = [words(head), words(tail)]
  const all = [...left, ...new Array<number>(8 - left.length - right.length).fill(0), ...right]
  return all.flatMap((word) => [word >> 8, word & 0xff])
}

const port = (number: number) => [number >> 8, number & 0xff]

/** An Ethernet frame of a TCP or UDP packet, with tags if wanted. */
function frame(
  from: string,
  to: string,
  [source, destination]: [number, number],
  { protocol = 6, tags = 0, fragment = 0 } = {},
) {
  const isV4 = from.includes('.')
  const ethernet = new Array<number>(12).fill(2)
  for (let tag = 0; tag < tags; tag++) ethernet.push(0x81, 0, 0, 5)
  const header = isV4
    ? [0x45, 0, 0, 40, 0, 0, fragment, 0, 64, protocol, 0, 0, ...v4(from), ...v4(to)]
    : [0x60, 0, 0, 0, 0, 8, protocol, 64, ...v6(from), ...v6(to)]
  return Uint8Array.from([
    ...ethernet,
    ...(isV4 ? [8, 0] : [0x86, 0xdd]),
    ...header,
    ...port(source),
    ...port(destination),
    0,
    0,
    0,
    0,
  ])
}

const vectors = [
  ['66.9.149.187', 2794, '161.142.100.80', 1766, 0x323e8fc2, 0x51ccc178],
  ['199.92.111.2', 14230, '65.69.140.83', 4739, 0xd718262a, 0xc626b0ea],
  ['24.19.198.95', 12898, '12.22.207.184', 38024, 0xd2d0a5de, 0x5c2b394a],
  ['38.27.205.30', 48228, '209.142.163.6', 2217, 0x82989176, 0xafc7327f],
  ['153.39.163.191', 44251, '202.188.127.2', 1303, 0x5d1809c5, 0x10e828a2],
  ['3ffe:2501:200:1fff::7', 2794, '3ffe:2501:200:3::1', 1766, 0x2cc18cd5, 0x40207d3d],
  ['3ffe:501:8::260:97ff:fe40:efab', 14230, 'ff02::1', 4739, 0x0f0c461c, 0xdde51bbf],
  ['3ffe:1900:4545:3:200:f8ff:fe21:67cf', 44251, 'fe80::200:f8ff:fe21:67cf', 38024, 0x4b61e985, 0x02d1feef],
] as const

const ip = types.VIRTIO_NET_RSS_HASH_TYPE_IPv4 | types.VIRTIO_NET_RSS_HASH_TYPE_IPv6
const tcp = types.VIRTIO_NET_RSS_HASH_TYPE_TCPv4 | types.VIRTIO_NET_RSS_HASH_TYPE_TCPv6
const udp = types.VIRTIO_NET_RSS_HASH_TYPE_UDPv4 | types.VIRTIO_NET_RSS_HASH_TYPE_UDPv6

describe.each(vectors)('from %s:%i to %s:%i', (...vector) => {
  const [from, source, to, destination, ofAddresses, ofPorts] = vector
  const hashOf = (hashTypes: number, bytes: Uint8Array) => frameHash({ hashTypes, key }, bytes, 0, bytes.length)?.value

  test('the hash of addresses, and that of ports too', () => {
    for (const tags of [0, 1, 2]) {
      const bytes = frame(from, to, [source, destination], { tags })
      expect(hashOf(ip, bytes)).toBe(ofAddresses)
      expect(hashOf(ip | tcp, bytes)).toBe(ofPorts)
      expect(hashOf(tcp, bytes)).toBe(ofPorts)
      expect(hashOf(ip | udp, bytes)).toBe(ofAddresses)
      expect(hashOf(udp, bytes)).toBe(undefined)
    }
    expect(hashOf(ip | udp, frame(from, to, [source, destination], { protocol: 17 }))).toBe(ofPorts)
  })

  test('what is cut short has no hash, wherever it ends', () => {
    const bytes = frame(from, to, [source, destination])
    for (let length = 0; length < 14 + (from.includes('.') ? 20 : 40); length++)
      expect(hashOf(ip | tcp, bytes.subarray(0, length))).toBe(undefined)
  })
})

test('ports of a fragment do not count', () => {
  const bytes = frame('66.9.149.187', '161.142.100.80', [2794, 1766], { fragment: 0x20 })
  expect(frameHash({ hashTypes: ip | tcp, key }, bytes, 0, bytes.length)).toEqual({ value: 0x323e8fc2, report: 1 })
})

test('the low bits of the hash choose the queue; what has none goes to the queue of the unclassified', () => {
  const config = { hashTypes: tcp, indirectionTable: [0, 1, 2, 3], unclassifiedQueue: 7, maxTxVq: 1, key }
  const bytes = Uint8Array.from([9, 9, 9, ...frame('66.9.149.187', '161.142.100.80', [2794, 1766])])
  expect(rssQueue(config, bytes, 3, bytes.length)).toBe(0x51ccc178 & 3)
  expect(rssQueue(config, new Uint8Array(60), 0, 60)).toBe(7)
})

test('a short key goes on with zeroes', () => {
  const input = Uint8Array.of(0x80, 0, 0, 1)
  expect(toeplitz(Uint8Array.of(0xff), input)).toBe(0xff00_0000)
})

test.each([
  ['TCPv4', 2, '66.9.149.187', '161.142.100.80', 6],
  ['UDPv4', 3, '66.9.149.187', '161.142.100.80', 17],
  ['IPv4', 1, '66.9.149.187', '161.142.100.80', 1],
  ['TCPv6', 5, '3ffe:2501:200:1fff::7', '3ffe:2501:200:3::1', 6],
  ['UDPv6', 6, '3ffe:2501:200:1fff::7', '3ffe:2501:200:3::1', 17],
  ['IPv6', 4, '3ffe:2501:200:1fff::7', '3ffe:2501:200:3::1', 58],
] as const)('what a hash is of is reported: %s is %i', (_name, report, from, to, protocol) => {
  const bytes = frame(from, to, [2794, 1766], { protocol })
  expect(frameHash({ hashTypes: ip | tcp | udp, key }, bytes, 0, bytes.length)?.report).toBe(report)
  // Ports that are cut off do not count.
  const cut = bytes.subarray(0, bytes.length - 6)
  expect(frameHash({ hashTypes: ip | tcp | udp, key }, cut, 0, cut.length)?.report).toBe(from.includes('.') ? 1 : 4)
})

test('of a frame in VXLAN the inner packet is hashed where that was asked for, and nothing outside the frame is read', () => {
  const [from, source, to, destination, , ofPorts] = vectors[0]
  const inner = frame(from, to, [source, destination])
  const outer = frame('10.0.0.1', '10.0.0.2', [5000, 4789], { protocol: 17 })
  const bytes = Uint8Array.from([...outer, ...new Array<number>(8).fill(0), ...inner])
  const config = { hashTypes: ip | tcp, key }
  const hash = (tunnels: number, end = bytes.length) => frameHash(config, bytes, 0, end, tunnels)?.value
  const { VIRTIO_NET_HASH_TUNNEL_TYPE_VXLAN: vxlan, VIRTIO_NET_HASH_TUNNEL_TYPE_GENEVE: geneve } = netTunnelTypes
  expect(hash(vxlan)).toBe(ofPorts)
  expect([hash(0), hash(geneve)]).toEqual([frameHash(config, outer, 0, outer.length)?.value, hash(0)])
  for (let end = 0; end < bytes.length - inner.length + 34; end++) expect(hash(vxlan, end)).toBeUndefined()
})

describe('extension headers of IPv6 are passed over (section 5.1.6.4.3)', () => {
  const [from, source, to, destination, ofAddresses, ofPorts] = vectors[5]
  const plain = frame(from, to, [source, destination])
  /** The frame with other headers between that of IPv6 and the ports. */
  const behind = (...headers: readonly (readonly [protocol: number, words: number])[]) => {
    const bytes = [...plain.subarray(0, 54)]
    let next = 14 + 6
    for (const [protocol, words] of headers) {
      bytes[next] = protocol
      next = bytes.length
      bytes.push(6, words, ...new Array<number>(6 + 8 * words).fill(0))
    }
    return Uint8Array.from([...bytes, ...plain.subarray(54)])
  }
  const [hop, routing, fragment, destinationOptions] = [0, 43, 44, 60]
  const hashOf = (hashTypes: number, bytes: Uint8Array) => frameHash({ hashTypes, key }, bytes, 0, bytes.length)?.value

  test('up to the ports, however many and long they are', () => {
    expect(hashOf(tcp, plain)).toBe(ofPorts)
    for (const headers of [
      [[hop, 0]],
      [[destinationOptions, 2]],
      [
        [hop, 1],
        [routing, 2],
        [destinationOptions, 0],
      ],
    ] as const)
      expect(hashOf(tcp | ip, behind(...headers))).toBe(ofPorts)
  })

  test('not behind the header of a fragment, nor where the frame ends in one', () => {
    expect(hashOf(tcp | ip, behind([fragment, 0]))).toBe(ofAddresses)
    const long = behind([hop, 255])
    for (const length of [56, 62, 100, long.length - 9])
      expect(frameHash({ hashTypes: tcp | ip, key }, long, 0, length)?.value).toBe(ofAddresses)
    expect(hashOf(tcp, long)).toBe(ofPorts)
  })
})
