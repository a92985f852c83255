import { applyPlan, parsePlan, planSteps } from 'vhost-vdpa/plan'
import { Simulator } from 'vhost-vdpa/simulator'

const backend = new Simulator() // new KernelBackend() on a host
const host = { backend, root: backend.management.files } // without `root`: the files of this host
const plan = parsePlan('version: 1\ndevices: [{ name: net0, managementDevice: vdpasim_net, mtu: 9000 }]')
await applyPlan(plan, host)
console.log((await planSteps(plan, host)).length)
