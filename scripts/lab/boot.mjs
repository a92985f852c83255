// Runs the machine: listens on its channels, passes the command's output on as it comes, and ends it at the time limit or on a
// signal. What the machine consists of is machine.mjs; what the guest does is guest/.
import { spawn } from 'node:child_process'
import { createServer } from 'node:net'
import { once } from 'node:events'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { constants } from 'node:os'
import { ownFolder } from './guest-files.mjs'
import { exitCodes, labError, report } from './progress.mjs'
import { hasProgram } from './processes.mjs'

const CONSOLE_LIMIT = 64 * 1024
const TROUBLE = /BUG:|WARNING:|Oops|Call Trace|Kernel panic|general protection|Out of memory/

/** A unix socket that QEMU connects to once; `onSocket` gets the connection, `ended` settles when it is over. */
async function listen(path, onSocket) {
  const server = createServer()
  server.listen(path)
  await once(server, 'listening')
  const ended = new Promise((resolve) => {
    server.once('connection', (socket) => {
      socket.on('error', () => undefined)
      socket.once('close', resolve)
      onSocket(socket)
    })
    server.once('close', resolve)
  })
  return { server, ended }
}

/** Passes the guest's output on. A reader that goes away (`| head`) must not stop the guest: what follows is dropped. */
function forward(socket, target) {
  socket.pipe(target, { end: false })
  target.on('error', () => {
    socket.unpipe(target)
    socket.resume()
  })
}

/** The serial console: keeps its end for a report on failure, and turns the guest's "lab:" lines into progress. */
function watchConsole(show) {
  let kept = ''
  let partial = ''
  const accept = (chunk) => {
    const text = chunk.toString('latin1').replaceAll('\r', '')
    kept = (kept + text).slice(-CONSOLE_LIMIT)
    if (show) process.stderr.write(text)
    const lines = (partial + text).split('\n')
    partial = lines.pop() ?? ''
    for (const line of lines) if (line.startsWith('lab: ')) report(`guest: ${line.slice(5)}`)
  }
  return {
    accept,
    tail: (count) => kept.trimEnd().split('\n').slice(-count).join('\n'),
    hasTrouble: () => TROUBLE.test(kept),
  }
}

/** QEMU dies with this process even when this process is killed without a chance to tidy up. */
const dieWithParent = (command) =>
  hasProgram('setpriv') ? ['setpriv', '--pdeathsig', 'KILL', '--', ...command] : command

/**
 * Ends the machine on a signal, when nothing was heard of it for `patience` seconds, or at the limit; `reason()` says which it was. A machine that is slow, because
 * others use the host, still says something; one that hangs does not.
 */
function guard(child, patience, seconds) {
  let reason
  const end = (why) => {
    reason ??= why
    child.kill('SIGKILL')
  }
  const silence = setTimeout(() => end({ kind: 'silence', patience }), patience * 1000)
  const timer = seconds === undefined ? undefined : setTimeout(() => end({ kind: 'limit', seconds }), seconds * 1000)
  const signals = ['SIGINT', 'SIGTERM', 'SIGHUP']
  const listeners = signals.map((name) => [name, () => end({ kind: 'signal', name })])
  for (const [name, listener] of listeners) process.on(name, listener)
  const release = () => {
    clearTimeout(silence)
    clearTimeout(timer)
    for (const [name, listener] of listeners) process.off(name, listener)
  }
  return { reason: () => reason, heard: () => silence.refresh(), release }
}

async function readExitCode(shareFolder) {
  try {
    const text = await readFile(join(shareFolder, ownFolder, 'exit-code'), 'utf8')
    return /^\d+\n$/.test(text) ? Number(text) : undefined
  } catch {
    return undefined
  }
}

function startMachine(command) {
  const environment = { ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` }
  const [program, ...args] = dieWithParent(command)
  const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'pipe'], env: environment, detached: true })
  let said = ''
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk) => (said = (said + chunk).slice(-4096)))
  const ended = new Promise((resolve) => {
    child.once('error', (error) => resolve(error.message))
    child.once('close', () => resolve(undefined))
  })
  return { child, ended, said: () => said.trim() }
}

function verdict(code, reason, machine, console) {
  if (reason?.kind === 'signal') {
    report(`ended by ${reason.name}`)
    return 128 + constants.signals[reason.name]
  }
  if (reason !== undefined) {
    const why =
      reason.kind === 'silence'
        ? `after ${reason.patience} s in which nothing was heard of it (--patience)`
        : `at the time limit of ${reason.seconds} s (--time-limit)`
    throw labError(exitCodes.timeLimit, `the machine was ended ${why}; the end of its console:\n${console.tail(20)}`)
  }
  if (code === undefined) {
    const said = [machine.said(), console.tail(40)].filter((text) => text !== '').join('\n')
    throw labError(exitCodes.machineFailed, `the machine ended without the command's exit code:\n${said}`)
  }
  report(`the command ended with ${code}`)
  if (console.hasTrouble()) report(`the guest's kernel complained:\n${console.tail(60)}`)
  return code
}

/**
 * Boots `command` (a whole QEMU command line) and resolves with the exit code of the guest's command. `sockets` are the paths that
 * QEMU was told; `patience` and `timeLimit` are in seconds. Throws with code 124 when one of them is over and 3 when the machine dies or its devices are missing.
 */
export async function boot({ command, sockets, shareFolder, patience, timeLimit, showConsole }) {
  const console = watchConsole(showConsole)
  let hear = () => undefined
  const onChannel = (accept) => (socket) => {
    socket.on('data', () => hear())
    accept(socket)
  }
  const channels = [
    await listen(
      sockets.stdout,
      onChannel((socket) => forward(socket, process.stdout)),
    ),
    await listen(
      sockets.stderr,
      onChannel((socket) => forward(socket, process.stderr)),
    ),
    await listen(
      sockets.console,
      onChannel((socket) => socket.on('data', console.accept)),
    ),
  ]
  const machine = startMachine(command)
  const guarded = guard(machine.child, patience, timeLimit)
  hear = guarded.heard
  const failure = await machine.ended
  guarded.release()
  for (const { server } of channels) server.close()
  await Promise.all(channels.map(({ ended }) => ended))
  if (failure !== undefined) throw labError(exitCodes.machineFailed, `QEMU cannot be started: ${failure}`)
  return verdict(await readExitCode(shareFolder), guarded.reason(), machine, console)
}
