// Plain C++. Flags are bytes, in loops that the compiler vectorizes; a multiplication packs eight
// of them. The code assumes little-endian byte order, which all supported targets have.
#include "masks/loops.h"

namespace sparsewright {
namespace {

struct Block {
    static constexpr int vector_bytes = 16;

    static uint64_t pack(const uint8_t* flags) {  // 64 bytes of 0 or 1 -> 64 bits
        uint64_t bits = 0;
        for (int i = 0; i < 8; ++i) {
            uint64_t eight;
            __builtin_memcpy(&eight, flags + 8 * i, 8);
            bits |= (eight * 0x0102040810204080u >> 56) << (8 * i);
        }
        return bits;
    }

    static uint64_t bits_of_bytes(const uint8_t* p) {
        uint8_t flags[64];
        for (int i = 0; i < 64; ++i) flags[i] = p[i] != 0;
        return pack(flags);
    }

    static void bytes_of_bits(uint64_t bits, uint8_t* p) {
        for (int i = 0; i < 8; ++i) {
            const uint64_t spread = (bits >> (8 * i) & 0xff) * 0x0101010101010101u;
            const uint64_t single = spread & 0x8040201008040201u;
            const uint64_t eight =
                ((single + 0x7f7f7f7f7f7f7f7fu) | single) >> 7 & 0x0101010101010101u;
            __builtin_memcpy(p + 8 * i, &eight, 8);
        }
    }

    static uint64_t lowest(uint64_t bits, int64_t count) {
        uint64_t rest = bits;
        for (; count > 0; --count) rest &= rest - 1;
        return bits & ~rest;
    }

    template <class T, bool Magnitude>
    struct Keys {
        T keys[64];
        void load(const T* p) {
            for (int i = 0; i < 64; ++i) keys[i] = key_of<Magnitude>(p[i]);
        }
        uint64_t above(T bound) const {
            uint8_t flags[64];
            for (int i = 0; i < 64; ++i) flags[i] = keys[i] > bound;
            return pack(flags);
        }
        uint64_t larger(T size) const {
            uint8_t flags[64];
            for (int i = 0; i < 64; ++i)
                flags[i] = keys[i] > size || keys[i] < static_cast<T>(-size);
            return pack(flags);
        }
    };
};

}  // namespace
}  // namespace sparsewright

#include "masks/make_loops.h"

namespace sparsewright {

const MaskLoops& mask_loops(Portable) {
    static constexpr MaskLoops loops =
        make_mask_loops(prune_loop<uint16_t>, prune_loop<uint32_t>, prune_loop<uint64_t>);
    return loops;
}

}  // namespace sparsewright
