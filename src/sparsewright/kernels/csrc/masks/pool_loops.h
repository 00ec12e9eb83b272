// The loops over blocks. Each translation unit compiles them for its instruction set.
#pragma once

#include "masks/pool_table.h"
#include "masks/pool_values.h"

namespace sparsewright {
namespace {

// Returns the size of the first part of n > 1 values: the largest power of two below n. Combining
// both parts, and then their results, is the same as combining neighbors first.
constexpr int64_t first_part(int64_t n) {
    int64_t part = 1;
    while (2 * part < n) part *= 2;
    return part;
}

constexpr int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

template <class Op>
class Pool {
  public:
    using Bits = typename Op::Bits;
    using Value = typename Op::Value;

    Pool(const PoolTask& task, void* memory)
        : high(task.shape.high),
          stride(task.shape.across * task.shape.wide),
          wide(task.shape.wide),
          keep(task.magnitude ? max_key<Bits> : static_cast<Bits>(-1)),
          buffer(static_cast<Value*>(memory)) {}

    // Pools neighboring blocks of several rows of blocks; only of one row if these are not all of
    // its blocks.
    void run(const Bits* from, int64_t down, int64_t blocks, typename Op::Out* out) {
        if (wide > run_length) {  // one block
            *out = Op::out(long_block(from, wide));
            return;
        }
        const int64_t n = blocks * wide;
        for (int64_t d = 0; d < down; ++d) rows(from + d * high * stride, high, n, buffer + d * n);
        const Value* pooled = across(down * blocks, wide);
        for (int64_t b = 0; b < down * blocks; ++b) out[b] = Op::out(pooled[b]);
    }

  private:
    // Combines rows in registers.
    template <int count>
    [[gnu::always_inline]] Value column(const Bits* from) const {
        if constexpr (count == 1) {
            return Op::value(static_cast<Bits>(*from & keep));
        } else {
            constexpr int part = static_cast<int>(first_part(count));
            return Op::combine(column<part>(from), column<count - part>(from + part * stride));
        }
    }

    template <int count>
    [[gnu::noinline]] void columns(const Bits* from, int64_t n, Value* __restrict out) const {
        for (int64_t i = 0; i < n; ++i) out[i] = column<count>(from + i);
    }

    // Combines each of n columns of `count` rows. Also writes to the memory after out[run_length].
    [[gnu::noinline]] void rows(const Bits* from, int64_t count, int64_t n,
                                Value* __restrict out) const {
        if (count == 1) return columns<1>(from, n, out);
        if (count == 2) return columns<2>(from, n, out);
        if (count == 4) return columns<4>(from, n, out);
        if (count == 8) return columns<8>(from, n, out);
        const int64_t part = first_part(count);
        Value* __restrict rest = out + run_length;
        rows(from, part, n, out);
        rows(from + part * stride, count - part, n, rest);
        for (int64_t i = 0; i < n; ++i) out[i] = Op::combine(out[i], rest[i]);
    }

    // Combines the n values of each block in the buffer. Returns one value per block.
    [[gnu::noinline]] const Value* across(int64_t blocks, int64_t n) {
        Value *from = buffer, *to = other;
        for (; n > 1; n = (n + 1) / 2) {
            n % 2 ? odd_pairs(from, blocks, n, to) : pairs(from, blocks * n / 2, to);
            Value* const done = to;
            to = from;
            from = done;
        }
        return from;
    }

    static void pairs(const Value* from, int64_t n, Value* __restrict to) {
        for (int64_t i = 0; i < n; ++i) to[i] = Op::combine(from[2 * i], from[2 * i + 1]);
    }

    static void odd_pairs(const Value* from, int64_t blocks, int64_t n, Value* __restrict to) {
        for (int64_t b = 0; b < blocks; ++b, from += n) {
            for (int64_t i = 0; i < n / 2; ++i) *to++ = Op::combine(from[2 * i], from[2 * i + 1]);
            *to++ = from[n - 1];
        }
    }

    // Pools the first n columns of one block.
    [[gnu::noinline]] Value long_block(const Bits* from, int64_t n) {
        if (n <= run_length) {
            rows(from, high, n, buffer);
            return *across(1, n);
        }
        const int64_t part = first_part(n);
        const Value first = long_block(from, part);
        return Op::combine(first, long_block(from + part, n - part));
    }

    const int64_t high, stride, wide;
    const Bits keep;  // applied to the bits of each entry
    Value* const buffer;
    Value other[run_length];
};

template <class Op>
void pool(const PoolTask& task, int64_t begin, int64_t end, void* buffer) {
    const BlockShape& shape = task.shape;
    const auto* from = static_cast<const typename Op::Bits*>(task.from);
    auto* out = static_cast<typename Op::Out*>(task.out);
    Pool<Op> runs(task, buffer);
    for (int64_t r = begin; r < end; ++r) {
        const int64_t row = r / task.runs_across * task.rows_per_run;
        const int64_t first = r % task.runs_across * task.per_run;
        runs.run(from + (row * shape.high * shape.across + first) * shape.wide,
                 least(task.rows_per_run, shape.down - row),
                 least(task.per_run, shape.across - first), out + row * shape.across + first);
    }
}

template <class Format>
constexpr ScoreLoops score_loops = {{pool<Sum<Format>>, pool<Squares<Format>>, pool<Max<Format>>}};

constexpr PoolLoops all_pool_loops = {
    {score_loops<Float16>, score_loops<BFloat16>, score_loops<Float32>, score_loops<Float64>},
    pool<Any>};

}  // namespace
}  // namespace sparsewright
