/**
 * A source of your own: splits with positions, and readers that never block. Positions are in every checkpoint, and
 * splits are dealt out again when the parallelism changes. This one reads the pages of a paged service.
 *
 * Reach for it when no connector fits; for a stream that need not be read again, `fromAsyncIterable` is much shorter.
 */
import { batchOfRows, job, type Source, type SourceReader, type SourceReaderContext, schema, t } from 'millrace'

const order = schema({ shop: t.string(), id: t.int32() })
type Order = { readonly shop: string; readonly id: number }

/** Stands for the service: two orders a page, three pages a shop. */
async function fetchPage(shop: string, page: number): Promise<Order[]> {
  return page < 3 ? [2 * page, 2 * page + 1].map((id) => ({ shop, id })) : []
}

function pagesReader(context: SourceReaderContext): SourceReader {
  const next = new Map<string, number>() // The next page of each split: its position.
  const fetched: { shop: string; rows: Order[] }[] = []
  const fetchNext = (shop: string): void => {
    fetchPage(shop, next.get(shop)!).then(
      (rows) => {
        fetched.push({ shop, rows })
        context.wake() // `poll` is worth calling again.
      },
      (error) => context.fail(error),
    )
  }
  return {
    async open(splits) {
      for (const { id, position } of splits) {
        next.set(id, position as number)
        fetchNext(id)
      }
    },
    poll() {
      const page = fetched.shift()
      if (page === undefined) return { kind: next.size === 0 ? 'end' : 'pending' }
      const { shop, rows } = page
      if (rows.length === 0) {
        next.delete(shop)
        return { kind: 'finished', split: shop }
      }
      next.set(shop, next.get(shop)! + 1)
      fetchNext(shop)
      return { kind: 'batch', split: shop, batch: batchOfRows(order, rows) }
    },
    snapshot: () => [...next].map(([id, position]) => ({ id, position })),
    async close() {},
  }
}

const pages: Source<Order> = {
  kind: 'pages',
  schema: order,
  boundedness: 'bounded',
  splits: async () => ['north', 'south'].map((id) => ({ id, position: 0 })),
  createReader: pagesReader,
}

export default job('orders', (env) => {
  env
    .fromSource(pages)
    .keyBy('shop')
    .sum('id')
    .filter(({ id }) => id === 15)
    .print()
})

/* prints:
{"shop":"north","id":15}
{"shop":"south","id":15}
*/
