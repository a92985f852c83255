import { describe, expect, test } from '@jest/globals'
import fc from 'fast-check'
import { isVdpaError } from '../../lib/base/errors.js'
import { decodeMiss, RecordWriter } from '../../lib/misses/message.js'
import { vhostMsg, vhostMsgV2 } from '../../lib/uapi/vhost-types.js'

const bytesOf = (hex: string) => Uint8Array.from(Buffer.from(hex.replaceAll(' ', '').padEnd(144, '0'), 'hex'))

describe('records that are read', () => {
  test('are misses of version 2, byte for byte', () => {
    const record = bytesOf(`02000000 00000000 1080ffff00000000 ${'00'.repeat(16)} 01 01`)
    expect(decodeMiss(record)).toEqual({ kind: 'miss', version: 2, asid: 0, iova: 0xffff8010n, access: 'ro' })
  })

  test('are misses of version 1, which have no address space', () => {
    const record = bytesOf(`01000000 ffffffff 0010000000000000 ${'00'.repeat(16)} 02 01`)
    expect(decodeMiss(record)).toEqual({ kind: 'miss', version: 1, asid: 0, iova: 0x1000n, access: 'wo' })
  })

  test('say that an access failed', () => {
    const record = bytesOf(`02000000 03000000 0010000000000000 ${'00'.repeat(16)} 03 04`)
    expect(decodeMiss(record)).toMatchObject({ kind: 'access-fail', asid: 3, access: 'rw' })
  })

  test.each([
    ['too short', new Uint8Array(71)],
    ['no record', bytesOf('03000000')],
    ['an update', bytesOf(`02000000 ${'00'.repeat(28)} 03 02`)],
    ['a miss without an access', bytesOf(`02000000 ${'00'.repeat(28)} 00 01`)],
    ['a miss with an access that is none', bytesOf(`02000000 ${'00'.repeat(28)} 04 01`)],
  ])('that are %s are ERR_VDPA_PROTOCOL', (_name, record) => {
    expect(() => decodeMiss(record)).toThrow(expect.objectContaining({ code: 'ERR_VDPA_PROTOCOL' }))
  })

  test('may be any bytes: a value or a named error', () => {
    const likely = fc
      .tuple(fc.uint8Array({ minLength: 72, maxLength: 72 }), fc.nat(3), fc.nat(6), fc.nat(5))
      .map(([bytes, message, type, perm]) => {
        bytes.set([message, 0, 0, 0])
        bytes.set([perm, type], 32)
        return bytes
      })
    fc.assert(
      fc.property(fc.oneof(fc.uint8Array({ maxLength: 100 }), likely), (bytes) => {
        try {
          const { version, ...message } = decodeMiss(bytes)
          const expected = version === 1 ? vhostMsg.decode(bytes) : vhostMsgV2.decode(bytes)
          expect(message.iova).toBe(expected.iova)
          expect(['ro', 'wo', 'rw'].indexOf(message.access) + 1).toBe(expected.perm)
        } catch (failure) {
          if (!isVdpaError(failure)) throw failure
          expect(failure.code).toBe('ERR_VDPA_PROTOCOL')
        }
      }),
      { numRuns: 20_000 },
    )
  })
})

describe('records that are written', () => {
  const writer = new RecordWriter()
  const mapping = { iova: 0x1000n, size: 0x2000n, uaddr: 0x7f12_3456_0000n, access: 'rw' } as const

  test('are updates, byte for byte', () => {
    const head = '0010000000000000 0020000000000000 00005634127f0000 03 02'
    expect(writer.update(2, 1, mapping)).toEqual(bytesOf(`02000000 01000000 ${head}`))
    expect(writer.update(1, 1, mapping)).toEqual(bytesOf(`01000000 00000000 ${head}`))
  })

  test('are invalidations, byte for byte, whatever was written before', () => {
    writer.update(2, 1, mapping)
    expect(writer.invalidate(2, 0, 0x1000n, 0x2000n)).toEqual(
      bytesOf(`02000000 00000000 0010000000000000 0020000000000000 ${'00'.repeat(9)} 03`),
    )
  })
})
