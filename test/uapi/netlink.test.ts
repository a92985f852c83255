// Netlink's messages and attributes: what the kernel was seen to receive and send, and bytes that are no messages at all.

import { describe, expect, it } from '@jest/globals'
import fc from 'fast-check'
import * as netlink from '../../lib/uapi/netlink'
import { vdpaAttributes, vdpaCommands } from '../../lib/uapi/vdpa'
import { hex } from './support'

const { NLM_F_REQUEST, NLM_F_ACK, NLM_F_CAPPED, NLM_F_ACK_TLVS } = netlink.netlinkFlags

describe('netlink messages', () => {
  it('are written as the kernel wants them', () => {
    const name = { type: vdpaAttributes.VDPA_ATTR_DEV_NAME, bytes: netlink.textAttribute('net0') }
    const payload = netlink.encodeGeneric({ command: vdpaCommands.VDPA_CMD_DEV_GET, attributes: [name] })
    const message = netlink.encodeMessage({ type: 0x1c, flags: NLM_F_REQUEST | NLM_F_ACK, sequence: 7, payload })
    expect(message).toEqual(hex('20000000 1c00 0500 07000000 00000000 05 01 0000 09000400 6e65743000 000000'))
  })

  it('ask the controller for a family', () => {
    const attribute = { type: netlink.controlAttributes.CTRL_ATTR_FAMILY_NAME, bytes: netlink.textAttribute('vdpa') }
    const payload = netlink.encodeGeneric({
      command: netlink.controlCommands.CTRL_CMD_GETFAMILY,
      attributes: [attribute],
    })
    const message = netlink.encodeMessage({ type: netlink.GENL_ID_CTRL, flags: 5, sequence: 1, payload })
    expect(message).toEqual(hex('20000000 1000 0500 01000000 00000000 03 01 0000 09000200 7664706100 000000'))
  })

  it('are read, several in a datagram', () => {
    const one = { type: 16, flags: 2, sequence: 1, payload: Uint8Array.of(1, 2, 3, 4, 5) }
    const two = { type: 3, flags: 2, sequence: 1, payload: Uint8Array.of(0, 0, 0, 0) }
    const datagram = Buffer.concat([netlink.encodeMessage(one), netlink.encodeMessage(two)])
    expect(netlink.decodeMessages(Uint8Array.from(datagram))).toEqual([one, two])
  })

  it('say what the kernel says', () => {
    const text = `31000100 ${Buffer.from('vdpa: Fail to find the specified device....\0\0').toString('hex')}`
    const capped = hex(`edffffff 24000000 1c00 0500 01000000 00000000 ${text}`)
    const flags = NLM_F_CAPPED | NLM_F_ACK_TLVS
    const expected = { errno: 19, text: 'vdpa: Fail to find the specified device....' }
    expect(netlink.decodeVerdict({ type: 2, flags, sequence: 1, payload: capped })).toEqual(expected)
    // The length of the request that is repeated does not count its padding.
    const whole = hex(`edffffff 1b000000 1c00 0500 01000000 00000000 0807060504030201 02030405 ${text}`)
    expect(netlink.decodeVerdict({ type: 2, flags: NLM_F_ACK_TLVS, sequence: 1, payload: whole })).toEqual(expected)
    const done = hex(`edffffff ${text}`)
    expect(netlink.decodeVerdict({ type: 3, flags: NLM_F_ACK_TLVS, sequence: 1, payload: done })).toEqual(expected)
    expect(netlink.decodeVerdict({ type: 3, flags: 2, sequence: 1, payload: hex('') })).toEqual({ errno: 0 })
    expect(netlink.decodeVerdict({ type: 2, flags: 0, sequence: 1, payload: hex('00000000') })).toEqual({ errno: 0 })
  })

  it('refuse lengths that are lies', () => {
    expect(() => netlink.decodeMessages(hex('0f000000 1000 0000 01000000 00000000'))).toThrow('nlmsg_len must be')
    expect(() => netlink.decodeMessages(hex('11000000 1000 0000 01000000 00000000'))).toThrow(RangeError)
    expect(() => netlink.decodeAttributes(hex('03000100'))).toThrow('nla_len must be')
    expect(() => netlink.decodeAttributes(hex('09000100 00000000'))).toThrow(RangeError)
    expect(() => netlink.decodeVerdict({ type: 2, flags: 0, sequence: 0, payload: hex('0000') })).toThrow(RangeError)
  })

  it('refuse what no attribute can carry', () => {
    expect(() => netlink.encodeAttributes([{ type: 0x4000, bytes: hex('') }])).toThrow(RangeError)
    expect(() => netlink.encodeAttributes([{ type: 1, bytes: new Uint8Array(65_532) }])).toThrow(RangeError)
    expect(() => netlink.integerAttribute(256, 1)).toThrow(RangeError)
    expect(() => netlink.integerAttribute(-1n, 8)).toThrow(RangeError)
  })

  it('keep attributes, whatever is in them', () => {
    const attribute = fc.record({ type: fc.integer({ min: 0, max: 0x3fff }), bytes: fc.uint8Array({ maxLength: 40 }) })
    fc.assert(
      fc.property(fc.array(attribute, { maxLength: 10 }), (attributes) => {
        expect(netlink.decodeAttributes(netlink.encodeAttributes(attributes))).toEqual(attributes)
      }),
    )
  })

  it('keep integers of every width', () => {
    fc.assert(
      fc.property(fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }), (value) => {
        expect(netlink.attributeInteger(netlink.integerAttribute(value, 8))).toBe(value)
      }),
    )
    expect(netlink.attributeInteger(hex('0100000000000000 01'))).toBe(2n ** 64n + 1n)
  })

  it('answer any bytes with messages or a RangeError', () => {
    // Random lengths are nearly always lies: half of the inputs begin as a message does.
    const lying = fc.tuple(fc.integer({ min: 0, max: 80 }), fc.uint8Array({ maxLength: 80 })).map(([length, rest]) => {
      return Uint8Array.of(length, 0, 0, 0, ...rest)
    })
    const everything = (bytes: Uint8Array) => {
      for (const message of netlink.decodeMessages(bytes)) {
        expect(message.payload.length).toBeLessThanOrEqual(bytes.length)
        for (const flags of [message.flags, NLM_F_ACK_TLVS, NLM_F_ACK_TLVS | NLM_F_CAPPED])
          attempt(() => netlink.decodeVerdict({ ...message, flags }))
        attempt(() => netlink.decodeGeneric(message.payload))
      }
    }
    const attempt = (call: () => void) => {
      try {
        call()
      } catch (failure) {
        if (!(failure instanceof RangeError)) throw failure
      }
    }
    fc.assert(
      fc.property(fc.oneof(fc.uint8Array({ maxLength: 200 }), lying), (bytes) => {
        attempt(() => everything(bytes))
        attempt(() => netlink.decodeAttributes(bytes))
      }),
      { numRuns: 2000 },
    )
  })
})
