// A guest's machine as a process: begun, and ended with whoever began it.
import { spawn } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { firstProgram } from './first-program.mjs'
import { writeArchive } from './initramfs.mjs'

const BUSYBOX = '/bin/busybox'

/** What is missing for a guest's file system; undefined where nothing is. */
export function whyNoBusybox() {
  if (existsSync(BUSYBOX) && !readFileSync(BUSYBOX).includes('/lib64/ld-linux')) return undefined
  return 'as root, run: apt-get install busybox-static'
}

/**
 * Boots `command` with the arguments that `wordsOf(archive)` gives and waits for its end. The archive is the guest's file system: busybox, the script, and
 * `modules`, pairs of a name and a file. Its console is this process's output.
 */
export async function boot({ command, script, modules, wordsOf, env = process.env }) {
  const folder = mkdtempSync(join(tmpdir(), 'vhost-vdpa-guest-'))
  try {
    const archive = join(folder, 'initramfs')
    const names = modules.map(([name]) => name)
    writeArchive(archive, [
      ['bin/busybox', BUSYBOX],
      ['init', Buffer.from(firstProgram(script, names))],
      ...modules.map(([name, file]) => [`modules/${name}.ko`, file]),
    ])
    const guest = spawn(command, wordsOf(archive), { detached: true, env, stdio: ['ignore', 'inherit', 'inherit'] })
    // The guest's programs may be processes of its group.
    const kill = () => {
      try {
        process.kill(-guest.pid, 'SIGKILL')
      } catch {
        return
      }
    }
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, kill)
    return await new Promise((resolve, reject) => {
      guest.once('error', reject)
      guest.once('exit', (code, signal) => resolve({ code, signal }))
    })
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}
