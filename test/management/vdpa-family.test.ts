// The family `vdpa`: the bytes of each request, and the facts in each answer, against a scripted kernel.

import { describe, expect, it } from '@jest/globals'
import fc from 'fast-check'
import * as facts from '../../lib/management/family-facts'
import { newDeviceAttributes, VdpaFamily } from '../../lib/management/vdpa-family'
import { decodeGeneric, encodeAttributes, encodeMessage, type NetlinkAttribute } from '../../lib/uapi/netlink'
import { failureOf } from '../backend/fake-backend'
import { hex } from '../uapi/support'
import { done, scripted, verdict } from './support'

const FAMILY = 0x1c
const ALL_COMMANDS = [2, 3, 4, 5, 6, 7, 8]

function u(value: number | bigint, width: number): Uint8Array {
  return Uint8Array.from({ length: width }, (_, index) => Number((BigInt(value) >> BigInt(8 * index)) & 0xffn))
}
const text = (value: string) => new TextEncoder().encode(`${value}\0`)
const at = (type: number, bytes: Uint8Array): NetlinkAttribute => ({ type, bytes })

/** A kernel whose family gives each command the answers of a table; what it was asked is in `asked`, as hex without heads. */
function kernel(answers: Readonly<Record<number, readonly string[]>>, commands = ALL_COMMANDS, warning?: string) {
  const asked: string[] = []
  const operations = encodeAttributes(commands.map((id) => at(0, encodeAttributes([at(1, u(id, 4))]))))
  const world = scripted(({ sequence, type, flags, payload }, socket) => {
    const { command } = decodeGeneric(payload)
    const isDump = (flags & 0x300) === 0x300
    if (type === 0x10) {
      const attributes = encodeAttributes([at(1, u(FAMILY, 2)), at(5, u(37, 4)), at(6, operations)])
      const head = Uint8Array.of(1, 2, 0, 0)
      socket.put(
        encodeMessage({ type, flags: 0, sequence, payload: Buffer.concat([head, attributes]) }),
        verdict(sequence),
      )
      return
    }
    asked.push(Buffer.from(payload).toString('hex'))
    for (const answer of answers[command] ?? [])
      socket.put(encodeMessage({ type: FAMILY, flags: isDump ? 2 : 0, sequence, payload: hex(answer) }))
    const words = warning === undefined ? [] : [at(1, text(warning))]
    const acknowledgement = Buffer.concat([new Uint8Array(20), encodeAttributes(words)])
    socket.put(isDump ? done(sequence) : encodeMessage({ type: 2, flags: 0x300, sequence, payload: acknowledgement }))
  })
  return { ...world, asked }
}

const managementAnswer =
  '01010000 10000200 7664706173696d5f6e657400 0c000300 0200000000000000 08000f00 03000000 0c001000 2800830803000000'
const deviceAnswer =
  '03010000 10000200 7664706173696d5f6e657400 09000400 6e65743000000000 08000500 01000000 08000600 00000000 08000700 03000000 06000800 00010000 06000900 01000000'
const configAnswer =
  '06010000 09000400 6e65743000000000 08000500 01000000 0c000e00 2000010003010000 0c001400 2800410003000000 06000d00 dc050000 0a000a00 0011223344550000 06000b00 01000000 06000c00 04000000'

