// The command `vhost-vdpa`: its words, and how each of them ends. What they do is in the files beside this one.

import { Command, CommanderError, InvalidArgumentError, Option } from 'commander'
import { isVdpaError, type VdpaError } from '../base/errors.js'
import { add, bind, remove, set, unbind, type Patience } from './changes.js'
import { completionScript, shells } from './completion.js'
import { doctor } from './doctor.js'
import { realHost, simulatedHost, type Host } from './host.js'
import { isolate } from './isolate.js'
import { list, show, stats } from './looks.js'
import { nextStep } from './next-steps.js'
import { jsonLine, paintFor, type Sink } from './output.js'
import { ownVersion } from './own-version.js'
import type { Perform, SharedOptions, Stage } from './perform.js'
import { printable, printableLines } from './terminal-text.js'
import {
  addMonitor,
  addOpened,
  addPlans,
  addTraces,
  addViews,
  addVirtualMachines,
  integer,
  milliseconds,
} from './words.js'

/** What a run of the command has of its surroundings. */
export interface Surroundings {
  /** What was asked for. */
  readonly stdout: Sink
  /** What went wrong. */
  readonly stderr: Sink
  /** Environment variables. */
  readonly environment?: NodeJS.ProcessEnv
  /** The host instead of this one. */
  readonly host?: Host
  /** Makes a signal that an interrupt aborts, instead of ending the process. */
  readonly interrupt?: () => AbortSignal
}

/** Exit codes: it was done; it failed, or the answer is no; the command line makes no sense. */
export const exitCodes = { done: 0, failed: 1, misused: 2 } as const

/** The code of words that make no sense. */
const MISUSE = 'ERR_INVALID_ARG_VALUE'

/** Runs the command with its words (without the program's name); resolves to the exit code and never rejects. */
export async function run(words: readonly string[], surroundings: Surroundings): Promise<number> {
  const { stdout, stderr, environment = process.env, interrupt = () => new AbortController().signal } = surroundings
  let exitCode: number = exitCodes.done
  const perform: Perform = async (options, work) => {
    const isJson = options.json === true
    try {
      const host = surroundings.host ?? (options.simulator === true ? await simulatedHost() : realHost())
      const paint = isJson ? (_style: unknown, text: string) => text : paintFor(stdout, environment)
      const report = await work(host, paint, { stdout, stderr, environment, interrupt })
      if (report === undefined) return
      stdout.write(isJson ? jsonLine(report.data) : report.lines.map((line) => `${printable(line)}\n`).join(''))
      exitCode = report.exitCode ?? exitCodes.done
    } catch (failure) {
      exitCode = isMisuse(failure) ? exitCodes.misused : exitCodes.failed
      const { message, hint, ...error } = isMisuse(failure)
        ? misused(failure, helpOf(meantBy(words, program)))
        : errorData(failure)
      const isSaid = hint === undefined || message.includes(hint)
      if (isJson) stdout.write(jsonLine({ error: { ...error, message, hint } }))
      else stderr.write(`vhost-vdpa: ${printable(message)}${isSaid ? '' : ` (${printable(hint)})`}\n`)
    }
  }
  // Whoever asks for a document gets one of misuse, too, and no words beside it.
  const wantsJson = words.includes('--json')
  const program = makeProgram(perform, stdout, wantsJson ? { write: () => true } : stderr)
  try {
    await program.parseAsync([...words], { from: 'user' })
  } catch (failure) {
    if (!(failure instanceof CommanderError)) throw failure
    if (failure.exitCode !== 0) {
      const misuse = misuseData(failure, program, words)
      if (wantsJson) stdout.write(jsonLine({ error: misuse }))
      // The other words were said already.
      else if (soughtHelp(words) !== undefined) stderr.write(`error: ${printable(misuse.message)}\n`)
    }
    return failure.exitCode === 0 ? exitCodes.done : exitCodes.misused
  }
  return exitCode
}

function isMisuse(failure: unknown): failure is TypeError | RangeError {
  return failure instanceof TypeError || failure instanceof RangeError
}

function errorData(failure: unknown): { readonly code?: string; readonly message: string; readonly hint?: string } {
  const message = failure instanceof Error ? failure.message : String(failure)
  const found = causeOf(failure)
  if (found === undefined) return { message }
  // Several failures in one sentence: all of them are said.
  const all = found === failure ? message : `${message}: ${messagesOf(failure)}`
  return { code: found.code, message: all, hint: nextStep(found) }
}

