#include <cstring>
#include <stdexcept>
#include <string>

#include "kernels.h"

namespace sparsewright {

const Kernels& choose_kernels(const char* isa) {
  bool any = !std::strcmp(isa, "auto");
#if defined(__x86_64__)
  static const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  static const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (avx512 && (any || !std::strcmp(isa, kAvx512.name))) return kAvx512;
  if (avx2 && (any || !std::strcmp(isa, kAvx2.name))) return kAvx2;
#endif
  if (any || !std::strcmp(isa, kPortable.name)) return kPortable;
  throw std::invalid_argument("isa '" + std::string(isa) + "' is unknown or missing on this CPU");
}

}  // namespace sparsewright
