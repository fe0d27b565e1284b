/** The log sink keeps what sinks promise; torn files and partitions are in log.test.ts. */
import { describe, test } from 'node:test'
import { schema, t } from '../../engine/core/schema.ts'
import { sinkChecks } from '../sink-conformance.ts'
import { readRows } from '../testing-context.ts'
import { logSink, logSource, openLog } from './index.ts'

const ROW = schema({ id: t.int32(), text: t.string() })
type Row = { readonly id: number; readonly text: string }

describe('log sink', () => {
  const checks = sinkChecks<Row>({
    schema: ROW,
    rowOf: (id) => ({ id, text: `é${id}` }),
    async create(directory) {
      const log = await openLog(directory)
      await log.createTopic('events', { partitions: 2, segmentBytes: 300 })
      await log.close()
      return {
        sink: () => logSink({ directory, topic: 'events', key: 'id' }),
        visible: async () =>
          (await readRows(logSource({ directory, topic: 'events', schema: ROW, bounded: true }))).rows as Row[],
      }
    },
  })
  for (const { name, run } of checks) test(name, run)
})
