// Virtio device ids (<linux/virtio_ids.h>, spec section 5) and the names this package calls them by.

/** Device ids by kind. */
export const deviceIds = {
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
} as const

/** A kind of virtio device. */
export type DeviceKind = keyof typeof deviceIds

const byId = new Map<number, DeviceKind>(Object.entries(deviceIds).map(([kind, id]) => [id, kind as DeviceKind]))

/** The kind of a device id; undefined for an id that virtio has not given a name. */
export function deviceKind(id: number): DeviceKind | undefined {
  return byId.get(id)
}
