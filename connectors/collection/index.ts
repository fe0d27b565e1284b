/** Collection connector: a bounded source over rows in memory. */
export { collectionSource } from './collection-source.ts'
