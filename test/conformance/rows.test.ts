// The rows on the simulator: with Linux 6.12's oddities, and under the law that is written down.

import { blockDevice, customDevice, networkDevice, Simulator } from '../../lib/simulator/index.js'
import type { DeviceOps } from '../../lib/models/device-ops.js'
import { transportFeatureBits } from '../../lib/uapi/virtio-features.js'
import { parents } from '../golden/parents.js'
import { allRows, rowCounts } from './rows/all.js'
import { deviceFacts, type DeviceFacts } from './rows/facts.js'
import { describeCompleteness, describeRows } from './rows/row.js'

const path = '/dev/vhost-vdpa-0'

const makers = {
  network: () => networkDevice({ path, mac: '00:11:22:33:44:55' }),
  block: () => blockDevice({ path }),
  atOnce: () => networkDevice({ path, mac: '00:11:22:33:44:55', capabilities: parents['batch_mapping=0'] }),
  hardware: ({ deviceId, queues, configSize, lastIova }: DeviceFacts) =>
    customDevice({
      path,
      deviceId,
      queues,
      features: 0x3_0000_0000n | (1n << BigInt(transportFeatureBits.VIRTIO_F_RING_PACKED)),
      iovaRange: { first: 0n, last: lastIova },
      config: new Uint8Array(configSize),
      capabilities: {
        groups: false,
        groupAsid: false,
        suspend: false,
        resume: false,
        enableAfterDriverOk: false,
        doorbell: true,
        pinsMemory: true,
      },
    }),
}

function describeSimulated(facts: DeviceFacts, make: (facts: DeviceFacts) => DeviceOps): void {
  const world = () => {
    const simulator = new Simulator({ profile: facts.law, memlock: 0x80_0000 })
    simulator.add(make(facts))
    return {
      backend: simulator,
      openDescriptor: (node: string) => simulator.openDescriptor(node),
      foreignMemory: (length: number) => ({ fd: simulator.memoryFile(length), close: () => undefined }),
      // Nothing of this simulator is there.
      privateAddress: () => 0x5555_5555_0000n,
      add: (device: DeviceOps) => simulator.add(device),
    }
  }
  describeRows({ facts, world, path: () => path }, allRows)
}

describeSimulated(deviceFacts.network, makers.network)
describeSimulated(deviceFacts.block, makers.block)
describeSimulated(deviceFacts.hardware, makers.hardware)
describeSimulated(deviceFacts.atOnce, makers.atOnce)
describeSimulated(deviceFacts.strictNetwork, makers.network)
describeSimulated(deviceFacts.strictBlock, makers.block)
describeSimulated(deviceFacts.strictHardware, makers.hardware)
describeCompleteness(allRows, rowCounts, Object.values(deviceFacts))
