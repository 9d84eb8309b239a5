// Reading memory that may go away: a mapped file whose end was cut off, or whose disk fails, answers by a SIGBUS.
#pragma once

#include <csetjmp>
#include <csignal>

namespace twistnet {

class Guard {
 public:
  // Does the work, which owns nothing that its leaving in the middle would lose; false where what it reads has gone.
  template <typename Work>
  static bool run(const Work& work) {
    sigjmp_buf landing;
    if (sigsetjmp(landing, 0)) {
      landing_ = nullptr;
      return false;
    }
    landing_ = &landing;
    try {
      work();
    } catch (...) {
      landing_ = nullptr;
      throw;
    }
    landing_ = nullptr;
    return true;
  }

  // To be called before the first `run`; once is enough.
  static void install();

 private:
  static void on_bus_error(int signal, siginfo_t* info, void* context);
  static thread_local sigjmp_buf* landing_;  // where this thread goes on; null where it does other things
};

}  // namespace twistnet
