// Random sequences of requests, and random traffic, on vdpa_sim_net and on its simulation.

import { describeDifferential, describeTraffic } from '../differential/kernel.js'

describeTraffic('vdpa_sim_net')
describeDifferential('vdpa_sim_net')
