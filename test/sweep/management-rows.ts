// The verbs of management, a row each: what they ask is netlink, and small files of the host.

import type { HostFiles } from '../../lib/backend/host-files.js'
import type { FaultyBackend } from '../../lib/backend/faulty-backend.js'
import { inventory } from '../../lib/inventory.js'
import {
  bindDriver,
  moveToDriver,
  nodeOfDevice,
  setDriverOverride,
  unbindDriver,
  waitForNode,
} from '../../lib/management/binding.js'
import { GenericNetlink } from '../../lib/management/generic-netlink.js'
import { nodeAccess, setNodeAccess } from '../../lib/management/node-access.js'
import { holdersOf, removeDevice } from '../../lib/management/release.js'
import { busDevices, devicesOfPciFunction, nodeHolders } from '../../lib/management/sysfs.js'
import { VdpaFamily } from '../../lib/management/vdpa-family.js'
import { applyPlan, planSteps, type Plan } from '../../lib/plan/index.js'

/** A change of address, a driver, and a device that is not there yet. */
const planned: Plan = {
  version: 1,
  devices: [
    { name: 'net0', managementDevice: 'vdpasim_net', mac: '02:00:00:00:00:02', driver: 'virtio_vdpa' },
    {
      name: 'blk0',
      managementDevice: 'vdpasim_blk',
      driver: 'vhost_vdpa',
      node: { mode: '0660', group: 'kvm' },
      expect: { groups: 1 },
    },
  ],
}

/** What a row has in its hands: `net0` of a management device, and whatever is refused on the way to the host. */
export interface ManagementScene {
  readonly backend: FaultyBackend
  readonly root: HostFiles
}

export interface ManagementRow {
  readonly verb: string
  /** Others that it calls and that have no row of their own. */
  readonly also?: readonly string[]
  readonly act: (scene: ManagementScene) => Promise<unknown>
}

/** Milliseconds for an answer that does not come, because it was refused. */
const timeout = 20

const withFamily =
  (act: (family: VdpaFamily, scene: ManagementScene) => Promise<unknown>) =>
  async (scene: ManagementScene): Promise<unknown> => {
    await using family = VdpaFamily.open(scene.backend, { timeout })
    return await act(family, scene)
  }

export const managementRows: readonly ManagementRow[] = [
  {
    verb: 'GenericNetlink.ask()',
    also: ['GenericNetlink.open', 'GenericNetlink.family', 'GenericNetlink.close'],
    act: async ({ backend }) => {
      await using netlink = GenericNetlink.open(backend)
      await netlink.family('vdpa', { timeout })
    },
  },
  {
    verb: 'VdpaFamily.commands()',
    also: ['VdpaFamily.open', 'VdpaFamily.close'],
    act: withFamily((family) => family.commands()),
  },
  { verb: 'VdpaFamily.managementDevices()', act: withFamily((family) => family.managementDevices()) },
  { verb: 'VdpaFamily.managementDevice()', act: withFamily((family) => family.managementDevice('vdpasim_net')) },
  { verb: 'VdpaFamily.devices()', act: withFamily((family) => family.devices()) },
  { verb: 'VdpaFamily.device()', act: withFamily((family) => family.device('net0')) },
  { verb: 'VdpaFamily.configuration()', act: withFamily((family) => family.configuration('net0')) },
  {
    verb: 'VdpaFamily.statistics()',
    // The simulated device counts nothing, and says so.
    act: withFamily((family) => family.statistics('net0', 0).catch(() => undefined)),
  },
  {
    verb: 'VdpaFamily.add()',
    act: withFamily((family) => family.add({ name: 'blk0', managementDevice: 'vdpasim_blk' })),
  },
  { verb: 'VdpaFamily.delete()', act: withFamily((family) => family.delete('net0')) },
  { verb: 'VdpaFamily.setMac()', act: withFamily((family) => family.setMac('net0', '02:00:00:00:00:02')) },
  {
    verb: 'removeDevice()',
    act: withFamily((family, { root }) => removeDevice(family, 'net0', { root, timeout: 500 })),
  },
  { verb: 'inventory()', act: (scene) => inventory({ ...scene }) },
  { verb: 'busDevices()', act: ({ root }) => busDevices(root) },
  { verb: 'devicesOfPciFunction()', act: ({ root }) => devicesOfPciFunction('0000:65:00.2', root) },
  { verb: 'nodeHolders()', act: ({ root }) => nodeHolders(root) },
  { verb: 'holdersOf()', act: ({ root }) => holdersOf('net0', root) },
  { verb: 'nodeOfDevice()', act: ({ root }) => nodeOfDevice('net0', root) },
  { verb: 'waitForNode()', act: ({ root }) => waitForNode('net0', { root, timeout }) },
  { verb: 'setDriverOverride()', act: ({ root }) => setDriverOverride('net0', 'vhost_vdpa', root) },
  { verb: 'unbindDriver()', act: ({ root }) => unbindDriver('net0', { root, timeout }) },
  { verb: 'bindDriver()', act: ({ root }) => bindDriver('blk1', 'vhost_vdpa', root) },
  { verb: 'moveToDriver()', act: ({ root }) => moveToDriver('net0', 'virtio_vdpa', { root, timeout }) },
  { verb: 'nodeAccess()', act: ({ root }) => nodeAccess('/dev/vhost-vdpa-0', root) },
  {
    verb: 'setNodeAccess()',
    act: ({ root }) => setNodeAccess('/dev/vhost-vdpa-0', { mode: 0o660, owner: 'root', group: 'kvm' }, root),
  },
  { verb: 'planSteps()', act: (scene) => planSteps(planned, { ...scene, timeout }) },
  { verb: 'applyPlan()', act: (scene) => applyPlan(planned, { ...scene, timeout }) },
]
