// Every method pinned to a literal request number and literal bytes, over a handle that only writes down.

import { describe, expect, test } from '@jest/globals'
import type { Handle } from '../../lib/backend/backend.js'
import { VhostChardevTransport } from '../../lib/transport/vhost-chardev.js'
import { requests, type VhostRequest } from '../../lib/uapi/vhost.js'

const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString('hex')

function recorded(answer = '') {
  const seen: { readonly request: number; readonly bytes: string }[] = []
  const ioctl = (request: number, argument: Uint8Array | number) => {
    seen.push({ request, bytes: typeof argument === 'number' ? `value ${argument}` : hex(argument) })
    if (typeof argument !== 'number') argument.set(Buffer.from(answer, 'hex').subarray(0, argument.length))
    return 0
  }
  const ioctlAsync = (...call: Parameters<typeof ioctl>) => Promise.resolve().then(() => ioctl(...call))
  return {
    transport: new VhostChardevTransport({ path: '/dev/vhost-net', ioctl, ioctlAsync } as unknown as Handle),
    seen,
  }
}

type Call = (transport: VhostChardevTransport) => unknown
const ring = { descriptor: 0x1000n, driver: 0x2000n, device: 0x3000n }

// name, what is called, the request number, the bytes that go down
const writes: [string, Call, number, string][] = [
  ['setOwner', (t) => t.setOwner(), 0x0000af01, 'value 0'],
  ['resetOwner', (t) => t.resetOwner(), 0x0000af02, 'value 0'],
  ['setFeatures', (t) => t.setFeatures(1n << 33n), 0x4008af00, '0000000002000000'],
  [
    'setFeaturesArray',
    (t) => t.setFeaturesArray((1n << 65n) | 1n),
    0x4008af83,
    '0200000000000000' + '0100000000000000' + '0200000000000000',
  ],
  ['setBackendFeatures', (t) => t.setBackendFeatures(2n), 0x4008af25, '0200000000000000'],
  ['setMemTable', (t) => t.setMemTable([]), 0x4008af03, '0000000000000000'],
  [
    'setMemTable with an entry',
    (t) => t.setMemTable([{ guestAddress: 0x1000n, size: 0x2000n, userAddress: 0x7f00n }]),
    0x4008af03,
    '0100000000000000' + '0010000000000000' + '0020000000000000' + '007f000000000000' + '0000000000000000',
  ],
  ['setLogBase', (t) => t.setLogBase(0x7f00n), 0x4008af04, '007f000000000000'],
  ['setLogFd', (t) => t.setLogFd(-1), 0x4004af07, 'ffffffff'],
  ['setVringNum', (t) => t.setVringNum(1, 256), 0x4008af10, '0100000000010000'],
  [
    'setVringAddr',
    (t) => t.setVringAddr(1, ring, 1, 0x9000n),
    0x4028af11,
    '01000000' + '01000000' + '0010000000000000' + '0030000000000000' + '0020000000000000' + '0090000000000000',
  ],
  ['setVringBase', (t) => t.setVringBase(1, 7), 0x4008af12, '0100000007000000'],
  ['setVringEndian', (t) => t.setVringEndian(1, 1), 0x4008af13, '0100000001000000'],
  ['setVringKick', (t) => t.setVringKick(1, 9), 0x4008af20, '0100000009000000'],
  ['setVringCall', (t) => t.setVringCall(1, 9), 0x4008af21, '0100000009000000'],
  ['setVringErr', (t) => t.setVringErr(1, -1), 0x4008af22, '01000000ffffffff'],
  ['setVringBusyloopTimeout', (t) => t.setVringBusyloopTimeout(1, 50), 0x4008af23, '0100000032000000'],
  ['freeWorker', (t) => t.freeWorker(3), 0x4004af09, '03000000'],
  ['attachVringWorker', (t) => t.attachVringWorker(1, 3), 0x4008af15, '0100000003000000'],
  ['setForkFromOwner', (t) => t.setForkFromOwner(1), 0x4001af84, '01'],
  ['setNetBackend', (t) => t.setNetBackend(1, 9), 0x4008af30, '0100000009000000'],
  ['setGuestCid', (t) => t.setGuestCid(3n), 0x4008af60, '0300000000000000'],
  ['setRunning', (t) => t.setRunning(true), 0x4004af61, '01000000'],
  ['setRunning, to stop', (t) => t.setRunning(false), 0x4004af61, '00000000'],
]

