// See shared-resources.h.
#include "shared-resources.h"

#include <rocksdb/cache.h>
#include <rocksdb/convenience.h>
#include <rocksdb/filter_policy.h>
#include <rocksdb/table.h>
#include <rocksdb/write_buffer_manager.h>

#ifdef __GLIBC__
#include <malloc.h>
#endif

#include <algorithm>
#include <memory>
#include <mutex>

#include "recoverable-files.h"

namespace millrace {
namespace {

// A quarter of a share is for unflushed writes, the rest for cached blocks: what a small memtable costs in merges of files
// is less than what a filter costs that has to be read for a look-up.
constexpr uint64_t kWriteBuffersParts = 4;
// A memtable being filled and one being flushed have room in that quarter.
constexpr uint64_t kWriteBufferParts = 8;
constexpr uint64_t kWriteBufferBytesMin = 256u << 10;
constexpr uint64_t kWriteBufferBytesMax = 64u << 20;
// The cache is split by hash so that threads do not wait for each other. A few parts will do.
constexpr int kCacheShardBits = 2;
// Of the cache, for blocks of filters and indexes before those of data: what is used often is in the tables, not here.
constexpr double kCacheHighPriorityShare = 0.9;

struct Shared {
  std::mutex mutex;
  uint64_t bytes = 0;  // of all databases that are open
  std::shared_ptr<rocksdb::Cache> cache = rocksdb::NewLRUCache(kStoreMemoryBytesMin, kCacheShardBits, false, kCacheHighPriorityShare);
  std::shared_ptr<rocksdb::WriteBufferManager> write_buffers =
      std::make_shared<rocksdb::WriteBufferManager>(kStoreMemoryBytesMin);
};

Shared& TheShared() {
  static Shared* shared = new Shared();
  return *shared;
}

// Needs the mutex.
void Resize(Shared& shared) {
  const uint64_t bytes = std::max(shared.bytes, kStoreMemoryBytesMin);
  const uint64_t write_buffers = bytes / kWriteBuffersParts;
  shared.cache->SetCapacity(bytes - write_buffers);
  shared.write_buffers->SetBufferSize(write_buffers);
}

// Bits a key: nearly all keys are in the last sorted run, whose filter takes nearly all the memory and helps only those
// that are in none; about one in ten of these then costs a block.
constexpr double kFilterBits = 10;
constexpr double kLastFilterBits = 5;

// Filters of the built-in kind, smaller ones for files of the last sorted run.
class FiltersByAge : public rocksdb::FilterPolicy {
 public:
  const char* Name() const override { return "millrace.FiltersByAge"; }
  const char* CompatibilityName() const override { return young_->CompatibilityName(); }
  rocksdb::FilterBitsBuilder* GetBuilderWithContext(const rocksdb::FilterBuildingContext& context) const override {
    return (context.is_bottommost ? last_ : young_)->GetBuilderWithContext(context);
  }
  rocksdb::FilterBitsReader* GetFilterBitsReader(const rocksdb::Slice& contents) const override {
    return young_->GetFilterBitsReader(contents);
  }

 private:
  const std::unique_ptr<const rocksdb::FilterPolicy> young_{rocksdb::NewBloomFilterPolicy(kFilterBits)};
  const std::unique_ptr<const rocksdb::FilterPolicy> last_{rocksdb::NewBloomFilterPolicy(kLastFilterBits)};
};

rocksdb::CompressionType BestCompression() {
  const auto supported = rocksdb::GetSupportedCompressions();
  const bool lz4 = std::find(supported.begin(), supported.end(), rocksdb::kLZ4Compression) != supported.end();
  return lz4 ? rocksdb::kLZ4Compression : rocksdb::kNoCompression;
}

}  // namespace

StoreMemory::StoreMemory(uint64_t bytes) : bytes_(bytes) {
  Shared& shared = TheShared();
  std::lock_guard<std::mutex> guard(shared.mutex);
  shared.bytes += bytes_;
  Resize(shared);
}

void StoreMemory::Release() {
  if (!held_) return;
  held_ = false;
  Shared& shared = TheShared();
  std::lock_guard<std::mutex> guard(shared.mutex);
  shared.bytes -= bytes_;
  Resize(shared);
}

SharedMemoryUse MeasureSharedMemory() {
  Shared& shared = TheShared();
  std::lock_guard<std::mutex> guard(shared.mutex);
  return {shared.cache->GetCapacity(), shared.cache->GetUsage(), shared.cache->GetPinnedUsage(),
          shared.write_buffers->buffer_size(), shared.write_buffers->memory_usage()};
}

void ReturnFreeMemory() {
#ifdef __GLIBC__
  malloc_trim(0);
#endif
}

rocksdb::Options StoreOptions(uint64_t memory_bytes) {
  const Shared& shared = TheShared();

  rocksdb::BlockBasedTableOptions table;
  table.block_cache = shared.cache;
  // A look-up of a key that no other one is near costs a whole block, read and unpacked.
  table.block_size = 4 << 10;
  table.format_version = 5;
  table.filter_policy = std::make_shared<FiltersByAge>();
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
  options.write_buffer_size = std::clamp(memory_bytes / kWriteBufferParts, kWriteBufferBytesMin, kWriteBufferBytesMax);
  options.arena_block_size = std::min<size_t>(options.write_buffer_size / 8, 256 << 10);
  options.max_write_buffer_number = 3;
  // Most look-ups are of keys that are not in the memtable: a filter spares them the walk through it.
  options.memtable_whole_key_filtering = true;
  options.memtable_prefix_bloom_size_ratio = 0.05;
  options.compression = BestCompression();
  options.level_compaction_dynamic_level_bytes = true;
  // Memtables are small beside the state and keys are scattered, so that levels would write each of them into all of it.
  // Sorted runs that are merged with ones of their size are written a few times in all; more runs would cost look-ups more
  // than merges save.
  options.compaction_style = rocksdb::kCompactionStyleUniversal;
  options.level0_file_num_compaction_trigger = 8;
  // The store takes up to twice what its newest values take on disk, and so does a checkpoint.
  options.compaction_options_universal.max_size_amplification_percent = 100;
  // One flushes, two compact: a long merge leaves room for short ones.
  options.max_background_jobs = 3;
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
