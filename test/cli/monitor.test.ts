// `monitor` while the kernel's family does not answer.

import { expect, it } from '@jest/globals'
import type { Backend } from '../../lib/backend/backend'
import { vdpaError } from '../../lib/base/errors'
import { simulatedHost, type Host } from '../../lib/cli/host'
import { run } from '../../lib/cli/program'

it('monitor goes on while the family is stalled, and says so once', async () => {
  const host = await simulatedHost()
  const silence = 'ERR_VDPA_TIMEOUT: no answer in 5000 ms'
  const netlink = () => {
    throw vdpaError('ERR_VDPA_TIMEOUT', 'no answer in 5000 ms')
  }
  const looks: Record<string, unknown>[] = []
  const stalled: Host = {
    ...host,
    backend: () =>
      looks.length % 3 === 0 ? host.backend() : Object.assign(Object.create(host.backend()) as Backend, { netlink }),
  }
  const surroundings = {
    stdout: { write: (text: string) => looks.push(JSON.parse(text) as Record<string, unknown>) },
    stderr: { write: () => 0 },
    environment: {},
    host: stalled,
  }
  expect(await run('monitor --count 4 --interval 1 --json'.split(' '), surroundings)).toBe(0)
  const quiet = ['blk0', 'net0'].map((name) => ({ name, queues: [], silence }))
  expect(looks[1]).toMatchObject({ events: [`the kernel tells nothing of devices: ${silence}`], devices: quiet })
  expect(looks[2]).toMatchObject({ events: [], devices: quiet })
  expect(looks[3]).toMatchObject({ events: [], devices: looks[0]?.devices })
  // Nothing is known yet: the first look is the answer.
  looks.splice(0, 4, {})
  expect(await run('monitor --count 2 --json'.split(' '), surroundings)).toBe(1)
})
