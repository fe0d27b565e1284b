/**
 * The metrics, read back by a small parser of the text format that shares no code with its writer.
 */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { Exposition } from './exposition.ts'
import { renderMetrics } from './metrics.ts'
import { ProcessMetrics } from './process-metrics.ts'
import { startServer } from './server.ts'
import { send } from './server-client.ts'
import { fixtureJob, fixtureNowMs, fixtureStatus } from './server-fixture.ts'

interface Sample {
  readonly name: string
  readonly labels: Record<string, string>
  readonly value: number
}

/** Reads `name="value",...}` from `at` (after the brace); returns the labels and what follows the brace. */
function parseLabels(line: string, at: number): { labels: Record<string, string>; rest: string } {
  const labels: Record<string, string> = {}
  let index = at
  while (line[index] !== '}') {
    const equals = line.indexOf('="', index)
    assert.ok(equals > index, `label in: ${line}`)
    const name = line.slice(index, equals)
    assert.match(name, /^[a-zA-Z_][a-zA-Z0-9_]*$/)
    let value = ''
    index = equals + 2
    while (line[index] !== '"') {
      assert.ok(index < line.length, `unclosed label value: ${line}`)
      if (line[index] === '\\') {
        const escaped = line[index + 1]
        assert.ok(escaped === 'n' || escaped === '\\' || escaped === '"', `escape in: ${line}`)
        value += escaped === 'n' ? '\n' : escaped
        index += 2
      } else {
        value += line[index]
        index += 1
      }
    }
    assert.ok(!(name in labels), `label twice: ${line}`)
    labels[name] = value
    index += 1
    if (line[index] === ',') index += 1
  }
  return { labels, rest: line.slice(index + 1) }
}

/** Checks the form of every line, and that HELP and TYPE come once and before the samples of their family. */
function parse(text: string): { samples: Sample[]; types: Map<string, string> } {
  assert.ok(text.endsWith('\n'))
  const types = new Map<string, string>()
  const samples: Sample[] = []
  const seen = new Set<string>()
  let current = ''
  let helpOf = ''
  for (const line of text.slice(0, -1).split('\n')) {
    const help = /^# HELP (\S+) (.+)$/.exec(line)
    const type = /^# TYPE (\S+) (counter|gauge|summary)$/.exec(line)
    if (help !== null) {
      helpOf = String(help[1])
    } else if (type !== null) {
      current = String(type[1])
      assert.equal(helpOf, current, 'HELP stands before TYPE')
      assert.ok(!types.has(current), `family ${current} once`)
      types.set(current, String(type[2]))
    } else {
      const name = /^[a-zA-Z_:][a-zA-Z0-9_:]*/.exec(line)?.[0] ?? ''
      const family = types.get(current) === 'summary' ? name.replace(/_(sum|count)$/, '') : name
      assert.equal(family, current, `sample inside its family: ${line}`)
      const hasLabels = line[name.length] === '{'
      const { labels, rest } = hasLabels
        ? parseLabels(line, name.length + 1)
        : { labels: {}, rest: line.slice(name.length) }
      assert.match(rest, /^ (-?\d+(\.\d+)?([eE][+-]?\d+)?|\+Inf|-Inf|NaN)$/, line)
      const series = name + JSON.stringify(Object.entries(labels).sort())
      assert.ok(!seen.has(series), `series once: ${line}`)
      seen.add(series)
      samples.push({ name, labels, value: Number(rest.trim().replace('Inf', 'Infinity')) })
    }
  }
  return { samples, types }
}

function find(samples: readonly Sample[], name: string, labels: Record<string, string> = {}): Sample[] {
  return samples.filter(
    (sample) => sample.name === name && Object.entries(labels).every(([key, value]) => sample.labels[key] === value),
  )
}

function metric(samples: readonly Sample[], name: string, labels: Record<string, string> = {}): number {
  const found = find(samples, name, labels)
  assert.equal(found.length, 1, `${name} ${JSON.stringify(labels)}`)
  return found[0]!.value
}

