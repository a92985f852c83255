// The same run as strace decodes it and as a RecordingBackend keeps it: each request of the node by name, what it returned, and what the kernel refused.

import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from '@jest/globals'
import { lengthOf } from '../../lib/backend/symbols'
import { parseTrace, type TraceEvent } from '../../lib/backend/trace'
import { requestByNumber, requests } from '../../lib/uapi/vhost'
import { labVariable } from './support'

/** Everything on the main thread, which is the one that strace watches; what the kernel refuses is part of it. */
const program = (path: string, file: string) => `
  const { formatTrace, KernelBackend, openDeviceSync, RecordingBackend } = require(${JSON.stringify(join(__dirname, '../../lib/index.js'))})
  const backend = new RecordingBackend(new KernelBackend())
  const device = openDeviceSync(${JSON.stringify(path)}, { backend, expect: 'net' })
  device.negotiateSync(['VIRTIO_NET_F_CTRL_VQ'])
  device.groups.isolation(2)
  device.groups.assign(1, 1)
  try { device.groups.of(77) } catch {}
  const region = backend.allocate(8192)
  for (const asid of [0, 1]) device.addressSpace(asid).mapSync({ iova: 0x10000n, region })
  device.addressSpace(0).unmapAllSync()
  device.startSync()
  device.closeSync()
  region.close()
  const handle = backend.open(${JSON.stringify(path)})
  try { handle.ioctl(${requests.VHOST_VDPA_GET_STATUS.number}, new Uint8Array(1)) } catch {}
  try { handle.ioctl(${requests.VHOST_SET_VRING_NUM.number}, new Uint8Array(8)) } catch {}
  try { handle.ioctl(0xaffe, 0) } catch {}
  try { handle.write(new Uint8Array(3)) } catch {}
  handle.close()
  require('node:fs').writeFileSync(${JSON.stringify(file)}, formatTrace(backend.trace))`

let folder = ''
let theirs: readonly string[] = []
let ours: readonly TraceEvent[] = []

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'vdpa-strace-'))
  const [said, kept] = [join(folder, 'strace'), join(folder, 'trace')]
  const path = labVariable('VHOST_VDPA_NET')
  // -y names the file behind each descriptor.
  execFileSync('strace', ['-y', '-e', 'trace=ioctl,write', '-o', said, process.execPath, '-e', program(path, kept)])
  theirs = readFileSync(said, 'utf8')
    .split('\n')
    .filter((line) => line.includes(`<${path}>`))
  ours = parseTrace(readFileSync(kept, 'utf8')).events
})
afterAll(() => rmSync(folder, { recursive: true, force: true }))

const directions: Readonly<Record<string, number>> = { _IOC_NONE: 0, _IOC_WRITE: 1, _IOC_READ: 2 }

/** The number of a request as strace writes it: a name, names between which it cannot choose, or the parts of one that is newer than it. */
function numberOf(written: string): number {
  const names = written.split(' or ').filter((name) => Object.hasOwn(requests, name))
  if (names.length > 0) return requests[names[0] as keyof typeof requests].number
  const [, way = '', type = '', nr = '', size = ''] = /^_IOC\(([\w|]+), (\w+), (\w+), (\w+)\)$/.exec(written) ?? []
  const direction = way.split('|').reduce((sum, name) => sum | (directions[name] ?? 0), 0)
  return ((direction << 30) | (Number(size) << 16) | (Number(type) << 8) | Number(nr)) >>> 0
}

/** `= 0`, `= -1 EPERM (Operation not permitted)`. */
function endOf(line: string): string {
  const [, returned = '?', code] = /= (-?\d+)(?: (E[A-Z]+))?[^=]*$/.exec(line) ?? []
  return code ?? returned
}

const ended = ({ outcome }: TraceEvent) =>
  outcome === undefined ? 'nothing' : 'failed' in outcome ? outcome.failed : String(outcome.returned)

const named = (number: number) => requestByNumber(number)?.name ?? number.toString(16)

test('strace and a recording tell the same requests of vdpa_sim_net, with the same ends', () => {
  const said = theirs.flatMap((line) => {
    const [, written] = /^ioctl\(\d+<[^>]*>, (_IOC\([^)]*\)|[^,]+),/.exec(line) ?? []
    return written === undefined ? [] : [`${named(numberOf(written))} = ${endOf(line)}`]
  })
  const kept = ours.flatMap((event) => (event.op === 'ioctl' ? [`${named(event.request)} = ${ended(event)}`] : []))
  expect(kept.length).toBeGreaterThan(20)
  expect(said.join('\n')).toBe(kept.join('\n'))
  expect(kept.filter((line) => !line.endsWith('= 0')).length).toBeGreaterThan(1)
})

test('strace and a recording tell the same IOTLB messages of vdpa_sim_net', () => {
  const said = theirs.flatMap((line) => {
    const [, length] = /^write\(\d+<.*, (\d+)\) += /.exec(line) ?? []
    return length === undefined ? [] : [`${length} bytes = ${endOf(line)}`]
  })
  const kept = ours.flatMap((event) => {
    if (event.op === 'write') return [`${lengthOf(event.bytes)} bytes = ${ended(event)}`]
    if (event.op !== 'writeEach') return []
    const count = lengthOf(event.bytes) / event.stride
    return Array.from({ length: count }, () => `${event.stride} bytes = ${event.stride}`)
  })
  expect(said.length).toBeGreaterThan(3)
  expect(said.join('\n')).toBe(kept.join('\n'))
})
