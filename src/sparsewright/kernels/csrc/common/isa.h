// The choice of the instruction set. It is detected once from the CPU, and users can lower it.
//
// Each folder compiles its loops once per instruction set, in one file per set with its compiler
// flags. Each such file defines one function that returns the loops as a table:
// `const Table& table(Avx2);`. Everything else in the file is in an anonymous namespace or always
// inline. Otherwise the linker could share a function compiled for an instruction set that the CPU
// lacks.
#pragma once

#include <string>

#if defined(__x86_64__) && defined(__GNUC__)
#define SPARSEWRIGHT_X86 1
#else
#define SPARSEWRIGHT_X86 0
#endif

namespace sparsewright {

enum class Isa { portable, avx2, avx512 };

const char* name_of(Isa isa);

// Returns the best instruction set that this CPU supports.
Isa best_isa();

// Returns the named instruction set; "auto" is the best. Throws if the CPU does not support it.
Isa isa_from_name(const std::string& name);

struct Portable {};
struct Avx2 {};
struct Avx512 {};

// Calls f(Portable()), f(Avx2()) or f(Avx512()).
template <class F>
decltype(auto) with_isa([[maybe_unused]] Isa isa, const F& f) {
#if SPARSEWRIGHT_X86
    if (isa == Isa::avx512) return f(Avx512());
    if (isa == Isa::avx2) return f(Avx2());
#endif
    return f(Portable());
}

}  // namespace sparsewright
