// Changes made while a checkpoint is on its way.
//
// A checkpoint holds exactly the writes that came before it, and RocksDB offers no way to flush only
// those. So while one runs, later changes wait here, visible to reads, and go down when it is done.
// Invariant: an entry is newer than every range; DeleteRange drops the entries it covers. Not
// thread-safe: only the JavaScript thread that owns the store touches it.
#pragma once

#include <rocksdb/write_batch.h>

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "arena.h"

namespace millrace {

class Overlay {
 public:
  enum class Answer { kUnknown, kAbsent, kPresent };

  bool Empty() const { return entries_.empty() && ranges_.empty(); }
  // True when the caller should wait for the checkpoint instead of adding more.
  bool Full(uint64_t bytes_max) const { return bytes_ > bytes_max || ranges_.size() > kRangesMax; }
  uint64_t Bytes() const { return bytes_; }

  void Add(const Batch& batch) {
    for (uint32_t row = 0; row < batch.keys.count; row++) {
      const rocksdb::Slice key = batch.keys.At(row);
      const rocksdb::Slice value = batch.values.At(row);
      auto& slot = entries_[key.ToString()];
      if (batch.IsDelete(row)) {
        slot.reset();
      } else {
        slot = value.ToString();
      }
      bytes_ += key.size() + value.size() + kEntryBytes;
    }
  }

  void DeleteRange(const rocksdb::Slice& from, const rocksdb::Slice& to) {
    entries_.erase(entries_.lower_bound(from.ToStringView()), entries_.lower_bound(to.ToStringView()));
    ranges_.emplace_back(from.ToString(), to.ToString());
    bytes_ += from.size() + to.size() + kEntryBytes;
  }

  Answer Find(const rocksdb::Slice& key, rocksdb::Slice* value) const {
    const auto at = entries_.find(key.ToStringView());
    if (at != entries_.end()) {
      if (!at->second.has_value()) return Answer::kAbsent;
      *value = *at->second;
      return Answer::kPresent;
    }
    for (const auto& [from, to] : ranges_) {
      if (key.compare(from) >= 0 && key.compare(to) < 0) return Answer::kAbsent;
    }
    return Answer::kUnknown;
  }

  // Calls `flush` with batches of at most about `batch_bytes`. Applying them twice does no harm.
  void Drain(size_t batch_bytes, const std::function<void(rocksdb::WriteBatch*)>& flush) const {
    rocksdb::WriteBatch batch;
    for (const auto& [from, to] : ranges_) batch.DeleteRange(from, to);
    for (const auto& [key, value] : entries_) {
      if (value.has_value()) {
        batch.Put(key, *value);
      } else {
        batch.Delete(key);
      }
      if (batch.GetDataSize() < batch_bytes) continue;
      flush(&batch);
      batch.Clear();
    }
    if (batch.Count() > 0) flush(&batch);
  }

  void Clear() {
    entries_.clear();
    ranges_.clear();
    bytes_ = 0;
  }

 private:
  static constexpr size_t kRangesMax = 256;
  static constexpr uint64_t kEntryBytes = 160;  // a map node and two strings as malloc rounds them, roughly

  std::map<std::string, std::optional<std::string>, std::less<>> entries_;
  std::vector<std::pair<std::string, std::string>> ranges_;
  uint64_t bytes_ = 0;
};

}  // namespace millrace
