// How compiled kernels share work among threads.

#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <new>
#include <thread>
#include <vector>

constexpr int LAYOUT = 8; // of all jobs; the same as in compiled.py

struct Threads {
    int64_t number;
    void (*parallel)(void (*)(void *), void *, unsigned, unsigned); // as GOMP_parallel, or null
    std::atomic<int64_t> next; // what is still to be done
    std::atomic<int64_t> failed;
};

// Call work(data) in every thread. Each takes what is next until nothing is left.
inline void run(Threads &threads, void (*work)(void *), void *data) {
    threads.next = 0;
    threads.failed = 0;
    if (threads.number <= 1) {
        work(data);
    } else if (threads.parallel) {
        threads.parallel(work, data, unsigned(threads.number), 0);
    } else {
        std::vector<std::thread> others;
        try {
            others.reserve(threads.number);
            for (int64_t i = 1; i < threads.number; i++)
                others.emplace_back(work, data);
        } catch (const std::exception &) { // no thread or no memory: those that are there do the work
        }
        work(data);
        for (auto &other : others)
            other.join();
    }
}

// In a thread: f, or a note that there was no memory.
template <class F> void noted(Threads &threads, F f) {
    try {
        f();
    } catch (const std::bad_alloc &) {
        threads.failed = 1;
    }
}

// What f returns, or 1 without memory.
template <class F> int guarded(F f) {
    try {
        return f();
    } catch (const std::bad_alloc &) {
        return 1;
    }
}
