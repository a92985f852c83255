// The text form of traces: what is written is read again, and what is not a trace is refused with the line.

import { describe, expect, test } from '@jest/globals'
import fc from 'fast-check'
import { RecordingBackend } from '../../lib/backend/recording-backend.js'
import { lengthOf, partsOf, readPortable, sliceOf, Symbols } from '../../lib/backend/symbols.js'
import { formatTrace, parseTrace, type Trace } from '../../lib/backend/trace.js'
import { failureOf, FakeBackend } from './fake-backend.js'
import { taken } from '../write-outcome.js'

async function recorded(): Promise<Trace> {
  const fake = new FakeBackend()
  const backend = new RecordingBackend(fake, { about: { kernel: '6.12' } })
  const handle = backend.open('/dev/vhost-vdpa-0')
  fake.answer = (_request, argument) => {
    if (typeof argument !== 'number') argument[0] = 7
    return 3
  }
  handle.ioctl(0x1234, Uint8Array.of(1, 2))
  handle.ioctl(0x1234, -1)
  await handle.ioctlAsync(0x1234, 0)
  handle.pread?.(new Uint8Array(1), 0xffff_ffff_ffff_fff0n)
  handle.mapDoorbell?.(0x1000n).ring16(1)
  fake.refusedRecord = 2
  await failureOf(() => taken(handle.writeEach(new Uint8Array(8), 4)))
  backend.eventfd(4).signal()
  backend.adopt(3, { length: 4096, offset: 4096n })
  backend.netlink?.(16).receive()
  await failureOf(() => backend.open('/nowhere'))
  return backend.trace
}

describe('JSON lines', () => {
  test('come back as they were', async () => {
    const trace = await recorded()
    const text = formatTrace(trace)
    expect(parseTrace(text)).toEqual(trace)
    expect(formatTrace(parseTrace(text))).toBe(text)
    const lines = text.split('\n')
    expect(lines[0]).toBe(
      '{"format":"vhost-vdpa-trace","version":1,"backend":"fake","pageSize":4096,"about":{"kernel":"6.12"}}',
    )
    expect(lines[2]).toBe(
      '{"op":"ioctl","target":"h0","path":"/dev/vhost-vdpa-0","request":4660,"argument":"0102","output":"0702","outcome":{"returned":3}}',
    )
    expect(text).toContain('"offset":"0xfffffffffffffff0"')
    expect(lines).toHaveLength(trace.events.length + 2)
  })

  test('a call under way is an event without an end', async () => {
    const backend = new RecordingBackend(new FakeBackend())
    const handle = backend.open('/dev/x')
    const slow = handle.ioctlAsync(1, 0)
    const trace = backend.trace
    await slow
    expect(trace.events[1]).not.toHaveProperty('outcome')
    expect(parseTrace(formatTrace(trace))).toEqual(trace)
  })

  const head = '{"format":"vhost-vdpa-trace","version":1,"backend":"kernel","pageSize":4096,"about":{}}'
  test.each([
    ['', 'line 1 does not say that its format is vhost-vdpa-trace'],
    ['{"format":"strace"}', 'line 1 does not say that its format is vhost-vdpa-trace'],
    [head.replace('1', '2'), 'line 1 has version 2, and only 1 is known'],
    [head.replace('4096', '"4096"'), 'line 1 lacks backend, pageSize or about'],
    [`${head}\n[]`, 'line 2 is not an object in JSON'],
    [`${head}\n\n{"op":`, 'line 2 is not an object in JSON'],
    [`${head}\n{"op":"toString"}`, 'line 2 has no call that is known: toString'],
    [`${head}\n{"op":"open","creates":"h0"}`, "line 2: open has no text in 'path'"],
    [`${head}\n{"op":"open","creates":"x0","path":"a"}`, "line 2: open has no name in 'creates'"],
    [`${head}\n{"op":"eventfd","creates":"e0","fd":"3"}`, "line 2: eventfd has no fd in 'fd'"],
    [`${head}\n{"op":"take","target":"e0","count":1}`, "line 2: take has no 'count'"],
    [`${head}\n{"op":"take","target":"e0","async":false}`, "line 2 has an 'async' that is not true"],
    [`${head}\n{"op":"take","target":"e0","output":"0"}`, "line 2 has an 'output' that is not bytes"],
    [`${head}\n{"op":"take","target":"e0","outcome":{}}`, "line 2 has an 'outcome' that is not one"],
    [`${head}\n{"op":"take","target":"e0","outcome":{"returned":0,"failed":"EIO"}}`, "'outcome' that is not one"],
    [`${head}\n{"op":"take","target":"e0","outcome":{"failed":"EIO","why":1}}`, "'outcome' that is not one"],
    [`${head}\n{"op":"ring","target":"d0","bits":8,"value":1}`, "line 2: ring has no bits in 'bits'"],
    [`${head}\n{"op":"write","target":"h0","path":"a","bytes":"{q0}"}`, "line 2: write has no bytes in 'bytes'"],
    [`${head}\n{"op":"mapDoorbell","creates":"d0","target":"h0","path":"a","offset":4096}`, "no offset in 'offset'"],
  ])('%j is refused', async (text, sentence) => {
    const error = await failureOf(() => parseTrace(text))
    expect(error).toMatchObject({ code: 'ERR_VDPA_TRACE' })
    expect(error.message).toContain(sentence)
  })
})

