// The devices of the lab as a table: what they are called, where they sit, and which variable tells a test. Machine and guest both
// follow it; it runs nothing.

/** Where the writable share and its own files are in the guest. */
export const guestShare = '/run/lab'

/** Devices made by the kernel's simulator drivers with `vdpa dev add`. */
export const simulatedDevices = [
  { name: 'vdpa0', env: 'VHOST_VDPA_NET', kind: 'net', management: 'vdpasim_net', options: 'mac 00:11:22:33:44:55' },
  { name: 'vdpa1', env: 'VHOST_VDPA_BLOCK', kind: 'block', management: 'vdpasim_blk', options: '' },
]

const network = (name, slot, suffix, subnet, more) => ({
  name,
  kind: 'net',
  env: `VHOST_VDPA_PCI${suffix}`,
  slot,
  mac: `52:54:00:00:00:${slot.toString(16)}`,
  peer: {
    env: `LAB_PEER_PCI${suffix}`,
    slot: slot + 1,
    mac: `52:54:00:00:00:${(slot + 1).toString(16)}`,
    address: `${subnet}.1/24`,
  },
  properties: '',
  ...more,
})

const captured = (name, suffix) => ({ capture: { env: `LAB_CAPTURE_PCI${suffix}`, file: `${name}.pcap` } })

/** PCI functions of the machine, handed to vp_vdpa in the guest. `peer` is an ordinary network card on the same wire. */
export const pciDevices = [
  network('vp0', 0x10, '', '192.0.2', { wire: 'hub', ...captured('vp0', '') }),
  network('vp1', 0x12, '_PACKED', '198.51.100', {
    wire: 'hub',
    properties: ',packed=on',
    ...captured('vp1', '_PACKED'),
  }),
  network('vp2', 0x14, '_MQ', '203.0.113', { wire: 'tap', queuePairs: 4, properties: ',rss=on,hash=on' }),
  {
    name: 'vp3',
    kind: 'block',
    env: 'VHOST_VDPA_PCI_BLOCK',
    slot: 0x16,
    queues: 2,
    image: { env: 'LAB_BLOCK_IMAGE', file: 'vp3.img', size: 16 * 1024 * 1024 },
  },
]

/** The address of a slot as Linux and vdpa write it. */
export const pciAddress = (slot) => `0000:00:${slot.toString(16)}.0`
