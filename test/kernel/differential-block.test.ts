// Random sequences of requests, and random traffic, on vdpa_sim_blk and on its simulation.

import { describeDifferential, describeTraffic } from '../differential/kernel.js'

describeTraffic('vdpa_sim_blk')
describeDifferential('vdpa_sim_blk')
