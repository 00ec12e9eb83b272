// Threads: torch's OpenMP workers where they can be reached, else a small pool of our own.
#pragma once
#include <cstdint>
#include <functional>

namespace sparsewright {

// Calls task(i, thread) for i in [0, tasks), handed out one by one to at most `threads` threads, the
// caller among them (thread 0). Tasks must write to disjoint places. Safe after fork; a nested or a
// concurrent call runs on the calling thread alone. The first exception is rethrown.
void parallel_for(int threads, int64_t tasks, const std::function<void(int64_t, int)>& task);

// Splits [0, size) into pieces of at least `grain` for parallel_for; task(begin, end).
void parallel_ranges(int threads, int64_t size, int64_t grain, const std::function<void(int64_t, int64_t)>& task);

}  // namespace sparsewright
