// Byte-string arenas as they arrive from JavaScript (engine/contract/keyed-store.ts), validated.
//
// Debian builds librocksdb with assertions on, so a bad slice does not fail, it ends the process.
// Invariants of an Arena that was parsed: offsets are our own copy (another thread may own the shared
// memory behind the original), ascending, and the last one lies inside `bytes`; no slice has a null
// pointer. `bytes` itself is borrowed.
#pragma once

#include <rocksdb/slice.h>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace millrace {

// Larger ones are refused: RocksDB limits keys to 8 MiB, and a value must fit a block.
inline constexpr uint32_t kKeyBytesMax = 8u << 20;
inline constexpr uint32_t kValueBytesMax = 1u << 30;

// A borrowed view of a typed array's memory. `data` is never null.
template <typename T>
struct View {
  T* data;
  size_t length;  // elements
};

struct Arena {
  const char* bytes = "";
  std::vector<uint32_t> offsets{0};
  uint32_t count = 0;

  uint32_t Size(uint32_t row) const { return offsets[row + 1] - offsets[row]; }
  rocksdb::Slice At(uint32_t row) const { return rocksdb::Slice(bytes + offsets[row], Size(row)); }
};

// Throws kArgument. `what` names the arena in messages.
Arena ParseArena(View<uint8_t> bytes, View<uint32_t> offsets, double count, uint32_t item_bytes_max,
                 const char* what);

// A batch of changes; row i deletes its key when deletes is not empty and deletes[i] is 1.
struct Batch {
  Arena keys;
  Arena values;
  std::vector<uint8_t> deletes;

  bool IsDelete(uint32_t row) const { return !deletes.empty() && deletes[row] != 0; }
};

// Throws kArgument when the parts disagree on the number of rows. `deletes.length` 0 means all puts.
Batch MakeBatch(Arena keys, Arena values, View<uint8_t> deletes);

}  // namespace millrace