describe('portable bytes', () => {
  const symbols = new Symbols()
  symbols.add('e0', { fds: [12, 40] })
  symbols.add('m0', { fds: [13], address: 0x7f00_0000_0000n, length: 8192 })

  test('name descriptors and addresses, and are read again', () => {
    const bytes = new Uint8Array(20)
    const view = new DataView(bytes.buffer)
    view.setInt32(0, 40, true)
    view.setBigUint64(4, 0x7f00_0000_1fffn, true)
    view.setInt32(12, -1, true)
    const fields = [
      { at: 0, kind: 'fd' },
      { at: 4, kind: 'address' },
      { at: 12, kind: 'fd' },
      { at: 18, kind: 'fd' },
    ] as const
    const text = symbols.toPortable(bytes, fields)
    expect(text).toBe('{e0}{m0+0x1fff}ffffffff00000000')
    expect(lengthOf(text)).toBe(20)
    view.setInt32(0, 12, true)
    expect(symbols.toLive(text)).toEqual(bytes)
    expect(readPortable(text).names).toEqual(
      new Map([
        [0, 'e0'],
        [4, 'm0+0x1fff'],
      ]),
    )
    expect(sliceOf(text, 14)).toBe('{e0}{m0+0x1fff}ffff')
    expect(sliceOf(text, 12)).toBe('{e0}{m0+0x1fff}')
    expect(sliceOf(text, 3)).toBe('')
  })

  test.each(['{e9}', '{m9+0x0}', '{e0+0x1}', 'abc'])('%s stands for nothing', async (text) => {
    expect(await failureOf(() => symbols.toLive(text))).toMatchObject({ code: 'ERR_VDPA_TRACE' })
  })

  test('any bytes come back, wherever the fields are', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 80 }), fc.uniqueArray(fc.nat(9), { maxLength: 5 }), (bytes, places) => {
        const fields = places.sort((a, b) => a - b).map((place) => ({ at: place * 8, kind: 'address' }) as const)
        const zero = new Symbols()
        zero.add('m0', { fds: [], address: 0n, length: Number.MAX_SAFE_INTEGER })
        const text = zero.toPortable(bytes, fields)
        expect(zero.toLive(text)).toEqual(bytes)
        expect(partsOf(text)?.reduce((sum, part) => sum + part.length, 0)).toBe(bytes.length)
      }),
    )
  })
})

test.each([undefined, null, 5, {}, new Uint8Array(3)])('%p is no text of a trace', (none) => {
  expect(() => parseTrace(none as never)).toThrow(expect.objectContaining({ code: 'ERR_INVALID_ARG_TYPE' }))
})
