// How compiled kernels share work among threads.

#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <new>
#include <thread>
#include <vector>

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
        for (int64_t i = 1; i < threads.number; i++)
            others.emplace_back(work, data);
        work(data);
        for (auto &other : others)
            other.join();
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
