// How the simulated kernel deviates from the law, as data: a named oddity with its sentence, and the profiles that switch them on.

/** What some kernel, or its simulated devices, does otherwise. */
export const deviations = {
  'group-asid-after-driver-ok':
    'VHOST_VDPA_SET_GROUP_ASID is carried out after DRIVER_OK; kernels since 7.0, and the law, refuse it with EBUSY.',
  'enable-after-driver-ok':
    'VHOST_VDPA_SET_VRING_ENABLE is carried out after DRIVER_OK without VHOST_BACKEND_F_ENABLE_AFTER_DRIVER_OK acknowledged; the law leaves that undefined, and here refuses it with EINVAL.',
  'takes-enable-after-driver-ok':
    'SET_BACKEND_FEATURES takes ENABLE_AFTER_DRIVER_OK from any driver, offered or not; other bits that are not offered are EOPNOTSUPP.',
  'passthrough-before-first-map':
    'An address space that was never mapped, or was cleared by a reset, lets the device use addresses of the process as IOVAs.',
  'rings-of-vringh':
    'A driver that breaks a rule of the ring loses the chain that does, and the device goes on behind it at the next kick, without NEEDS_RESET. Whether a chain is in flight already, how far ahead the driver is, and whether indirect tables were negotiated or are longer than the ring is not looked at.',
  'kicks-outlive-reset':
    'A kick of a suspended device is carried out at the next RESUME, also when the device was reset in between.',
  'serves-unwritable-rings':
    'A queue whose used ring the device may not write is served all the same: what it uses is lost, and it interrupts.',
  'refused-update-at-zero':
    'An UPDATE at IOVA 0 that is refused for its user address takes every mapping of the address space away.',
  'net-writable-config':
    "A driver may write any byte of a network device's configuration space; the link is always up when it is read.",
  'net-header-as-sent':
    'A looped-back frame keeps the header it was sent with (num_buffers is not set to 1), and is cut to the buffer.',
  'net-frame-of-a-page': 'A network device copies at most 4096 bytes of a frame, its header included.',
  'net-control-of-vdpa-sim':
    'The control queue sets the address, negotiated or not and whatever follows it, and knows nothing else: a command of another class is acknowledged as the one before it in the same turn was. Where the acknowledgement cannot be written, the chain is used with length -EFAULT.',
  'net-stops-at-odd-chains':
    'A transmit chain with a device-writable descriptor, or a receive chain with a readable one, is taken, never used, and ends the turn.',
  'net-filter-of-strings':
    'The receive filter compares addresses as C strings, up to the first zero byte: a device whose address begins with 00 receives frames for all that do.',
  'block-of-vdpa-sim':
    'A block device takes lengths that are no multiple of 512, answers unknown requests IOERR, writes its identification over the status where there is no room for both, leaves discarded sectors as they are, and uses a chain whose status cannot be written without an interrupt, and rests until the next kick.',
  'takes-drivers-as-they-are':
    'What the specification forbids drivers, and no kernel checks, is let pass: features that lack what they need, VERSION_1 left out, status bits out of order, kicks before DRIVER_OK, requests and headers beyond what was negotiated.',
  'misses-at-each-kick':
    'A kick of a vhost-net queue that waits for a translation has its miss read once more; since 7.3, and in the law, a queue has at most one that was not answered.',
  'invalidates-unchecked':
    'vhost-net takes an INVALIDATE of 0 bytes, which is everything at IOVA 0 and next to nothing elsewhere, and one that goes past 2^64, which is next to nothing; 7.3, and the law, refuse them.',
  'masks-features': 'SET_FEATURES with bits that are not offered succeeds without them.',
} as const

/** The name of a deviation. */
export type Deviation = keyof typeof deviations

/**
 * The two halves of the law that `'strict'` enforces. Refusals of the first are errnos; of the second, errnos with the rule as their text, statuses of
 * requests, and NEEDS_RESET, each also in `device.violations`.
 */
export const laws = {
  kernel: 'What vhost-vdpa refuses, as the newest kernels do it.',
  specification:
    'What the virtio specification forbids drivers; switched off by the deviation takes-drivers-as-they-are.',
} as const

/**
 * `'strict'`: the law, of the newest kernels and of the specification. `'kernel'`: the first half of it alone. `'linux-6.12'` and `'linux-7'`: what these
 * kernels do with their vdpa_sim devices.
 */
export type Profile = 'strict' | 'kernel' | 'linux-6.12' | 'linux-7'

const ofLinux6: readonly Deviation[] = Object.keys(deviations) as Deviation[]

/** Which deviations each profile switches on. */
export const profiles: Readonly<Record<Profile, readonly Deviation[]>> = {
  strict: [],
  kernel: ['takes-drivers-as-they-are'],
  'linux-6.12': ofLinux6,
  // Seen on 7.2, in every trace and 10,000 sequences of requests: all of it but one.
  'linux-7': ofLinux6.filter((name) => name !== 'group-asid-after-driver-ok'),
}
