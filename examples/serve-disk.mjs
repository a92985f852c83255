import { serveVduse } from 'vhost-vdpa/serve'

const model = { module: new URL('./disk.mjs', import.meta.url), argument: { size: 1 << 30 } }
const server = await serveVduse(model, { name: 'disk0', driver: 'virtio_vdpa', onRefusal: console.error })
console.log(server.path, server.node) // and the disk is in /sys/block
process.once('SIGTERM', () => server.close())
