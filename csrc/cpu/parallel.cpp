// A small pool of threads of our own: OpenMP's hang in a forked child (a DataLoader worker).
#include <pthread.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>

#include "kernels.h"

namespace robustcore {
namespace {

struct Job {
    int64_t n, grain;
    void (*body)(void*, int64_t, int64_t);
    void* context;
    std::atomic<int64_t> next{0};

    void work() {
        for (;;) {
            const int64_t first = next.fetch_add(grain);
            if (first >= n) return;
            body(context, first, first + grain < n ? first + grain : n);
        }
    }
};

class Pool {
  public:
    // The caller works too; helpers that wake after the last piece is taken are not waited for.
    void run(Job& job, int helpers) {
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            grow(helpers);
            job_ = &job;
            wanted_ = helpers;
        }
        wake_.notify_all();
        job.work();
        std::unique_lock<std::mutex> lock(mutex_);
        wanted_ = 0;
        done_.wait(lock, [this] { return active_ == 0; });
    }

    std::mutex owner;  // one caller at a time; another works alone meanwhile

  private:
    void grow(int helpers) {
        try {
            while (threads_ < helpers) {
                std::thread(&Pool::loop, this).detach();
                ++threads_;
            }
        } catch (const std::system_error&) {
            // The system gives no more threads: the work is done by those there are.
        }
    }

    void loop() {
        std::unique_lock<std::mutex> lock(mutex_);
        for (;;) {
            wake_.wait(lock, [this] { return wanted_ > 0; });
            --wanted_;
            ++active_;
            Job* const job = job_;
            lock.unlock();
            job->work();
            lock.lock();
            if (--active_ == 0) done_.notify_one();
        }
    }

    std::mutex mutex_;
    std::condition_variable wake_, done_;
    Job* job_ = nullptr;
    int wanted_ = 0, active_ = 0, threads_ = 0;
};

// Never destroyed, so that threads asleep in it at exit stay valid. A forked child has none of its
// parent's threads and starts a pool of its own.
std::atomic<Pool*> the_pool{nullptr};

Pool& pool() {
    static const int registered = pthread_atfork(nullptr, nullptr, [] { the_pool = nullptr; });
    (void)registered;
    Pool* current = the_pool.load();
    if (current == nullptr) {
        Pool* const fresh = new Pool;
        if (the_pool.compare_exchange_strong(current, fresh)) return *fresh;
        delete fresh;
    }
    return *current;
}

}  // namespace

void parallel_for(int64_t n, int64_t grain, int threads, void (*body)(void*, int64_t, int64_t),
                  void* context) {
    const int64_t pieces = (n + grain - 1) / grain;
    const int64_t useful = pieces < threads ? pieces : threads;
    if (useful > 1) {
        Pool& shared = pool();
        const std::unique_lock<std::mutex> owned(shared.owner, std::try_to_lock);
        if (owned) {
            Job job{n, grain, body, context};
            shared.run(job, static_cast<int>(useful - 1));
            return;
        }
    }
    if (n > 0) body(context, 0, n);
}

}  // namespace robustcore
