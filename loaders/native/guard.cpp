#include "guard.h"

#include <mutex>

namespace twistnet {
namespace {

constexpr std::uintptr_t kPage = 4096;  // at least: an access may be reported by its page

struct sigaction before;  // what others do about a SIGBUS that is not ours
std::mutex installing;

}  // namespace

thread_local Guard::Landing* Guard::current_ = nullptr;

void Guard::install() {
  const std::lock_guard<std::mutex> lock(installing);
  struct sigaction now {};
  sigaction(SIGBUS, nullptr, &now);
  if ((now.sa_flags & SA_SIGINFO) && now.sa_sigaction == on_bus_error) return;
  before = now;
  struct sigaction ours {};
  ours.sa_sigaction = on_bus_error;
  sigemptyset(&ours.sa_mask);
  // Not blocked meanwhile: the handler is left by a jump, after which the next one must come through.
  ours.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK;
  sigaction(SIGBUS, &ours, nullptr);
}

void Guard::on_bus_error(int signal, siginfo_t* info, void* context) {
  if (current_ && info->si_code > 0) {  // by an access, not by kill(2)
    const std::uintptr_t at = reinterpret_cast<std::uintptr_t>(info->si_addr);
    if (at + kPage > current_->data && at < current_->data + current_->length + kPage) siglongjmp(current_->place, 1);
  }
  if (before.sa_flags & SA_SIGINFO) {
    before.sa_sigaction(signal, info, context);
  } else if (before.sa_handler == SIG_DFL || before.sa_handler == SIG_IGN) {
    std::signal(signal, SIG_DFL);
    raise(signal);
  } else {
    before.sa_handler(signal);
  }
}

}  // namespace twistnet
