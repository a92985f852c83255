// The program of docs/guides/vhost-net.md, on a device that gives back what it is sent: here as the host would answer it.

import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { runInThisContext } from 'node:vm'
import { expect, test } from '@jest/globals'
import ts from 'typescript'
import { openVhostNet, type OpenVhostNetOptions } from '../../lib/open-vhost-net.js'
import { root } from '../scripts/support.js'
import { LoopbackWorld } from './loopback-node.js'

type Program = (open: typeof openVhostNet, console: Pick<Console, 'log' | 'error'>) => Promise<void>

/** The program as a function of what it imports and where it prints. */
function programOf(text: string): Program {
  const [line = '', ...rest] = text.split('\n')
  expect(line).toBe("import { openVhostNet } from 'vhost-vdpa'")
  const body = `(async (openVhostNet: any, console: any) => {${rest.join('\n')}})`
  const { outputText } = ts.transpileModule(body, { compilerOptions: { target: ts.ScriptTarget.ES2022 } })
  return runInThisContext(outputText) as Program
}

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
  const printed: string[] = []
  const errors: unknown[] = []
  const print = { log: (line: string) => void printed.push(line), error: (line: unknown) => void errors.push(line) }
  await programOf(readFileSync(join(root, 'examples/vhost-net.mts'), 'utf8'))(asTheHost, print)
  const missed = printed.map((line) => Number(/, (\d+) pages were missed$/.exec(line)?.[1]))
  expect(printed.map((line) => line.replace(/, \d+ pages were missed$/, ''))).toEqual([
    'at first: 192.0.2.1 is at 02:00:00:00:00:77',
    'after an invalidation: 192.0.2.1 is at 02:00:00:00:00:77',
  ])
  expect(missed.every((count) => count > 0)).toBe(true)
  expect(errors).toEqual([])
})
