// Feature bits by name: those of the transport and ring, which every device may offer, and those of each kind of device. Numbers, not masks.

import type { BitNames } from '../base/bits.js'
import { deviceIds } from './virtio-ids.js'

/** Spec section 6, with the bits of older drafts that Linux still names. */
export const transportFeatureBits = {
  VIRTIO_F_NOTIFY_ON_EMPTY: 24,
  VIRTIO_F_ANY_LAYOUT: 27,
  VIRTIO_F_RING_INDIRECT_DESC: 28,
  VIRTIO_F_RING_EVENT_IDX: 29,
  VIRTIO_F_VERSION_1: 32,
  VIRTIO_F_ACCESS_PLATFORM: 33,
  VIRTIO_F_RING_PACKED: 34,
  VIRTIO_F_IN_ORDER: 35,
  VIRTIO_F_ORDER_PLATFORM: 36,
  VIRTIO_F_SR_IOV: 37,
  VIRTIO_F_NOTIFICATION_DATA: 38,
  VIRTIO_F_NOTIF_CONFIG_DATA: 39,
  VIRTIO_F_RING_RESET: 40,
  VIRTIO_F_ADMIN_VQ: 41,
} as const

/** Spec section 5.1.3. */
export const netFeatureBits = {
  VIRTIO_NET_F_CSUM: 0,
  VIRTIO_NET_F_GUEST_CSUM: 1,
  VIRTIO_NET_F_CTRL_GUEST_OFFLOADS: 2,
  VIRTIO_NET_F_MTU: 3,
  VIRTIO_NET_F_MAC: 5,
  VIRTIO_NET_F_GSO: 6,
  VIRTIO_NET_F_GUEST_TSO4: 7,
  VIRTIO_NET_F_GUEST_TSO6: 8,
  VIRTIO_NET_F_GUEST_ECN: 9,
  VIRTIO_NET_F_GUEST_UFO: 10,
  VIRTIO_NET_F_HOST_TSO4: 11,
  VIRTIO_NET_F_HOST_TSO6: 12,
  VIRTIO_NET_F_HOST_ECN: 13,
  VIRTIO_NET_F_HOST_UFO: 14,
  VIRTIO_NET_F_MRG_RXBUF: 15,
  VIRTIO_NET_F_STATUS: 16,
  VIRTIO_NET_F_CTRL_VQ: 17,
  VIRTIO_NET_F_CTRL_RX: 18,
  VIRTIO_NET_F_CTRL_VLAN: 19,
  VIRTIO_NET_F_CTRL_RX_EXTRA: 20,
  VIRTIO_NET_F_GUEST_ANNOUNCE: 21,
  VIRTIO_NET_F_MQ: 22,
  VIRTIO_NET_F_CTRL_MAC_ADDR: 23,
  VIRTIO_NET_F_DEVICE_STATS: 50,
  VIRTIO_NET_F_HASH_TUNNEL: 51,
  VIRTIO_NET_F_VQ_NOTF_COAL: 52,
  VIRTIO_NET_F_NOTF_COAL: 53,
  VIRTIO_NET_F_GUEST_USO4: 54,
  VIRTIO_NET_F_GUEST_USO6: 55,
  VIRTIO_NET_F_HOST_USO: 56,
  VIRTIO_NET_F_HASH_REPORT: 57,
  VIRTIO_NET_F_GUEST_HDRLEN: 59,
  VIRTIO_NET_F_RSS: 60,
  VIRTIO_NET_F_RSC_EXT: 61,
  VIRTIO_NET_F_STANDBY: 62,
  VIRTIO_NET_F_SPEED_DUPLEX: 63,
} as const

/** Spec section 5.2.3, with the legacy bits that Linux names. */
export const blockFeatureBits = {
  VIRTIO_BLK_F_BARRIER: 0,
  VIRTIO_BLK_F_SIZE_MAX: 1,
  VIRTIO_BLK_F_SEG_MAX: 2,
  VIRTIO_BLK_F_GEOMETRY: 4,
  VIRTIO_BLK_F_RO: 5,
  VIRTIO_BLK_F_BLK_SIZE: 6,
  VIRTIO_BLK_F_SCSI: 7,
  VIRTIO_BLK_F_FLUSH: 9,
  VIRTIO_BLK_F_TOPOLOGY: 10,
  VIRTIO_BLK_F_CONFIG_WCE: 11,
  VIRTIO_BLK_F_MQ: 12,
  VIRTIO_BLK_F_DISCARD: 13,
  VIRTIO_BLK_F_WRITE_ZEROES: 14,
  VIRTIO_BLK_F_LIFETIME: 15,
  VIRTIO_BLK_F_SECURE_ERASE: 16,
  VIRTIO_BLK_F_ZONED: 17,
} as const

