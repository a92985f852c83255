// The program of docs/guides/vhost-net.md, on a device that gives back what it is sent: here as the host would answer it. With the kernel's, and the host's own answer: test/kernel/vhost-net-guide.test.ts.

import { expect, test } from '@jest/globals'
import { openVhostNet, type OpenVhostNetOptions } from '../../lib/open-vhost-net.js'
import { runGuideProgram } from './guide-program.js'
import { LoopbackWorld } from './loopback-node.js'

test('asks who has an address, twice, and everything is missed again after the invalidation', async () => {
  const world = new LoopbackWorld()
  const asTheHost: typeof openVhostNet = async (tap, options: OpenVhostNetOptions = {}) => {
    const net = await openVhostNet(tap, { ...options, backend: world.simulator })
    const send = net.send.bind(net)
    net.send = (frame) => {
      const reply = frame.slice()
      reply[21] = 2
      return send(reply)
    }
    return net
  }
  const { lines, errors } = await runGuideProgram(asTheHost)
  const missed = lines.map((line) => Number(/, (\d+) pages were missed$/.exec(line)?.[1]))
  expect(lines.map((line) => line.replace(/, \d+ pages were missed$/, ''))).toEqual([
    'at first: 192.0.2.1 is at 02:00:00:00:00:77',
    'after an invalidation: 192.0.2.1 is at 02:00:00:00:00:77',
  ])
  expect(missed.every((count) => count > 0)).toBe(true)
  expect(errors).toEqual([])
})
