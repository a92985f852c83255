// Traces as pictures of time: what is written is decoded by protobufjs and by JSON.parse, and says what the trace says.

import { beforeAll, describe, expect, test } from '@jest/globals'
import { RecordingBackend } from '../../lib/backend/recording-backend.js'
import { formatTrace, parseTrace, type Trace, type TraceEvent } from '../../lib/backend/trace.js'
import { NetDriver } from '../../lib/drivers/net-driver.js'
import { perfettoTrace } from '../../lib/observe/perfetto.js'
import { timelineOf } from '../../lib/observe/timeline.js'
import { traceEventJson } from '../../lib/observe/trace-event-json.js'
import { openDevice } from '../../lib/open.js'
import { networkDevice, Simulator } from '../../lib/simulator/index.js'
import { iotlbMessageTypes, vhostMessageTypes, vhostMsgV2 } from '../../lib/uapi/vhost-types.js'
import { decodePackets, type DecodedPacket } from './trace-schema.js'

/** A network driver that sends a frame and gets it back, with times. */
async function recorded(): Promise<Trace> {
  const simulator = new Simulator()
  simulator.add(networkDevice({ path: '/dev/vhost-vdpa-0', mac: '02:00:00:00:00:01' }))
  const backend = new RecordingBackend(simulator, { times: true, about: { program: 'a test' } })
  const device = await openDevice('/dev/vhost-vdpa-0', { backend, expect: 'net' })
  await device.negotiate([])
  const net = await NetDriver.start(device)
  await device.start()
  net.kickReceive()
  const received = new Promise<void>((resolve) => net.onFrame(() => resolve()))
  net.send(Uint8Array.of(2, 0, 0, 0, 0, 1, ...new Uint8Array(54)))
  await received
  await device.close()
  return backend.trace
}

function message(name: keyof typeof iotlbMessageTypes, iova: bigint, size = 0n): string {
  const fields = { message: vhostMessageTypes.VHOST_IOTLB_MSG_V2, type: iotlbMessageTypes[name], iova, size, perm: 3 }
  const blank = vhostMsgV2.decode(new Uint8Array(vhostMsgV2.size))
  return Buffer.from(vhostMsgV2.encode({ ...blank, ...fields })).toString('hex')
}

function traceOf(...events: readonly object[]): Trace {
  const head = { format: 'vhost-vdpa-trace', version: 1, backend: 'kernel', pageSize: 4096, about: {} }
  return parseTrace([head, ...events].map((line) => JSON.stringify(line)).join('\n'))
}

const path = '/dev/vhost-net'
const opened = { op: 'open', creates: 'h0', path, at: 0, outcome: { returned: 0 }, took: 10 }
const onHandle = { target: 'h0', path }
const empty = '00'.repeat(72)

function eventsOf(packets: readonly DecodedPacket[]) {
  return packets.flatMap(({ timestamp, trackEvent }) =>
    trackEvent === undefined ? [] : [{ timestamp, ...trackEvent }],
  )
}

