// Plans on a host with a device of a kind that the kernel tells no configuration of.

import { expect, it } from '@jest/globals'
import { applyPlan, describeStep, planSteps, type Plan, type PlannedDevice } from '../../lib/plan/index.js'
import { Simulator } from '../../lib/simulator/index.js'
import { withoutWordsFor } from '../management/support.js'

const plan = (...devices: PlannedDevice[]): Plan => ({ version: 1, devices })
const net0 = { name: 'net0', managementDevice: 'vdpasim_net', mtu: 9000 }
const other = { name: 'other', managementDevice: 'vdpasim_blk' }

it('are made as on any other, also of that device', async () => {
  const simulator = withoutWordsFor(new Simulator(), other.name)
  const host = { backend: simulator, root: simulator.management.files }
  const does = async (wanted: Plan) => (await planSteps(wanted, host)).map(describeStep)
  await applyPlan(plan(other, net0), host)
  expect(await does(plan(other, net0))).toEqual([])
  expect(await does(plan({ ...other, mtu: 1500 }))).toEqual([
    'delete other: mtu is not told and should be 1500',
    'make other by vdpasim_blk',
  ])
  const { before } = await applyPlan(plan({ name: other.name, state: 'absent' }), host)
  expect(before.devices).toMatchObject([other])
  await applyPlan(before, host)
  expect(await does(plan(other, net0))).toEqual([])
})
