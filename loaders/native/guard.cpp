#include "guard.h"

#include <mutex>

namespace twistnet {
namespace {

struct sigaction before;  // what others do about a SIGBUS that is not ours

}  // namespace

thread_local sigjmp_buf* Guard::landing_ = nullptr;

void Guard::install() {
  static std::once_flag once;
  std::call_once(once, [] {
    struct sigaction ours {};
    ours.sa_sigaction = on_bus_error;
    sigemptyset(&ours.sa_mask);
    // Not blocked meanwhile: the handler is left by a jump, after which the next one must come through.
    ours.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK;
    sigaction(SIGBUS, &ours, &before);
  });
}

void Guard::on_bus_error(int signal, siginfo_t* info, void* context) {
  if (landing_) siglongjmp(*landing_, 1);
  if (before.sa_flags & SA_SIGINFO) {
    before.sa_sigaction(signal, info, context);
  } else if (before.sa_handler == SIG_DFL || before.sa_handler == SIG_IGN) {
    std::signal(signal, SIG_DFL);  // on return the same access fails again, and ends the process
  } else {
    before.sa_handler(signal);
  }
}

}  // namespace twistnet
