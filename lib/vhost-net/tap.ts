// A tap device of the kernel: the wire at which a vhost-net device ends. It carries nothing itself.

import { rangeError } from '../base/checks.js'
import type { Backend, Handle } from '../backend/backend.js'
import { IFNAMSIZ, tunFlags, tunRequest, tunRequests } from '../uapi/tun.js'

/** The name of an interface as bytes with their NUL. RangeError for one that is too long, or none. */
export function interfaceName(name: string): Uint8Array {
  const text = Buffer.from(name)
  if (text.length === 0 || text.length >= IFNAMSIZ || text.includes(0))
    throw rangeError('tap', `a name of 1 to ${IFNAMSIZ - 1} bytes`, name)
  const bytes = new Uint8Array(IFNAMSIZ)
  bytes.set(text)
  return bytes
}

/**
 * Opens the tap device of a name, which is made where it is not there and then goes with the handle. Its frames have a virtio header of `headerBytes`, and are complete.
 * EPERM without CAP_NET_ADMIN, EBUSY where another program has it, EINVAL for an interface of another kind.
 */
export async function openTap(
  backend: Pick<Backend, 'openAsync'>,
  name: Uint8Array,
  headerBytes: number,
): Promise<Handle> {
  const tap = await backend.openAsync('/dev/net/tun')
  try {
    const flags = tunFlags.IFF_TAP | tunFlags.IFF_NO_PI | tunFlags.IFF_VNET_HDR
    // It waits for whoever changes interfaces now.
    await tap.ioctlAsync(tunRequests.TUNSETIFF, tunRequest.encode({ name, flags }))
    const size = new Uint8Array(4)
    new DataView(size.buffer).setInt32(0, headerBytes, true)
    tap.ioctl(tunRequests.TUNSETVNETHDRSZ, size)
    // Who had the device before may have allowed frames that somebody has to finish.
    await tap.ioctlAsync(tunRequests.TUNSETOFFLOAD, 0)
    return tap
  } catch (failure) {
    await tap.close()
    throw failure
  }
}
