// What an open device looks like, as data and as pictures.

import { describe, expect, it } from '@jest/globals'
import { openDevice } from '../../lib/open.js'
import { networkDevice, blockDevice, customDevice, Simulator } from '../../lib/simulator/index.js'
import { topologySvg } from '../../lib/topology/svg.js'
import { topologyMermaid, topologyText } from '../../lib/topology/text.js'
import { topologyOf, type Topology } from '../../lib/topology/topology.js'

const path = '/dev/vhost-vdpa-0'

async function isolated(mappings = 1): Promise<Topology> {
  const backend = new Simulator()
  backend.add(networkDevice({ path }))
  await using device = await openDevice(path, { backend })
  await device.negotiate(['VIRTIO_NET_F_CTRL_VQ'])
  device.groups.assign(1, 1)
  const region = backend.allocate(mappings * 8192)
  await device.addressSpace(0).map(
    Array.from({ length: mappings }, (_, index) => ({
      iova: BigInt(index) * 0x4000n,
      region,
      offset: 0,
      size: 4096,
    })),
  )
  return topologyOf(device)
}

describe('a network device whose control queue is alone', () => {
  it('is data that survives JSON', async () => {
    const topology = await isolated()
    expect(JSON.parse(JSON.stringify(topology))).toEqual({
      path,
      kind: 'net',
      queues: [
        { index: 0, role: 'receive', group: 0 },
        { index: 1, role: 'transmit', group: 0 },
        { index: 2, role: 'control', group: 1 },
      ],
      groups: [
        { index: 0, asid: 0 },
        { index: 1, asid: 1 },
      ],
      spaces: [
        { asid: 0, mappings: [{ first: '0x0', last: '0xfff', access: 'rw' }] },
        { asid: 1, mappings: [] },
      ],
    })
  })

  it('is lines of text', async () => {
    expect(topologyText(await isolated())).toEqual([
      '/dev/vhost-vdpa-0 (net)',
      '  asid 0',
      '    group 0: receive 0, transmit 1',
      '    0x0 to 0xfff rw',
      '  asid 1',
      '    group 1: control 2',
    ])
  })

  it('is a Mermaid flowchart', async () => {
    expect(topologyMermaid(await isolated())).toEqual([
      'flowchart LR',
      '  q0["receive 0"] --> g0',
      '  q1["transmit 1"] --> g0',
      '  q2["control 2"] --> g1',
      '  g0(["group 0"]) --> s0',
      '  g1(["group 1"]) --> s1',
      '  s0[("asid 0")]',
      '  s0 --- m0x0["0x0 to 0xfff rw"]',
      '  s1[("asid 1")]',
    ])
  })

  it('is a picture, whose words are escaped and whose boxes stay inside', async () => {
    const svg = topologySvg({ ...(await isolated()), path: '/dev/<a>&"b"' })
    expect(svg).toContain('/dev/&lt;a&gt;&amp;&quot;b&quot; (net)')
    const height = Number(/ height="(\d+)" role/.exec(svg)?.[1])
    const bottoms = Array.from(
      svg.matchAll(/ y="([\d.]+)" width="\d+" height="(\d+)"/g),
      ([, y, h]) => Number(y) + Number(h),
    )
    expect(bottoms).toHaveLength(7)
    expect(Math.max(...bottoms)).toBeLessThanOrEqual(height)
    expect(svg.match(/<text/g)).toHaveLength(svg.match(/<\/text>/g)?.length ?? 0)
  })

  it('draws a queue that is alone in its group, the group and its address space on one height', async () => {
    const svg = topologySvg(await isolated())
    const top = (words: string): number => {
      const [, y] = new RegExp(`<rect x="\\d+" y="([\\d.]+)"[^>]*>\n<text[^>]*>${words}<`).exec(svg) ?? []
      return Number(y)
    }
    expect([top('group 1'), top('asid 1')]).toEqual([top('control 2'), top('control 2')])
    expect(top('group 0')).toBe((top('receive 0') + top('transmit 1')) / 2)
  })

  it('counts mappings past the sixteenth', async () => {
    const topology = await isolated(20)
    for (const lines of [topologyText(topology), topologyMermaid(topology), [topologySvg(topology)]])
      expect(lines.join('\n')).toContain('and 4 more')
  })
})

describe('other devices', () => {
  it('has a disk and a device without groups', async () => {
    const backend = new Simulator()
    backend.add(blockDevice({ path }))
    await using disk = await openDevice(path, { backend })
    expect(() => topologyOf(disk)).toThrow(expect.objectContaining({ code: 'ERR_VDPA_STATE' }))
    await disk.negotiate([])
    expect(topologyOf(disk).queues[0]).toMatchObject({ role: 'request' })
    backend.add(customDevice({ path: '/dev/vhost-vdpa-1', deviceId: 4 }))
    await using other = await openDevice('/dev/vhost-vdpa-1', { backend })
    await other.negotiate([])
    const topology = topologyOf(other)
    expect(topology.queues[0]).toMatchObject({ role: 'queue' })
    expect(topologyText({ ...topology, groups: [], kind: undefined })).toContain('    no group')
    expect(topologyMermaid({ ...topology, groups: [] })).toContain('  g0(["no groups"]) --> s0')
  })
})
