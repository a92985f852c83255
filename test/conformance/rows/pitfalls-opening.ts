// Pitfalls of opening, negotiating and grouping: entries 1 to 14 of section B.6 of the peers, each as a client of this package meets it.

import { expect } from '@jest/globals'
import { RecordingBackend } from '../../../lib/backend/recording-backend.js'
import { NetControlQueue } from '../../../lib/control/net-control-queue.js'
import type { VhostVdpaTransport } from '../../../lib/transport/vhost-vdpa.js'
import { customDevice, networkDevice } from '../../../lib/simulator/index.js'
import { netFeatureBits } from '../../../lib/uapi/virtio-features.js'
import { requests } from '../../../lib/uapi/vhost.js'
import { AT, codeOf, featuresOk, laterCodeOf, map, negotiate, OK, plainFeatures, ready, send } from './bench.js'
import type { Row } from './row.js'

const newMac = '02:11:22:33:44:01'
const areas = { descriptor: 0x1000n, driver: 0x2000n, device: 0x3000n }

type Requests = Readonly<Record<string, (transport: VhostVdpaTransport) => unknown>>

/** What a program may ask before there is an owner. */
const openToAll: Requests = {
  deviceId: (transport) => transport.deviceId(),
  status: (transport) => transport.status(),
  setStatus: (transport) => transport.setStatus(1),
  readConfig: (transport) => transport.readConfig(0, 1),
  writeConfig: (transport) => transport.writeConfig(0, transport.readConfig(0, 1)),
  features: (transport) => transport.features(),
  setFeatures: (transport) => transport.setFeatures(plainFeatures),
  maxVringNum: (transport) => transport.maxVringNum(),
  groupNum: (transport) => transport.groupNum(),
  asNum: (transport) => transport.asNum(),
  setConfigCall: (transport) => transport.setConfigCall(-1),
  backendFeatures: (transport) => transport.backendFeatures(),
  setBackendFeatures: (transport) => transport.setBackendFeatures(2n),
  iovaRange: (transport) => transport.iovaRange(),
  configSize: (transport) => transport.configSize(),
  vqsCount: (transport) => transport.vqsCount(),
  suspend: (transport) => transport.suspend(),
  resume: (transport) => transport.resume(),
}

const ofTheOwner: Requests = {
  setVringNum: (transport) => transport.setVringNum(0, 2),
  setVringAddr: (transport) => transport.setVringAddr(0, areas),
  setVringBase: (transport) => transport.setVringBase(0, 0),
  vringBase: (transport) => transport.vringBase(0),
  setVringKick: (transport) => transport.setVringKick(0, -1),
  setVringCall: (transport) => transport.setVringCall(0, -1),
  setVringErr: (transport) => transport.setVringErr(0, -1),
  setVringEnable: (transport) => transport.setVringEnable(0, true),
  vringGroup: (transport) => transport.vringGroup(0),
  vringDescGroup: (transport) => transport.vringDescGroup(0),
  setGroupAsid: (transport) => transport.setGroupAsid(0, 0),
  vringSize: (transport) => transport.vringSize(0),
  setMemTable: (transport) => transport.setMemTable([]),
}

const codesOf = (list: Requests, transport: VhostVdpaTransport) =>
  Object.entries(list).map(([name, request]) => [name, codeOf(() => void request(transport))])

