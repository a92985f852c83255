// The contract of the seam on the simulator, under both laws, and behind each decorator.

import type { Backend } from '../../lib/backend/backend.js'
import { FaultyBackend } from '../../lib/backend/faulty-backend.js'
import { RecordingBackend } from '../../lib/backend/recording-backend.js'
import { customDevice, networkDevice, Simulator, type Profile } from '../../lib/simulator/index.js'
import { backendContract } from './backend-contract.js'
import { describeConformance, type Target, type World } from './target.js'

const network = '/dev/vhost-vdpa-0'
const doorbell = '/dev/vhost-vdpa-1'

function worldOf(profile: Profile, decorate: (backend: Backend) => Backend): World {
  const simulator = new Simulator({ profile })
  simulator.add(networkDevice({ path: network, mac: '00:11:22:33:44:55' }))
  simulator.add(customDevice({ path: doorbell, deviceId: 42, queues: 2, capabilities: { doorbell: true } }))
  return {
    backend: decorate(simulator),
    openDescriptor: (path) => simulator.openDescriptor(path),
    foreignMemory: (length) => ({ fd: simulator.memoryFile(length), close: () => undefined }),
  }
}

function target(
  name: string,
  profile: Profile,
  decorate: (backend: Backend) => Backend = (backend) => backend,
): Target {
  return {
    name,
    world: () => worldOf(profile, decorate),
    nodes: { network: () => network, doorbell: () => doorbell },
    skips: [],
  }
}

describeConformance(target('the simulator (strict)', 'strict'), backendContract)
describeConformance(target('the simulator (linux-6.12)', 'linux-6.12'), backendContract)
describeConformance(
  target('a recording of the simulator', 'strict', (backend) => new RecordingBackend(backend)),
  backendContract,
)
describeConformance(
  target('a saboteur without a plan', 'strict', (backend) => new FaultyBackend(backend)),
  backendContract,
)
