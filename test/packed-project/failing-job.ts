/**
 * For test/packed-install.ts: a job whose function throws; line 10 is what the user must be told.
 */
import { job } from 'millrace'

export default job('failing', (env) => {
  env
    .fromElements(1, 2, 3)
    .map((n) => {
      if (n === 2) throw new Error(`cannot take ${n}`)
      return n
    })
    .print()
})
