// The whole vocabulary, for those who want to speak it themselves.

export * from './errno.js'
export * from './feature-needs.js'
export * from './netlink.js'
export * from './struct.js'
export * from './vdpa.js'
export * from './vhost-types.js'
export * from './vhost.js'
export * from './virtio-blk.js'
export * from './virtio-features.js'
export * from './virtio-ids.js'
export * from './virtio-net.js'
export * from './virtio-status.js'