describe('the family vdpa', () => {
  it('lists and shows management devices', async () => {
    const { backend, asked } = kernel({ 2: [managementAnswer] })
    await using family = VdpaFamily.open(backend)
    const expected = {
      handle: 'vdpasim_net',
      name: 'vdpasim_net',
      kinds: ['net'],
      maxQueues: 3,
      features: {
        bits: '0x308830028',
        names: [
          'VIRTIO_NET_F_MTU',
          'VIRTIO_NET_F_MAC',
          'VIRTIO_NET_F_STATUS',
          'VIRTIO_NET_F_CTRL_VQ',
          'VIRTIO_NET_F_CTRL_MAC_ADDR',
          'VIRTIO_F_ANY_LAYOUT',
          'VIRTIO_F_VERSION_1',
          'VIRTIO_F_ACCESS_PLATFORM',
        ],
      },
    }
    expect(await family.managementDevices()).toEqual([expected])
    expect(await family.managementDevice('pci/0000:65:00.2')).toEqual(expected)
    expect(asked).toEqual(['02010000', '02010000080001007063690011000200303030303a36353a30302e3200000000'])
  })

  it('lists and shows devices', async () => {
    const { backend, asked } = kernel({ 5: [deviceAnswer] })
    await using family = VdpaFamily.open(backend)
    const expected = {
      name: 'net0',
      managementDevice: 'vdpasim_net',
      kind: 'net',
      deviceId: 1,
      vendorId: 0,
      maxQueues: 3,
      maxQueueSize: 256,
      minQueueSize: 1,
    }
    expect(await family.devices()).toEqual([expected])
    expect(await family.device('net0')).toEqual(expected)
    expect(asked).toEqual(['05010000', '05010000090004006e65743000000000'])
  })

  it('shows the configuration of a network device', async () => {
    const { backend } = kernel({ 6: [configAnswer] })
    await using family = VdpaFamily.open(backend)
    const configuration = await family.configuration('net0')
    expect(configuration).toMatchObject({
      name: 'net0',
      kind: 'net',
      network: { mac: '00:11:22:33:44:55', mtu: 1500, maxQueuePairs: 4, isLinkUp: true, wantsAnnouncement: false },
      negotiatedFeatures: { bits: '0x10300010020' },
    })
    expect(configuration.negotiatedFeatures?.names).toContain('VIRTIO_F_RING_RESET')
    expect(configuration).not.toHaveProperty('block')
  })

  it('shows the configuration of a block device, which has nothing for what it lacks', () => {
    const attributes = [
      at(4, text('blk0')),
      at(5, u(2, 4)),
      at(0, u(0, 4)),
      at(21, u(2n ** 60n + 1n, 8)),
      at(23, u(512, 4)),
      at(25, u(4, 2)),
      at(35, u(1, 1)),
      at(36, u(0, 1)),
    ]
    expect(facts.decodeConfiguration({ command: 6, attributes })).toEqual({
      name: 'blk0',
      deviceId: 2,
      kind: 'block',
      block: { capacity: '1152921504606846977', blockSize: 512, queues: 4, isReadOnly: true, hasFlush: false },
    })
  })

  it('keeps features wider than 64 bits, and names no bit of a device of several kinds wrongly', () => {
    const wide = Uint8Array.from({ length: 16 }, (_, index) => (index === 8 ? 2 : 0))
    const attributes = [at(2, text('vduse')), at(3, u(0b110, 8)), at(16, wide)]
    expect(facts.decodeManagementDevice({ command: 1, attributes })).toMatchObject({
      kinds: ['net', 'block'],
      features: { bits: '0x20000000000000000', names: ['bit_65'] },
    })
    const both = [at(2, text('vduse')), at(3, u(0b110, 8)), at(16, u(1n << 5n, 8))]
    expect(facts.decodeManagementDevice({ command: 1, attributes: both }).features.names).toEqual(['bit_5'])
  })

  it('tells counters apart by their order, and queues by what was negotiated', () => {
    const answer = (features: bigint, pairs?: number) => ({
      command: 7,
      attributes: [
        at(4, text('net0')),
        at(5, u(1, 4)),
        at(14, u(features, 8)),
        ...(pairs === undefined ? [] : [at(12, u(pairs, 2))]),
        at(18, text('rx packets')),
        at(19, u(7, 8)),
        at(18, text('__proto__')),
        at(19, u(2n ** 63n, 8)),
      ],
    })
    const control = 1n << 17n
    const statistics = facts.decodeStatistics(answer(control), 0)
    expect(Object.entries(statistics.counters)).toEqual([
      ['rx packets', 7n],
      ['__proto__', 2n ** 63n],
    ])
    expect(statistics.queueKind).toBe('receive')
    expect([1, 2, 3].map((queue) => facts.decodeStatistics(answer(control), queue).queueKind)).toEqual([
      'transmit',
      'control',
      'transmit',
    ])
    expect([2, 8].map((queue) => facts.decodeStatistics(answer(control | (1n << 22n), 4), queue).queueKind)).toEqual([
      'receive',
      'control',
    ])
    // Without VIRTIO_NET_F_MQ and VIRTIO_NET_F_RSS there is one pair, whatever is said of pairs.
    expect([2, 8].map((queue) => facts.decodeStatistics(answer(control, 4), queue).queueKind)).toEqual([
      'control',
      'receive',
    ])
    expect(facts.decodeStatistics(answer(0n), 2).queueKind).toBe('receive')
    expect(() => facts.decodeStatistics({ command: 7, attributes: [at(4, text('n')), at(19, u(1, 8))] }, 0)).toThrow(
      'no name',
    )
  })

  it('makes rates of two looks', () => {
    const look = (counters: Readonly<Record<string, bigint>>) => ({
      name: 'n',
      queue: 0,
      queueKind: 'receive' as const,
      counters,
    })
    const before = look({ a: 10n, b: 5n })
    expect(facts.statisticsRates(before, look({ a: 30n, b: 4n, c: 1n }), 500)).toEqual({ a: 40 })
    expect(facts.statisticsRates(before, look({ a: 30n }), 0)).toEqual({})
  })

  it('adds, deletes and changes, and sends nothing more than it was told', async () => {
    const { backend, asked } = kernel({})
    await using family = VdpaFamily.open(backend)
    await family.add({ name: 'd1', managementDevice: 'pci/0000:65:00.2' })
    await family.add({
      name: 'net0',
      managementDevice: 'vdpasim_net',
      mac: '00:11:22:33:44:55',
      mtu: 9000,
      maxQueuePairs: 4,
      features: 1n << 63n,
    })
    await family.setMac('net0', '02:00:00:00:00:01')
    await family.delete('net0')
    expect(asked.map((bytes) => bytes.slice(8))).toEqual([
      '080001007063690011000200303030303a36353a30302e32000000000700040064310000',
      '100002007664706173696d5f6e657400090004006e657430000000000a000a0000112233445500000600 0d0028230000 06000c0004000000 0c001400 0000000000000080'.replaceAll(
        ' ',
        '',
      ),
      '090004006e657430000000000a000a000200000000010000',
      '090004006e65743000000000',
    ])
  })

  it('refuses what no device can be, before anything is sent', async () => {
    const { backend, asked } = kernel({})
    await using family = VdpaFamily.open(backend)
    const device = { name: 'd', managementDevice: 'm' }
    for (const wrong of [
      { mtu: 67 },
      { maxQueuePairs: 0 },
      { mac: '0' },
      { name: '' },
      { name: 'a\0b' },
      { managementDevice: 'a/b/c' },
      { managementDevice: '/b' },
      { features: -1n },
    ])
      expect(() => newDeviceAttributes({ ...device, ...wrong })).toThrow(RangeError)
    expect(await failureOf(() => family.add(null as never))).toBeInstanceOf(TypeError)
    expect(await failureOf(() => family.setMac('d', 'x'))).toBeInstanceOf(RangeError)
    expect(asked).toEqual([])
  })

  it('says what this kernel cannot do', async () => {
    const old = kernel({}, [2, 3, 4, 5, 6])
    await using family = VdpaFamily.open(old.backend)
    expect(await family.commands()).toEqual([
      'VDPA_CMD_MGMTDEV_GET',
      'VDPA_CMD_DEV_NEW',
      'VDPA_CMD_DEV_DEL',
      'VDPA_CMD_DEV_GET',
      'VDPA_CMD_DEV_CONFIG_GET',
    ])
    expect(await failureOf(() => family.setMac('net0', '02:00:00:00:00:01'))).toMatchObject({
      code: 'ERR_VDPA_NOT_SUPPORTED',
    })
    expect(old.asked).toEqual([])
    const quiet = kernel({}, ALL_COMMANDS, 'blk0 device not supported')
    await using other = VdpaFamily.open(quiet.backend)
    const failure = await failureOf(() => other.setMac('blk0', '02:00:00:00:00:01'))
    expect(failure.message).toBe('ERR_VDPA_NOT_SUPPORTED: VDPA_CMD_DEV_ATTR_SET on blk0: blk0 device not supported')
  })

  it('explains a kernel without the family, and asks again when it came', async () => {
    let isLoaded = false
    const { backend } = scripted(({ sequence, type, payload }, socket) => {
      if (!isLoaded) return socket.put(verdict(sequence, 2))
      const head = Uint8Array.of(1, 2, 0, 0)
      if (type === 0x10)
        socket.put(
          encodeMessage({
            type,
            flags: 0,
            sequence,
            payload: Buffer.concat([head, encodeAttributes([at(1, u(FAMILY, 2))])]),
          }),
          verdict(sequence),
        )
      else socket.put(decodeGeneric(payload).command === 5 ? done(sequence) : verdict(sequence))
    })
    await using family = VdpaFamily.open(backend)
    const failure = await failureOf(() => family.devices())
    expect(failure).toMatchObject({ code: 'ERR_VDPA_NOT_SUPPORTED', cause: { code: 'ENOENT' } })
    expect(failure.message).toContain('modprobe vdpa')
    isLoaded = true
    expect(await family.devices()).toEqual([])
  })

  /** A kernel whose family has the id of the moment, and no other. */
  function reloadable(id: () => number) {
    return scripted(({ sequence, type, payload }, socket) => {
      if (type !== 0x10 && type !== id()) return socket.put(verdict(sequence, 2))
      if (type !== 0x10) return socket.put(decodeGeneric(payload).command === 5 ? done(sequence) : verdict(sequence))
      const attributes = Buffer.concat([Uint8Array.of(1, 2, 0, 0), encodeAttributes([at(1, u(id(), 2))])])
      socket.put(encodeMessage({ type, flags: 0, sequence, payload: attributes }), verdict(sequence))
    })
  }

  it('finds the family again when its module was loaded anew', async () => {
    let id = FAMILY
    const { backend, socket } = reloadable(() => id)
    await using family = VdpaFamily.open(backend)
    expect(await family.devices()).toEqual([])
    id++
    expect(await family.devices()).toEqual([])
    await family.delete('net0')
    // The id, a list, a list in vain, the id, the list, and the deleting.
    expect(socket.sent).toBe(6)
  })

  it('gives ENOENT of the family itself as it is', async () => {
    const { backend } = scripted(({ sequence, type }, socket) => {
      if (type !== 0x10) return socket.put(verdict(sequence, 2))
      const attributes = Buffer.concat([Uint8Array.of(1, 2, 0, 0), encodeAttributes([at(1, u(FAMILY, 2))])])
      socket.put(encodeMessage({ type, flags: 0, sequence, payload: attributes }), verdict(sequence))
    })
    await using family = VdpaFamily.open(backend)
    expect(await failureOf(() => family.delete('net0'))).toMatchObject({
      code: 'ENOENT',
      request: 'VDPA_CMD_DEV_DEL',
    })
  })

  it('does not cancel one question with another', async () => {
    const { backend } = reloadable(() => FAMILY)
    await using family = VdpaFamily.open(backend)
    const stop = AbortSignal.abort('enough')
    const [first, second] = await Promise.allSettled([family.devices({ signal: stop }), family.devices()])
    expect(first).toMatchObject({ status: 'rejected', reason: { code: 'ERR_VDPA_CANCELED' } })
    expect(second).toEqual({ status: 'fulfilled', value: [] })
  })

  it('names an answer that tells nothing', async () => {
    for (const answers of [{}, { 5: ['03010000'] }, { 5: ['03010000 04000400'] }]) {
      const { backend } = kernel(answers)
      await using family = VdpaFamily.open(backend)
      expect(await failureOf(() => family.device('net0'))).toMatchObject({
        code: 'ERR_VDPA_PROTOCOL',
        request: 'VDPA_CMD_DEV_GET',
      })
    }
  })

  it('reads any attributes as facts, or not at all', () => {
    const attribute = fc.record({ type: fc.integer({ min: 0, max: 40 }), bytes: fc.uint8Array({ maxLength: 10 }) })
    const readers = [
      facts.decodeManagementDevice,
      facts.decodeManagedDevice,
      facts.decodeConfiguration,
      (message: Parameters<typeof facts.decodeStatistics>[0]) => facts.decodeStatistics(message, 0),
    ]
    fc.assert(
      fc.property(fc.array(attribute, { maxLength: 12 }), (attributes) => {
        for (const read of readers) {
          try {
            expect(typeof read({ command: 0, attributes: [at(4, text('d')), at(2, text('m')), ...attributes] })).toBe(
              'object',
            )
          } catch (failure) {
            if (!(failure instanceof RangeError)) throw failure
          }
        }
      }),
      { numRuns: 1000 },
    )
  })
})
