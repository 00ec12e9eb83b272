// Which instruction set to run: chosen once from the CPU, lowered on request.
#pragma once

#include <stdexcept>
#include <string>

#if (defined(__x86_64__) || defined(__i386__)) && defined(__GNUC__)
#define SW_X86 1
#else
#define SW_X86 0
#endif

namespace sw {

enum class Isa : int { portable = 0, avx2 = 1, avx512 = 2 };

inline constexpr const char* isa_names[] = {"portable", "avx2", "avx512"};

inline Isa detect_isa() {
#if SW_X86
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                      __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") &&
                      __builtin_cpu_supports("popcnt");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                        __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    return avx512 ? Isa::avx512 : avx2 ? Isa::avx2 : Isa::portable;
#else
    return Isa::portable;
#endif
}

inline Isa best_isa() {
    static const Isa best = detect_isa();
    return best;
}

// "" or "auto" is the best one; asking for more than the CPU has is an error, never a SIGILL.
inline Isa isa_from_name(const std::string& name) {
    if (name.empty() || name == "auto") return best_isa();
    for (int i = 0; i <= 2; ++i) {
        if (name != isa_names[i]) continue;
        if (i > static_cast<int>(best_isa()))
            throw std::invalid_argument("this CPU does not run " + name + " (best: " +
                                        isa_names[static_cast<int>(best_isa())] + ")");
        return static_cast<Isa>(i);
    }
    throw std::invalid_argument("unknown instruction set '" + name +
                                "' (known: auto, portable, avx2, avx512)");
}

}  // namespace sw
