// The network device's words, pinned: control commands with literal bytes, headers, and configurations of every length.

import { describe, expect, test } from '@jest/globals'
import fc from 'fast-check'
import * as net from '../../lib/uapi'
import { hex } from './support'

const { netCommands } = net
const [mac1, mac2] = ['52:54:00:12:34:56', '01:00:5e:00:00:fb']

describe('constants', () => {
  test('are those of section 5.1', () => {
    expect(net.netStatus).toEqual({ VIRTIO_NET_S_LINK_UP: 1, VIRTIO_NET_S_ANNOUNCE: 2 })
    expect(net.netAck).toEqual({ VIRTIO_NET_OK: 0, VIRTIO_NET_ERR: 1 })
    expect(net.netHeaderFlags).toEqual({
      VIRTIO_NET_HDR_F_NEEDS_CSUM: 1,
      VIRTIO_NET_HDR_F_DATA_VALID: 2,
      VIRTIO_NET_HDR_F_RSC_INFO: 4,
    })
    expect(net.netGsoTypes).toEqual({
      VIRTIO_NET_HDR_GSO_NONE: 0,
      VIRTIO_NET_HDR_GSO_TCPV4: 1,
      VIRTIO_NET_HDR_GSO_UDP: 3,
      VIRTIO_NET_HDR_GSO_TCPV6: 4,
      VIRTIO_NET_HDR_GSO_UDP_L4: 5,
      VIRTIO_NET_HDR_GSO_ECN: 128,
    })
    expect(Object.entries(net.netHashTypes).map(([name, value]) => `${value} ${name.slice(25)}`)).toEqual([
      '1 IPv4',
      '2 TCPv4',
      '4 UDPv4',
      '8 IPv6',
      '16 TCPv6',
      '32 UDPv6',
      '64 IP_EX',
      '128 TCP_EX',
      '256 UDP_EX',
    ])
    expect(Object.entries(net.netHashReports).map(([name, value]) => `${value} ${name.slice(23)}`)).toEqual([
      '0 NONE',
      '1 IPv4',
      '2 TCPv4',
      '3 UDPv4',
      '4 IPv6',
      '5 TCPv6',
      '6 UDPv6',
      '7 IPv6_EX',
      '8 TCPv6_EX',
      '9 UDPv6_EX',
    ])
    expect(Object.values(net.netQueuePairs)).toEqual([1, 0x8000])
    expect([net.netHeaderSize(false), net.netHeaderSize(true)]).toEqual([12, 20])
  })
})

