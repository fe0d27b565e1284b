// See file-lock.h.
#include "file-lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "failure.h"

namespace millrace {
namespace {

std::string ReadPid(int descriptor) {
  char text[32];
  const ssize_t size = pread(descriptor, text, sizeof text, 0);
  std::string pid;
  for (ssize_t i = 0; i < size && text[i] >= '0' && text[i] <= '9'; i++) pid += text[i];
  return pid.empty() ? "unknown" : pid;
}

}  // namespace

FileLock::FileLock(const std::string& path) : descriptor_(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644)) {
  if (descriptor_ < 0) throw Failure(kIo, "cannot open " + path + ": " + std::strerror(errno));
  int result;
  do {
    result = flock(descriptor_, LOCK_EX | LOCK_NB);
  } while (result != 0 && errno == EINTR);
  if (result != 0) {
    const int error = errno;
    const std::string pid = ReadPid(descriptor_);
    close(descriptor_);
    if (error == EWOULDBLOCK) throw Failure(kLockHeld, pid);
    throw Failure(kIo, "cannot lock " + path + ": " + std::strerror(error));
  }
  const std::string pid = std::to_string(getpid()) + "\n";
  if (ftruncate(descriptor_, 0) != 0 || pwrite(descriptor_, pid.data(), pid.size(), 0) < 0) {
    const std::string reason = std::strerror(errno);
    close(descriptor_);
    throw Failure(kIo, "cannot write " + path + ": " + reason);
  }
}

FileLock::~FileLock() { close(descriptor_); }

}  // namespace millrace
