// A small pool of threads of our own: OpenMP's hang in a forked child (a DataLoader worker).
#include <pthread.h>

#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>

#include "kernels.h"

namespace robustcore {
namespace {

class Job {
  public:
    Job(int64_t n, int64_t grain, void (*body)(void*, int64_t, int64_t), void* context)
        : n_(n), grain_(grain), body_(body), context_(context) {}

    // Lets no exception out: a thread of the pool has no caller, and the caller must join first.
    void work() noexcept {
        for (;;) {
            const int64_t first = next_.fetch_add(grain_);
            if (first >= n_) return;
            try {
                body_(context_, first, first + grain_ < n_ ? first + grain_ : n_);
            } catch (...) {
                fail(first, std::current_exception());
            }
        }
    }

    // After all threads are done.
    void rethrow() {
        if (error_) std::rethrow_exception(std::move(error_));
    }

  private:
    // Pieces not yet taken are left out. All before a failed one were taken, so the lowest error
    // is the one that a single thread would meet.
    void fail(int64_t first, std::exception_ptr error) {
        next_ = n_;
        const std::lock_guard<std::mutex> lock(mutex_);
        if (error_ && failed_ < first) return;
        failed_ = first;
        error_ = std::move(error);
    }

    const int64_t n_, grain_;
    void (*const body_)(void*, int64_t, int64_t);
    void* const context_;
    std::atomic<int64_t> next_{0};
    std::mutex mutex_;
    std::exception_ptr error_;
    int64_t failed_ = 0;
};

class Pool {
  public:
    // The caller works too; helpers that wake after the last piece is taken are not waited for.
    // Nothing is thrown: what a piece throws stays in the job.
    void run(Job& job, int helpers) noexcept {
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

    // One caller at a time; another, or a body that calls again, works alone meanwhile.
    std::atomic_flag owned = ATOMIC_FLAG_INIT;

  private:
    void grow(int helpers) {
        try {
            while (threads_ < helpers) {
                std::thread(&Pool::loop, this).detach();
                ++threads_;
            }
        } catch (const std::exception&) {
            // The system gives no more threads, or no memory for one: those there are do the work.
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
        if (!shared.owned.test_and_set()) {
            Job job(n, grain, body, context);
            shared.run(job, static_cast<int>(useful - 1));
            shared.owned.clear();
            job.rethrow();
            return;
        }
    }
    if (n > 0) body(context, 0, n);
}

}  // namespace robustcore
