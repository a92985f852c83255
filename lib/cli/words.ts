// The words of the commands that look at one device, watch all, and record what is asked of one.

import { InvalidArgumentError, Option, type Command } from 'commander'
import { monitor } from './monitor.js'
import { canRedraw } from './output.js'
import { bench, drawings, groups, topology } from './opened.js'
import type { Perform, SharedOptions, Stage } from './perform.js'
import { apply, plan, schema, type ApplyWords } from './plans.js'
import { convertTrace, recordTrace, replayTrace, showTrace, type ConvertWords } from './traces.js'
import { config, features, status } from './views.js'
import { serve, type ServeWords } from './serve.js'
import { bridge, type BridgeWords, type ListeningOptions } from './virtual-machines.js'

const DEVICE = 'its name, its node, or the PCI function above it'

/** A whole number of the command line. */
export function integer(text: string): number {
  if (!/^\d{1,10}$/.test(text)) throw new InvalidArgumentError('It must be a whole number.')
  return Number(text)
}

/** Milliseconds of a timer: from 1 on. */
export function milliseconds(text: string): number {
  const value = integer(text)
  if (value < 1 || value > 0x7fff_ffff) throw new InvalidArgumentError('It must be from 1 to 2147483647.')
  return value
}

/** The size of a disk: there is something of it. */
function mebibytes(text: string): number {
  const value = integer(text)
  if (value === 0) throw new InvalidArgumentError('It must be at least 1.')
  return value
}

/** A port of TCP. */
function port(text: string): number {
  const value = integer(text)
  if (value > 0xffff) throw new InvalidArgumentError('It must be at most 65535.')
  return value
}

/** features, status, config: one device, by netlink and sysfs alone. */
export function addViews(program: Command, perform: Perform): void {
  const shared = () => program.opts<SharedOptions>()
  program
    .command('features')
    .description('what a device offers and what was negotiated; does not open it')
    .argument('<device>', DEVICE)
    .action((device: string) => perform(shared(), (host, paint) => features(host, device, paint)))
  program
    .command('status')
    .description('who has a device, and whether it could be opened; does not open it')
    .argument('<device>', DEVICE)
    .action((device: string) => perform(shared(), (host, paint) => status(host, device, paint)))
  program
    .command('config')
    .description('the configuration of a device, of disks too; does not open it')
    .argument('<device>', DEVICE)
    .action((device: string) => perform(shared(), (host) => config(host, device)))
}

/** groups, topology, bench: each opens the device. */
export function addOpened(program: Command, perform: Perform): void {
  const shared = () => program.opts<SharedOptions>()
  program
    .command('groups')
    .description('the groups of a device and their queues; opens the device, which resets it')
    .argument('<device>', DEVICE)
    .action((device: string) => perform(shared(), (host, paint) => groups(host, device, paint)))
  program
    .command('topology')
    .description('queues, groups and address spaces as a picture; opens the device, which resets it')
    .argument('<device>', DEVICE)
    .addOption(new Option('--format <format>', 'how it is drawn').choices(drawings).default('text'))
    .action((device: string, { format }: { readonly format: (typeof drawings)[number] }) =>
      perform(shared(), (host) => topology(host, device, format)),
    )
  program
    .command('bench')
    .description('how fast a device answers from here; opens the device, which resets it')
    .argument('<device>', DEVICE)
    .option('--time <milliseconds>', 'for each row', milliseconds, 1000)
    .action((device: string, { time }: { readonly time: number }) =>
      perform(shared(), (host, paint, stage) => bench(host, device, time, paint, stage)),
    )
}

interface MonitorWords {
  readonly interval: number
  readonly count?: number
  readonly openmetrics?: boolean
  readonly web?: number | true
}

/** monitor: all devices, again and again. */
export function addMonitor(program: Command, perform: Perform): void {
  program
    .command('monitor')
    .description('counters and events of all devices: a table on a terminal, JSON lines in a pipe; opens none')
    .option('--interval <milliseconds>', 'between two looks', milliseconds, 1000)
    .option('--count <looks>', 'ends after so many', integer)
    .option('--openmetrics', 'text for Prometheus and its like, each look ended by # EOF')
    .option('--web [port]', 'a page for a browser on this machine, at a secret address; read-only', port)
    .action(({ interval, count, openmetrics = false, web }: MonitorWords) => {
      const shared = program.opts<SharedOptions>()
      return perform(shared, async (host, paint, { stdout, environment, interrupt }) => {
        const ending = { signal: interrupt(), ...(count !== undefined && { count }) }
        await monitor(host, stdout, paint, {
          interval,
          canRedraw: canRedraw(stdout, environment),
          isJson: shared.json === true,
          isOpenMetrics: openmetrics,
          ...ending,
          ...(web !== undefined && { web: web === true ? 0 : web }),
        })
        return undefined
      })
    })
}

