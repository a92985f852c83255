// The network device's words, pinned: control commands with literal bytes, headers, and configurations of every length.

import { describe, expect, test } from '@jest/globals'
import fc from 'fast-check'
import * as net from '../../lib/uapi/virtio-net'
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
    ])
  })

  test('are found by their head', () => {
    for (const entry of Object.values(netCommands)) expect(net.netCommandOf(entry.class, entry.command)).toBe(entry)
    for (const [commandClass, command] of [
      [0, 6],
      [7, 0],
      [6, 3],
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
  ]

  test.each(payloads)('%s of %p is the bytes %s, both ways', (name, value, bytes) => {
    const command = netCommands[name] as unknown as net.NetCommand<unknown>
    expect(command.encode(value)).toEqual(hex(bytes))
    // In the middle of a larger buffer, as a ring hands it over.
    const within = Uint8Array.of(0xee, ...hex(bytes), 0xee).subarray(1, -1)
    expect(command.decode(within)).toEqual(value)
  })

  test.each(Object.values(netCommands).map((entry) => [entry.name, entry] as const))(
    '%s refuses bytes that are not its payload, and reads no other',
    (_, command) => {
      fc.assert(
        fc.property(fc.uint8Array({ maxLength: 40 }), (payload) => {
          let value: unknown
          try {
            value = command.decode(payload)
          } catch (error) {
            expect(error).toMatchObject({ name: 'RangeError', code: 'ERR_OUT_OF_RANGE' })
            return
          }
          expect(['boolean', 'string', 'number', 'bigint', 'object', 'undefined']).toContain(typeof value)
        }),
      )
      const longest = new Uint8Array(70_000)
      expect(() => command.decode(longest)).toThrow(RangeError)
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
    ['indirectionTable[1] must be an integer from 0 to 65535 (got 65536)', config({ indirectionTable: [0, 65536] })],
    ['unclassifiedQueue must be an integer from 0 to 65535 (got 1.5)', config({ unclassifiedQueue: 1.5 })],
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
      'the count of a MAC table must be that of the addresses which follow (got 4294967295)',
      () => table.decode(hex('ffffffff 525400123456 00000000')),
    ],
    ['a MAC table must be two lists with their counts (got 4)', () => table.decode(hex('00000000'))],
    ['a MAC table must be exactly two lists (got 9)', () => table.decode(hex('00000000 00000000 00'))],
  ])('%s', (message, attempt) => {
    expect(attempt).toThrow(expect.objectContaining({ name: 'RangeError', code: 'ERR_OUT_OF_RANGE', message }))
  })
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