describe('times', () => {
  let trace: Trace
  beforeAll(async () => {
    trace = await recorded()
  })

  test('are kept, and come back from the text', () => {
    expect(trace.events.length).toBeGreaterThan(20)
    for (const [index, { at, took }] of trace.events.entries()) {
      expect(at).toBeGreaterThanOrEqual(trace.events[index - 1]?.at ?? 0)
      expect(took).toBeGreaterThanOrEqual(0)
    }
    const text = formatTrace(trace)
    expect(parseTrace(text)).toEqual(trace)
    expect(formatTrace(parseTrace(text))).toBe(text)
  })

  test('are in packets that another decoder reads whole', () => {
    const bytes = perfettoTrace(trace)
    const { packets, length } = decodePackets(bytes)
    expect(length).toBe(bytes.length)
    const begun = eventsOf(packets).filter(({ type }) => type === 'TYPE_SLICE_BEGIN')
    expect(begun).toHaveLength(trace.events.length)
    const calls = begun.map((event) => [event.timestamp, noteOf(event, 'index')])
    expect(calls).toEqual(trace.events.map(({ at }, index) => [at, String(index)]))
    expect(begun.map(({ name }) => name)).toEqual(
      expect.arrayContaining(['open', 'VHOST_SET_OWNER', 'VHOST_VDPA_SET_STATUS', 'VHOST_SET_VRING_KICK', 'close']),
    )
    expect(new Set(packets.map(({ trustedPacketSequenceId }) => trustedPacketSequenceId))).toEqual(new Set([1]))
  })

  test('lie on a track for each descriptor and each queue, below the trace', () => {
    const { packets } = decodePackets(perfettoTrace(trace))
    const tracks = packets.flatMap(({ trackDescriptor }) => trackDescriptor ?? [])
    expect(tracks[0]?.process?.processName).toBe('simulator, program a test')
    expect(tracks.map(({ name }) => name)).toEqual(
      expect.arrayContaining(['h0 /dev/vhost-vdpa-0', 'queue 0 of h0', 'queue 1 of h0', 'e0 kick of queue 0 of h0']),
    )
    const node = tracks.find(({ name }) => name === 'h0 /dev/vhost-vdpa-0')
    expect(tracks.find(({ name }) => name === 'queue 1 of h0')?.parentUuid).toBe(node?.uuid)
    const known = new Set(tracks.map(({ uuid }) => uuid))
    for (const { parentUuid } of tracks.slice(1)) expect(known).toContain(parentUuid)
    for (const { trackUuid } of eventsOf(packets)) expect(known).toContain(trackUuid)
  })

  test('never overlap on a track', () => {
    const { packets } = decodePackets(perfettoTrace(trace))
    const under = new Map<number | undefined, number>()
    for (const { type, trackUuid } of eventsOf(packets)) {
      if (type === 'TYPE_INSTANT') continue
      const depth = (under.get(trackUuid) ?? 0) + (type === 'TYPE_SLICE_BEGIN' ? 1 : -1)
      expect([0, 1]).toContain(depth)
      under.set(trackUuid, depth)
    }
    expect([...under.values()].every((depth) => depth === 0)).toBe(true)
  })

  test('show what a kick led to', () => {
    const { packets } = decodePackets(perfettoTrace(trace))
    const events = eventsOf(packets)
    const kicks = events.filter(({ name }) => name === 'kick')
    const ended = events.filter(({ name, terminatingFlowIds = [] }) => name === 'call' && terminatingFlowIds.length > 0)
    expect(ended.length).toBeGreaterThan(0)
    for (const call of ended) {
      const [flow] = call.terminatingFlowIds ?? []
      const before = kicks.filter(({ flowIds, trackUuid }) => flowIds?.[0] === flow && trackUuid === call.trackUuid)
      expect(before.length).toBeGreaterThan(0)
      expect(before[0]?.timestamp).toBeLessThanOrEqual(call.timestamp ?? 0)
    }
  })
})

function noteOf(event: NonNullable<DecodedPacket['trackEvent']>, key: string): string | undefined {
  return event.debugAnnotations?.find(({ name }) => name === key)?.stringValue
}

describe('misses', () => {
  const missed = (iova: bigint, at: number) => ({
    op: 'read',
    ...onHandle,
    bytes: empty,
    at,
    output: message('VHOST_IOTLB_MISS', iova),
    outcome: { returned: 72 },
    took: 1,
  })
  const updated = (iova: bigint, size: bigint, at: number, outcome: object) => ({
    op: 'writeEach',
    ...onHandle,
    bytes: message('VHOST_IOTLB_UPDATE', iova, size),
    stride: 72,
    at,
    outcome,
    took: 1,
  })

  test('lead to the update that covers them, and not to one that was refused', () => {
    const trace = traceOf(
      opened,
      missed(0x1000n, 100),
      missed(0x9000n, 110),
      missed(0x1000n, 120),
      updated(0x1000n, 0x1000n, 130, { failed: 'EFAULT', errno: 14, completed: 0 }),
      updated(0x1000n, 0x1000n, 140, { returned: 1 }),
      updated(0x0n, 0n, 150, { returned: 1 }),
    )
    const events = eventsOf(decodePackets(perfettoTrace(trace)).packets)
    const flows = events.filter(({ type }) => type === 'TYPE_SLICE_BEGIN')
    expect(flows.map(({ name, flowIds = [], terminatingFlowIds = [] }) => [name, flowIds, terminatingFlowIds])).toEqual(
      [
        ['open', [], []],
        ['VHOST_IOTLB_MISS', [1], []],
        ['VHOST_IOTLB_MISS', [2], []],
        ['VHOST_IOTLB_MISS', [1], []],
        ['VHOST_IOTLB_UPDATE', [], []],
        ['VHOST_IOTLB_UPDATE', [], [1]],
        ['VHOST_IOTLB_UPDATE', [], [2]],
      ],
    )
  })
})

