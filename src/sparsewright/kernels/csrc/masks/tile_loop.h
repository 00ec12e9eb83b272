// The loop of 4x4 tiles, for scores of each dtype.
#pragma once

#include <cstring>

#include "masks/formats.h"
#include "masks/groups.h"
#include "masks/keys.h"
#include "masks/tile_strip.h"
#include "masks/transpose.h"

namespace sparsewright {
namespace {

template <class Format>
class Tiles {
  public:
    explicit Tiles(const GroupTask& task)
        : task(task), scores(tile_side, task.inner), masks(tile_side, task.inner) {}

    bool run(int64_t begin, int64_t end) {
        std::memset(strip.given, !task.fill, sizeof strip.given);
        bool nan = false;
        for (int64_t first = begin; first < end; first += width) {
            const int count = static_cast<int>(end - first < width ? end - first : width);
            if (count < width) std::memset(bits, 0, sizeof bits);
            for_each_line(first, count, [&](int64_t at, int64_t group, int size, int to) {
                scores.load(static_cast<const T*>(task.score) + at, group, size, bits + to);
                if (task.mask) masks.load(task.mask + at, group, size, strip.given + to);
            });
            const T largest = read();
            nan |= largest > Format::inf;
            strip.scale();
            for (int p = 0; p < strip.size && largest >= Format::inf; ++p)
                if (key_of<true>(bits[p]) == Format::inf) strip.add_infinite(p, bits[p] > 0);
            strip.choose(task.n);
            strip.mark(task.fill);
            for_each_line(first, count, [&](int64_t at, int64_t group, int size, int from) {
                masks.store(task.out + at, group, size, strip.marked + from);
            });
        }
        return !nan;
    }

  private:
    using T = typename Format::Bits;
    static constexpr int width = TileStrip::width;

    // Calls f(start in memory, first group, number of groups, place in the strip) for each of the
    // four lines of all tiles that are in one row of tiles.
    template <class F>
    void for_each_line(int64_t first, int count, const F& f) const {
        const int64_t per_row = task.tiles_per_row;
        for (int lane = 0; lane < count;) {
            const int64_t row = (first + lane) / per_row, group = (first + lane) % per_row;
            const int64_t left = per_row - group;
            const int size = left < count - lane ? static_cast<int>(left) : count - lane;
            for (int line = 0; line < tile_side; ++line)
                f((row * tile_side + line) * per_row * tile_side, group, size,
                  line * tile_side * width + lane);
            lane += size;
        }
    }

    // Sets the scores that do not count to 0. Returns the bits of the largest |score|.
    T read() {
        const T sign = task.magnitude ? max_key<T> : static_cast<T>(-1), fill = task.fill ? -1 : 0;
        T largest = 0;
        for (int p = 0; p < strip.size; ++p) {
            const T given = strip.given[p] ? -1 : 0;
            const T score = static_cast<T>(bits[p] & (given ^ fill) & sign);
            const T size = key_of<true>(score);
            largest = largest > size ? largest : size;
            bits[p] = score;
        }
        for (int p = 0; p < strip.size; ++p) {
            const T is_finite = key_of<true>(bits[p]) < Format::inf ? -1 : 0;
            strip.values[p] = Format::value(static_cast<T>(bits[p] & is_finite));
        }
        return largest;
    }

    const GroupTask& task;
    const Transpose<width, T> scores;
    const Transpose<width, uint8_t> masks;
    T bits[TileStrip::size];
    TileStrip strip;
};

template <class Format>
bool tile_loop(const GroupTask& task, int64_t begin, int64_t end) {
    return Tiles<Format>(task).run(begin, end);
}

}  // namespace
}  // namespace sparsewright
