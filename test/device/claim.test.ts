// Claiming a descriptor that was in use before: whatever its earlier user did, the device is then in the state that we say it is in.

import { describe, expect, test } from '@jest/globals'
import { bit } from '../../lib/base/bits.js'
import { VdpaDevice } from '../../lib/device/vdpa-device.js'
import { FaultyBackend } from '../../lib/backend/faulty-backend.js'
import { networkDevice, Simulator } from '../../lib/simulator/index.js'
import { VhostVdpaTransport } from '../../lib/transport/vhost-vdpa.js'
import { iotlbMessageTypes, vhostMsgV2 } from '../../lib/uapi/vhost-types.js'

const path = '/dev/vhost-vdpa-0'
const message = (type: keyof typeof iotlbMessageTypes, asid: number, iova = 0n, uaddr = 0n) =>
  vhostMsgV2.encode({
    message: 2,
    asid,
    iova,
    size: uaddr === 0n ? 0n : 4096n,
    uaddr,
    perm: 3,
    type: iotlbMessageTypes[type],
  })

/** A handle that an earlier user has mapped, moved, begun a batch and set queues up on. */
function used(profile: 'strict' | 'linux-6.12') {
  const simulator = new Simulator({ profile })
  simulator.add(networkDevice({ path }))
  const backend = new FaultyBackend(simulator)
  const handle = backend.open(path)
  const transport = new VhostVdpaTransport(handle)
  transport.setOwner()
  transport.setBackendFeatures(bit(1) | bit(2) | bit(3))
  transport.setGroupAsid(1, 1)
  const memory = backend.allocate(4096)
  transport.writeIotlb(message('VHOST_IOTLB_UPDATE', 0, 0n, memory.address))
  transport.writeIotlb(message('VHOST_IOTLB_UPDATE', 0, 0xffff_ffff_ffff_e000n, memory.address))
  transport.writeIotlb(message('VHOST_IOTLB_BATCH_BEGIN', 1))
  transport.writeIotlb(message('VHOST_IOTLB_UPDATE', 1, 0x7fff_ffff_ffff_f000n, memory.address))
  const kick = backend.eventfd()
  transport.setVringKick(0, kick.fd)
  return { simulator, backend, handle, memory }
}

describe.each(['strict', 'linux-6.12'] as const)('a descriptor that was used before (%s)', (profile) => {
  test.each([
    ['with all backend features', {}],
    ['with none', { backendFeatures: [] as const }],
  ])('is brought to a known state, %s', async (_, options) => {
    const { simulator, backend, handle, memory } = used(profile)
    const device = VdpaDevice.claim(backend, handle, options)
    const { addressSpaces, batchAsid, queues, backendFeatures } = simulator.dump(path)
    expect(addressSpaces.flatMap(({ mappings }) => mappings)).toEqual([])
    expect(batchAsid).toBeUndefined()
    expect(queues.map(({ asid, hasKick }) => ({ asid, hasKick }))).toEqual(Array(3).fill({ asid: 0, hasKick: false }))
    expect(backendFeatures).toBe(device.backendFeatures.bits)
    await device.addressSpace(0).map({ iova: 0n, region: memory })
    await device.close()
    expect(memory.holders).toEqual([])
  })

  test('is claimed where the parent never tells where a ring stands', async () => {
    const { backend, handle } = used(profile)
    backend.fail({ request: 'VHOST_GET_VRING_BASE', with: 'EOPNOTSUPP', times: Infinity })
    backend.fail({ request: 'VHOST_VDPA_SET_GROUP_ASID', with: 'EOPNOTSUPP', times: Infinity })
    const device = VdpaDevice.claim(backend, handle)
    expect(device.addressSpace(0).size).toBe(0)
    await device.close()
  })

  test('is refused by name where its mappings do not go, and nothing is left open', () => {
    const { simulator, backend, handle } = used(profile)
    backend.fail({ request: 'VHOST_IOTLB_INVALIDATE', with: 'EFAULT' })
    expect(() => VdpaDevice.claim(backend, handle)).toThrow(expect.objectContaining({ code: 'ERR_VDPA_STATE' }))
    expect(simulator.dump(path).isOpen).toBe(false)
  })
})
