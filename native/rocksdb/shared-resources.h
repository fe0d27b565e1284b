// What all databases of the process share: one block cache and one budget of unflushed writes.
//
// They are as large as the shares of the databases that are open: each brings its own and takes it away again, and
// all of them use the whole. The addon is loaded by many worker threads, so access goes through a mutex. The objects
// are never freed: background threads of RocksDB may outlive static destructors.
#pragma once

#include <rocksdb/options.h>

#include <cstdint>

namespace millrace {

// Of one database.
inline constexpr uint64_t kStoreMemoryBytesMin = 2u << 20;

// The share of one database in the cache and the budget; given back by Release, or at the end.
class StoreMemory {
 public:
  explicit StoreMemory(uint64_t bytes);
  ~StoreMemory() { Release(); }
  StoreMemory(const StoreMemory&) = delete;
  StoreMemory& operator=(const StoreMemory&) = delete;
  void Release();
  uint64_t bytes() const { return bytes_; }

 private:
  const uint64_t bytes_;
  bool held_ = true;
};

// What the shared objects may take and do take, in bytes.
struct SharedMemoryUse {
  uint64_t cache_capacity;
  uint64_t cache;
  uint64_t cache_pinned;
  uint64_t write_buffers_capacity;
  uint64_t write_buffers;
};
SharedMemoryUse MeasureSharedMemory();

// Options for a database with a share of `memory_bytes`, tied to the shared objects.
rocksdb::Options StoreOptions(uint64_t memory_bytes);

// Gives memory that was freed back to the system, as far as the C library can.
void ReturnFreeMemory();

}  // namespace millrace
