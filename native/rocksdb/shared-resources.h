// What all databases of the process share: one block cache and one write-buffer budget.
//
// Without them every worker's store would bring its own, and memory would grow with parallelism. The
// addon is loaded by many worker threads, so access goes through a mutex. The objects are never
// freed: background threads of RocksDB may outlive static destructors.
#pragma once

#include <rocksdb/options.h>

#include <cstdint>

namespace millrace {

// Sets the budgets. Throws kArgument when they were already set, or already in use, with other values.
void Configure(uint64_t block_cache_bytes, uint64_t write_buffer_bytes);

// Options for a store, tied to the shared objects; fixes the default budgets if none were set.
rocksdb::Options StoreOptions();

}  // namespace millrace