/** Words that make no sense to the command itself. */
function misused({ message }: Error, hint: string) {
  return { code: MISUSE, message, hint }
}

/** The refusal itself, or the first of several. */
function causeOf(failure: unknown): VdpaError | undefined {
  if (isVdpaError(failure)) return failure
  return failure instanceof AggregateError ? failure.errors.find((each) => isVdpaError(each)) : undefined
}

function messagesOf(failure: unknown): string {
  if (!(failure instanceof AggregateError)) return ''
  return failure.errors.map((each: unknown) => (each instanceof Error ? each.message : String(each))).join('; ')
}

/** Words that make no sense to commander. Where it shows the help instead, its own sentence is no sentence. */
function misuseData({ code, message }: CommanderError, program: Command, words: readonly string[]) {
  const sought = soughtHelp(words)
  const instead = sought === undefined ? 'a command is missing' : `unknown command '${sought}'`
  return {
    code: MISUSE,
    message: code === 'commander.help' ? instead : message.replace(/^error: /, ''),
    hint: helpOf(meantBy(words, program)),
  }
}

/** The command whose help is asked for by `help`. */
function soughtHelp(words: readonly string[]): string | undefined {
  const [first, sought] = words.filter((text) => !text.startsWith('-'))
  return first === 'help' ? sought : undefined
}

/** Where the words of a command are explained. */
function helpOf(command: Command): string {
  if (command.parent === null) return '`vhost-vdpa help` shows the commands'
  const names: string[] = []
  for (let each: Command | null = command; each !== null; each = each.parent) names.unshift(each.name())
  return `\`${names.join(' ')} --help\` shows what it takes`
}

/** The command that words name; the program itself where they name none. */
function meantBy(words: readonly string[], program: Command): Command {
  let command = program
  for (const each of words.filter((text) => !text.startsWith('-'))) {
    const inner = command.commands.find((candidate) => candidate.name() === each)
    if (inner === undefined) break
    command = inner
  }
  return command
}

/** Each command's mistakes end with where its own words are explained. */
function explainMistakes(command: Command): void {
  command.showHelpAfterError(`(${helpOf(command)})`)
  command.commands.forEach(explainMistakes)
}

function makeProgram(perform: Perform, stdout: Sink, stderr: Sink): Command {
  const program = new Command('vhost-vdpa')
    .description(
      'vDPA devices of this host: which there are, whose they are, and whether a control queue can be alone.',
    )
    .version(ownVersion(), '--version', 'the version of this package')
    .option('--json', 'one JSON document instead of a table')
    .option('--simulator', 'a pretended host with two devices, which lives as long as the command')
    // Commands inherit what their program has when they are made.
    .configureOutput({ writeOut: (text) => stdout.write(text), writeErr: (text) => stderr.write(printableLines(text)) })
    .exitOverride()
    .showSuggestionAfterError()
  addLooks(program, perform)
  addViews(program, perform)
  addOpened(program, perform)
  addPlans(program, perform)
  addMonitor(program, perform)
  addVirtualMachines(program, perform)
  addTraces(program, perform)
  addChanges(program, perform)
  program
    .command('completion')
    .description('a script that completes commands in a shell: source it')
    .addArgument(program.createArgument('<shell>', 'the shell').choices(shells))
    .action((shell: (typeof shells)[number]) => {
      const script = completionScript(program, shell)
      return perform(program.opts<SharedOptions>(), () =>
        Promise.resolve({ data: { shell, script }, lines: script.split('\n') }),
      )
    })
  explainMistakes(program)
  return program
}

function addLooks(program: Command, perform: Perform): void {
  const shared = () => program.opts<SharedOptions>()
  program
    .command('list')
    .description('all devices, their nodes, and who holds them; opens none')
    .action(() => perform(shared(), list))
  program
    .command('show')
    .description('one device: configuration and features; does not open it')
    .argument('<device>', 'its name, its node, or the PCI function above it')
    .action((device: string) => perform(shared(), (host, paint) => show(host, device, paint)))
  program
    .command('stats')
    .description('what the driver counted for one queue (needs CAP_NET_ADMIN)')
    .argument('<device>', 'its name, its node, or the PCI function above it')
    .argument('<queue>', 'the index of the queue', integer)
    .action((device: string, queue: number) => perform(shared(), (host) => stats(host, device, queue)))
  program
    .command('isolate')
    .description('groups, and whether the control queue can be alone; opens the device, which resets it')
    .argument('<device>', 'its name, its node, or the PCI function above it')
    .action((device: string) => perform(shared(), (host, paint) => isolate(host, device, paint)))
  program
    .command('doctor')
    .description('what is missing on this host, and the command that mends it')
    .action(() => perform(shared(), doctor))
}

