// Every method pinned to a literal request number and literal bytes, over a handle that only writes down: the test that catches a swapped number, a bit
// number sent as a mask, or a field in the wrong place, with no kernel and no simulator in sight.

import { describe, expect, test } from '@jest/globals'
import type { Handle, WriteEachOptions } from '../../lib/backend/backend.js'
import { VhostVdpaTransport } from '../../lib/transport/vhost-vdpa.js'
import { requests, type VhostRequest } from '../../lib/uapi/vhost.js'
import { taken, takenLater } from '../write-outcome.js'

interface Seen {
  readonly request: number
  readonly bytes: string
}

const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString('hex')

/** A transport over a handle that records requests, and answers reads with `answer`. */
function recorded(answer = ''): { transport: VhostVdpaTransport; seen: Seen[] } {
  const seen: Seen[] = []
  const ioctl = (request: number, argument: Uint8Array | number) => {
    seen.push({ request, bytes: typeof argument === 'number' ? `value ${argument}` : hex(argument) })
    if (typeof argument !== 'number') argument.set(Buffer.from(answer, 'hex').subarray(0, argument.length))
    return 0
  }
  const handle = {
    path: '/dev/vhost-vdpa-0',
    ioctl,
    ioctlAsync: (request: number, argument: Uint8Array | number) => Promise.resolve(ioctl(request, argument)),
    writeEach: (records: Uint8Array, stride: number) => {
      seen.push({ request: -stride, bytes: hex(records) })
      return { completed: records.length / stride }
    },
    writeEachAsync: (records: Uint8Array, stride: number, options?: WriteEachOptions) => {
      options?.onProgress?.(1)
      seen.push({ request: -stride, bytes: hex(records) })
      return Promise.resolve({ completed: records.length / stride })
    },
  }
  return { transport: new VhostVdpaTransport(handle as unknown as Handle), seen }
}

type Call = (transport: VhostVdpaTransport) => unknown

// name, what is called, the request number, the bytes that go down
const writes: [string, Call, number, string][] = [
  ['setOwner', (t) => t.setOwner(), 0x0000af01, 'value 0'],
  ['resetOwner', (t) => t.resetOwner(), 0x0000af02, 'value 0'],
  ['setFeatures', (t) => t.setFeatures(1n << 33n), 0x4008af00, '0000000002000000'],
  ['setBackendFeatures', (t) => t.setBackendFeatures(0xen), 0x4008af25, '0e00000000000000'],
  ['setStatus', (t) => t.setStatus(0x0f), 0x4001af72, '0f'],
  ['setStatusAsync', (t) => t.setStatusAsync(3), 0x4001af72, '03'],
  ['writeConfig', (t) => t.writeConfig(2, Uint8Array.of(0xaa, 0xbb)), 0x4008af74, '0200000002000000aabb'],
  ['setConfigCall', (t) => t.setConfigCall(-1), 0x4004af77, 'ffffffff'],
  ['setGroupAsid', (t) => t.setGroupAsid(1, 9), 0x4008af7c, '0100000009000000'],
  ['suspend', (t) => t.suspend(), 0x0000af7d, 'value 0'],
  ['suspendAsync', (t) => t.suspendAsync(), 0x0000af7d, 'value 0'],
  ['resume', (t) => t.resume(), 0x0000af7e, 'value 0'],
  ['resumeAsync', (t) => t.resumeAsync(), 0x0000af7e, 'value 0'],
  ['setVringNum', (t) => t.setVringNum(2, 256), 0x4008af10, '0200000000010000'],
  [
    'setVringAddr',
    (t) => t.setVringAddr(1, { descriptor: 0x1000n, driver: 0x2000n, device: 0x3000n }),
    0x4028af11,
    '0100000000000000' + '0010000000000000' + '0030000000000000' + '0020000000000000' + '0000000000000000',
  ],
  ['setVringBase', (t) => t.setVringBase(0, 0x80008000), 0x4008af12, '0000000000800080'],
  ['setVringKick', (t) => t.setVringKick(1, 5), 0x4008af20, '0100000005000000'],
  ['setVringCall', (t) => t.setVringCall(1, -1), 0x4008af21, '01000000ffffffff'],
  ['setVringErr', (t) => t.setVringErr(1, 7), 0x4008af22, '0100000007000000'],
  ['setVringEnable', (t) => t.setVringEnable(2, true), 0x4008af75, '0200000001000000'],
  ['freeWorker', (t) => t.freeWorker(3), 0x4004af09, '03000000'],
  ['attachVringWorker', (t) => t.attachVringWorker(1, 3), 0x4008af15, '0100000003000000'],
  ['setForkFromOwner', (t) => t.setForkFromOwner(1), 0x4001af84, '01'],
  ['setVringBusyloopTimeout', (t) => t.setVringBusyloopTimeout(1, 50), 0x4008af23, '0100000032000000'],
  ['setMemTable', (t) => t.setMemTable([]), 0x4008af03, '0000000000000000'],
  [
    'setMemTable',
    (t) => t.setMemTable([{ guestAddress: 0x1000n, size: 0x2000n, userAddress: 0x7f0000000000n }]),
    0x4008af03,
    '0100000000000000' + '0010000000000000' + '0020000000000000' + '00000000007f0000' + '0000000000000000',
  ],
]

