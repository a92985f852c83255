// Random sequences of requests on vdpa_sim_blk, and on its simulation.

import { describeDifferential } from '../differential/kernel.js'

describeDifferential('vdpa_sim_blk')
