// What of <linux/if_tun.h> and <linux/if.h> it takes to have a tap device: requests, flags, and the struct that names it.

import { bytes, struct, u16 } from './struct.js'

/** struct ifreq, as far as TUNSETIFF reads it. */
export const tunRequest = struct('ifreq', { name: bytes(16), flags: u16 }, { size: 40, align: 8 })

/** The requests, by the header's names. */
export const tunRequests = {
  /** _IOW('T', 202, int), with a struct ifreq behind it all the same. */
  TUNSETIFF: 0x4004_54ca,
  /** _IOW('T', 208, unsigned int), a value: the offloads that frames to the reader may need. */
  TUNSETOFFLOAD: 0x4004_54d0,
  /** _IOW('T', 216, int): bytes of the header before each frame. */
  TUNSETVNETHDRSZ: 0x4004_54d8,
} as const

/** Flags of TUNSETIFF: frames with their Ethernet header, no other before them, and one of virtio's. */
export const tunFlags = { IFF_TAP: 0x0002, IFF_NO_PI: 0x1000, IFF_VNET_HDR: 0x4000 } as const

/** Bytes of an interface's name, the NUL at its end included. */
export const IFNAMSIZ = 16
