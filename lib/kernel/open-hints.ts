// What a person can do when a node cannot be opened.

interface NodeKind {
  readonly pattern: RegExp
  /** How the node comes to be there. */
  readonly appears: string
}

const kinds: readonly NodeKind[] = [
  {
    pattern: /\/vhost-vdpa-\d+$/,
    appears:
      'load the modules vdpa and vhost_vdpa and the driver of the device, then make the device with `vdpa dev add name NAME mgmtdev DEVICE`; ' +
      '`vdpa mgmtdev show` lists what can make one',
  },
  { pattern: /\/vhost-net$/, appears: 'load it with `modprobe vhost_net`' },
  { pattern: /\/net\/tun$/, appears: 'load it with `modprobe tun`' },
  { pattern: /\/vhost-vsock$/, appears: 'load it with `modprobe vhost_vsock`' },
  { pattern: /\/vduse\/control$/, appears: 'load it with `modprobe vduse`' },
  { pattern: /\/vduse\/[^/]+$/, appears: 'create the VDUSE device first' },
]

/** The kernel tells udev of a vDPA device, and not of its node: no rule is asked about that. */
const access = (path: string) =>
  `give this user read and write access to the node (${
    /\/vhost-vdpa-\d+$/.test(path)
      ? 'its group, or `node` in a plan of `vhost-vdpa apply`'
      : 'a udev rule, or its group'
  }), and in a container allow the device in its cgroup`

/** The hint for an errno name of open(2), or undefined when there is nothing to advise. */
export function openHint(code: string, path: string): string | undefined {
  const appears = kinds.find(({ pattern }) => pattern.test(path))?.appears
  if (appears === undefined) return undefined
  switch (code) {
    case 'ENOENT':
    case 'ENXIO':
    case 'ENODEV':
      return appears
    case 'EACCES':
    case 'EPERM':
      return access(path)
    case 'EBUSY':
      return `it can be open only once: \`fuser -v ${path}\` shows who has it`
    default:
      return undefined
  }
}
