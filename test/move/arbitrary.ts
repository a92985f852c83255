// Snapshots of every shape that a device can have, as data.

import fc from 'fast-check'
import type { ControlCommand, DeviceSnapshot, MappingState, QueueState } from '../../lib/device/snapshot.js'

const MEMORY = 0x10_0000
const hex = (word: bigint | number) => `0x${word.toString(16)}`
const u64 = fc.bigInt({ min: 0n, max: (1n << 64n) - 1n })
const low = fc.bigInt({ min: 0n, max: (1n << 48n) - 1n })
const access = fc.constantFrom('ro' as const, 'wo' as const, 'rw' as const)

const mapping = (memories: number): fc.Arbitrary<MappingState> =>
  fc
    .record({
      iova: low,
      size: fc.integer({ min: 1, max: 0x8_0000 }),
      access,
      memory: fc.nat(memories - 1),
      offset: fc.nat(0x8_0000),
    })
    .map(({ iova, size, ...rest }) => ({ iova: hex(iova), size: hex(size), ...rest }))

const segment = fc.record({
  iovaHigh: fc.nat(0xffff_ffff),
  iovaLow: fc.nat(0xffff_ffff),
  length: fc.integer({ min: 1, max: 0xffff_ffff }),
  deviceWrites: fc.boolean(),
})
const chain = fc.record({
  token: fc.nat(0x7fff_ffff),
  isIndirect: fc.boolean(),
  segments: fc.array(segment, { minLength: 1, maxLength: 3 }),
})
const used = fc.record({ token: fc.nat(0x7fff_ffff), length: fc.nat(0xffff_ffff) })

function queue(index: number, format: 'split' | 'packed'): fc.Arbitrary<QueueState> {
  const size = fc.integer({ min: 0, max: 10 }).map((exponent) => 2 ** exponent)
  return size.chain((size) => {
    const at = fc.nat(format === 'split' ? 0xffff : size - 1)
    const position = at.map((one) => {
      const word = format === 'split' ? one : one | 0x8000
      return { available: word, used: word }
    })
    const books = fc.record({
      memory: fc.constant(2 + index),
      iova: low.map(hex),
      bufferBytes: fc.nat(2 ** 31),
      indirectTableSize: fc.nat(0x8000),
      ring: fc
        .record({ chains: fc.array(chain, { maxLength: 3 }), used: fc.array(used, { maxLength: 3 }) })
        .map((ring) => ({
          format,
          size,
          ...ring,
        })),
    })
    return fc.record(
      {
        index: fc.constant(index),
        size: fc.constant(size),
        isEnabled: fc.boolean(),
        asid: fc.nat(3),
        descriptorAsid: fc.nat(3),
        addresses: fc.record({ descriptor: u64.map(hex), driver: u64.map(hex), device: u64.map(hex) }),
        position: fc.option(position),
        books,
        isControl: fc.constant(true as const),
      },
      { requiredKeys: ['index', 'size', 'isEnabled', 'asid', 'addresses', 'position'] },
    )
  })
}

const digits = (bytes: readonly number[]) => bytes.map((byte) => byte.toString(16).padStart(2, '0')).join('')
const byte = fc.nat(255)
const command: fc.Arbitrary<ControlCommand> = fc.oneof(
  fc
    .tuple(byte, byte, byte, byte, byte, byte)
    .map((mac) => ({ name: 'VIRTIO_NET_CTRL_MAC_ADDR_SET', payload: digits(mac) })),
  fc.constantFrom('00', '01').map((payload) => ({ name: 'VIRTIO_NET_CTRL_RX_PROMISC', payload })),
  fc.tuple(byte, fc.nat(15)).map((vlan) => ({ name: 'VIRTIO_NET_CTRL_VLAN_ADD', payload: digits(vlan) })),
  fc.tuple(byte, fc.nat(3)).map((pairs) => ({ name: 'VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET', payload: digits(pairs) })),
  fc.constant({ name: 'VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET', payload: digits([2, 0, 0, 0, 0, 0, 0, 0]) }),
)

/** Any snapshot that passes for one. */
export const snapshots: fc.Arbitrary<DeviceSnapshot> = fc.boolean().chain((isPacked) =>
  fc.integer({ min: 0, max: 4 }).chain((count) =>
    fc.record({
      version: fc.constant(1),
      deviceId: fc.nat(64),
      features: u64.map((word) => hex(isPacked ? word | (1n << 34n) : word & ~(1n << 34n))),
      status: byte,
      config: fc.array(byte, { maxLength: 60 }).map(digits),
      groups: fc.uniqueArray(fc.record({ group: fc.nat(8), asid: fc.nat(3) }), {
        selector: ({ group }) => group,
        maxLength: 3,
      }),
      memories: fc.array(fc.constant({ length: MEMORY }), { minLength: 2 + count, maxLength: 2 + count }),
      spaces: fc.uniqueArray(fc.record({ asid: fc.nat(3), mappings: fc.array(mapping(2), { maxLength: 3 }) }), {
        selector: ({ asid }) => asid,
        maxLength: 2,
      }),
      queues: fc.tuple(...Array.from({ length: count }, (_, index) => queue(index, isPacked ? 'packed' : 'split'))),
      control: fc.array(command, { maxLength: 6 }),
      lost: fc.array(fc.stringMatching(/^[a-z ]{1,20}$/), { maxLength: 2 }),
    }),
  ),
)
