// What is undone is undone from its end: what was made last may stand where something was before.

import { expect, it } from '@jest/globals'
import { applyPlan } from '../../lib/plan/index.js'
import { Simulator } from '../../lib/simulator/index.js'
import { vdpaCommands } from '../../lib/uapi/vdpa.js'
import { refusing } from '../management/support.js'

it('takes away what was made before it brings back what was there, where one device alone has room', async () => {
  const simulator = new Simulator()
  const host = { backend: simulator, root: simulator.management.files }
  const named = (name: string) => ({ name, managementDevice: 'vdpasim_net', mtu: 9000 })
  await applyPlan({ version: 1, devices: [named('old')] }, host)
  // As a PCI function that makes one device.
  refusing(simulator, (command) => command === vdpaCommands.VDPA_CMD_DEV_NEW && simulator.dump().length > 0)
  const devices = [{ name: 'old', state: 'absent' as const }, named('new'), named('another')]
  const failure = await applyPlan({ version: 1, devices }, host).catch((error: unknown) => error)
  expect(failure).toMatchObject({ code: 'EOPNOTSUPP', request: 'VDPA_CMD_DEV_NEW' })
  expect(await host.root.list('sys/bus/vdpa/devices')).toEqual(['old'])
})