describe('control commands', () => {
  test('have these classes and numbers', () => {
    const numbers = Object.entries(netCommands).map(([name, entry]) => {
      expect(entry.name).toBe(name)
      return `${entry.class}.${entry.command} ${name.replace('VIRTIO_NET_CTRL_', '')}`
    })
    expect(numbers).toEqual([
      '0.0 RX_PROMISC',
      '0.1 RX_ALLMULTI',
      '0.2 RX_ALLUNI',
      '0.3 RX_NOMULTI',
      '0.4 RX_NOUNI',
      '0.5 RX_NOBCAST',
      '1.0 MAC_TABLE_SET',
      '1.1 MAC_ADDR_SET',
      '2.0 VLAN_ADD',
      '2.1 VLAN_DEL',
      '3.0 ANNOUNCE_ACK',
      '4.0 MQ_VQ_PAIRS_SET',
      '4.1 MQ_RSS_CONFIG',
      '4.2 MQ_HASH_CONFIG',
      '5.0 GUEST_OFFLOADS_SET',
      '6.0 NOTF_COAL_TX_SET',
      '6.1 NOTF_COAL_RX_SET',
      '6.2 NOTF_COAL_VQ_SET',
      '6.3 NOTF_COAL_VQ_GET',
      '7.0 HASH_TUNNEL_SET',
      '8.0 STATS_QUERY',
      '8.1 STATS_GET',
      '9.0 VIRTNET_RSS_CTX_CTRL_CAP_GET',
      '9.1 VIRTNET_RSS_CTX_CTRL_ADD',
      '9.2 VIRTNET_RSS_CTX_CTRL_MOD',
      '9.3 VIRTNET_RSS_CTX_CTRL_DEL',
    ])
  })

  test('are found by their head', () => {
    for (const entry of Object.values(netCommands)) expect(net.netCommandOf(entry.class, entry.command)).toBe(entry)
    for (const [commandClass, command] of [
      [0, 6],
      [7, 1],
      [6, 4],
      [255, 255],
    ] as const)
      expect(net.netCommandOf(commandClass, command)).toBeUndefined()
  })

  const rss = { hashTypes: 0x3f, indirectionTable: [0, 1, 0, 1], unclassifiedQueue: 2, maxTxVq: 3, key: hex('aabbcc') }
  const payloads: readonly [name: net.NetCommandName, value: unknown, bytes: string][] = [
    ['VIRTIO_NET_CTRL_RX_PROMISC', true, '01'],
    ['VIRTIO_NET_CTRL_RX_NOBCAST', false, '00'],
    ['VIRTIO_NET_CTRL_MAC_ADDR_SET', mac1, '525400123456'],
    [
      'VIRTIO_NET_CTRL_MAC_TABLE_SET',
      { unicast: [mac1], multicast: [mac2, mac1] },
      '01000000 525400123456 02000000 01005e0000fb 525400123456',
    ],
    ['VIRTIO_NET_CTRL_MAC_TABLE_SET', { unicast: [], multicast: [] }, '00000000 00000000'],
    ['VIRTIO_NET_CTRL_VLAN_ADD', 0x0123, '2301'],
    ['VIRTIO_NET_CTRL_VLAN_DEL', 4094, 'fe0f'],
    ['VIRTIO_NET_CTRL_ANNOUNCE_ACK', undefined, ''],
    ['VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET', 0x8000, '0080'],
    ['VIRTIO_NET_CTRL_MQ_RSS_CONFIG', rss, '3f000000 0300 0200 0000 0100 0000 0100 0300 03 aabbcc'],
    [
      'VIRTIO_NET_CTRL_MQ_HASH_CONFIG',
      { hashTypes: 0x8000_0001, key: hex('aabb') },
      '01000080 0000000000000000 02 aabb',
    ],
    ['VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET', 0x40_0000_0000_0082n, '8200000000004000'],
    ['VIRTIO_NET_CTRL_NOTF_COAL_TX_SET', { maxPackets: 64, maxUsecs: 0x100 }, '40000000 00010000'],
    ['VIRTIO_NET_CTRL_NOTF_COAL_RX_SET', { maxPackets: 1, maxUsecs: 0 }, '01000000 00000000'],
    ['VIRTIO_NET_CTRL_NOTF_COAL_VQ_SET', { queue: 2, maxPackets: 3, maxUsecs: 4 }, '0200 0000 03000000 04000000'],
    ['VIRTIO_NET_CTRL_NOTF_COAL_VQ_GET', 0x102, '0201 0000'],
    ['VIRTIO_NET_CTRL_HASH_TUNNEL_SET', 0x8000_0010, '10000080'],
    ['VIRTIO_NET_CTRL_STATS_QUERY', undefined, ''],
    ['VIRTIO_NET_CTRL_STATS_GET', [{ queue: 1, types: 0x1_0000_0001n }], '0100 000000000000 0100000001000000'],
    ['VIRTNET_RSS_CTX_CTRL_CAP_GET', undefined, ''],
    [
      'VIRTNET_RSS_CTX_CTRL_MOD',
      { id: 3, rss },
      '0300 000000000000 3f000000 0300 0200 0000 0100 0000 0100 0300 03 aabbcc',
    ],
    ['VIRTNET_RSS_CTX_CTRL_DEL', 0x201, '0102'],
  ]

  test.each(payloads)('%s of %p is the bytes %s, both ways', (name, value, bytes) => {
    const command = netCommands[name] as unknown as net.NetCommand<unknown>
    expect(command.encode(value)).toEqual(hex(bytes))
    // In the middle of a larger buffer, as a ring hands it over.
    const within = Uint8Array.of(0xee, ...hex(bytes), 0xee).subarray(1, -1)
    expect(command.decode(within)).toEqual(value)
  })

  const u16 = fc.integer({ min: 0, max: 0xffff })
  const u15 = fc.integer({ min: 0, max: 0x7fff })
  const u32 = fc.integer({ min: 0, max: 0xffff_ffff })
  const address = fc.uint8Array({ minLength: 6, maxLength: 6 }).map(net.formatMac)
  const key = fc.uint8Array({ maxLength: 255 })
  const addresses = fc.array(address, { maxLength: 20 })
  const coalescing = { maxPackets: u32, maxUsecs: u32 }
  const table = fc.integer({ min: 0, max: 7 }).chain((power) => {
    return fc.array(u15, { minLength: 2 ** power, maxLength: 2 ** power })
  })
  const config = fc.record(
    { hashTypes: u32, indirectionTable: table, unclassifiedQueue: u15, maxTxVq: u16, key },
    { noNullPrototype: true },
  )
  const types = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n })
  const ofClass: Record<string, fc.Arbitrary<unknown>> = {
    VIRTNET_RSS_CTX_CTRL_CAP_GET: fc.constant(undefined),
    VIRTNET_RSS_CTX_CTRL_DEL: u16,
    VIRTNET_RSS_CTX_CTRL_: fc.record({ id: u16, rss: config }, { noNullPrototype: true }),
    NOTF_COAL_VQ_GET: u16,
    HASH_TUNNEL_SET: u32,
    STATS_QUERY: fc.constant(undefined),
    STATS_GET: fc.array(fc.record({ queue: u16, types }, { noNullPrototype: true }), { maxLength: 9 }),
    RX_: fc.boolean(),
    MAC_TABLE_SET: fc.record({ unicast: addresses, multicast: addresses }, { noNullPrototype: true }),
    MAC_ADDR_SET: address,
    VLAN_: u16,
    ANNOUNCE_ACK: fc.constant(undefined),
    MQ_VQ_PAIRS_SET: u16,
    MQ_RSS_CONFIG: config,
    MQ_HASH_CONFIG: fc.record({ hashTypes: u32, key }, { noNullPrototype: true }),
    GUEST_OFFLOADS_SET: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
    NOTF_COAL_VQ_SET: fc.record({ queue: u16, ...coalescing }, { noNullPrototype: true }),
    NOTF_COAL_: fc.record(coalescing, { noNullPrototype: true }),
  }

  test.each(Object.values(netCommands).map((entry) => [entry.name, entry as net.NetCommand<unknown>] as const))(
    '%s gives back every payload it was given',
    (name, command) => {
      const kind = Object.keys(ofClass).find((start) => name.replace('VIRTIO_NET_CTRL_', '').startsWith(start)) ?? ''
      fc.assert(
        fc.property(ofClass[kind] ?? fc.constant(NaN), (value) => {
          expect(command.decode(command.encode(value))).toEqual(value)
        }),
      )
    },
  )

  // Reserved bytes are not kept, and any byte but 0 is `true`.
  const isLossy = (name: string) => /_RX_|HASH_CONFIG|COAL_VQ|STATS_GET|CTX_CTRL_(ADD|MOD)/.test(name)

  test.each(Object.values(netCommands).map((entry) => [entry.name, entry as net.NetCommand<unknown>] as const))(
    '%s refuses bytes that are not its payload, and reads no other',
    (name, command) => {
      fc.assert(
        fc.property(fc.uint8Array({ maxLength: 40 }), (payload) => {
          let value: unknown
          try {
            value = command.decode(payload)
          } catch (error) {
            expect(error).toMatchObject({ name: 'RangeError', code: 'ERR_OUT_OF_RANGE' })
            return
          }
          const again = command.encode(value)
          expect(again.byteLength).toBe(payload.byteLength)
          if (!isLossy(name)) expect(again).toEqual(payload)
          expect(command.decode(again)).toEqual(value)
        }),
      )
      // 70,001 bytes are no whole number of anything.
      expect(() => command.decode(new Uint8Array(70_001))).toThrow(RangeError)
      expect(() => command.decode('02' as unknown as Uint8Array)).toThrow(TypeError)
    },
  )
})

