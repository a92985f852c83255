// Runs other programs and collects what they say. It knows nothing of packages, kernels or machines.
import { execFile, execFileSync } from 'node:child_process'

const LIMIT = 256 * 1024 * 1024

/**
 * Runs a program to its end without a shell.
 * Resolves with `{ code, stdout, stderr }` whatever the exit code is; a program that does not exist has code 127.
 */
export function run(program, args, options = {}) {
  return new Promise((resolve) => {
    const child = execFile(program, args, { maxBuffer: LIMIT, ...options }, (error, stdout, stderr) => {
      const code = error === null ? 0 : error.code === 'ENOENT' ? 127 : typeof error.code === 'number' ? error.code : 1
      resolve({ code, stdout, stderr: code === 127 ? `${program}: command not found` : stderr })
    })
    child.stdin?.end()
  })
}

/** As `run`, but an exit code other than 0 throws an error that quotes the end of what the program said. */
export async function runOrThrow(program, args, options = {}) {
  const result = await run(program, args, options)
  if (result.code === 0) return result.stdout
  const said = `${result.stdout}\n${result.stderr}`.trim().split('\n').slice(-8).join('\n')
  throw new Error(`${program} ${args.slice(0, 3).join(' ')} ... ended with ${result.code}:\n${said}`)
}

/** True when a program of this name is on the PATH. */
export function hasProgram(name) {
  try {
    execFileSync('/bin/sh', ['-c', 'command -v "$1"', 'sh', name], { stdio: 'ignore' })
    return true
  } catch {
    return false
  }
}