export const pitfallsOfOpening: Readonly<Record<number, Row>> = {
  1: {
    title: 'a second open is EBUSY, and a device that was closed is as new: status 0, nothing mapped, no position',
    run: async (bench) => {
      const first = bench.owned()
      expect(codeOf(() => bench.backend.open(bench.path))).toBe('EBUSY')
      expect(map(first, bench.memory())).toBe(72)
      if (bench.facts.keepsPositions) first.setVringBase(0, 7)
      negotiate(first)
      await first.handle.close()
      const second = bench.owned()
      expect(second.status()).toBe(0)
      expect(map(second, bench.memory())).toBe(72)
      if (bench.facts.keepsPositions) expect(second.vringBase(0)).toBe(0)
    },
  },
  2: {
    title: 'what needs an owner is EPERM without one, a mapping EFAULT; the rest is answered; a second owner is EBUSY',
    run: (bench) => {
      const transport = bench.unowned()
      expect(codesOf(openToAll, transport)).toEqual(Object.keys(openToAll).map((name) => [name, OK]))
      expect(codesOf(ofTheOwner, transport)).toEqual(Object.keys(ofTheOwner).map((name) => [name, 'EPERM']))
      expect(map(transport, bench.memory())).toBe('EFAULT')
      transport.setOwner()
      expect(codeOf(() => transport.setOwner())).toBe('EBUSY')
      expect(map(transport, bench.memory())).toBe(72)
    },
  },
  3: {
    title: 'backend features: an unknown or unsupported bit is EOPNOTSUPP, DESC_ASID without ASID is EINVAL',
    run: (bench) => {
      const transport = bench.unowned()
      expect(codeOf(() => transport.setBackendFeatures(1n << 40n))).toBe('EOPNOTSUPP')
      expect(codeOf(() => transport.setBackendFeatures((1n << 7n) | (1n << 3n)))).toBe('EOPNOTSUPP')
      expect(codeOf(() => transport.setBackendFeatures(1n << 7n))).toBe('EINVAL')
    },
  },
  4: {
    title:
      'IOTLB_MSG_V2, BATCH and ASID are offered by every device; how many address spaces there are says GET_AS_NUM',
    run: async (bench) => {
      const transport = bench.unowned()
      expect(transport.backendFeatures() & 0xen).toBe(0xen)
      expect(transport.asNum()).toBe(bench.facts.addressSpaces)
      await transport.handle.close()
      const device = await bench.device()
      expect(device.backendFeatures.has('VHOST_BACKEND_F_IOTLB_ASID')).toBe(true)
      expect(codeOf(() => device.addressSpace(bench.facts.addressSpaces))).toBe('ERR_VDPA_ASID')
    },
  },
  5: {
    title: 'the asid of a message is ignored unless ASID was acknowledged, so we refuse to send one',
    run: async (bench) => {
      const transport = bench.unowned()
      transport.setOwner()
      transport.setBackendFeatures(2n)
      expect(map(transport, bench.memory(), { asid: 1 })).toBe(72)
      // It went to asid 0, where there is no room for it twice; so would one for an address space that is not there.
      expect(map(transport, bench.memory())).toBe('EFAULT')
      expect(map(transport, bench.memory(), { asid: 99, iova: 2n * AT })).toBe(72)
      await transport.handle.close()
      const device = await bench.device({ backendFeatures: ['VHOST_BACKEND_F_IOTLB_MSG_V2'] })
      const last = device.addressSpace(bench.facts.addressSpaces - 1)
      const request = { iova: AT, region: bench.memory() }
      expect(await laterCodeOf(() => last.map(request))).toBe(last.asid === 0 ? OK : 'ERR_VDPA_NOT_SUPPORTED')
    },
  },
  6: {
    title: 'backend features are bit numbers: 3 says nothing as a mask, 8 is the ASID',
    run: async (bench) => {
      const transport = bench.unowned()
      transport.setOwner()
      expect(codeOf(() => transport.setBackendFeatures(3n))).toBe('EOPNOTSUPP')
      transport.setBackendFeatures(8n)
      expect(map(transport, bench.memory(), { asid: 99 })).toBe('EFAULT')
      await transport.handle.close()
      const device = await bench.device({ backendFeatures: ['VHOST_BACKEND_F_IOTLB_ASID'] })
      expect(device.backendFeatures.bits).toBe(8n)
    },
  },
  7: {
    title:
      'features after FEATURES_OK are EBUSY; without ACCESS_PLATFORM they are EINVAL where the parent driver insists on it',
    run: (bench) => {
      const transport = bench.owned()
      const without = plainFeatures & ~(1n << 33n)
      expect(codeOf(() => transport.setFeatures(without))).toBe(bench.facts.insistsOnPlatform ? 'EINVAL' : OK)
      negotiate(transport)
      expect(codeOf(() => transport.setFeatures(plainFeatures))).toBe('EBUSY')
    },
  },
  8: {
    title:
      'status bits are not taken away (EINVAL), their order is looked at by the law alone, and FEATURES_OK is read back by us',
    run: async (bench) => {
      const transport = bench.owned()
      expect(codeOf(() => transport.setStatus(2))).toBe(bench.facts.law === 'strict' ? 'EINVAL' : OK)
      transport.setStatus(3)
      transport.setStatus(ready)
      expect(codeOf(() => transport.setStatus(2))).toBe('EINVAL')
      expect(transport.status()).toBe(ready)
      await transport.handle.close()
      const recording = new RecordingBackend(bench.backend)
      const device = await bench.device({ backend: recording })
      await device.negotiate([])
      const asked = recording.trace.events.map((event) => (event.op === 'ioctl' ? event.request : 0))
      const last = asked.lastIndexOf(requests.VHOST_VDPA_SET_STATUS.number)
      expect(asked.slice(last)).toContain(requests.VHOST_VDPA_GET_STATUS.number)
      if (!bench.facts.takesDevices) return
      const stubborn = customDevice({ deviceId: 42 })
      const setStatus = stubborn.setStatus.bind(stubborn)
      const refusing = (status: number) => setStatus(status & ~8)
      Object.defineProperty(stubborn, 'setStatus', { value: refusing })
      const refused = await bench.device({ path: bench.scene.add(stubborn) })
      expect(await laterCodeOf(() => refused.negotiate([]))).toBe('ERR_VDPA_FEATURES')
      expect(refused.status).toBe(0)
    },
  },
  9: {
    title: 'a reset does not close an open batch; closing the node does',
    needs: ['spaces'],
    run: async (bench) => {
      const transport = bench.owned()
      const memory = bench.memory()
      expect(send(transport, 'BATCH_BEGIN')).toBe(72)
      transport.setStatus(0)
      expect(map(transport, memory, { asid: 1 })).toBe('EFAULT')
      expect(send(transport, 'BATCH_END')).toBe(72)
      expect(map(transport, memory, { asid: 1 })).toBe(72)
      expect(send(transport, 'BATCH_BEGIN')).toBe(72)
      await transport.handle.close()
      expect(map(bench.owned(), memory, { asid: 1 })).toBe(72)
    },
  },
  10: {
    title:
      'an index past the queues is ENOBUFS, for a group as well; past groups or address spaces EINVAL; no groups EOPNOTSUPP',
    run: (bench) => {
      const { groups, queues, addressSpaces, hasGroups } = bench.facts
      const transport = bench.owned()
      expect(codeOf(() => transport.vringGroup(queues))).toBe('ENOBUFS')
      expect(codeOf(() => transport.setGroupAsid(queues, 0))).toBe('ENOBUFS')
      expect(codeOf(() => transport.setGroupAsid(queues, 0xffff))).toBe('ENOBUFS')
      expect(codeOf(() => transport.setGroupAsid(0, addressSpaces))).toBe('EINVAL')
      // What is past the groups is found out before that there are none to set.
      if (groups < queues) expect(codeOf(() => transport.setGroupAsid(groups, 0))).toBe('EINVAL')
      expect(codeOf(() => transport.setGroupAsid(0, 0))).toBe(hasGroups ? OK : 'EOPNOTSUPP')
    },
  },
  11: {
    title: 'SET_GROUP_ASID after DRIVER_OK: carried out by Linux 6.12, EBUSY by the law, and never sent by us',
    needs: ['groups'],
    run: async (bench) => {
      const transport = bench.running()
      expect(codeOf(() => transport.setGroupAsid(0, 0))).toBe(bench.facts.law === 'linux-6.12' ? OK : 'EBUSY')
      await transport.handle.close()
      const device = await bench.device()
      await device.negotiate([])
      device.groups.assign(0, 0)
      await device.start()
      expect(codeOf(() => device.groups.assign(0, 0))).toBe('ERR_VDPA_STATE')
    },
  },
  12: {
    title: 'a reset puts every group back into asid 0: a control queue mapped there is served',
    needs: ['groups', 'control'],
    run: async (bench) => {
      const device = await bench.network()
      const wish = ['VIRTIO_NET_F_MAC', 'VIRTIO_NET_F_CTRL_VQ', 'VIRTIO_NET_F_CTRL_MAC_ADDR'] as const
      await device.negotiate(wish)
      device.groups.assign(1, 1)
      expect(device.groups.asidOf(1)).toBe(1)
      await device.reset()
      expect(device.groups.asidOf(1)).toBe(0)
      await device.negotiate(wish)
      const control = await NetControlQueue.start(device, device.addressSpace(0))
      await device.start()
      await control.setMacAddress(newMac)
      expect(device.config.net().mac).toBe(newMac)
    },
  },
  13: {
    title: 'a group that the parent driver says and does not have is EIO, and no verdict is built on it',
    needs: ['ownDevice'],
    run: async (bench) => {
      const liar = customDevice({ deviceId: 42, queues: 2, groups: [0, 1], addressSpaces: 2 })
      Object.defineProperty(liar, 'queueGroup', { value: () => 7 })
      const device = await bench.device({ path: bench.scene.add(liar) })
      await device.negotiate([])
      expect(codeOf(() => device.transport.vringGroup(0))).toBe('EIO')
      expect(codeOf(() => device.groups.isolation(1))).toBe('EIO')
    },
  },
  14: {
    title: 'groups and the place of the control queue depend on features: asked before FEATURES_OK, we refuse',
    run: async (bench) => {
      const device = await bench.device()
      expect(codeOf(() => device.groups.isolation(0))).toBe('ERR_VDPA_STATE')
      expect(codeOf(() => device.controlQueueIndex)).toBe('ERR_VDPA_STATE')
      await device.negotiate([], { optional: bench.facts.hasControlQueue ? [netFeatureBits.VIRTIO_NET_F_CTRL_VQ] : [] })
      expect(device.status).toBe(featuresOk)
      expect(device.groups.of(0)).toBe(bench.facts.hasGroups ? 0 : undefined)
      if (bench.facts.hasControlQueue) expect(device.controlQueueIndex).toBe(2)
      if (!bench.facts.takesDevices) return
      const path = bench.scene.add(networkDevice({ queuePairs: 2, moreFeatures: [netFeatureBits.VIRTIO_NET_F_MQ] }))
      const pairs = await bench.network({ path })
      await pairs.negotiate(['VIRTIO_NET_F_CTRL_VQ'])
      expect(pairs.controlQueueIndex).toBe(2)
      await pairs.reset()
      await pairs.negotiate(['VIRTIO_NET_F_CTRL_VQ', 'VIRTIO_NET_F_MQ'])
      expect(pairs.controlQueueIndex).toBe(4)
    },
  },
}
