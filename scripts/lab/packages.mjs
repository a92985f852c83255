// Debian packages: which are missing, and installing them. It asks dpkg first, so that a machine that has them needs no network.
import { environment, isRoot, machineApt } from './apt.mjs'
import { exitCodes, labError, report } from './progress.mjs'
import { hasProgram, run } from './processes.mjs'

/** Needed at every run: the machine, its first program, the tool that makes vDPA devices, and another witness of what is asked of them. */
export const machinePackages = ['qemu-system-x86', 'qemu-system-common', 'busybox-static', 'iproute2', 'strace']

/** Needed once for each kernel, to unpack it and to build the modules that Debian leaves out. */
export const buildPackages = ['gcc', 'make', 'binutils', 'xz-utils', 'kmod', 'libelf1', 'libssl3']

/** Other implementations to compare with, asked for by `--with`. */
export const peerPackages = {
  dpdk: ['dpdk-dev', 'librte-net-virtio23', 'librte-mempool-ring23'],
}

/** The names among `names` that dpkg does not have installed. A package counts under the name it provides, too. */
async function missingPackages(names) {
  const format = '${db:Status-Status} ${Package} ${Provides}\\n'
  const { stdout } = await run('dpkg-query', ['-W', `-f=${format}`], { env: environment })
  const installed = new Set()
  for (const line of stdout.split('\n')) {
    const [status, name, ...provided] = line.split(/[ ,]+/)
    if (status === 'installed') for (const each of [name, ...provided]) installed.add(each)
  }
  return names.filter((name) => !installed.has(name))
}

/** Throws (exit code 2) where this lab cannot work at all: not Linux on x86-64, or no Debian tools. */
export function requireDebian() {
  if (process.platform !== 'linux' || process.arch !== 'x64')
    throw labError(
      exitCodes.cannotRun,
      `the kernel lab needs Linux on x86-64, and this is ${process.platform} on ${process.arch}`,
    )
  const absent = ['apt-get', 'apt-cache', 'dpkg-query', 'dpkg-deb'].filter((name) => !hasProgram(name))
  if (absent.length > 0)
    throw labError(
      exitCodes.cannotRun,
      `the kernel lab takes its kernel and QEMU from Debian's packages, and this system has no ${absent.join(', ')}: ` +
        'run it on Debian 12 or later, for instance in a container',
    )
}

/** Brings apt's lists up to date, once in a run. Returns false, having done nothing, when this user may not. */
export async function refreshLists(apt = machineApt) {
  if (apt.isFresh) return true
  if (apt === machineApt && !isRoot()) return false
  report('apt-get update')
  const trouble = await apt.update()
  if (trouble !== undefined) report(`apt-get update ${trouble}`)
  return true
}

/** Installs what is missing of `names`; throws (exit code 2) with the mending command when it may not or cannot. */
export async function ensurePackages(names) {
  const missing = await missingPackages(names)
  if (missing.length === 0) return
  const command = `apt-get update && apt-get install -y --no-install-recommends ${missing.join(' ')}`
  if (!isRoot())
    throw labError(
      exitCodes.cannotRun,
      `the kernel lab needs these Debian packages: ${missing.join(', ')}; as root, run: ${command}`,
    )
  await refreshLists()
  report(`installing ${missing.join(', ')}`)
  const { code, stdout, stderr } = await machineApt.get(['install', '--no-install-recommends', ...missing])
  const left = await missingPackages(missing)
  if (code === 0 && left.length === 0) return
  const said = `${stdout}\n${stderr}`.trim().split('\n').slice(-4).join('\n')
  throw labError(
    exitCodes.cannotRun,
    `cannot install ${(left.length > 0 ? left : missing).join(', ')}; to see why, run: ${command}\n${said}`,
  )
}
