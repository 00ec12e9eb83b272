// Threads without a runtime: spawned per call, so a fork can never inherit a broken pool and
// nothing spins beside the framework's own OpenMP workers. A spawn and join costs about 20-40 us,
// which is why callers use one thread below a size they measured.
#pragma once

#include <algorithm>
#include <cstdint>
#include <exception>
#include <system_error>
#include <thread>
#include <vector>

namespace sw {

// f(part) for every part in [0, parts), each on its own thread; the first exception is rethrown.
template <class F>
void parallel_for(int parts, const F& f) {
    if (parts <= 1) {
        if (parts == 1) f(0);
        return;
    }
    std::vector<std::exception_ptr> errors(parts);
    auto run = [&](int part) {
        try {
            f(part);
        } catch (...) {
            errors[part] = std::current_exception();
        }
    };
    std::vector<std::thread> workers;
    workers.reserve(parts - 1);
    int started = 1;
    for (; started < parts; ++started) {
        try {
            workers.emplace_back(run, started);
        } catch (const std::system_error&) {
            break;  // no more threads to be had: the rest runs here
        }
    }
    for (int part = started; part < parts; ++part) run(part);
    run(0);
    for (auto& worker : workers) worker.join();
    for (auto& error : errors)
        if (error) std::rethrow_exception(error);
}

// Begin of `part` when n items are split into `parts` runs that start on multiples of `grain`.
inline int64_t split(int64_t n, int part, int parts, int64_t grain) {
    const int64_t blocks = (n + grain - 1) / grain;
    return std::min(n, blocks * part / parts * grain);
}

// As many parts as threads were given, but none smaller than min_items.
inline int choose_parts(int64_t n, int threads, int64_t min_items) {
    const int64_t most = std::max<int64_t>(1, n / min_items);
    return static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(threads, most)));
}

}  // namespace sw