// name, what is called, the request number, what goes down, what comes up, what the method says
const reads: [string, Call, number, string, string, unknown][] = [
  ['features', (t) => t.features(), 0x8008af00, '0000000000000000', '2800830803000000', 0x308830028n],
  ['backendFeatures', (t) => t.backendFeatures(), 0x8008af26, '0000000000000000', '7e01000000000000', 0x17en],
  ['deviceId', (t) => t.deviceId(), 0x8004af70, '00000000', '01000000', 1],
  ['status', (t) => t.status(), 0x8001af71, '00', '0f', 0x0f],
  [
    'readConfig',
    (t) => t.readConfig(4, 2),
    0x8008af73,
    '04000000020000000000',
    '0400000002000000aabb',
    Uint8Array.of(0xaa, 0xbb),
  ],
  ['configSize', (t) => t.configSize(), 0x8004af79, '00000000', '18000000', 24],
  ['maxVringNum', (t) => t.maxVringNum(), 0x8002af76, '0000', '0001', 256],
  ['vringSize', (t) => t.vringSize(1), 0xc008af82, '0100000000000000', '0100000000010000', 256],
  ['vqsCount', (t) => t.vqsCount(), 0x8004af80, '00000000', '03000000', 3],
  [
    'iovaRange',
    (t) => t.iovaRange(),
    0x8010af78,
    '00000000000000000000000000000000',
    '0000000000000000ffffffff7f000000',
    { first: 0n, last: 0x7fffffffffn },
  ],
  ['groupNum', (t) => t.groupNum(), 0x8004af81, '00000000', '02000000', 2],
  ['asNum', (t) => t.asNum(), 0x8004af7a, '00000000', '02000000', 2],
  ['vringGroup', (t) => t.vringGroup(2), 0xc008af7b, '0200000000000000', '0200000001000000', 1],
  ['vringDescGroup', (t) => t.vringDescGroup(2), 0xc008af7f, '0200000000000000', '0200000001000000', 1],
  ['vringBase', (t) => t.vringBase(1), 0xc008af12, '0100000000000000', '0100000000800080', 0x80008000],
  ['newWorker', (t) => t.newWorker(), 0x8004af08, '00000000', '05000000', 5],
  ['vringWorker', (t) => t.vringWorker(1), 0xc008af16, '0100000000000000', '0100000005000000', 5],
  ['forkFromOwner', (t) => t.forkFromOwner(), 0x8001af85, '00', '01', 1],
  [
    'vringBusyloopTimeout',
    (t) => t.vringBusyloopTimeout(1),
    // The header has it as a write, though the kernel writes the answer into it.
    0x4008af24,
    '0100000000000000',
    '0100000032000000',
    50,
  ],
]

