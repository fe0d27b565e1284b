// The one exception type of the addon: a stable code and a message.
//
// Thrown anywhere below a binding and turned into a JavaScript error with `code` by the guard in
// binding.h. Nothing else may leave a binding: an exception that crossed N-API would end the process.
#pragma once

#include <rocksdb/status.h>

#include <exception>
#include <string>
#include <utility>

namespace millrace {

// Codes, also read by state/rocksdb-store.ts.
inline constexpr const char* kArgument = "ADDON_ARGUMENT";  // the caller broke the contract
inline constexpr const char* kClosed = "ADDON_CLOSED";      // unknown or closed handle
inline constexpr const char* kIo = "STORE_IO";              // disk full, I/O error; may be tried again
inline constexpr const char* kCorrupt = "STORE_CORRUPT";    // checksum or format failure
inline constexpr const char* kFailed = "STORE_FAILED";      // anything else RocksDB reports
inline constexpr const char* kLockHeld = "LOCK_HELD";

class Failure : public std::exception {
 public:
  Failure(const char* code, std::string message) : code_(code), message_(std::move(message)) {}
  const char* code() const { return code_; }
  const char* what() const noexcept override { return message_.c_str(); }

 private:
  const char* code_;
  std::string message_;
};

inline Failure FailureOf(const rocksdb::Status& status) {
  const char* code = kFailed;
  if (status.IsIOError() || status.IsNoSpace() || status.IsBusy() || status.IsTryAgain()) code = kIo;
  if (status.IsCorruption()) code = kCorrupt;
  return Failure(code, status.ToString());
}

inline void Check(const rocksdb::Status& status) {
  if (!status.ok()) throw FailureOf(status);
}

}  // namespace millrace
