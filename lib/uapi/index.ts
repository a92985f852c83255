// The whole vocabulary, for those who want to speak it themselves.

export {
  decodeDeviceParts,
  DEVICE_PART_OPTIONAL,
  devicePartTypes,
  encodeDeviceParts,
  type DevicePart,
} from './device-parts.js'
export * from './errno.js'
export * from './feature-needs.js'
export * from './netlink.js'
export * from './struct.js'
export * from './tun.js'
export * from './vdpa.js'
export * from './vduse.js'
export * from './vhost-types.js'
export * from './vhost.js'
export * from './virtio-blk.js'
export * from './virtio-features.js'
export * from './virtio-ids.js'
export * from './virtio-net.js'
export * from './virtio-net-commands.js'
export type { Coalescing, MacTable, NetPayload, QueueCoalescing } from './virtio-net-payloads.js'
export {
  netStatsCounters,
  netStatsTypes,
  statsReplyBytes,
  statsReplyRoom,
  type QueueStats,
  type QueueStatsWish,
} from './virtio-net-stats.js'
export type { HashConfig, RssConfig, RssContext } from './virtio-net-steering.js'
export * from './virtio-status.js'