describe('the vhost-vdpa dialect', () => {
  test.each(writes)('%s sends its own number and bytes', async (_, call, request, bytes) => {
    const { transport, seen } = recorded()
    await call(transport)
    expect(seen).toEqual([{ request, bytes }])
  })

  test.each(reads)('%s asks with its own number and reads the answer', (...row) => {
    const [, call, request, bytes, answer, said] = row
    const { transport, seen } = recorded(answer)
    // Twice, because the kernel may look at what the answer before left: it takes the first word of a request it does not know for a queue's index.
    expect(call(transport)).toEqual(said)
    expect(call(transport)).toEqual(said)
    expect(seen).toEqual([
      { request, bytes },
      { request, bytes },
    ])
  })

  test.each([
    ['statusAsync', (t: VhostVdpaTransport) => t.statusAsync(), 0x8001af71, '00', '0f', 0x0f],
    [
      'vringBaseAsync',
      (t: VhostVdpaTransport) => t.vringBaseAsync(1),
      0xc008af12,
      '0100000000000000',
      '0100000000800080',
      0x80008000,
    ],
  ] as const)('%s asks the same off the thread', async (...row) => {
    const [, call, request, bytes, answer, said] = row
    const { transport, seen } = recorded(answer)
    expect(await call(transport)).toEqual(said)
    expect(seen).toEqual([{ request, bytes }])
  })

  test('IOTLB records go down 72 bytes at a time', () => {
    const { transport, seen } = recorded()
    expect(taken(transport.writeIotlb(new Uint8Array(144)))).toBe(2)
    expect(seen).toEqual([{ request: -72, bytes: '00'.repeat(144) }])
  })

  test('a backend of the program may answer with the bare count', async () => {
    const handle = { writeEach: () => 2, writeEachAsync: () => Promise.resolve(2) }
    const transport = new VhostVdpaTransport(handle as never)
    expect(transport.writeIotlb(new Uint8Array(144))).toEqual({ completed: 2 })
    expect(await transport.writeIotlbAsync(new Uint8Array(144))).toEqual({ completed: 2 })
  })

  test('IOTLB records go down off the thread with the options they were given', async () => {
    const { transport, seen } = recorded()
    const progress: number[] = []
    const onProgress = (completed: number) => progress.push(completed)
    expect(await takenLater(transport.writeIotlbAsync(new Uint8Array(72).fill(1), { onProgress }))).toBe(1)
    expect([progress, seen]).toEqual([[1], [{ request: -72, bytes: '01'.repeat(72) }]])
  })

  test('every method is one of these', () => {
    const pinned = [...writes, ...reads].map(([name]) => name)
    const later = ['writeIotlb', 'writeIotlbAsync', 'statusAsync', 'vringBaseAsync']
    const methods = Object.getOwnPropertyNames(VhostVdpaTransport.prototype).filter((name) => name !== 'constructor')
    expect(methods.sort()).toEqual([...new Set([...pinned, ...later])].sort())
  })

  test('every request of vDPA in the table has a method, and so have those of vhost but logging and byte order', () => {
    const sent = new Set([...writes, ...reads].map(([, , number]) => number))
    const rows = Object.values(requests) as readonly VhostRequest[]
    const without = rows.filter(({ family, number }) => ['vdpa', 'vhost'].includes(family) && !sent.has(number))
    expect(without.map(({ name }) => name)).toEqual([
      'VHOST_SET_LOG_BASE',
      'VHOST_SET_LOG_FD',
      'VHOST_SET_VRING_ENDIAN',
      'VHOST_GET_VRING_ENDIAN',
    ])
  })

  test('arguments are used again, and nothing is left in them from before', () => {
    const { transport, seen } = recorded()
    transport.setVringNum(1, 0xffff_ffff)
    transport.vringGroup(2)
    transport.setFeatures(0xffff_ffff_ffff_ffffn)
    transport.setFeatures(1n)
    transport.setStatus(0xff)
    transport.setStatus(0)
    expect(seen.map(({ bytes }) => bytes)).toEqual([
      '01000000ffffffff',
      '0200000000000000',
      'ffffffffffffffff',
      '0100000000000000',
      'ff',
      '00',
    ])
  })

  test('what does not fit into the field is refused before it is sent', () => {
    const { transport, seen } = recorded()
    expect(() => transport.setStatus(256)).toThrow(RangeError)
    expect(() => transport.setVringNum(-1, 2)).toThrow(RangeError)
    expect(() => transport.setVringKick(0, -2)).toThrow(RangeError)
    expect(() => transport.vringGroup(1.5)).toThrow(RangeError)
    expect(() => transport.readConfig(0, 2 ** 32)).toThrow(RangeError)
    expect(() => transport.setVringBase(0, '1' as unknown as number)).toThrow(TypeError)
    // A 64-bit word that is cut off would be other features than were asked for.
    expect(() => transport.setFeatures(2n ** 64n)).toThrow('features must be from 0 to 2^64-1')
    expect(() => transport.setFeatures(-1n)).toThrow(RangeError)
    expect(() => transport.setBackendFeatures(2n ** 64n + 2n)).toThrow(RangeError)
    expect(() => transport.setBackendFeatures('1' as unknown as bigint)).toThrow('features must be a bigint')
    expect(() => transport.writeConfig(0, undefined as unknown as Uint8Array)).toThrow('bytes must be a Uint8Array')
    expect(() => transport.setForkFromOwner(2)).toThrow(RangeError)
    const region = { guestAddress: 0n, size: -1n, userAddress: 0n }
    expect(() => transport.setMemTable([region])).toThrow('vhost_memory_region.memory_size must be')
    expect(seen).toEqual([])
  })
})