describe('payloads that do not fit are refused by name', () => {
  const rss = { hashTypes: 1, indirectionTable: [0], unclassifiedQueue: 0, maxTxVq: 0, key: new Uint8Array(0) }
  const config = (change: Partial<net.RssConfig>) => () =>
    netCommands.VIRTIO_NET_CTRL_MQ_RSS_CONFIG.encode({ ...rss, ...change })
  const { VIRTIO_NET_CTRL_MAC_TABLE_SET: table, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET: pairs } = netCommands

  test.each<[what: string, attempt: () => unknown]>([
    ['hashTypes must be an integer from 0 to 4294967295 (got -1)', config({ hashTypes: -1 })],
    ['indirectionTable.length must be a power of two up to 32768 (got 3)', config({ indirectionTable: [0, 1, 2] })],
    ['indirectionTable.length must be a power of two up to 32768 (got 0)', config({ indirectionTable: [] })],
    [
      'indirectionTable.length must be a power of two up to 32768 (got 65536)',
      config({ indirectionTable: new Array<number>(65536).fill(0) }),
    ],
    ['indirectionTable[1] must be an integer from 0 to 32767 (got 32768)', config({ indirectionTable: [0, 32768] })],
    ['unclassifiedQueue must be an integer from 0 to 32767 (got 1.5)', config({ unclassifiedQueue: 1.5 })],
    ['unclassifiedQueue must be an integer from 0 to 32767 (got 32768)', config({ unclassifiedQueue: 32768 })],
    ['maxTxVq must be an integer from 0 to 65535 (got 65536)', config({ maxTxVq: 65536 })],
    ['key.length must be an integer from 0 to 255 (got 256)', config({ key: new Uint8Array(256) })],
    ['pairs must be an integer from 0 to 65535 (got 65536)', () => pairs.encode(65536)],
    ['vlan must be an integer from 0 to 65535 (got -1)', () => netCommands.VIRTIO_NET_CTRL_VLAN_ADD.encode(-1)],
    ['offloads must be from 0 to 2^64-1 (got -1n)', () => netCommands.VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET.encode(-1n)],
    [
      'virtio_net_ctrl_coal.maxUsecs must be an integer from 0 to 4294967295 (got 4294967296)',
      () => netCommands.VIRTIO_NET_CTRL_NOTF_COAL_TX_SET.encode({ maxPackets: 0, maxUsecs: 2 ** 32 }),
    ],
    [
      'mac must be of the form \'02:00:00:00:00:01\' (got "02-00")',
      () => table.encode({ unicast: ['02-00'], multicast: [] }),
    ],
    [
      'indirectionTable.length must be a power of two up to 32768 (got 3)',
      () => netCommands.VIRTIO_NET_CTRL_MQ_RSS_CONFIG.decode(hex('01000000 0200 0000 0000 0100 0200 0000 00')),
    ],
    [
      'a receive queue must be an integer from 0 to 32767 (got 32769)',
      () => netCommands.VIRTIO_NET_CTRL_MQ_RSS_CONFIG.decode(hex('01000000 0000 0180 0000 0100 00')),
    ],
    [
      'the count of a MAC table must be that of the addresses which follow (got 4294967295)',
      () => table.decode(hex('ffffffff 525400123456 00000000')),
    ],
    ['a MAC table must be two lists with their counts (got 4)', () => table.decode(hex('00000000'))],
    ['a MAC table must be exactly two lists (got 9)', () => table.decode(hex('00000000 00000000 00'))],
  ])('%s', (message, attempt) => {
    expect(attempt).toThrow(expect.objectContaining({ name: 'RangeError', code: 'ERR_OUT_OF_RANGE', message }))
  })
})

