// `npm run test:kernel`: boots a real Linux with real /dev/vhost-vdpa-N devices and runs a command in it. This file only puts the
// parts together; README.md beside it says what a test finds in the guest.
import { mkdir, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { boot } from './boot.mjs'
import { checkout, kernelTestCommand } from './checkout.mjs'
import { writeGuestFiles } from './guest-files.mjs'
import { writeInitramfs } from './initramfs.mjs'
import { ensureKernel } from './kernel.mjs'
import { machineArguments } from './machine.mjs'
import { prepareNetwork } from './network.mjs'
import { parseOptions, usage } from './options.mjs'
import { ensurePackages, machinePackages, peerPackages, requireDebian } from './packages.mjs'
import { exitCodes, labError, report } from './progress.mjs'

async function runInMachine(options, kernel, command, folder) {
  const shareFolder = options.out === undefined ? join(folder, 'share') : resolve(options.out)
  await mkdir(shareFolder, { recursive: true })
  const names = ['stdout', 'stderr', 'console', 'qmp']
  const sockets = Object.fromEntries(names.map((name) => [name, join(folder, name)]))
  const network = await prepareNetwork()
  for (const [name, reason] of network.absent) report(`${name} is left out: ${reason}`)
  const { cpus, memory, hugepages, memlock, env } = options
  const plan = {
    kernel,
    sockets,
    shareFolder,
    cpus,
    memory,
    hugepages,
    memlock,
    env,
    command,
    absent: network.absent,
    parameters: options.module,
    folder: checkout,
  }
  plan.initramfs = join(folder, 'initramfs')
  await writeInitramfs(kernel, plan.initramfs, options.parameters)
  await writeGuestFiles(plan)
  for (const name of options.parameters.keys())
    if (!kernel.modules.includes(name)) throw labError(exitCodes.cannotRun, `the lab loads no module ${name}`)
  report(`booting ${kernel.release}`)
  const machine = network.wrap(['qemu-system-x86_64', ...machineArguments(plan)])
  const { patience, timeLimit, console: showConsole } = options
  return boot({ command: machine, sockets, shareFolder, patience, timeLimit, showConsole })
}

async function main() {
  const options = parseOptions(process.argv.slice(2))
  if (options.help) {
    process.stdout.write(usage)
    return 0
  }
  requireDebian()
  await ensurePackages([...machinePackages, ...options.with.flatMap((name) => peerPackages[name])])
  const kernel = await ensureKernel(options.kernel)
  if (options.prepare) {
    report(`ready: ${kernel.release} in ${kernel.folder}`)
    return 0
  }
  const command = options.command ?? (await kernelTestCommand(options.test))
  const folder = await mkdtemp(join(tmpdir(), 'vhost-vdpa-lab-'))
  try {
    return await runInMachine(options, kernel, command, folder)
  } finally {
    if (options.keep) report(`kept ${folder}`)
    else await rm(folder, { recursive: true, force: true })
  }
}

try {
  process.exitCode = await main()
} catch (error) {
  report(error.exitCode === undefined ? (error.stack ?? String(error)) : error.message)
  process.exitCode = error.exitCode ?? 1
}
