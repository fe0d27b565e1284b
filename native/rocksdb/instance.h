// What one loading of the addon (one worker thread's environment) has open.
//
// JavaScript holds whole numbers, never pointers: a stale, foreign or invented handle is an unknown
// number and gives an error. Numbers are not reused. Everything still open is closed by the
// environment's cleanup hook, so terminating a worker in the middle of anything is safe.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "database.h"
#include "failure.h"
#include "file-lock.h"
#include "range-scan.h"

namespace millrace {

class Instance {
 public:
  uint32_t AddDatabase(std::shared_ptr<Database> database) {
    databases_[++last_] = std::move(database);
    return last_;
  }
  uint32_t AddScan(std::unique_ptr<RangeScan> scan) {
    scans_[++last_] = std::move(scan);
    return last_;
  }
  uint32_t AddLock(std::unique_ptr<FileLock> lock) {
    locks_[++last_] = std::move(lock);
    return last_;
  }

  const std::shared_ptr<Database>& DatabaseAt(uint32_t handle) const {
    const auto at = databases_.find(handle);
    if (at == databases_.end()) throw Failure(kClosed, "the store is closed");
    return at->second;
  }
  RangeScan& ScanAt(uint32_t handle) const {
    const auto at = scans_.find(handle);
    if (at == scans_.end()) throw Failure(kClosed, "the scan or its store is closed");
    return *at->second;
  }

  // Closing what is not open is harmless.
  void CloseScan(uint32_t handle) { scans_.erase(handle); }
  void CloseLock(uint32_t handle) { locks_.erase(handle); }
  void CloseDatabase(uint32_t handle) {
    const auto at = databases_.find(handle);
    if (at == databases_.end()) return;
    const std::shared_ptr<Database> database = at->second;
    databases_.erase(at);
    for (auto scan = scans_.begin(); scan != scans_.end();) {
      scan = scan->second->database() == database.get() ? scans_.erase(scan) : std::next(scan);
    }
    database->Close();
  }

  void CloseAll() {
    scans_.clear();
    for (const auto& [handle, database] : databases_) database->Close();
    databases_.clear();
    locks_.clear();
  }

 private:
  uint32_t last_ = 0;
  std::map<uint32_t, std::shared_ptr<Database>> databases_;
  std::map<uint32_t, std::unique_ptr<RangeScan>> scans_;
  std::map<uint32_t, std::unique_ptr<FileLock>> locks_;
};

}  // namespace millrace