test('payloads of another kind are refused by name', () => {
  const encode = (name: net.NetCommandName, value: unknown) => () =>
    (netCommands[name] as unknown as net.NetCommand<unknown>).encode(value)
  const refusals: readonly [() => unknown, string][] = [
    [encode('VIRTIO_NET_CTRL_RX_PROMISC', 1), 'on must be true or false (got 1)'],
    [encode('VIRTIO_NET_CTRL_RX_PROMISC', 'false'), 'on must be true or false (got "false")'],
    [encode('VIRTIO_NET_CTRL_MAC_TABLE_SET', undefined), 'a MAC table must be an object (got undefined)'],
    [encode('VIRTIO_NET_CTRL_MAC_TABLE_SET', { unicast: mac1 }), `unicast must be an array (got "${mac1}")`],
    [encode('VIRTIO_NET_CTRL_MAC_TABLE_SET', { unicast: [] }), 'multicast must be an array (got undefined)'],
    [encode('VIRTIO_NET_CTRL_MQ_RSS_CONFIG', null), 'an RSS configuration must be an object (got null)'],
    [encode('VIRTIO_NET_CTRL_MQ_RSS_CONFIG', {}), 'indirectionTable must be an array (got undefined)'],
    [encode('VIRTIO_NET_CTRL_MQ_HASH_CONFIG', 5), 'a hash configuration must be an object (got 5)'],
    [encode('VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET', 1n), 'pairs must be an integer from 0 to 65535 (got 1n)'],
    [
      encode('VIRTIO_NET_CTRL_NOTF_COAL_TX_SET', undefined),
      'struct virtio_net_ctrl_coal must be an object (got undefined)',
    ],
  ]
  for (const [attempt, message] of refusals)
    expect(attempt).toThrow(expect.objectContaining({ name: 'TypeError', code: 'ERR_INVALID_ARG_TYPE', message }))
})

