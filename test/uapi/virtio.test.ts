// Status bits, device ids and feature bits, pinned; and how they are named.

import { describe, expect, test } from '@jest/globals'
import fc from 'fast-check'
import {
  blockFeatureBits,
  featureNames,
  netFeatureBits,
  otherFeatureBits,
  transportFeatureBits,
} from '../../lib/uapi/virtio-features'
import { deviceIds, deviceKind } from '../../lib/uapi/virtio-ids'
import { statusNames, virtioStatus } from '../../lib/uapi/virtio-status'

describe('status', () => {
  test('has the bits of section 2.1', () => {
    expect(virtioStatus).toEqual({
      ACKNOWLEDGE: 1,
      DRIVER: 2,
      DRIVER_OK: 4,
      FEATURES_OK: 8,
      NEEDS_RESET: 64,
      FAILED: 128,
    })
  })

  test('is named in the order a driver goes', () => {
    expect(statusNames(0)).toEqual([])
    expect(statusNames(0x0f)).toEqual(['ACKNOWLEDGE', 'DRIVER', 'FEATURES_OK', 'DRIVER_OK'])
    expect(statusNames(0xff)).toEqual([
      'ACKNOWLEDGE',
      'DRIVER',
      'FEATURES_OK',
      'DRIVER_OK',
      'NEEDS_RESET',
      'FAILED',
      '0x10',
      '0x20',
    ])
  })

  test('loses no bit in its names', () => {
    const value = (name: string) => (virtioStatus as Readonly<Record<string, number>>)[name] ?? Number(name)
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 255 }), (status) => {
        expect(statusNames(status).reduce((sum, name) => sum | value(name), 0)).toBe(status)
      }),
    )
  })
})

describe('device ids', () => {
  test('are those of section 5', () => {
    expect(deviceIds).toEqual({
      net: 1,
      block: 2,
      console: 3,
      rng: 4,
      balloon: 5,
      iomem: 6,
      rpmsg: 7,
      scsi: 8,
      '9p': 9,
      'mac80211-wlan': 10,
      'rproc-serial': 11,
      caif: 12,
      'memory-balloon': 13,
      gpu: 16,
      clock: 17,
      input: 18,
      vsock: 19,
      crypto: 20,
      'signal-dist': 21,
      pstore: 22,
      iommu: 23,
      mem: 24,
      sound: 25,
      fs: 26,
      pmem: 27,
      rpmb: 28,
      'mac80211-hwsim': 29,
      'video-encoder': 30,
      'video-decoder': 31,
      scmi: 32,
      'nitro-sec-mod': 33,
      'i2c-adapter': 34,
      watchdog: 35,
      can: 36,
      dmabuf: 37,
      'param-serv': 38,
      'audio-policy': 39,
      bt: 40,
      gpio: 41,
    })
  })

  test('have one kind each, and none where virtio gave no name', () => {
    for (const [kind, id] of Object.entries(deviceIds)) expect(deviceKind(id)).toBe(kind)
    for (const id of [0, 14, 15, 42, -1, 1.5]) expect(deviceKind(id)).toBeUndefined()
  })
})

/** The names by their bits, in the order of the bits. */
function inOrder(bits: Readonly<Record<string, number>>): string[] {
  return Object.entries(bits)
    .sort(([, a], [, b]) => a - b)
    .map(([name, bit]) => `${bit} ${name.replace(/^VIRTIO_(NET_|BLK_)?F_/, '')}`)
}

