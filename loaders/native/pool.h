// Threads that work on the items of several callers, in the order in which those came.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace twistnet {

class Pool {
 public:
  explicit Pool(int threads) {
    try {
      for (int number = 0; number < threads; ++number) threads_.emplace_back([this, number] { run(number); });
    } catch (...) {  // the system has no more of them: those that run must end before this does
      end();
      throw;
    }
  }

  ~Pool() { end(); }

  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  // Calls `each(thread, item)` for all items and returns when all are done. It must not throw.
  void run_all(std::int64_t items, const std::function<void(int, std::int64_t)>& each) {
    if (items == 0) return;
    Job job{&each, items, 0, items, {}};
    std::unique_lock<std::mutex> lock(mutex_);
    jobs_.push_back(&job);
    work_.notify_all();
    job.done.wait(lock, [&job] { return job.left == 0; });
  }

 private:
  void end() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      ending_ = true;
    }
    work_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  struct Job {
    const std::function<void(int, std::int64_t)>* each;
    std::int64_t items, next, left;
    std::condition_variable done;
  };

  void run(int number) {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      work_.wait(lock, [this] { return ending_ || !jobs_.empty(); });
      if (jobs_.empty()) return;
      Job& job = *jobs_.front();
      const std::int64_t item = job.next++;
      if (job.next == job.items) jobs_.pop_front();
      lock.unlock();
      (*job.each)(number, item);
      lock.lock();
      if (--job.left == 0) job.done.notify_one();
    }
  }

  std::mutex mutex_;
  std::condition_variable work_;
  std::deque<Job*> jobs_;
  bool ending_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace twistnet
