// See range-scan.h.
#include "range-scan.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "failure.h"

namespace millrace {

RangeScan::RangeScan(std::shared_ptr<Database> database, std::string from, const std::string* to)
    : database_(std::move(database)), from_(std::move(from)), to_(to == nullptr ? "" : *to), upper_(to_) {
  rocksdb::ReadOptions options;
  options.fill_cache = false;  // a pass over everything must not push out the blocks that lookups use
  if (to != nullptr) options.iterate_upper_bound = &upper_;
  iterator_ = database_->NewIterator(options);
  iterator_->Seek(from_);
  Check(iterator_->status());
}

ScanStep RangeScan::Next(const ScanTarget& target, double bytes_max) {
  const size_t offset_slots = std::min(target.key_offsets.length, target.value_offsets.length);
  if (offset_slots < 2) throw Failure(kArgument, "scan: offsets need at least two slots");
  const size_t rows_max = std::min<size_t>(offset_slots - 1, 1u << 30);
  ScanStep step{0, 0, 0, false};
  size_t key_end = 0;
  size_t value_end = 0;
  target.key_offsets.data[0] = 0;
  target.value_offsets.data[0] = 0;
  while (step.rows < rows_max && iterator_->Valid()) {
    const rocksdb::Slice key = iterator_->key();
    const rocksdb::Slice value = iterator_->value();
    const bool fits = key_end + key.size() <= std::min<size_t>(target.key_bytes.length, UINT32_MAX) &&
                      value_end + value.size() <= std::min<size_t>(target.value_bytes.length, UINT32_MAX);
    if (!fits) {
      step.key_bytes_needed = static_cast<uint32_t>(key.size());
      step.value_bytes_needed = static_cast<uint32_t>(value.size());
      return step;
    }
    if (key.size() > 0) std::memcpy(target.key_bytes.data + key_end, key.data(), key.size());
    if (value.size() > 0) std::memcpy(target.value_bytes.data + value_end, value.data(), value.size());
    key_end += key.size();
    value_end += value.size();
    step.rows++;
    target.key_offsets.data[step.rows] = static_cast<uint32_t>(key_end);
    target.value_offsets.data[step.rows] = static_cast<uint32_t>(value_end);
    iterator_->Next();
    if (static_cast<double>(key_end + value_end) >= bytes_max) break;
  }
  Check(iterator_->status());
  step.ended = !iterator_->Valid();
  return step;
}

}  // namespace millrace
