// See sorted-batch.h.
#include "sorted-batch.h"

#include <algorithm>
#include <cstring>

namespace millrace {
namespace {

// Sixteen bytes of the key after what all keys share, as two big-endian numbers: with the fixed key
// layout that covers key group, state and namespace, so comparing rarely touches the arena.
struct Entry {
  uint64_t high;
  uint64_t low;
  uint32_t row;
};

uint64_t BigEndian(const char* bytes, size_t size) {
  unsigned char padded[8] = {0, 0, 0, 0, 0, 0, 0, 0};
  if (size > 0) std::memcpy(padded, bytes, std::min<size_t>(size, 8));
  uint64_t value = 0;
  for (unsigned char byte : padded) value = value << 8 | byte;
  return value;
}

size_t SharedPrefix(const Arena& keys) {
  const rocksdb::Slice first = keys.At(0);
  size_t shared = first.size();
  for (uint32_t row = 1; row < keys.count && shared > 0; row++) {
    shared = std::min(shared, first.difference_offset(keys.At(row)));
  }
  return shared;
}

}  // namespace

void SortedBatch::Sort() {
  const Arena& keys = batch_.keys;
  rows_.clear();
  if (keys.count == 0) return;
  const size_t skip = SharedPrefix(keys);
  std::vector<Entry> entries(keys.count);
  for (uint32_t row = 0; row < keys.count; row++) {
    const rocksdb::Slice key = keys.At(row);
    const char* tail = key.data() + skip;
    const size_t size = key.size() - skip;
    entries[row] = {BigEndian(tail, size), size > 8 ? BigEndian(tail + 8, size - 8) : 0, row};
  }
  std::sort(entries.begin(), entries.end(), [&keys](const Entry& a, const Entry& b) {
    if (a.high != b.high) return a.high < b.high;
    if (a.low != b.low) return a.low < b.low;
    const int order = keys.At(a.row).compare(keys.At(b.row));
    return order != 0 ? order < 0 : a.row < b.row;
  });
  rows_.reserve(keys.count);
  for (size_t i = 0; i < entries.size(); i++) {
    const bool superseded = i + 1 < entries.size() && entries[i].high == entries[i + 1].high &&
                            entries[i].low == entries[i + 1].low &&
                            keys.At(entries[i].row) == keys.At(entries[i + 1].row);
    if (!superseded) rows_.push_back(entries[i].row);
  }
}

uint64_t SortedBatch::TotalBytes() const {
  const auto span = [](const Arena& arena) { return arena.offsets[arena.count] - arena.offsets[0]; };
  return static_cast<uint64_t>(span(batch_.keys)) + span(batch_.values);
}

int64_t SortedBatch::Find(const rocksdb::Slice& key) const {
  const Arena& keys = batch_.keys;
  const auto at = std::lower_bound(rows_.begin(), rows_.end(), key, [&keys](uint32_t row, const rocksdb::Slice& k) {
    return keys.At(row).compare(k) < 0;
  });
  if (at == rows_.end() || keys.At(*at) != key) return -1;
  return *at;
}

}  // namespace millrace
