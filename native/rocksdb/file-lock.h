// A lock on a file that the operating system drops when its holder dies, however it dies.
//
// flock belongs to the open file description: two threads of one process exclude each other too, and
// O_CLOEXEC keeps child processes from inheriting it. The file is never deleted (deleting it would let
// two holders lock two different files of the same name); the pid in it only serves messages.
#pragma once

#include <string>

namespace millrace {

class FileLock {
 public:
  // Throws kLockHeld naming the holder's pid, or kIo.
  explicit FileLock(const std::string& path);
  ~FileLock();
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;

 private:
  int descriptor_;
};

}  // namespace millrace
