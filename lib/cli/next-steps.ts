// What a person can do about a failure that brings no advice of its own.

import type { VdpaError } from '../base/errors.js'

/** `request` is the request, the system call, or anything where it is absent. */
interface Advice {
  readonly code: string
  readonly request?: string
  readonly step: string
}

const LOOK_FOR_FILE = 'look whether the file, or the folder that it is to be in, is there and its name is right'

/** The first that fits. */
const advices: readonly Advice[] = [
  { code: 'ERR_VDPA_PLAN', step: '`vhost-vdpa plan --schema` prints what a plan may say' },
  { code: 'ERR_VDPA_TRACE', step: '`vhost-vdpa trace record` writes a trace' },
  { code: 'ERR_VDPA_WRONG_DEVICE', step: '`vhost-vdpa list` shows the kind of each device' },
  { code: 'ERR_VDPA_FEATURES', step: '`vhost-vdpa features` shows what a device offers' },
  { code: 'ERR_VDPA_STATE', step: '`vhost-vdpa status` shows who has a device' },
  { code: 'ERR_VDPA_TIMEOUT', step: '`--timeout` waits longer; `vhost-vdpa status` shows who has a device' },
  { code: 'ERR_VDPA_CANCELED', step: '`vhost-vdpa list` shows what there is now' },
  {
    code: 'EAGAIN',
    request: 'VDPA_CMD_DEV_VSTATS_GET',
    step: 'a driver counts from when it has agreed on features with the device',
  },
  { code: 'EOPNOTSUPP', request: 'VDPA_CMD_DEV_VSTATS_GET', step: 'the driver of this device counts nothing' },
  {
    code: 'EOPNOTSUPP',
    request: 'VDPA_CMD_DEV_NEW',
    step: 'leave out what its maker cannot be told: a disk has no address and no MTU, and not every maker chooses queues or features',
  },
  {
    code: 'EINVAL',
    request: 'VDPA_CMD_DEV_NEW',
    step: '`vhost-vdpa list --json` shows what each maker can make, and with which features',
  },
  { code: 'ENODEV', request: 'VDPA_CMD_DEV_NEW', step: '`vhost-vdpa list` names what can make devices' },
  { code: 'EEXIST', request: 'VDPA_CMD_DEV_NEW', step: '`vhost-vdpa show` shows the device of that name' },
  {
    code: 'ERR_VDPA_NOT_SUPPORTED',
    request: 'VDPA_CMD_DEV_ATTR_SET',
    step: 'network devices of some makers take an address, from Linux 6.12 on; `vhost-vdpa show` says what a device is',
  },
  {
    code: 'EOPNOTSUPP',
    request: 'VDPA_CMD_DEV_ATTR_SET',
    step: 'an address is not zero and its first byte is even, as in 02:00:00:00:00:01; some makers of devices take none',
  },
  { code: 'ENOENT', request: 'bind', step: 'make the folder that the socket is to be in' },
  { code: 'ENAMETOOLONG', request: 'bind', step: 'the path of a socket has at most 107 bytes' },
  { code: 'EADDRINUSE', request: 'bind', step: 'end what listens there, or name another path' },
  {
    code: 'EADDRINUSE',
    request: 'listen',
    step: 'end what listens there, or leave the port out: one that is free is taken',
  },
  { code: 'ENOENT', request: 'open', step: LOOK_FOR_FILE },
  { code: 'ENOTDIR', request: 'open', step: LOOK_FOR_FILE },
  { code: 'ENAMETOOLONG', request: 'open', step: 'give the file a shorter name' },
  { code: 'ELOOP', request: 'open', step: 'name the file that the links should lead to' },
  { code: 'EROFS', request: 'open', step: 'name a file where something can be written' },
  { code: 'EFBIG', step: 'name a smaller size, or a file system that has files so large' },
  { code: 'EISDIR', step: 'name a file in that folder' },
  { code: 'EACCES', step: 'try it as root, or see `vhost-vdpa doctor`' },
  { code: 'EPERM', step: 'try it as root' },
  { code: 'ENOSPC', step: 'make room there, or name another file' },
]

/** For every other refusal of a host. */
const ANY = '`vhost-vdpa doctor` looks for what is missing on this host'

/** The next step after a failure: its own hint, or what is known of failures like it. */
export function nextStep({ code, request, syscall, hint }: VdpaError): string {
  if (hint !== undefined) return hint
  const fits = (advice: Advice) =>
    advice.code === code && (advice.request === undefined || [request, syscall].includes(advice.request))
  return advices.find(fits)?.step ?? ANY
}