interface AddOptions {
  readonly mac?: string
  readonly mtu?: number
  readonly queuePairs?: number
  readonly features?: bigint
}

interface PatienceOptions {
  readonly wait?: boolean
  readonly timeout?: number
}

const waitOption = () => new Option('--wait', 'wait until nobody has the node open')
const timeoutOption = () =>
  new Option('--timeout <milliseconds>', 'how long to wait (default 5000)').argParser(milliseconds)

/** An interrupt ends the waiting in order: a driver_override is taken back. */
function patience({ wait, timeout }: PatienceOptions, { interrupt }: Stage): Patience {
  return {
    signal: interrupt(),
    ...(wait !== undefined && { wait }),
    ...(timeout !== undefined && { timeout }),
  }
}

function addChanges(program: Command, perform: Perform): void {
  const shared = () => program.opts<SharedOptions>()
  program
    .command('add')
    .description('makes a device (needs CAP_NET_ADMIN)')
    .argument('<name>', 'the name of the device to be')
    .argument('<maker>', 'what makes it: vdpasim_net, pci/0000:65:00.2')
    .option('--mac <address>', 'the address of a network device')
    .option('--mtu <bytes>', 'the MTU of a network device', integer)
    .option('--queue-pairs <number>', 'pairs of queues of a network device', integer)
    .option('--features <bits>', 'all features to be offered, as a number (0x300830028)', word)
    .action((name: string, managementDevice: string, { mac, mtu, queuePairs, features }: AddOptions) =>
      perform(shared(), (host) =>
        add(host, {
          name,
          managementDevice,
          ...(mac !== undefined && { mac }),
          ...(mtu !== undefined && { mtu }),
          ...(queuePairs !== undefined && { maxQueuePairs: queuePairs }),
          ...(features !== undefined && { features }),
        }),
      ),
    )
  program
    .command('remove')
    .description('deletes a device that nobody has open (needs CAP_NET_ADMIN)')
    .argument('<device>', 'its name, its node, or the PCI function above it')
    .addOption(waitOption())
    .addOption(timeoutOption())
    .action((device: string, options: PatienceOptions) =>
      perform(shared(), (host, _paint, stage) => remove(host, device, patience(options, stage))),
    )
  program
    .command('set')
    .description('gives a network device another address (needs CAP_NET_ADMIN and Linux 6.12)')
    .argument('<device>', 'its name, its node, or the PCI function above it')
    .requiredOption('--mac <address>', 'the address')
    .action((device: string, { mac }: { readonly mac: string }) => perform(shared(), (host) => set(host, device, mac)))
  program
    .command('bind')
    .description('moves a device to a driver, whatever has it now (needs root)')
    .argument('<device>', 'its name, its node, or the PCI function above it')
    .argument('[driver]', 'vhost_vdpa or virtio_vdpa', 'vhost_vdpa')
    .addOption(waitOption())
    .addOption(timeoutOption())
    .action((device: string, driver: string, options: PatienceOptions) =>
      perform(shared(), (host, _paint, stage) =>
        bind(host, device, driver.replaceAll('-', '_'), patience(options, stage)),
      ),
    )
  program
    .command('unbind')
    .description('takes a device from its driver (needs root)')
    .argument('<device>', 'its name, its node, or the PCI function above it')
    .addOption(waitOption())
    .addOption(timeoutOption())
    .action((device: string, options: PatienceOptions) =>
      perform(shared(), (host, _paint, stage) => unbind(host, device, patience(options, stage))),
    )
}

function word(text: string): bigint {
  if (!/^(0x[\da-f]{1,16}|\d{1,20})$/i.test(text)) throw new InvalidArgumentError('It must be a number, such as 0x20.')
  return BigInt(text)
}
