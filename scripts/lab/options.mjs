// The lab's command line: words in, a plain object out. It decides nothing.
import { parseArgs } from 'node:util'
import { exitCodes, labError } from './progress.mjs'

export const usage = `Usage: node scripts/lab/run.mjs [options] [-- command ...]

Boots a Linux with real /dev/vhost-vdpa-N devices under QEMU, runs the command in it
(without one: the kernel tests of this checkout), and ends with the command's exit code.

  --kernel 6.12|7|7.3    Debian's stable kernel (the default), the newest of its next release, or the one after
  --test PATTERN         only the kernel tests whose path matches (default command only)
  --patience SECONDS     end the machine when nothing was heard of it for so long, exit code 124 (default 600)
  --time-limit SECONDS   end it after so long in all, exit code 124 (default: no limit)
  --memory SIZE          memory of the machine, as 2G or 1536M (default 2G)
  --cpus N               processors of the machine (default 2)
  --hugepages N          reserve N pages of 2 MiB, mounted on /run/hugepages
  --memlock LIMIT        RLIMIT_MEMLOCK of the command: 'unlimited' or KiB (default: the kernel's 8 MiB)
  --env NAME[=VALUE]     hand a variable to the command (may be repeated)
  --module NAME.PARAMETER=VALUE
                         load a module with a parameter, as vdpa_sim.use_va=0 (may be repeated)
  --with dpdk            install this peer as well
  --out FOLDER           keep /run/lab of the guest (results, captures, disk image) in this folder
  --keep                 keep the temporary folder and say where it is
  --console              show the machine's serial console while it runs
  --prepare              install and build everything, but boot nothing
  --help                 this text
`

const table = {
  kernel: { type: 'string', default: '6.12' },
  test: { type: 'string' },
  patience: { type: 'string', default: '600' },
  'time-limit': { type: 'string' },
  memory: { type: 'string', default: '2G' },
  cpus: { type: 'string', default: '2' },
  hugepages: { type: 'string', default: '0' },
  memlock: { type: 'string' },
  env: { type: 'string', multiple: true, default: [] },
  module: { type: 'string', multiple: true, default: [] },
  with: { type: 'string', multiple: true, default: [] },
  out: { type: 'string' },
  keep: { type: 'boolean', default: false },
  console: { type: 'boolean', default: false },
  prepare: { type: 'boolean', default: false },
  help: { type: 'boolean', default: false },
}

const misuse = (text) => labError(exitCodes.cannotRun, `${text}; --help lists the options`)

function integer(name, text, least) {
  const value = /^\d{1,9}$/.test(text) ? Number(text) : Number.NaN
  if (!(value >= least)) throw misuse(`--${name} wants a whole number of at least ${least}, not '${text}'`)
  return value
}

/** A module's parameters by its name, of words as vdpa_sim.use_va=0. */
function moduleParameters(words) {
  const parameters = new Map()
  for (const word of words) {
    const match = /^(\w+)\.(\w+=\S+)$/.exec(word)
    if (match === null) throw misuse(`--module wants NAME.PARAMETER=VALUE, not '${word}'`)
    parameters.set(match[1], [...(parameters.get(match[1]) ?? []), match[2]])
  }
  return parameters
}

function mebibytes(text) {
  const match = /^(\d{1,6})([MG])$/.exec(text)
  if (match === null) throw misuse(`--memory wants a size such as 2G or 1536M, not '${text}'`)
  return Number(match[1]) * (match[2] === 'G' ? 1024 : 1)
}

/** Parses the words after the script's name. `command` is undefined when there is none. Throws on misuse (exit code 2). */
export function parseOptions(words) {
  const border = words.indexOf('--')
  const own = border === -1 ? words : words.slice(0, border)
  const command = border === -1 ? [] : words.slice(border + 1)
  let values
  try {
    values = parseArgs({ args: own, options: table, strict: true, allowPositionals: false }).values
  } catch (error) {
    throw misuse(error.message.split('. ')[0])
  }
  const options = {
    ...values,
    patience: integer('patience', values.patience, 1),
    timeLimit: values['time-limit'] === undefined ? undefined : integer('time-limit', values['time-limit'], 1),
    cpus: integer('cpus', values.cpus, 1),
    hugepages: integer('hugepages', values.hugepages, 0),
    memory: mebibytes(values.memory),
    parameters: moduleParameters(values.module),
    command: command.length > 0 ? command : undefined,
  }
  if (border !== -1 && command.length === 0) throw misuse("nothing follows '--'")
  if (options.test !== undefined && options.command !== undefined)
    throw misuse('--test belongs to the default command, which a command after -- replaces')
  if (options.memlock !== undefined && options.memlock !== 'unlimited') integer('memlock', options.memlock, 0)
  if (!['6.12', '7', '7.3'].includes(options.kernel))
    throw misuse(`--kernel knows 6.12, 7 and 7.3, not '${options.kernel}'`)
  if (options.hugepages * 2 > options.memory - 512)
    throw misuse(`${options.hugepages} hugepages leave less than 512 MiB of ${options.memory} MiB: raise --memory`)
  for (const name of options.with) if (name !== 'dpdk') throw misuse(`--with knows dpdk, not '${name}'`)
  for (const entry of options.env)
    if (!/^[A-Za-z_][A-Za-z0-9_]*(=|$)/.test(entry)) throw misuse(`--env wants NAME or NAME=VALUE, not '${entry}'`)
  return options
}
