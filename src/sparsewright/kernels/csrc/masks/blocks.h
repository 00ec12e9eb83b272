// Blocks of 64 positions as 64-bit sets, on which the loops over masks and scores are written once.
// The file of each instruction set includes these headers after its own `Block`, which provides
//   vector_bytes: the width of a register in bytes
//   bits_of_bytes(const uint8_t* p): returns the set of nonzero bytes among 64
//   bytes_of_bits(uint64_t b, uint8_t* p): writes 64 bytes, each 0 or 1
//   lowest(uint64_t b, int64_t count): returns the lowest `count` set bits of b
//   struct Keys<T, Magnitude> with load(const T* p); above(T bound), the set of key > bound;
//                             and larger(T size), the set of |key| > size
#pragma once

#include <cstdint>
#include <cstring>

namespace sparsewright {
namespace {

constexpr int block = 64;

// Copies a short tail into a block of zeros, so that callers always read a full block.
template <class T>
const T* padded(const T* p, int64_t n, T* buffer) {
    if (n >= block) return p;
    std::memset(buffer, 0, block * sizeof(T));
    std::memcpy(buffer, p, n * sizeof(T));
    return buffer;
}

inline uint64_t first_bits(int64_t n) { return n >= block ? ~uint64_t{0} : (uint64_t{1} << n) - 1; }

// Writes the first n of 64 flags.
inline void store(uint64_t bits, int64_t n, uint8_t* out) {
    if (n >= block) return Block::bytes_of_bits(bits, out);
    uint8_t tail[block];
    Block::bytes_of_bits(bits, tail);
    std::memcpy(out, tail, n);
}

inline uint64_t candidates(const uint8_t* among, int64_t i, int64_t left) {
    if (!among) return first_bits(left);
    uint8_t buffer[block];
    return Block::bits_of_bytes(padded(among + i, left, buffer));
}

}  // namespace
}  // namespace sparsewright
