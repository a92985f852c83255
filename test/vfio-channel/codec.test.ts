// The bytes of the drafts, as they were proposed, and arbitrary ones: a value or a named refusal, nothing else.

import { describe, expect, test } from '@jest/globals'
import fc from 'fast-check'
import { isVdpaError } from '../../lib/base/errors.js'
import { u64Value, vhostVringAddr, vhostVringState } from '../../lib/uapi/vhost-types.js'
import { VFIO_DEVICE_SET_IRQS, VHOST_DEVICE_SET_STATE, vfioIrqFlags, vfioIrqSet } from '../../lib/uapi/vhost-vfio.js'
import {
  decodeDraftRequest,
  decodeMessage,
  draftNumber,
  encodeMessage,
  payloadLast,
  type Draft,
  type DraftRequest,
} from '../../lib/vfio-channel/codec.js'
import { decodeFrame, encodeFrame, frameKinds } from '../../lib/vfio-channel/frames.js'

const bytes = (hex: string) => Uint8Array.from(Buffer.from(hex.replaceAll(' ', ''), 'hex'))
const hex = (data: Uint8Array) => Buffer.from(data).toString('hex')
const decode = (data: Uint8Array, draft: Draft = '2018') =>
  decodeDraftRequest(decodeMessage(data, payloadLast[draft]), draft)
const drafts: readonly Draft[] = ['2018', '2019']

/** Messages of the proposals, worked out by hand from their structs, and what they say. */
const vectors: readonly [name: string, message: string, value: DraftRequest][] = [
  ['GET_FEATURES', '00af088000000000 01000000 00000000', { name: 'VHOST_GET_FEATURES' }],
  ['SET_OWNER', '01af000000000000 00000000 00000000', { name: 'VHOST_SET_OWNER' }],
  [
    'SET_VRING_NUM of queue 1 to 256',
    '10af084000000000 00000000 08000000 01000000 00010000',
    { name: 'VHOST_SET_VRING_NUM', index: 1, num: 256 },
  ],
  [
    'SET_VRING_ADDR, whose used ring comes before the available one',
    '11af284000000000 00000000 28000000 01000000 00000000 0000100000000000 0030100000000000 0020100000000000 0000000000000000',
    {
      name: 'VHOST_SET_VRING_ADDR',
      index: 1,
      flags: 0,
      descriptor: 0x10_0000n,
      device: 0x10_3000n,
      driver: 0x10_2000n,
      log: 0n,
    },
  ],
  [
    'GET_VRING_BASE, with the queue in the question',
    '12af08c000000000 01000000 08000000 01000000 00000000',
    { name: 'VHOST_GET_VRING_BASE', index: 1, num: 0 },
  ],
  [
    'SET_STATE to RUNNING',
    '70af084000000000 00000000 08000000 0100000000000000',
    { name: 'VHOST_DEVICE_SET_STATE', value: 1n },
  ],
  [
    "SET_STATE as QEMU's client sent it",
    '70af084000000000 00000000 04000000 01000000',
    { name: 'VHOST_DEVICE_SET_STATE', value: 1n },
  ],
]

