/** Collection connector: a bounded source over rows in memory. */
export { type CollectionOptions, collectionSource } from './collection-source.ts'
