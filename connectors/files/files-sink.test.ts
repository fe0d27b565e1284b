/** The files sink keeps what sinks promise, in each format; what it does to its directory beyond that is in files.test.ts. */
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import { schema, t } from '../../engine/core/schema.ts'
import { sinkChecks } from '../sink-conformance.ts'
import { readRows } from '../testing-context.ts'
import { type FilesSinkOptions, filesSink, filesSource, MARKER_FILE, type TextLine } from './index.ts'

const ROW = schema({ id: t.int32(), text: t.string() })
type Row = { readonly id: number; readonly text: string }

/** Finished files of epochs up to the marker's, as a careful reader takes them. */
async function finishedFiles(path: string): Promise<string[]> {
  const names = await readdir(path, { recursive: true }).catch((): string[] => [])
  if (!names.includes(MARKER_FILE)) return []
  const { epoch } = JSON.parse(await readFile(join(path, MARKER_FILE), 'utf8')) as { epoch: number }
  const isVisible = (name: string): boolean => Number(/(?:^|\/)part-(\d+)-[^/]*$/.exec(name)?.[1] ?? Infinity) <= epoch
  return names.filter(isVisible).map((name) => join(path, name))
}

interface Form {
  readonly options: Omit<FilesSinkOptions<Row>, 'path'>
  /** Checks by name; what the committer does is the same for all forms. */
  readonly checks: RegExp
}

const BUCKETS = ['', 'odd=1/id=1', 'odd=0']

const FORMS: Readonly<Record<string, Form>> = {
  'JSON lines': { options: {}, checks: /./ },
  'JSON lines, rolled': { options: { rollBytes: 60 }, checks: /cut off|several|cancelled/ },
  'in buckets, few of them open': {
    options: { openBucketsMax: 2, bucketAssigner: ({ id }) => BUCKETS[Math.floor(Math.sqrt(id)) % 3]! },
    checks: /2048|the cut|cancelled|crash|replaced|cut off|hangs|random/,
  },
  'text, gzip': {
    options: { format: 'text', encoder: (row) => JSON.stringify(row), compression: 'gzip' },
    checks: /2048|the cut/,
  },
  'CSV, gzip': { options: { format: 'csv', compression: 'gzip' }, checks: /batches|the cut/ },
  Parquet: { options: { format: 'parquet' }, checks: /batches|the cut/ },
}

for (const [name, { options, checks: wanted }] of Object.entries(FORMS)) {
  const checks = sinkChecks<Row>({
    schema: ROW,
    rowOf: (id) => ({ id, text: `"é",${id}\n` }),
    create: (directory) => ({
      sink: () => filesSink({ ...options, path: join(directory, 'out') }),
      async visible() {
        const files = await finishedFiles(join(directory, 'out'))
        if (files.length === 0) return []
        if (options.format === 'text') {
          const { rows } = await readRows(filesSource({ path: files, format: 'text' }))
          return (rows as TextLine[]).map(({ line }) => JSON.parse(line) as Row)
        }
        const source = filesSource({ path: files, format: options.format ?? 'json', schema: ROW })
        return (await readRows(source)).rows as Row[]
      },
    }),
  })
  describe(`files sink: ${name}`, () => {
    for (const { name: check, run } of checks) if (wanted.test(check)) test(check, run)
  })
}
