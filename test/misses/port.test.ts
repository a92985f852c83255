import { describe, expect, test } from '@jest/globals'
import type { Handle } from '../../lib/backend/backend.js'
import { systemError } from '../../lib/base/errors.js'
import { missPort } from '../../lib/misses/port.js'
import { networkDevice, Simulator } from '../../lib/simulator/index.js'
import { missRecord } from './support.js'

const PATH = '/dev/vhost-net'
const refusal = (code: string) => systemError(code, 0, 'a test wants it so', { syscall: 'read', path: PATH })

/** A node whose reads are what a test says. */
function node(reads: (Uint8Array | Error)[]) {
  const written: number[] = []
  const handle = {
    path: PATH,
    read: (bytes: Uint8Array) => {
      const next = reads.shift() ?? refusal('EAGAIN')
      if (next instanceof Error) throw next
      bytes.set(next)
      return next.length
    },
    write: (bytes: Uint8Array) => written.push(bytes.length),
    onReadable: () => ({ [Symbol.dispose]: () => undefined }),
  }
  return { port: missPort(handle as unknown as Handle), written }
}

describe('a read', () => {
  test('is a record, or nothing where there is none now or a signal came', () => {
    const { port } = node([
      missRecord(0x1000n),
      refusal('EINTR'),
      refusal('EAGAIN'),
      new Uint8Array(0),
      missRecord(0x2000n),
    ])
    expect(port.read()).toEqual(missRecord(0x1000n))
    expect([port.read(), port.read(), port.read()]).toEqual([undefined, undefined, undefined])
    expect(port.read()).toEqual(missRecord(0x2000n))
    expect(port.read()).toBeUndefined()
  })

  test('that is short is shown as short as it is', () => {
    expect(node([missRecord(0x1000n).subarray(0, 40)]).port.read()).toHaveLength(40)
  })

  test('that is refused is thrown', () => {
    const { port } = node([refusal('EBADFD'), refusal('ENODEV')])
    expect(() => port.read()).toThrow(expect.objectContaining({ code: 'EBADFD' }))
    expect(() => port.read()).toThrow(expect.objectContaining({ code: 'ENODEV' }))
  })
})

test('a write is one record, whole', () => {
  const { port, written } = node([])
  port.write(missRecord(0n, 1, 2))
  expect(written).toEqual([72])
})

test('a vhost-vdpa node has no misses to be read', () => {
  const simulator = new Simulator()
  const handle = simulator.open(simulator.add(networkDevice()))
  expect(() => missPort(handle)).toThrow(expect.objectContaining({ code: 'ERR_VDPA_NOT_SUPPORTED' }))
  handle.closeSync()
  expect(() => missPort(undefined as unknown as Handle)).toThrow(/^handle must be/)
})