describe('addresses', () => {
  test('are the same after a way there and back', () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 6, maxLength: 6 }), (bytes) => {
        expect(net.parseMac(net.formatMac(bytes))).toEqual(bytes)
        expect(net.parseMac(net.formatMac(bytes).toUpperCase())).toEqual(bytes)
      }),
    )
  })

  test.each(['', '02:00:00:00:00', '02:00:00:00:00:01:02', '2:0:0:0:0:1', '02:00:00:00:00:0g', ' 02:00:00:00:00:01'])(
    '%j is none',
    (text) => {
      expect(() => net.parseMac(text)).toThrow(RangeError)
    },
  )

  test('are strings', () => {
    expect(() => net.parseMac(2 as unknown as string)).toThrow(TypeError)
    expect(() => net.formatMac(new Uint8Array(5))).toThrow(RangeError)
  })
})

describe('a configuration', () => {
  const config = hex('525400123456 0100 0400 dc05 10270000 01 28 8000 ff010000')
  const whole = {
    mac: mac1,
    status: 1,
    maxVirtqueuePairs: 4,
    mtu: 1500,
    speed: 10000,
    duplex: 1,
    rssMaxKeySize: 40,
    rssMaxIndirectionTableLength: 128,
    supportedHashTypes: 0x1ff,
  }

  test('is read field by field, and may be longer', () => {
    expect(net.decodeNetConfig(config)).toEqual(whole)
    expect(net.decodeNetConfig(Uint8Array.of(...config, 1, 2, 3))).toEqual(whole)
  })

  // Each field begins to be there with its last byte.
  const ends = [6, 8, 10, 12, 16, 17, 18, 20, 24]
  test.each(Array.from({ length: 19 }, (_, index) => index + 6))(
    'of %i bytes has the fields that end in it',
    (length) => {
      const present = ends.filter((end) => end <= length).length
      expect(net.decodeNetConfig(config.subarray(0, length))).toStrictEqual(
        Object.fromEntries(Object.entries(whole).slice(0, present)),
      )
    },
  )

  test('has an address at least', () => {
    expect(() => net.decodeNetConfig(config.subarray(0, 5))).toThrow(
      'a network configuration must be at least 6 bytes long (got 5)',
    )
  })
})

test.each([
  [0, 0, 0, 0],
  [0x7fff_ffff, 1, 0x7fff_ffff, 1],
  [0x8000_0000, 2, 0xffff_ffff, 0xff],
  [0xffff_ffff, 0xff, 0xffff_ffff, 0xff],
])(
  'a speed of %i and a duplex of %i are %i and %i for a driver (5.1.4.2)',
  (speed, duplex, knownSpeed, knownDuplex) => {
    const config = new Uint8Array(24)
    const view = new DataView(config.buffer)
    view.setUint32(12, speed, true)
    view.setUint8(16, duplex)
    expect(net.decodeNetConfig(config)).toMatchObject({ speed: knownSpeed, duplex: knownDuplex })
  },
)
