/**
 * Files in several formats: CSV into Parquet, in a folder for each customer, and those into compressed JSON lines. A
 * `bucketAssigner` says which folder a row goes to; `dateTimeBuckets` makes one for each hour, or whatever else. `filesSource`
 * reads files, folders and patterns, and with `monitorContinuously` it watches for new files and never ends.
 *
 * Reach for it wherever data lies in files. A line that does not fit the schema is kept as a dead letter, with its place
 * and the reason; it does not stop the job.
 */
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { gunzip } from 'node:zlib'
import { StreamExecutionEnvironment, schema, t } from 'millrace'
import { filesSink, filesSource } from 'millrace/connectors/files'

const order = schema({ id: t.int32(), customer: t.string(), euros: t.nullable(t.float64()) })
const folder = await mkdtemp(join(tmpdir(), 'file-formats-'))
const [csv, parquet, json] = [join(folder, 'orders.csv'), join(folder, 'parquet'), join(folder, 'json')]
await writeFile(csv, 'customer,id,euros\n"Lovelace, Ada",1,20.5\nBob,two,7\nBob,3,\n')

const run = async (name: string, declare: (env: StreamExecutionEnvironment) => void): Promise<void> => {
  const env = StreamExecutionEnvironment.createEnvironment().setParallelism(1)
  declare(env)
  const { recordsIn, deadLettered } = await (await env.executeAsync(name)).done
  console.log(`${name}: ${recordsIn} read, ${deadLettered} dead letters`)
}

await run('CSV to Parquet', (env) => {
  env.fromSource(filesSource({ path: csv, format: 'csv', schema: order })).sinkTo(
    filesSink({
      path: parquet,
      format: 'parquet',
      bucketAssigner: ({ customer }) => `customer=${customer.split(',')[0]}`,
    }),
  )
})
await run('Parquet to JSON', (env) => {
  env
    .fromSource(filesSource({ path: parquet, format: 'parquet', schema: order }))
    .sinkTo(filesSink({ path: json, compression: 'gzip' }))
})

console.log((await readdir(parquet)).filter((name) => !name.startsWith('.')).sort())
for (const name of (await readdir(json)).filter((file) => file.endsWith('.jsonl.gz'))) {
  process.stdout.write(await promisify(gunzip)(await readFile(join(json, name))))
}
await rm(folder, { recursive: true })

/* prints:
CSV to Parquet: 2 read, 1 dead letters
Parquet to JSON: 2 read, 0 dead letters
[ 'customer=Bob', 'customer=Lovelace' ]
{"id":3,"customer":"Bob","euros":null}
{"id":1,"customer":"Lovelace, Ada","euros":20.5}
*/
