#include "common/parallel.h"

#include <dlfcn.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace sparsewright {
namespace {

class Pool {
  public:
    explicit Pool(pid_t pid) : pid_(pid) {}
    pid_t pid() const { return pid_; }

    // Returns false if the pool is busy.
    bool run(int threads, const std::function<void(int)>& body) {
        if (busy_.exchange(true)) return false;
        {
            std::lock_guard<std::mutex> lock(mutex_);
            while (int(workers_.size()) < threads - 1) {
                int id = int(workers_.size()) + 1;
                workers_.emplace_back([this, id, seen = round_] { work(id, seen); });
                workers_.back().detach();
            }
            body_ = &body;
            active_ = threads;
            pending_ = int(workers_.size());
            ++round_;
        }
        start_.notify_all();
        body(0);
        std::unique_lock<std::mutex> lock(mutex_);
        done_.wait(lock, [this] { return pending_ == 0; });
        busy_ = false;
        return true;
    }

  private:
    void work(int id, uint64_t seen) {
        std::unique_lock<std::mutex> lock(mutex_);
        for (;;) {
            start_.wait(lock, [&] { return round_ != seen; });
            seen = round_;
            if (id < active_) {
                lock.unlock();
                (*body_)(id);
                lock.lock();
            }
            if (--pending_ == 0) done_.notify_one();
        }
    }

    const pid_t pid_;
    std::atomic<bool> busy_{false};
    std::mutex mutex_;
    std::condition_variable start_, done_;
    std::vector<std::thread> workers_;
    const std::function<void(int)>* body_ = nullptr;
    int active_ = 0, pending_ = 0;
    uint64_t round_ = 0;
};

// A forked child does not inherit threads, so it starts a new pool. Pools are never destroyed,
// because their threads may still be waiting when the process exits.
Pool& pool() {
    static std::atomic<Pool*> current{nullptr};
    Pool* p = current.load();
    while (!p || p->pid() != getpid()) {
        Pool* fresh = new Pool(getpid());
        if (current.compare_exchange_strong(p, fresh)) return *fresh;
        delete fresh;
    }
    return *p;
}

// Use torch's own workers if its OpenMP is libgomp. They spin for a while between two parallel
// regions, so another pool would wait for their cores. libgomp does not survive a fork; the pool
// above does.
using GompParallel = void (*)(void (*)(void*), void*, unsigned, unsigned);

const pid_t loaded_in = getpid();

GompParallel gomp_parallel() {
    static const auto found = reinterpret_cast<GompParallel>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
    return getpid() == loaded_in ? found : nullptr;
}

struct Team {
    const std::function<void(int)>& body;
    std::atomic<int> threads{0};

    static void run(void* team) {
        Team& t = *static_cast<Team*>(team);
        t.body(t.threads.fetch_add(1));
    }
};

void run_threads(int threads, const std::function<void(int)>& body) {
    if (threads <= 1) return body(0);
    if (GompParallel parallel = gomp_parallel()) {
        Team team{body};
        return parallel(Team::run, &team, unsigned(threads), 0);
    }
    if (!pool().run(threads, body)) body(0);
}

}  // namespace

void run_tasks(int threads, int64_t tasks, const Task& task) {
    threads = int(std::min<int64_t>(threads, tasks));
    std::atomic<int64_t> next{0};
    std::exception_ptr error;
    std::mutex error_mutex;
    run_threads(threads, [&](int thread) {
        try {
            for (int64_t i; (i = next.fetch_add(1)) < tasks;) task(i, thread);
        } catch (...) {
            next = tasks;
            std::lock_guard<std::mutex> lock(error_mutex);
            if (!error) error = std::current_exception();
        }
    });
    if (error) std::rethrow_exception(error);
}

}  // namespace sparsewright
