// Parallel loops, on torch's OpenMP workers if they can be reached, else on a small thread pool.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>

namespace sparsewright {

using Task = std::function<void(int64_t, int)>;

// Runs parallel_for on more than one thread.
void run_tasks(int threads, int64_t tasks, const Task& task);

// Calls task(i, thread) for i in [0, tasks). At most `threads` threads, including the caller, fetch
// the tasks one by one. Tasks must write to disjoint places. The call is safe after fork. A nested
// or concurrent call may run on the calling thread alone. The first exception is rethrown.
template <class F>
void parallel_for(int threads, int64_t tasks, const F& task) {
    if (threads > 1 && tasks > 1) return run_tasks(threads, tasks, std::cref(task));
    for (int64_t i = 0; i < tasks; ++i) task(i, 0);
}

// Splits [0, size) into pieces of at least `grain`, and calls task(begin, end) for each of them.
template <class F>
void parallel_ranges(int threads, int64_t size, int64_t grain, const F& task) {
    if (size <= 0) return;
    const int64_t most = threads > 1 ? 4 * threads : 1;
    const int64_t pieces = std::clamp<int64_t>(size / std::max<int64_t>(1, grain), 1, most);
    const int64_t step = (size + pieces - 1) / pieces;
    parallel_for(threads, pieces, [&](int64_t i, int) {
        const int64_t begin = std::min(size, i * step), end = std::min(size, begin + step);
        if (begin < end) task(begin, end);
    });
}

}  // namespace sparsewright