describe('GET /metrics', () => {
  test('serves every figure of the status', async () => {
    const second = fixtureStatus({ id: 'job-2', name: 'other', state: 'failed', subtasks: [], checkpoints: [] })
    const jobs = [fixtureJob(), fixtureJob(second)]
    const server = await startServer({ port: 0, jobs: () => jobs, nowMs: () => fixtureNowMs })
    const answer = await send(server.port, '/metrics')
    await server.close()
    assert.equal(answer.status, 200)
    assert.equal(answer.headers['content-type'], 'text/plain; version=0.0.4; charset=utf-8')
    const { samples, types } = parse(answer.text)

    const job = { job_id: 'job-1' }
    const subtask = { ...job, operator: 'windows', subtask: '0' }
    assert.equal(metric(samples, 'millrace_job_info', { ...job, job_name: 'Pattern "detection"' }), 1)
    assert.equal(metric(samples, 'millrace_job_state', { ...job, state: 'running' }), 1)
    assert.equal(metric(samples, 'millrace_job_state', { ...job, state: 'failed' }), 0)
    assert.equal(metric(samples, 'millrace_job_state', { job_id: 'job-2', state: 'failed' }), 1)
    assert.equal(find(samples, 'millrace_job_state', job).length, 7)
    assert.equal(metric(samples, 'millrace_job_restarts_total', job), 2)
    assert.equal(metric(samples, 'millrace_job_records_in_total', job), 1500)
    assert.equal(metric(samples, 'millrace_job_watermark_lag_seconds', job), 6)
    assert.equal(metric(samples, 'millrace_subtask_records_in_total', subtask), 890)
    assert.equal(metric(samples, 'millrace_subtask_records_out_total', subtask), 90)
    assert.equal(metric(samples, 'millrace_subtask_late_dropped_total', subtask), 4)
    assert.equal(metric(samples, 'millrace_subtask_filtered_total', { operator: 'events', subtask: '0' }), 3)
    assert.equal(metric(samples, 'millrace_subtask_dead_lettered_total', { operator: 'events', subtask: '0' }), 7)
    assert.equal(metric(samples, 'millrace_subtask_watermark_lag_seconds', subtask), 5)
    assert.equal(metric(samples, 'millrace_subtask_busy_ratio', subtask), 0.95)
    assert.equal(metric(samples, 'millrace_subtask_back_pressured_ratio', { operator: 'windows', subtask: '1' }), 0.5)
    assert.equal(metric(samples, 'millrace_subtask_state_bytes', subtask), 2048)
    assert.equal(metric(samples, 'millrace_subtask_busyTimeMsPerSecond', subtask), 950)
    assert.equal(metric(samples, 'millrace_subtask_backPressuredTimeMsPerSecond', subtask), 0)
    assert.ok(Math.abs(metric(samples, 'millrace_subtask_idleTimeMsPerSecond', subtask) - 50) < 1e-9)
    const operator = { ...job, task: 'windows', operator: 'windows', operator_name: 'aggregate', subtask: '0' }
    assert.equal(metric(samples, 'millrace_operator_records_in_total', operator), 890)
    assert.equal(metric(samples, 'millrace_operator_busyTimeMsPerSecond', operator), 250)
    assert.equal(metric(samples, 'millrace_operator_idleTimeMsPerSecond', operator), 750)
    assert.equal(metric(samples, 'millrace_state_entries', { ...operator, state: 'windows' }), 50)
    assert.equal(metric(samples, 'millrace_state_checkpoint_bytes', { ...operator, state: 'windows' }), 1_000)
    const skew = metric(samples, 'millrace_vertex_records_skew_ratio', { ...job, operator: 'windows' })
    assert.ok(Math.abs(skew - 890 / 745) < 1e-9)
    const paused = { ...job, group: 'events', operator: 'events', subtask: '1' }
    assert.equal(metric(samples, 'millrace_alignment_paused', paused), 1)
    assert.equal(metric(samples, 'millrace_alignment_drift_seconds', paused), 3)
    assert.equal(metric(samples, 'millrace_split_behind_seconds', { ...job, reason: 'behind' }), 4)
    assert.equal(metric(samples, 'millrace_last_checkpoint_sync_seconds', job), 0.0015)
    assert.equal(metric(samples, 'millrace_last_checkpoint_async_seconds', job), 0.02)
    assert.equal(metric(samples, 'millrace_split_idle', { ...job, split: 'learning-events-3' }), 1)
    assert.equal(metric(samples, 'millrace_split_holds_time_back', { ...job, split: 'learning-events-1' }), 1)
    assert.equal(metric(samples, 'millrace_checkpoints_total', { ...job, status: 'completed' }), 40)
    assert.equal(metric(samples, 'millrace_checkpoints_total', { ...job, status: 'failed' }), 1)
    assert.equal(metric(samples, 'millrace_checkpoints_in_progress', job), 1)
    assert.equal(metric(samples, 'millrace_last_checkpoint_duration_seconds', job), 0.034)
    assert.equal(metric(samples, 'millrace_last_checkpoint_new_bytes', job), 512)
    assert.equal(metric(samples, 'millrace_sink_marker_epoch', { ...job, guarantee: 'exactly-once' }), 40)
    assert.deepEqual(find(samples, 'millrace_last_checkpoint_epoch', { job_id: 'job-2' }), [])

    assert.ok(metric(samples, 'process_cpu_seconds_total') > 0)
    assert.ok(metric(samples, 'process_resident_memory_bytes') > 10e6)
    assert.equal(find(samples, 'millrace_event_loop_lag_seconds').length, 3)
    for (const [name, type] of types) assert.equal(type === 'counter', name.endsWith('_total'), name)
  })

  test('without jobs there are only the metrics of the process', () => {
    const process = new ProcessMetrics()
    const { types } = parse(renderMetrics([], 0, (exposition) => process.writeTo(exposition)))
    process.close()
    assert.deepEqual(
      [...types.keys()].filter((name) => /job|subtask|split|checkpoint/.test(name)),
      [],
    )
  })

  test('what is not known has no sample', () => {
    const status = fixtureStatus()
    const subtasks = status.subtasks.map((subtask) => ({ ...subtask, watermarkMs: null }))
    const text = renderMetrics([{ ...status, subtasks, splitWatermarks: [], checkpoints: [] }], 0, () => {})
    const { samples } = parse(text)
    assert.deepEqual(find(samples, 'millrace_subtask_watermark_seconds'), [])
    assert.deepEqual(find(samples, 'millrace_job_watermark_lag_seconds'), [])
    assert.ok(find(samples, 'millrace_subtask_records_in_total').length > 0)
  })
})