describe('messages of the drafts', () => {
  test.each(vectors)('%s', (_name, message, value) => {
    for (const draft of drafts) expect(decode(bytes(message), draft)).toEqual(value)
  })

  test('are written as they are read', () => {
    const features = u64Value.encode({ value: 0x3_0001_8020n })
    expect(hex(encodeMessage(draftNumber('VHOST_GET_FEATURES'), 0, features))).toBe(
      hex(bytes('00af088000000000 00000000 08000000 2080010003000000')),
    )
    const base = vhostVringState.encode({ index: 1, num: 7 })
    expect(hex(encodeMessage(draftNumber('VHOST_GET_VRING_BASE'), 0, base))).toBe(
      hex(bytes('12af08c000000000 00000000 08000000 01000000 07000000')),
    )
    const areas = { desc_user_addr: 0x10_0000n, used_user_addr: 0x10_3000n, avail_user_addr: 0x10_2000n }
    const payload = vhostVringAddr.encode({ index: 1, flags: 0, log_guest_addr: 0n, ...areas })
    const [, , , [, addresses]] = vectors as unknown as [unknown, unknown, unknown, [string, string]]
    expect(hex(encodeMessage(draftNumber('VHOST_SET_VRING_ADDR'), 0, payload))).toBe(hex(bytes(addresses)))
  })

  test('have the numbers of vhost, and one of their own', () => {
    expect(VHOST_DEVICE_SET_STATE).toBe(0x4008_af70)
    expect(draftNumber('VHOST_SET_MEM_TABLE')).toBe(0x4008_af03n)
    expect(draftNumber('VHOST_SET_LOG_BASE')).toBe(0x4008_af04n)
    expect(draftNumber('VHOST_RESET_OWNER')).toBe(0xaf02n)
  })

  test('tell of memory in 2018 alone', () => {
    const table = bytes(
      '03af084000000000 00000000 28000000 01000000 00000000 0000004000000000 0000100000000000 000056341 27f0000 0000000000000000',
    )
    const entry = { guestAddress: 0x4000_0000n, size: 0x10_0000n, userAddress: 0x7f12_3456_0000n }
    expect(decode(table)).toEqual({ name: 'VHOST_SET_MEM_TABLE', entries: [entry] })
    expect(() => decode(table, '2019')).toThrow('ERR_VDPA_PROTOCOL: the draft of 2019 has no request 0x4008af03')
  })

  test.each([
    ['no head', '00af0880', 'a message of 4 bytes has no head'],
    [
      'fewer bytes than it says',
      '10af084000000000 00000000 08000000 01000000',
      'a payload of 4 bytes, and the head says 8',
    ],
    ['more bytes than it says', '01af000000000000 00000000 00000000 00', 'a payload of 1 bytes, and the head says 0'],
    ['a payload too many', '01af000000000000 00000000 01000000 00', 'a payload of 1 bytes, not 0'],
    ['a payload too short', '10af084000000000 00000000 04000000 01000000', 'a payload of 4 bytes, not 8'],
    ['unknown flags', '01af000000000000 04000000 00000000', 'unknown flags 0x4'],
    ['a number past those of ioctl', '01af000001000000 00000000 00000000', 'has no request 0x10000af01'],
    ['a table without its head', '03af084000000000 00000000 04000000 01000000', 'a payload of 4 bytes, not 8 or more'],
    ['a table that lacks a region', '03af084000000000 00000000 08000000 01000000 00000000', '8 bytes for 1 regions'],
    ['a table without end', '03af084000000000 00000000 08000000 ffffffff 00000000', 'and 64 are the most'],
  ])('with %s are refused', (_name, message, text) => {
    expect(() => decode(bytes(message))).toThrow(text)
  })

  test('have a longest payload, which the draft of 2019 names', () => {
    const message = encodeMessage(draftNumber('VHOST_SET_OWNER'), 0, new Uint8Array(1025))
    expect(() => decode(message, '2019')).toThrow('1025 bytes of payload, and 1024 are the most')
  })
})

test('an interrupt of VFIO, as the clients of the time set it', () => {
  const { VFIO_IRQ_SET_DATA_EVENTFD, VFIO_IRQ_SET_ACTION_TRIGGER } = vfioIrqFlags
  const flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER
  const head = vfioIrqSet.encode({ argsz: 24, flags, index: 2, start: 1, count: 1 })
  expect(hex(head) + '09000000').toBe(hex(bytes('18000000 24000000 02000000 01000000 01000000 09000000')))
  expect(VFIO_DEVICE_SET_IRQS).toBe(0x3b6e)
})

/** A value, or an error of ours. */
function isNamed(work: () => unknown): boolean {
  try {
    work()
    return true
  } catch (error) {
    return isVdpaError(error) && error.code === 'ERR_VDPA_PROTOCOL'
  }
}

describe('arbitrary bytes', () => {
  const known = vectors.map(([, message]) => bytes(message))

  test('are a message, or are refused by name', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 128 }), fc.constantFrom(...drafts), (data, draft) => {
        expect(isNamed(() => decode(data, draft))).toBe(true)
      }),
      { numRuns: 3000 },
    )
  })

  test('put into real messages are, too', () => {
    const change = fc.record({
      message: fc.constantFrom(...known),
      at: fc.nat(63),
      with: fc.uint8Array({ minLength: 1, maxLength: 8 }),
      cut: fc.nat(64),
      draft: fc.constantFrom(...drafts),
    })
    fc.assert(
      fc.property(change, ({ message, at, with: added, cut, draft }) => {
        const data = new Uint8Array(Math.max(message.length, at + added.length))
        data.set(message)
        data.set(added, at)
        expect(isNamed(() => decode(data.subarray(0, data.length - Math.min(cut, data.length)), draft))).toBe(true)
        expect(isNamed(() => decode(data, draft))).toBe(true)
      }),
      { numRuns: 3000 },
    )
  })

  test('are a frame, or are refused by name', () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 16, maxLength: 16 }), (data) => {
        expect(isNamed(() => decodeFrame(data))).toBe(true)
      }),
      { numRuns: 3000 },
    )
    expect(decodeFrame(encodeFrame(frameKinds.REPLY, -22n))).toEqual({
      kind: 3,
      size: 0,
      value: 0xffff_ffff_ffff_ffean,
    })
  })
})
