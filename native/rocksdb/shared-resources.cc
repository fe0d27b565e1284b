// See shared-resources.h.
#include "shared-resources.h"

#include <rocksdb/cache.h>
#include <rocksdb/convenience.h>
#include <rocksdb/filter_policy.h>
#include <rocksdb/table.h>
#include <rocksdb/write_buffer_manager.h>

#include <algorithm>
#include <memory>
#include <mutex>

#include "failure.h"
#include "recoverable-files.h"

namespace millrace {
namespace {

constexpr uint64_t kDefaultBlockCacheBytes = 64u << 20;
constexpr uint64_t kDefaultWriteBufferBytes = 64u << 20;
// The cache is split by hash so that threads do not wait for each other. Small parts would refuse large blocks and
// hold no more than a few of the others.
constexpr uint64_t kCacheShardBytesMin = 8u << 20;
constexpr int kCacheShardBitsMax = 4;
// Of the cache, for blocks of filters and indexes before those of data.
constexpr double kCacheHighPriorityShare = 0.5;

struct Shared {
  std::mutex mutex;
  uint64_t block_cache_bytes = 0;  // 0: not set yet
  uint64_t write_buffer_bytes = 0;
  std::shared_ptr<rocksdb::Cache> cache;
  std::shared_ptr<rocksdb::WriteBufferManager> write_buffers;
};

Shared& TheShared() {
  static Shared* shared = new Shared();
  return *shared;
}

int CacheShardBits(uint64_t bytes) {
  int bits = 0;
  while (bits < kCacheShardBitsMax && (bytes >> (bits + 1)) >= kCacheShardBytesMin) bits++;
  return bits;
}

// Needs the mutex.
void Fix(Shared& shared, uint64_t block_cache_bytes, uint64_t write_buffer_bytes) {
  shared.block_cache_bytes = block_cache_bytes;
  shared.write_buffer_bytes = write_buffer_bytes;
  shared.cache = rocksdb::NewLRUCache(block_cache_bytes, CacheShardBits(block_cache_bytes), false, kCacheHighPriorityShare);
  shared.write_buffers = std::make_shared<rocksdb::WriteBufferManager>(write_buffer_bytes);
}

rocksdb::CompressionType BestCompression() {
  const auto supported = rocksdb::GetSupportedCompressions();
  const bool lz4 = std::find(supported.begin(), supported.end(), rocksdb::kLZ4Compression) != supported.end();
  return lz4 ? rocksdb::kLZ4Compression : rocksdb::kNoCompression;
}

}  // namespace

void Configure(uint64_t block_cache_bytes, uint64_t write_buffer_bytes) {
  Shared& shared = TheShared();
  std::lock_guard<std::mutex> guard(shared.mutex);
  if (shared.block_cache_bytes == 0) {
    Fix(shared, block_cache_bytes, write_buffer_bytes);
  } else if (shared.block_cache_bytes != block_cache_bytes || shared.write_buffer_bytes != write_buffer_bytes) {
    throw Failure(kArgument, "the memory budgets of this process are already fixed with other values");
  }
}

rocksdb::Options StoreOptions() {
  Shared& shared = TheShared();
  std::lock_guard<std::mutex> guard(shared.mutex);
  if (shared.block_cache_bytes == 0) Fix(shared, kDefaultBlockCacheBytes, kDefaultWriteBufferBytes);

  rocksdb::BlockBasedTableOptions table;
  table.block_cache = shared.cache;
  // A look-up of a key that no other one is near costs a whole block, read and unpacked.
  table.block_size = 4 << 10;
  table.format_version = 5;
  table.filter_policy.reset(rocksdb::NewBloomFilterPolicy(10, false));
  // Index and filter blocks count against the shared cache, or memory would follow the state's size.
  table.cache_index_and_filter_blocks = true;
  table.cache_index_and_filter_blocks_with_high_priority = true;
  // In small pieces: a file's whole filter takes megabytes, which a small cache would read for every look-up.
  table.index_type = rocksdb::BlockBasedTableOptions::kTwoLevelIndexSearch;
  table.partition_filters = true;
  table.metadata_block_size = 4 << 10;
  table.pin_top_level_index_and_filter = true;

  rocksdb::Options options;
  options.env = RecoverableEnv();
  options.listeners.push_back(ResumeByHand());
  options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
  options.write_buffer_manager = shared.write_buffers;
  options.write_buffer_size = std::max<uint64_t>(1u << 20, std::min<uint64_t>(shared.write_buffer_bytes, 64u << 20));
  options.arena_block_size = 256 << 10;
  options.max_write_buffer_number = 3;
  // Most look-ups are of keys that are not in the memtable: a filter spares them the walk through it.
  options.memtable_whole_key_filtering = true;
  options.memtable_prefix_bloom_size_ratio = 0.05;
  options.compression = BestCompression();
  options.level_compaction_dynamic_level_bytes = true;
  options.max_background_jobs = 2;
  options.max_open_files = 512;
  options.stats_dump_period_sec = 0;
  options.stats_persist_period_sec = 0;
  options.skip_stats_update_on_db_open = true;
  options.keep_log_file_num = 1;
  options.info_log_level = rocksdb::ERROR_LEVEL;
  // Live state is never reopened, so what sits in memory at close is not worth a write.
  options.avoid_flush_during_shutdown = true;
  return options;
}

}  // namespace millrace