describe('odd traces', () => {
  test('without times are drawn in the order of asking', () => {
    const { at: _at, took: _took, ...open } = opened
    const timeline = timelineOf(traceOf(open, { op: 'close', ...onHandle, outcome: { returned: 0 } }))
    expect(timeline.hasTimes).toBe(false)
    expect(timeline.slices.map(({ begin, end }) => [begin, end])).toEqual([
      [0, 1000],
      [1000, 2000],
    ])
  })

  test('with calls under way together use a track for each, and one that never ended has no end', () => {
    const slow = { op: 'ioctl', ...onHandle, request: 0xaf01, argument: 0, async: true, at: 20 }
    const quick = { ...slow, at: 30, outcome: { returned: 0 }, took: 5 }
    const trace = traceOf(opened, slow, quick, { ...quick, at: 40 })
    const { tracks, slices } = timelineOf(trace)
    expect(tracks).toEqual([
      { id: 1, name: 'h0 /dev/vhost-net' },
      { id: 2, name: 'h0 /dev/vhost-net, 2 at a time', parent: 1 },
    ])
    expect(slices.map(({ track, end }) => [track, end])).toEqual([
      [1, 10],
      [1, undefined],
      [2, 35],
      [2, 45],
    ])
    const events = eventsOf(decodePackets(perfettoTrace(trace)).packets)
    expect(events.filter(({ type }) => type === 'TYPE_SLICE_END')).toHaveLength(3)
  })

  test('with a doorbell show its kicks; an eventfd that was taken away kicks no more', () => {
    const kick = (argument: string) => ({ op: 'ioctl', ...onHandle, request: 0x4008af20, argument })
    const done = { outcome: { returned: 0 } }
    const timeline = timelineOf(
      traceOf(
        opened,
        { op: 'eventfd', creates: 'e0', ...done },
        { ...kick('03000000{e0}'), ...done },
        { op: 'signal', target: 'e0', count: 1, ...done },
        { ...kick('03000000ffffffff'), ...done },
        { op: 'signal', target: 'e0', count: 1, ...done },
        { ...kick('04000000{e0}'), outcome: { failed: 'EINVAL', errno: 22 } },
        { op: 'signal', target: 'e0', count: 1, ...done },
        { op: 'mapDoorbell', creates: 'd0', ...onHandle, offset: '0x1000', ...done },
        { op: 'ring', target: 'd0', bits: 32, value: 0x10002, ...done },
      ),
    )
    const names = new Map(timeline.tracks.map(({ id, name }) => [id, name]))
    const kicks = timeline.slices.filter(({ name }) => name === 'kick')
    expect(kicks.map(({ track }) => names.get(track))).toEqual(['queue 3 of h0', 'queue 2 of h0'])
  })

  test('are refused where their times are none', () => {
    expect(() => traceOf({ ...opened, at: -1 })).toThrow("line 2 has no nanoseconds in 'at'")
    expect(() => traceOf({ ...opened, took: '1' })).toThrow("line 2 has no nanoseconds in 'took'")
  })
})

test('JSON says the same', async () => {
  const trace = await recorded()
  const { traceEvents } = JSON.parse(traceEventJson(trace)) as { traceEvents: Record<string, unknown>[] }
  const { slices, tracks } = timelineOf(trace)
  const of = (...phases: string[]) => traceEvents.filter(({ ph }) => phases.includes(String(ph)))
  expect(of('X').map(({ name, ts, tid }) => [name, ts, tid])).toEqual(
    slices.map(({ name, begin, track }) => [name, begin / 1000, track]),
  )
  expect(of('M').filter(({ name }) => name === 'thread_name')).toHaveLength(tracks.length)
  const ids = (phase: string) => new Set(of(phase).map(({ id }) => id))
  expect(ids('f').size).toBeGreaterThan(0)
  for (const id of ids('f')) expect(ids('s')).toContain(id)
})

test('every event of a trace has a slice', () => {
  const events: readonly TraceEvent[] = traceOf(opened).events
  expect(timelineOf(traceOf(opened)).slices).toHaveLength(events.length)
})
