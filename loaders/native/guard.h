// Reading memory that may go away: a mapped file whose end was cut off, or whose disk fails, answers by a SIGBUS.
#pragma once

#include <csetjmp>
#include <csignal>
#include <cstddef>
#include <cstdint>

namespace twistnet {

class Guard {
 public:
  // Does the work; false where memory of `data` to `data + length` has gone. The work is left by a jump then: it must hold
  // no lock, and no object with a destructor.
  template <typename Work>
  static bool run(const void* data, std::size_t length, const Work& work) {
    Landing landing;
    landing.data = reinterpret_cast<std::uintptr_t>(data);
    landing.length = length;
    if (sigsetjmp(landing.place, 0)) {
      current_ = nullptr;
      return false;
    }
    current_ = &landing;
    try {
      work();
    } catch (...) {
      current_ = nullptr;
      throw;
    }
    current_ = nullptr;
    return true;
  }

  // To be called before `run`. Again and again: others may have set their own handler meanwhile.
  static void install();

 private:
  struct Landing {
    sigjmp_buf place;
    std::uintptr_t data;
    std::size_t length;
  };

  static void on_bus_error(int signal, siginfo_t* info, void* context);
  static thread_local Landing* current_;  // where this thread goes on; null where it does other things
};

}  // namespace twistnet
