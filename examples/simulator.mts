import { openDevice } from 'vhost-vdpa'
import { networkDevice, Simulator } from 'vhost-vdpa/simulator'

/** The program under test: it is given its backend, and has none of its own. */
async function giveControlQueueItsOwnSpace(backend: Simulator): Promise<string> {
  await using device = await openDevice('/dev/vhost-vdpa-0', { backend, expect: 'net' })
  await device.negotiate(['VIRTIO_NET_F_CTRL_VQ'])
  const verdict = device.groups.isolation(device.controlQueueIndex)
  if (!verdict.isolated) return 'refused'
  device.groups.assign(verdict.group, 1)
  return 'isolated'
}

const cases = { 'a group of its own': [0, 0, 1], 'one group for all': [0, 0, 0] }
for (const [name, groups] of Object.entries(cases)) {
  const simulator = new Simulator({ profile: 'linux-6.12' })
  const model = networkDevice({ path: '/dev/vhost-vdpa-0', groups })
  simulator.add(model)
  const verdict = await giveControlQueueItsOwnSpace(simulator)
  console.log(`${name}: ${verdict}, ${simulator.descriptors.length} left open, ${model.violations.length} rules broken`)
}
