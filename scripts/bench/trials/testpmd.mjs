// The baseline of the frames rows: DPDK's testpmd on the same device. Usage: node testpmd.mjs PATH, in a lab with hugepages. Prints the frames a second that it reports as received.
import { framesOf } from './testpmd-frames.mjs'

console.log(await framesOf(process.argv[2]))
