import { fork } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { BlockDriver, openDevice } from 'vhost-vdpa'
import { blockDevice, serveVfioChannel } from 'vhost-vdpa/serve'

const socket = process.env['CHANNEL'] ?? '/run/disk.channel'

if (process.argv[2] === 'serve') {
  serveVfioChannel(blockDevice({ capacity: 2048 }), { socket, onRefusal: (error) => console.error(error.message) })
  process.send?.('ready')
} else {
  const server = fork(fileURLToPath(import.meta.url), ['serve'])
  await once(server, 'message')
  const device = await openDevice(`vfio-channel:${socket}`, { expect: 'block' })
  await device.negotiate(['VIRTIO_BLK_F_FLUSH'])
  const disk = await BlockDriver.start(device)
  await device.start()
  await disk.write(0, Buffer.from('read by another process'.padEnd(512)))
  console.log(new TextDecoder().decode(await disk.read(0, 1)).trim())
  await device.close()
  server.kill()
}
