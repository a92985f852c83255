// DPDK's driver on our network model, at a vhost-user socket: rings that are polled, frames by the thousand, and a front end that is killed.

import { expect, it } from '@jest/globals'
import { networkDevice, serveVhostUser } from '../../lib/serve'
import { transportFeatureBits as transport } from '../../lib/uapi/virtio-features'
import { TemporaryFolder } from '../native/support'
import { describeTestpmd, expectSameCounts, FLOW_MAC, startTestpmd } from '../testpmd'
import { until } from '../until'

/** Milliseconds for it to start and to send some thousand frames, on any machine. */
const PATIENCE = 300_000
const FRAMES = 10_000

describeTestpmd(
  "DPDK's testpmd on a network device",
  'as root, run: node scripts/lab/run.mjs --with dpdk --prepare',
  () => {
    it.each([
      ['split rings', '', [], 1],
      ['packed rings', ',packed_vq=1', [], 1],
      ['two queue pairs', ',queues=2', ['--rxq=2', '--txq=2'], 2],
    ] as const)('has its frames back, as both count them, by %s', async (_name, more, forwarding, pairs) => {
      using folder = new TemporaryFolder()
      const model = networkDevice({
        mac: FLOW_MAC,
        queuePairs: 2,
        moreFeatures: [transport.VIRTIO_F_RING_PACKED, transport.VIRTIO_F_RING_INDIRECT_DESC],
      })
      using server = serveVhostUser(model, { socket: folder.file('socket') })
      await using testpmd = startTestpmd(server.path, more, forwarding)
      await testpmd.until(() => model.counters.rxPackets > FRAMES, PATIENCE)
      await testpmd.end('SIGINT')
      expectSameCounts(testpmd, model)
      await until(() => server.frontEnds === 0)
      const used = model.queues.filter(({ index, tally }) => index % 2 === 1 && tally.packets > 0)
      expect(used.length).toBe(pairs)
      expect(model.violations).toEqual([])
      expect(server.refusals).toEqual([])
    })

    it('is killed under load, and the next one has its frames back from the same device', async () => {
      using folder = new TemporaryFolder()
      const model = networkDevice({ mac: FLOW_MAC })
      using server = serveVhostUser(model, { socket: folder.file('socket') })
      for (let round = 1; round <= 3; round++) {
        const before = model.counters.rxPackets
        await using testpmd = startTestpmd(server.path)
        await testpmd.until(() => model.counters.rxPackets > before + FRAMES, PATIENCE)
        expect(server.frontEnds).toBe(1)
        await testpmd.end('SIGKILL')
        await until(() => server.frontEnds === 0)
      }
      expect(model.violations).toEqual([])
      expect(server.refusals).toEqual([])
    })
  },
)
