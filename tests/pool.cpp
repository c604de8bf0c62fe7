// A driver of the pool of threads: pieces that throw, and what it does afterwards. For tests.
//   g++ -O1 -std=c++17 -pthread -Icsrc tests/pool.cpp csrc/cpu/parallel.cpp -o pool
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <new>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "cpu/kernels.h"

namespace {

int patience = 20;  // seconds that a thread may take to wake

void check(bool right, const char* what, int64_t n = 0, int threads = 0, int64_t k = 0) {
    if (right) return;
    fprintf(stderr, "%s: n=%lld threads=%d k=%lld\n", what, static_cast<long long>(n), threads,
            static_cast<long long>(k));
    abort();
}

using Piece = std::function<void(int64_t)>;

void parallel(int64_t n, int64_t grain, int threads, const Piece& piece) {
    robustcore::parallel_for(
        n, grain, threads,
        [](void* context, int64_t first, int64_t last) {
            for (int64_t i = first; i < last; ++i) (*static_cast<const Piece*>(context))(i);
        },
        const_cast<Piece*>(&piece));
}

// What is thrown names the element.
struct Thrown : std::runtime_error {
    explicit Thrown(int64_t i) : std::runtime_error("element " + std::to_string(i)), element(i) {}
    int64_t element;
};

// The pool works: each element once.
void check_usable(int64_t n, int threads) {
    std::vector<int> seen(n);
    parallel(n, 1, threads, [&](int64_t i) { ++seen[i]; });
    for (const int count : seen) check(count == 1, "each element once", n, threads, count);
}

// A wait for `arrived` to be two: for two pieces that are both under way, in two threads.
void meet(std::atomic<int>& arrived) {
    using Clock = std::chrono::steady_clock;
    const Clock::time_point end = Clock::now() + std::chrono::seconds(patience);
    ++arrived;
    while (arrived < 2) {
        check(Clock::now() < end, "two threads at once");
        std::this_thread::yield();
    }
}

// When no other call is under way.
void check_shared() {
    std::atomic<int> arrived{0};
    parallel(2, 1, 2, [&](int64_t) { meet(arrived); });
}

// Elements for which `throws` holds throw; the call gives the exception of the lowest, `lowest`,
// and no element is under way when it does.
void check_thrown(int64_t n, int64_t grain, int threads, int64_t lowest,
                  const std::function<bool(int64_t)>& throws) {
    std::atomic<int> under_way{0};
    std::vector<int> seen(n);
    int64_t caught = -1;
    try {
        parallel(n, grain, threads, [&](int64_t i) {
            struct Count {
                std::atomic<int>& value;
                explicit Count(std::atomic<int>& v) : value(v) { ++value; }
                ~Count() { --value; }
            } const count(under_way);
            ++seen[i];
            if (throws(i)) throw Thrown(i);
            std::this_thread::yield();
        });
    } catch (const Thrown& error) {
        caught = error.element;
        check(error.what() == "element " + std::to_string(lowest), "message", n, threads, lowest);
    }
    check(under_way == 0, "all pieces are over", n, threads, lowest);
    check(caught == lowest, "the lowest exception", n, threads, caught);
    for (int64_t i = 0; i < n; ++i) check(seen[i] <= 1, "none twice", n, threads, i);
    for (int64_t i = 0; i <= lowest; ++i) check(seen[i] == 1, "all before it", n, threads, i);
    check_usable(n, threads);
}

void one_or_many_pieces_throw() {
    for (const int threads : {1, 2, 3, 8})
        for (const int64_t n : {1, 2, 7, 100})
            for (const int64_t grain : {1, 3}) {
                for (const int64_t k : {int64_t{0}, n / 3, n / 2, n - 1}) {
                    check_thrown(n, grain, threads, k, [&](int64_t i) { return i == k; });
                    check_thrown(n, grain, threads, k, [&](int64_t i) { return i >= k; });
                }
                check_thrown(n, grain, threads, 0, [](int64_t i) { return i % 2 == 0; });
            }
}

// The exception of the lower of two pieces, whichever of them throws first.
void either_throws_first() {
    for (const int64_t early : {0, 1}) {
        std::atomic<int> arrived{0};
        int64_t caught = -1;
        try {
            parallel(2, 1, 2, [&](int64_t i) {
                meet(arrived);
                if (i != early) std::this_thread::sleep_for(std::chrono::milliseconds(50));
                throw Thrown(i);
            });
        } catch (const Thrown& error) {
            caught = error.element;
        }
        check(caught == 0, "the lower exception", 2, 2, early);
    }
}

// As a vector without memory throws, and what is no std::exception.
void exceptions_of_other_kinds() {
    bool memory = false, number = false;
    try {
        parallel(50, 1, 4, [](int64_t i) {
            if (i == 20) throw std::bad_alloc();
        });
    } catch (const std::bad_alloc&) {
        memory = true;
    }
    try {
        parallel(50, 1, 4, [](int64_t i) {
            if (i == 20) throw 7;
        });
    } catch (const int value) {
        number = value == 7;
    }
    check(memory && number, "the exception's type is kept");
    check_usable(50, 4);
    check_shared();
}

// A piece that calls again works alone, and its exception passes through both calls.
void nested_calls() {
    for (int round = 0; round < 20; ++round) {
        std::atomic<int64_t> sum{0};
        parallel(8, 1, 4,
                 [&](int64_t i) { parallel(8, 1, 4, [&](int64_t j) { sum += 8 * i + j; }); });
        check(sum == 64 * 63 / 2, "nested sum");
        int64_t caught = -1;
        try {
            parallel(8, 1, 4, [](int64_t i) {
                parallel(8, 1, 4, [&](int64_t j) {
                    if (i >= 2 && j >= 3) throw Thrown(8 * i + j);
                });
            });
        } catch (const Thrown& error) {
            caught = error.element;
        }
        check(caught == 19, "nested exception", 8, 4, caught);
        check_usable(8, 4);
    }
}

// Many callers at once, of which half fail.
void callers_in_many_threads() {
    std::vector<std::thread> callers;
    for (int c = 0; c < 4; ++c)
        callers.emplace_back([c] {
            for (int round = 0; round < 100; ++round) {
                if (c % 2 == 0)
                    check_usable(64, 3);
                else
                    check_thrown(64, 1, 3, 10 * c, [c](int64_t i) { return i == 10 * c; });
            }
        });
    for (std::thread& caller : callers) caller.join();
}

// A forked child has a pool of its own, before and after its own exceptions.
void forked_child() {
    check_usable(64, 4);
    const pid_t child = fork();
    if (child == 0) {
        check_shared();
        check_thrown(64, 1, 4, 5, [](int64_t i) { return i == 5; });
        check_shared();
        _exit(0);
    }
    int status = -1;
    check(waitpid(child, &status, 0) == child && status == 0, "the child", status);
    check_usable(64, 4);
    check_shared();
}

}  // namespace

int main(int count, char** arguments) {
    if (count > 1) patience = atoi(arguments[1]);
    either_throws_first();
    one_or_many_pieces_throw();
    exceptions_of_other_kinds();
    nested_calls();
    callers_in_many_threads();
    forked_child();
    puts("the pool withstands exceptions");
}
