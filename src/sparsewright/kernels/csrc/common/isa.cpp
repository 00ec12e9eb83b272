#include "common/isa.h"

#include <stdexcept>

namespace sparsewright {
namespace {

Isa detect() {
#if SPARSEWRIGHT_X86
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                      __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") &&
                      __builtin_cpu_supports("popcnt");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                        __builtin_cpu_supports("avx512vl");
    return avx512 ? Isa::avx512 : avx2 ? Isa::avx2 : Isa::portable;
#else
    return Isa::portable;
#endif
}

}  // namespace

const char* name_of(Isa isa) {
    return isa == Isa::avx512 ? "avx512" : isa == Isa::avx2 ? "avx2" : "portable";
}

Isa best_isa() {
    static const Isa best = detect();
    return best;
}

Isa isa_from_name(const std::string& name) {
    if (name == "auto") return best_isa();
    for (Isa isa : {Isa::portable, Isa::avx2, Isa::avx512}) {
        if (name != name_of(isa)) continue;
        if (isa > best_isa())
            throw std::invalid_argument("this CPU does not run " + name +
                                        " (best: " + name_of(best_isa()) + ")");
        return isa;
    }
    throw std::invalid_argument("unknown instruction set '" + name +
                                "' (known: auto, portable, avx2, avx512)");
}

}  // namespace sparsewright