// name, what is called, the request number, the bytes that go down, those that come back, what they mean
const reads: [string, Call, number, string, string, unknown][] = [
  ['features', (t) => t.features(), 0x8008af00, '00'.repeat(8), '0100000002000000', 0x2_0000_0001n],
  [
    'featuresArray',
    (t) => t.featuresArray(),
    0x8008af83,
    `02${'00'.repeat(23)}`,
    `02${'00'.repeat(7)}` + '0100000000000000' + '0200000000000000',
    (1n << 65n) | 1n,
  ],
  ['backendFeatures', (t) => t.backendFeatures(), 0x8008af26, '00'.repeat(8), '0200000000000000', 2n],
  ['vringBase', (t) => t.vringBase(1), 0xc008af12, '0100000000000000', '0100000007000000', 7],
  ['vringEndian', (t) => t.vringEndian(1), 0x4008af14, '0100000000000000', '0100000001000000', 1],
  ['vringBusyloopTimeout', (t) => t.vringBusyloopTimeout(1), 0x4008af24, '0100000000000000', '0100000032000000', 50],
  ['newWorker', (t) => t.newWorker(), 0x8004af08, '00000000', '03000000', 3],
  ['vringWorker', (t) => t.vringWorker(1), 0xc008af16, '0100000000000000', '0100000003000000', 3],
  ['forkFromOwner', (t) => t.forkFromOwner(), 0x8001af85, '00', '01', 1],
]

test.each(writes)('%s', (_name, call, request, bytes) => {
  const { transport, seen } = recorded()
  call(transport)
  expect(seen).toEqual([{ request, bytes }])
})

test('setNetBackendAsync', async () => {
  const { transport, seen } = recorded()
  const done = transport.setNetBackendAsync(1, -1)
  expect(seen).toEqual([])
  await done
  expect(seen).toEqual([{ request: 0x4008af30, bytes: '01000000ffffffff' }])
  await expect(transport.setNetBackendAsync(0, -2)).rejects.toThrow(RangeError)
})

test.each(reads)('%s', (...row) => {
  const [, call, request, bytes, answer, expected] = row
  const { transport, seen } = recorded(answer)
  expect(call(transport)).toBe(expected)
  expect(seen).toEqual([{ request, bytes }])
})

describe('all of them', () => {
  test('has a method for every request of vhost itself, of vhost-net and of vhost-vsock', () => {
    const covered = new Set([...writes, ...reads].map(([, , number]) => number))
    const missing = Object.values(requests as Record<string, unknown>)
      .map((request) => request as VhostRequest)
      .filter(({ family, number }) => ['vhost', 'net', 'vsock'].includes(family) && !covered.has(number))
    expect(missing.map(({ name }) => name)).toEqual([])
  })

  test('what does not fit into the field is refused before it is sent', () => {
    const { transport, seen } = recorded()
    for (const call of [
      () => transport.setFeatures(2n ** 64n),
      () => transport.setFeaturesArray(2n ** 128n),
      () => transport.setFeaturesArray(-1n),
      () => transport.setVringKick(0, -2),
      () => transport.setNetBackend(-1, 0),
      () => transport.setLogFd(-2),
      () => transport.setForkFromOwner(2),
      () => transport.setGuestCid(-3n),
    ])
      expect(call).toThrow(RangeError)
    expect(seen).toEqual([])
  })
})
