// See sorted-batch.h.
#include "sorted-batch.h"

#include <algorithm>
#include <vector>

namespace millrace {
namespace {

// Sixteen bytes of the key, from places where not all keys agree, as two big-endian numbers. Keys of one table differ
// in their key group and then in what may be their last few bytes, so that comparing rarely touches the arena.
struct Entry {
  uint64_t high;
  uint64_t low;
  uint32_t row;
};

constexpr size_t kEntryBytes = 16;
// Places further back are left to the comparison of whole keys.
constexpr size_t kPlacesMax = 256;

// The first places at which keys differ, `kEntryBytes` at most, ascending. Where a key ends is such a place.
std::vector<uint32_t> DifferingPlaces(const Arena& keys) {
  const rocksdb::Slice first = keys.At(0);
  size_t common = std::min(first.size(), kPlacesMax);
  unsigned char differs[kPlacesMax] = {0};
  for (uint32_t row = 1; row < keys.count; row++) {
    const rocksdb::Slice key = keys.At(row);
    common = std::min(common, key.size());
    for (size_t i = 0; i < common; i++) differs[i] |= static_cast<unsigned char>(key[i] ^ first[i]);
  }
  std::vector<uint32_t> places;
  for (size_t i = 0; i < kPlacesMax && places.size() < kEntryBytes; i++) {
    if (i >= common || differs[i] != 0) places.push_back(static_cast<uint32_t>(i));
  }
  return places;
}

// Eight of the places from `from` on; 0 where there is none, or the key has ended: what is shorter comes first.
uint64_t Gathered(const rocksdb::Slice& key, const std::vector<uint32_t>& places, size_t from) {
  uint64_t value = 0;
  for (size_t i = from; i < from + 8; i++) {
    const bool within = i < places.size() && places[i] < key.size();
    value = value << 8 | (within ? static_cast<unsigned char>(key[places[i]]) : 0);
  }
  return value;
}

std::vector<Entry> SortedEntries(const Arena& keys) {
  std::vector<Entry> entries(keys.count);
  if (keys.count == 0) return entries;
  const std::vector<uint32_t> places = DifferingPlaces(keys);
  for (uint32_t row = 0; row < keys.count; row++) {
    const rocksdb::Slice key = keys.At(row);
    entries[row] = {Gathered(key, places, 0), Gathered(key, places, 8), row};
  }
  std::sort(entries.begin(), entries.end(), [&keys](const Entry& a, const Entry& b) {
    if (a.high != b.high) return a.high < b.high;
    if (a.low != b.low) return a.low < b.low;
    const int order = keys.At(a.row).compare(keys.At(b.row));
    return order != 0 ? order < 0 : a.row < b.row;
  });
  return entries;
}

}  // namespace

std::vector<uint32_t> SortedRows(const Arena& keys) {
  std::vector<uint32_t> rows;
  rows.reserve(keys.count);
  for (const Entry& entry : SortedEntries(keys)) rows.push_back(entry.row);
  return rows;
}

void SortedBatch::Sort() {
  const Arena& keys = batch_.keys;
  rows_.clear();
  const std::vector<Entry> entries = SortedEntries(keys);
  rows_.reserve(entries.size());
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