/** trace: record, show, replay, convert. */
export function addTraces(program: Command, perform: Perform): void {
  const shared = () => program.opts<SharedOptions>()
  const trace = program
    .command('trace')
    .description('what is asked of a device, call by call: record, show, replay, convert')
  trace
    .command('record')
    .description('asks a device for its groups and writes each call to a file; opens the device, which resets it')
    .argument('<file>', 'JSON lines')
    .argument('<device>', DEVICE)
    .action((file: string, device: string) => perform(shared(), (host) => recordTrace(host, file, device)))
  trace
    .command('show')
    .description('a line for each call of a recorded trace')
    .argument('<file>', 'JSON lines, also those of a RecordingBackend')
    .action((file: string) => perform(shared(), () => showTrace(file)))
  trace
    .command('replay')
    .description('asks the same of another device and shows the first difference; opens the device, which resets it')
    .argument('<file>', 'JSON lines, also those of a RecordingBackend')
    .argument('<device>', DEVICE)
    .action((file: string, device: string) => perform(shared(), (host) => replayTrace(host, file, device)))
  trace
    .command('convert')
    .description('a recorded trace as a picture of time, for ui.perfetto.dev')
    .argument('<file>', 'JSON lines, also those of a RecordingBackend')
    .argument('<output>', 'what is written: trace.pftrace')
    .option('--perfetto', "Perfetto's own packets (the default)")
    .option('--trace-events', 'JSON in the Trace Event Format')
    .action((file: string, output: string, words: ConvertWords) =>
      perform(shared(), () => convertTrace(file, output, words)),
    )
}

interface SocketWords {
  readonly vhostUser: string
}

/** bridge, serve: devices for virtual machines, and for the kernel. */
export function addVirtualMachines(program: Command, perform: Perform): void {
  const listening = ({ stdout, stderr, interrupt }: Stage): ListeningOptions => {
    const isJson = program.opts<SharedOptions>().json === true
    return { stdout, stderr, isJson, signal: interrupt() }
  }
  const socket = ['--vhost-user <path>', 'the socket that virtual machines connect to'] as const
  program
    .command('bridge')
    .description('gives a device to a virtual machine until an interrupt; opens the device, which resets it')
    .argument('<device>', DEVICE)
    .requiredOption(...socket)
    .addOption(
      new Option(
        '--mode <mode>',
        "where its control queue lies: isolated (default), where no guest reaches it, or none; auto, then with the guest's memory",
      ).choices(['isolated', 'auto']),
    )
    .action((device: string, { vhostUser, mode }: SocketWords & Pick<BridgeWords, 'mode'>) =>
      perform(program.opts<SharedOptions>(), (host, _paint, stage) =>
        bridge(host, device, { socket: vhostUser, ...(mode !== undefined && { mode }) }, listening(stage)),
      ),
    )
  program
    .command('serve')
    .description('gives a device that is made here to virtual machines, or to the kernel, until an interrupt')
    .addArgument(program.createArgument('<kind>', 'what it is').choices(['net', 'block']))
    .option(...socket)
    .option('--vduse <name>', 'the name of the device that the kernel is to have (needs root)')
    .addOption(
      new Option(
        '--driver <driver>',
        'who has it in the kernel: a node, or a disk or network card of this system',
      ).choices(['vhost_vdpa', 'virtio_vdpa']),
    )
    .option('--take-over', 'goes on with a device whose server died less than 30 seconds ago')
    .option('--timeout <milliseconds>', 'for the kernel to move it, and to give it up (default 5000)', milliseconds)
    .option('--mac <address>', 'the address of a network device (default 02:00:00:00:00:01)')
    .option('--queue-pairs <number>', 'pairs of queues of a network device (default 1)', integer)
    .option('--file <path>', 'the file that a disk is kept in; without it, memory')
    .option('--size <MiB>', 'the size of a disk in memory (default 128), or of a file that is made', mebibytes)
    .option('--direct', 'past the page cache (O_DIRECT)')
    .option('--read-only', 'a disk that cannot be written')
    .option('--no-lock', 'without locking the file against others')
    .action((kind: 'net' | 'block', words: ServeWords) =>
      perform(program.opts<SharedOptions>(), (_host, _paint, stage) => serve(kind, words, listening(stage))),
    )
}

/** plan, apply: which devices the host should have. */
export function addPlans(program: Command, perform: Perform): void {
  const shared = () => program.opts<SharedOptions>()
  program
    .command('plan')
    .description('what would have to be done for the host to be as a plan says; changes nothing and opens none')
    .argument('[file]', 'the plan, in YAML or JSON; - is standard input')
    .option('--schema', "the plans' JSON schema instead")
    .action((file: string | undefined, options: { readonly schema?: true }, command: Command) => {
      if (options.schema === true) return perform(shared(), () => Promise.resolve(schema()))
      if (file === undefined) command.error('error: the file of the plan is missing')
      return perform(shared(), (host, paint) => plan(host, file, paint))
    })
  program
    .command('apply')
    .description('makes the host as a plan says, or leaves it as it was (needs root)')
    .argument('<file>', 'the plan, in YAML or JSON; - is standard input')
    .option('--dry-run', 'on a pretended host')
    .option('--journal <file>', 'writes there first the plan that brings back what is there now')
    .addOption(new Option('--wait', 'wait until nobody has a device open that must be deleted or moved'))
    .addOption(new Option('--timeout <milliseconds>', 'how long to wait (default 5000)').argParser(milliseconds))
    .action((file: string, options: ApplyWords) =>
      perform(shared(), (host, _paint, stage) => apply(host, file, options, stage)),
    )
}
