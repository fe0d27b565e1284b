/**
 * Word count: split lines, bring equal words together with `keyBy`, and keep a running reduction of each.
 *
 * Reach for `reduce` when a result has the same shape as the elements and every update may be shown.
 */
import { job } from 'millrace'

const lines = ['to be or not to be', 'that is the question', 'whether it is nobler']

export default job('word count', (env) => {
  env
    .fromCollection(lines)
    .flatMap((line) => line.split(' ').map((word) => ({ word, count: 1 })))
    .keyBy('word')
    .reduce((total, next) => ({ word: total.word, count: total.count + next.count }))
    .filter(({ count }) => count > 1)
    .print()
})

/* prints:
{"word":"to","count":2}
{"word":"be","count":2}
{"word":"is","count":2}
*/
