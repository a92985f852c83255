// The sweep on a simulator.

import { describeSweep, everyCode } from './describe-sweep.js'
import { simulatedGround } from './simulated-world.js'

describeSweep({ ground: () => simulatedGround(), codesOf: () => everyCode })
