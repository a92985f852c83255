// The data path on real devices: vdpa_sim_net, and virtio-net PCI functions behind an IOMMU through vp_vdpa, split, packed, and with several queue pairs.

import { expect, test } from '@jest/globals'
import { KernelBackend } from '../../lib/kernel/kernel-backend.js'
import { describeNetDatapath } from '../conformance/net-datapath.js'
import { labWire } from './lab-wire.js'
import { labVariable } from './support.js'

const backend = () => new KernelBackend()

describeNetDatapath({
  name: 'vdpa_sim_net',
  backend,
  path: () => labVariable('VHOST_VDPA_NET'),
  far: 'loop',
  canSuspend: true,
})
describeNetDatapath({
  name: 'vp_vdpa, split, by eventfd',
  backend,
  path: () => labVariable('VHOST_VDPA_PCI'),
  features: ['VIRTIO_NET_F_STATUS'],
  far: () => labWire({ name: 'vp0', peer: 'LAB_PEER_PCI', capture: 'LAB_CAPTURE_PCI' }),
  canSuspend: false,
})
describeNetDatapath({
  name: 'vp_vdpa, split, merged buffers and event idx, by doorbell (with NOTIFICATION_DATA where it is offered)',
  backend,
  path: () => labVariable('VHOST_VDPA_PCI'),
  features: ['VIRTIO_NET_F_STATUS', 'VIRTIO_NET_F_MRG_RXBUF', 'VIRTIO_F_RING_EVENT_IDX'],
  optional: ['VIRTIO_F_NOTIFICATION_DATA'],
  notifyBy: 'doorbell',
  far: () => labWire({ name: 'vp0', peer: 'LAB_PEER_PCI', capture: 'LAB_CAPTURE_PCI' }),
  canSuspend: false,
})
describeNetDatapath({
  name: 'vp_vdpa, packed, by doorbell (with NOTIFICATION_DATA where it is offered)',
  backend,
  path: () => labVariable('VHOST_VDPA_PCI_PACKED'),
  features: ['VIRTIO_NET_F_STATUS', 'VIRTIO_F_RING_PACKED'],
  optional: ['VIRTIO_F_NOTIFICATION_DATA'],
  notifyBy: 'doorbell',
  far: () => labWire({ name: 'vp1', peer: 'LAB_PEER_PCI_PACKED', capture: 'LAB_CAPTURE_PCI_PACKED' }),
  canSuspend: false,
})

if (process.env['VHOST_VDPA_PCI_MQ'] === undefined) {
  // eslint-disable-next-line jest/no-disabled-tests -- the title says what makes it run
  test.skip('vp_vdpa with several queue pairs (skipped: VHOST_VDPA_PCI_MQ is not set; the lab makes the device when it runs as root, with /dev/net/tun)', () =>
    expect(process.env['VHOST_VDPA_PCI_MQ']).toBeDefined())
} else {
  describeNetDatapath({
    name: 'vp_vdpa, four queue pairs, by doorbell',
    backend,
    path: () => labVariable('VHOST_VDPA_PCI_MQ'),
    features: ['VIRTIO_NET_F_STATUS', 'VIRTIO_NET_F_MQ', 'VIRTIO_NET_F_CTRL_VQ', 'VIRTIO_NET_F_MRG_RXBUF'],
    optional: ['VIRTIO_F_NOTIFICATION_DATA'],
    notifyBy: 'doorbell',
    pairs: 4,
    far: () => labWire({ name: 'vp2', peer: 'LAB_PEER_PCI_MQ' }),
    canSuspend: false,
  })
}
