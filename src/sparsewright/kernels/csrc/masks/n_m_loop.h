// The loop of n:m groups. Each lane of a vector has its own group. A network of comparators finds
// the n-th largest key of all lanes at once.
#pragma once

#include <cstring>

#include "masks/groups.h"
#include "masks/keys.h"
#include "masks/transpose.h"

namespace sparsewright {
namespace {

template <class T>
class NM {
  public:
    explicit NM(const GroupTask& task)
        : task(task), m(task.m), scores(m, task.inner), masks(m, task.inner) {}

    bool run(int64_t begin, int64_t end, T inf) {
        std::memset(allowed, !task.fill, sizeof allowed);
        bool nan = false;
        for (int64_t first = begin; first < end; first += width) {
            const int count = static_cast<int>(end - first < width ? end - first : width);
            if (count < width) std::memset(keys, 0, sizeof keys);
            scores.load(static_cast<const T*>(task.score), first, count, keys);
            if (task.mask) masks.load(task.mask, first, count, allowed);
            nan |= read(inf);
            if (task.fill || !task.mask || !all_fit()) {
                sort();
                mark();
            }
            masks.store(task.out, first, count, marked);
        }
        return !nan;
    }

  private:
    typedef T Vector __attribute__((vector_size(Block::vector_bytes)));
    static constexpr int width = 256 / sizeof(T), lanes = Block::vector_bytes / sizeof(T);
    static constexpr int room = most_in_group * width;
    static constexpr T out_of_play = std::numeric_limits<T>::min(), kept = max_key<T>;

    static Vector load(const T* from) {
        Vector vector;
        std::memcpy(&vector, from, sizeof vector);
        return vector;
    }
    static void store(T* to, const Vector& vector) { std::memcpy(to, &vector, sizeof vector); }

    // Turns scores into keys. Returns whether a candidate is NaN.
    bool read(T inf) {
        const T negate = task.magnitude ? 0 : -1, other = task.fill ? kept : out_of_play;
        const bool fill = task.fill;
        T nan = 0;
        for (int p = 0; p < m * width; ++p) {
            const T size = key_of<true>(keys[p]);
            const T sign = keys[p] < 0 ? negate : 0;
            const T candidate = (allowed[p] != 0) != fill ? -1 : 0;
            nan |= size > inf ? candidate : 0;
            const T key = static_cast<T>((size ^ sign) - sign);
            keys[p] = sorted[p] = static_cast<T>((key & candidate) | (other & ~candidate));
        }
        return nan != 0;
    }

    // Marks all candidates, and returns whether no group has more than n of them, as in most
    // updates of a training run.
    bool all_fit() {
        uint8_t counts[width] = {}, most = 0;
        for (int p = 0; p < m * width; p += width)
            for (int lane = 0; lane < width; ++lane)
                counts[lane] += marked[p + lane] = allowed[p + lane] != 0;
        for (int lane = 0; lane < width; ++lane) most = most > counts[lane] ? most : counts[lane];
        return most <= task.n;
    }

    void sort() {
        for (int c = 0; c < task.comparators; ++c) {
            T* high = sorted + task.network[c].high * width;
            T* low = sorted + task.network[c].low * width;
            for (int p = 0; p < width; p += lanes) {
                const Vector a = load(high + p), b = load(low + p);
                store(high + p, a > b ? a : b);
                store(low + p, a > b ? b : a);
            }
        }
    }

    // Marks the keys above the n-th largest, and the first ones equal to it.
    void mark() {
        T bound[width], ties[width];
        std::memcpy(bound, sorted + (task.n - 1) * width, sizeof bound);
        for (int lane = 0; lane < width; ++lane) ties[lane] = static_cast<T>(task.n);
        for (int p = 0; p < m * width; p += width)
            for (int lane = 0; lane < width; ++lane)
                ties[lane] -= static_cast<T>(keys[p + lane] > bound[lane]);
        for (int lane = 0; lane < width; ++lane) {
            const T some = bound[lane] == out_of_play ? 0 : ties[lane];  // fewer than n candidates
            ties[lane] = bound[lane] == kept ? most_in_group : some;
        }
        for (int p = 0; p < m * width; p += width)
            for (int lane = 0; lane < width; ++lane) {
                const T key = keys[p + lane];
                const T equal = (key == bound[lane]) & (ties[lane] > 0);
                ties[lane] -= equal;
                marked[p + lane] = static_cast<uint8_t>((key > bound[lane]) | equal);
            }
    }

    const GroupTask& task;
    const int m;
    const Transpose<width, T> scores;
    const Transpose<width, uint8_t> masks;
    T keys[room], sorted[room];
    uint8_t allowed[room], marked[room];
};

template <class T>
bool n_m_loop(const GroupTask& task, int64_t begin, int64_t end, int64_t inf) {
    return NM<T>(task).run(begin, end, static_cast<T>(inf));
}

}  // namespace
}  // namespace sparsewright
