/**
 * The other half of the simulator's seeds; see sim.test.ts.
 */
import { test } from 'node:test'
import { assertSeedsHold } from './sim.testkit.ts'

test('more seeds keep every invariant', () => assertSeedsHold(251, 500))
