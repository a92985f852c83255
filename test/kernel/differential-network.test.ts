// Random sequences of requests, and random traffic, on vdpa_sim_net and on its simulation.

import { beforeAll } from '@jest/globals'
import { describeDifferential, describeTraffic } from '../differential/kernel.js'
import { restoreMac } from './support.js'

beforeAll(restoreMac)

describeTraffic('vdpa_sim_net')
describeDifferential('vdpa_sim_net')