test('metrics of user functions have their names, one sample a subtask', () => {
  const user = { operator: 'enrich', operatorName: 'Enrich "x"' }
  const quantiles = [
    [0.5, 3],
    [0.99, 9],
  ] as const
  const windows = fixtureStatus().subtasks.filter(({ vertex }) => vertex === 1)
  const subtasks = windows.map((subtask, i) => ({
    ...subtask,
    userMetrics: [
      { ...user, name: 'cache_hits', kind: 'counter' as const, value: 5 + i },
      { ...user, name: 'size', kind: 'histogram' as const, value: 4, summary: { sum: 12, quantiles } },
      // Another operator uses the name for something else.
      { ...user, operator: 'other', name: 'size', kind: 'gauge' as const, value: 1 },
    ],
  }))
  const { samples, types } = parse(renderMetrics([fixtureStatus({ subtasks })], 0, () => {}))
  assert.equal(metric(samples, 'millrace_user_cache_hits', { operator: 'enrich', subtask: '0' }), 5)
  assert.equal(find(samples, 'millrace_user_cache_hits').length, subtasks.length)
  assert.equal(types.get('millrace_user_cache_hits'), 'gauge')
  assert.equal(types.get('millrace_user_size'), 'summary')
  assert.equal(metric(samples, 'millrace_user_size', { subtask: '0', quantile: '0.99' }), 9)
  assert.equal(metric(samples, 'millrace_user_size_sum', { subtask: '0' }), 12)
  assert.equal(metric(samples, 'millrace_user_size_count', { subtask: '0' }), 4)
  assert.equal(metric(samples, 'millrace_user_size_gauge', { operator: 'other', subtask: '0' }), 1)
})

test('any label value survives writing and reading, any number too', () => {
  fc.assert(
    fc.property(
      fc.string({ unit: fc.constantFrom('a', '"', '\\', '\n', '}', ',', '=', '{', 'é', ' ') }),
      fc.double(),
      (label, value) => {
        const exposition = new Exposition()
        exposition.family('x_total', 'counter', 'with \\ and\nnew line').add({ a: label, b: 1 }, value)
        const [sample] = parse(exposition.toString()).samples
        assert.deepEqual(sample?.labels, { a: label, b: '1' })
        assert.ok(Object.is(sample?.value, value) || sample?.value === value, `${sample?.value} ${value}`)
      },
    ),
  )
})

test('event loop lag sees a blocked loop', async () => {
  const process = new ProcessMetrics()
  const pause = () => new Promise((resolve) => setTimeout(resolve, 150))
  await pause()
  const endMs = performance.now() + 200
  while (performance.now() < endMs);
  // Most turns are short ones soon, on whatever machine.
  do await pause()
  while (process.eventLoopLag().p50Ms >= process.eventLoopLag().maxMs)
  const { maxMs } = process.eventLoopLag()
  process.close()
  assert.ok(maxMs > 120, `max ${maxMs} ms`)
})
