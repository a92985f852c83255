// A disk in a file that a program serves to the kernel by VDUSE, and that the kernel's own driver reads (virtio_vdpa): node vduse.mjs ours|storage-daemon READER. Prints, as
// JSON, how many 4 KiB a second READER (disk.c) has of it, by how many are in flight. The other server is qemu-storage-daemon. For the lab: it needs root, and disks that come and go.
import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, readdirSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'

const [, , whose, reader] = process.argv
const resolve = createRequire(import.meta.url).resolve
const NAME = `bench-${whose}`
const BYTES = 64 << 20
const DEPTHS = [1, 32]
const WARM = 3
const COUNTED = 3

const folder = mkdtempSync(join(tmpdir(), 'vhost-vdpa-bench-'))
const file = join(folder, 'disk')
writeFileSync(file, '')
truncateSync(file, BYTES)

async function until(isSo) {
  while (!isSo()) await pause(20)
}

const disks = () => readdirSync('/sys/block')
const before = disks()
const newDisk = () => disks().find((name) => !before.includes(name))

const servers = {
  ours() {
    const words = ['block', '--file', file, '--vduse', NAME, '--driver', 'virtio_vdpa', '--timeout', '60000']
    return spawn(process.execPath, [resolve('../../../dist/cli/main.js'), 'serve', ...words], {
      stdio: ['ignore', 'ignore', 'inherit'],
    })
  },
  async 'storage-daemon'() {
    const server = spawn(
      'qemu-storage-daemon',
      [
        ...['--blockdev', `driver=file,node-name=disk,filename=${file}`],
        ...['--export', `vduse-blk,id=disk,node-name=disk,name=${NAME},queue-size=256`],
      ],
      { stdio: ['ignore', 'ignore', 'inherit'] },
    )
    await until(() => existsSync(`/dev/vduse/${NAME}`) || server.exitCode !== null)
    // As the machine's own tools do it: the driver that probes first may be another one.
    execFileSync('vdpa', ['dev', 'add', 'name', NAME, 'mgmtdev', 'vduse'])
    const device = `/sys/bus/vdpa/devices/${NAME}`
    if (existsSync(`${device}/driver`)) writeFileSync(`${device}/driver/unbind`, NAME)
    writeFileSync('/sys/bus/vdpa/drivers/virtio_vdpa/bind', NAME)
    return server
  },
}

const server = await servers[whose]()
try {
  await until(() => newDisk() !== undefined || server.exitCode !== null)
  const disk = `/dev/${newDisk()}`
  await until(() => existsSync(disk) || server.exitCode !== null)
  const rates = DEPTHS.map((depth) => {
    const said = execFileSync(reader, [disk, depth, WARM, COUNTED].map(String), { encoding: 'utf8' })
    return [depth, Number(said)]
  })
  console.log(JSON.stringify(Object.fromEntries(rates)))
} finally {
  if (whose !== 'ours') execFileSync('vdpa', ['dev', 'del', NAME])
  server.kill('SIGTERM')
  await once(server, 'close')
  rmSync(folder, { recursive: true, force: true })
}