/**
 * The kinds of device that vhost-vdpa is seldom met with, as the kernel's headers name their bits (spec sections 5.3 to 5.20), by device id. A kind
 * that is not here has no bits of its own, or none that a header names.
 */
export const otherFeatureBits = {
  [deviceIds.console]: {
    VIRTIO_CONSOLE_F_SIZE: 0,
    VIRTIO_CONSOLE_F_MULTIPORT: 1,
    VIRTIO_CONSOLE_F_EMERG_WRITE: 2,
  },
  [deviceIds.balloon]: {
    VIRTIO_BALLOON_F_MUST_TELL_HOST: 0,
    VIRTIO_BALLOON_F_STATS_VQ: 1,
    VIRTIO_BALLOON_F_DEFLATE_ON_OOM: 2,
    VIRTIO_BALLOON_F_FREE_PAGE_HINT: 3,
    VIRTIO_BALLOON_F_PAGE_POISON: 4,
    VIRTIO_BALLOON_F_REPORTING: 5,
  },
  [deviceIds.scsi]: {
    VIRTIO_SCSI_F_INOUT: 0,
    VIRTIO_SCSI_F_HOTPLUG: 1,
    VIRTIO_SCSI_F_CHANGE: 2,
    VIRTIO_SCSI_F_T10_PI: 3,
  },
  [deviceIds['9p']]: { VIRTIO_9P_MOUNT_TAG: 0 },
  [deviceIds.gpu]: {
    VIRTIO_GPU_F_VIRGL: 0,
    VIRTIO_GPU_F_EDID: 1,
    VIRTIO_GPU_F_RESOURCE_UUID: 2,
    VIRTIO_GPU_F_RESOURCE_BLOB: 3,
    VIRTIO_GPU_F_CONTEXT_INIT: 4,
  },
  [deviceIds.vsock]: { VIRTIO_VSOCK_F_STREAM: 0, VIRTIO_VSOCK_F_SEQPACKET: 1 },
  [deviceIds.iommu]: {
    VIRTIO_IOMMU_F_INPUT_RANGE: 0,
    VIRTIO_IOMMU_F_DOMAIN_RANGE: 1,
    VIRTIO_IOMMU_F_MAP_UNMAP: 2,
    VIRTIO_IOMMU_F_BYPASS: 3,
    VIRTIO_IOMMU_F_PROBE: 4,
    VIRTIO_IOMMU_F_MMIO: 5,
    VIRTIO_IOMMU_F_BYPASS_CONFIG: 6,
  },
  [deviceIds.mem]: {
    VIRTIO_MEM_F_ACPI_PXM: 0,
    VIRTIO_MEM_F_UNPLUGGED_INACCESSIBLE: 1,
    VIRTIO_MEM_F_PERSISTENT_SUSPEND: 2,
  },
  [deviceIds.sound]: { VIRTIO_SND_F_CTLS: 0 },
  [deviceIds.pmem]: { VIRTIO_PMEM_F_SHMEM_REGION: 0 },
  [deviceIds.scmi]: { VIRTIO_SCMI_F_P2A_CHANNELS: 0, VIRTIO_SCMI_F_SHARED_MEMORY: 1 },
  [deviceIds['i2c-adapter']]: { VIRTIO_I2C_F_ZERO_LENGTH_REQUEST: 0 },
  [deviceIds.bt]: {
    VIRTIO_BT_F_VND_HCI: 0,
    VIRTIO_BT_F_MSFT_EXT: 1,
    VIRTIO_BT_F_AOSP_EXT: 2,
    VIRTIO_BT_F_CONFIG_V2: 3,
  },
  [deviceIds.gpio]: { VIRTIO_GPIO_F_IRQ: 0 },
} as const satisfies Readonly<Record<number, BitNames>>

/** The name of a feature of the transport or ring. */
export type TransportFeature = keyof typeof transportFeatureBits
/** The name of a feature that a network device may offer. */
export type NetFeature = keyof typeof netFeatureBits | TransportFeature
/** The name of a feature that a block device may offer. */
export type BlockFeature = keyof typeof blockFeatureBits | TransportFeature

const byDevice = new Map<number, BitNames>(
  Object.entries<BitNames>({
    ...otherFeatureBits,
    [deviceIds.net]: netFeatureBits,
    [deviceIds.block]: blockFeatureBits,
  }).map(([id, bits]) => [Number(id), { ...bits, ...transportFeatureBits }]),
)

/** The names of the feature bits of a device id; of the transport alone where the kind's own bits are not known here. */
export function featureNames(deviceId: number): BitNames {
  return byDevice.get(deviceId) ?? transportFeatureBits
}