describe('feature bits', () => {
  test('of the transport and the ring (section 6)', () => {
    expect(inOrder(transportFeatureBits)).toEqual([
      '24 NOTIFY_ON_EMPTY',
      '27 ANY_LAYOUT',
      '28 RING_INDIRECT_DESC',
      '29 RING_EVENT_IDX',
      '32 VERSION_1',
      '33 ACCESS_PLATFORM',
      '34 RING_PACKED',
      '35 IN_ORDER',
      '36 ORDER_PLATFORM',
      '37 SR_IOV',
      '38 NOTIFICATION_DATA',
      '39 NOTIF_CONFIG_DATA',
      '40 RING_RESET',
      '41 ADMIN_VQ',
    ])
  })

  test('of network devices (section 5.1.3)', () => {
    expect(inOrder(netFeatureBits)).toEqual([
      '0 CSUM',
      '1 GUEST_CSUM',
      '2 CTRL_GUEST_OFFLOADS',
      '3 MTU',
      '5 MAC',
      '6 GSO',
      '7 GUEST_TSO4',
      '8 GUEST_TSO6',
      '9 GUEST_ECN',
      '10 GUEST_UFO',
      '11 HOST_TSO4',
      '12 HOST_TSO6',
      '13 HOST_ECN',
      '14 HOST_UFO',
      '15 MRG_RXBUF',
      '16 STATUS',
      '17 CTRL_VQ',
      '18 CTRL_RX',
      '19 CTRL_VLAN',
      '20 CTRL_RX_EXTRA',
      '21 GUEST_ANNOUNCE',
      '22 MQ',
      '23 CTRL_MAC_ADDR',
      '50 DEVICE_STATS',
      '51 HASH_TUNNEL',
      '52 VQ_NOTF_COAL',
      '53 NOTF_COAL',
      '54 GUEST_USO4',
      '55 GUEST_USO6',
      '56 HOST_USO',
      '57 HASH_REPORT',
      '59 GUEST_HDRLEN',
      '60 RSS',
      '61 RSC_EXT',
      '62 STANDBY',
      '63 SPEED_DUPLEX',
    ])
  })

  test('of block devices (section 5.2.3)', () => {
    expect(inOrder(blockFeatureBits)).toEqual([
      '0 BARRIER',
      '1 SIZE_MAX',
      '2 SEG_MAX',
      '4 GEOMETRY',
      '5 RO',
      '6 BLK_SIZE',
      '7 SCSI',
      '9 FLUSH',
      '10 TOPOLOGY',
      '11 CONFIG_WCE',
      '12 MQ',
      '13 DISCARD',
      '14 WRITE_ZEROES',
      '15 LIFETIME',
      '16 SECURE_ERASE',
      '17 ZONED',
    ])
  })

  test('of the other kinds, as the headers have them', () => {
    const own = Object.entries(otherFeatureBits).map(([id, bits]) => [
      deviceKind(Number(id)),
      Object.entries(bits).map(([name, bit]) => `${bit} ${name}`),
    ])
    expect(Object.fromEntries(own)).toEqual({
      console: ['0 VIRTIO_CONSOLE_F_SIZE', '1 VIRTIO_CONSOLE_F_MULTIPORT', '2 VIRTIO_CONSOLE_F_EMERG_WRITE'],
      balloon: [
        '0 VIRTIO_BALLOON_F_MUST_TELL_HOST',
        '1 VIRTIO_BALLOON_F_STATS_VQ',
        '2 VIRTIO_BALLOON_F_DEFLATE_ON_OOM',
        '3 VIRTIO_BALLOON_F_FREE_PAGE_HINT',
        '4 VIRTIO_BALLOON_F_PAGE_POISON',
        '5 VIRTIO_BALLOON_F_REPORTING',
      ],
      scsi: ['0 VIRTIO_SCSI_F_INOUT', '1 VIRTIO_SCSI_F_HOTPLUG', '2 VIRTIO_SCSI_F_CHANGE', '3 VIRTIO_SCSI_F_T10_PI'],
      '9p': ['0 VIRTIO_9P_MOUNT_TAG'],
      gpu: [
        '0 VIRTIO_GPU_F_VIRGL',
        '1 VIRTIO_GPU_F_EDID',
        '2 VIRTIO_GPU_F_RESOURCE_UUID',
        '3 VIRTIO_GPU_F_RESOURCE_BLOB',
        '4 VIRTIO_GPU_F_CONTEXT_INIT',
      ],
      vsock: ['0 VIRTIO_VSOCK_F_STREAM', '1 VIRTIO_VSOCK_F_SEQPACKET'],
      iommu: [
        '0 VIRTIO_IOMMU_F_INPUT_RANGE',
        '1 VIRTIO_IOMMU_F_DOMAIN_RANGE',
        '2 VIRTIO_IOMMU_F_MAP_UNMAP',
        '3 VIRTIO_IOMMU_F_BYPASS',
        '4 VIRTIO_IOMMU_F_PROBE',
        '5 VIRTIO_IOMMU_F_MMIO',
        '6 VIRTIO_IOMMU_F_BYPASS_CONFIG',
      ],
      mem: ['0 VIRTIO_MEM_F_ACPI_PXM', '1 VIRTIO_MEM_F_UNPLUGGED_INACCESSIBLE', '2 VIRTIO_MEM_F_PERSISTENT_SUSPEND'],
      sound: ['0 VIRTIO_SND_F_CTLS'],
      pmem: ['0 VIRTIO_PMEM_F_SHMEM_REGION'],
      scmi: ['0 VIRTIO_SCMI_F_P2A_CHANNELS', '1 VIRTIO_SCMI_F_SHARED_MEMORY'],
      'i2c-adapter': ['0 VIRTIO_I2C_F_ZERO_LENGTH_REQUEST'],
      bt: ['0 VIRTIO_BT_F_VND_HCI', '1 VIRTIO_BT_F_MSFT_EXT', '2 VIRTIO_BT_F_AOSP_EXT', '3 VIRTIO_BT_F_CONFIG_V2'],
      gpio: ['0 VIRTIO_GPIO_F_IRQ'],
    })
  })

  test.each(Object.values(deviceIds))('no two names of device id %i share a bit', (id) => {
    const bits = Object.values(featureNames(id))
    expect(new Set(bits).size).toBe(bits.length)
  })

  test('are chosen by the device id; a kind that is not known here has those of the transport', () => {
    expect(featureNames(deviceIds.net)).toEqual({ ...netFeatureBits, ...transportFeatureBits })
    expect(featureNames(deviceIds.block)).toEqual({ ...blockFeatureBits, ...transportFeatureBits })
    expect(featureNames(deviceIds.scsi)).toEqual({ ...otherFeatureBits[deviceIds.scsi], ...transportFeatureBits })
    expect(featureNames(deviceIds.fs)).toEqual(transportFeatureBits)
    expect(featureNames(4711)).toEqual(transportFeatureBits)
  })
})
