// Which instruction set to run: chosen once from the CPU, lowered on request.
//
// Each room compiles its loops once per instruction set, in a file with the flags of that set, and
// offers them as a table, by one function a file: `const Table& table(Avx2);`.
// Whatever else such a file defines is in an anonymous namespace or always inline: a shared
// function could be the copy that was compiled for an instruction set the CPU lacks.
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

// The best that this CPU runs.
Isa best_isa();

// "auto" is the best one; asking for more than the CPU has is an error, never a SIGILL.
Isa isa_from_name(const std::string& name);

struct Portable {};
struct Avx2 {};
struct Avx512 {};

// f(Portable()), f(Avx2()) or f(Avx512()).
template <class F>
decltype(auto) with_isa([[maybe_unused]] Isa isa, const F& f) {
#if SPARSEWRIGHT_X86
    if (isa == Isa::avx512) return f(Avx512());
    if (isa == Isa::avx2) return f(Avx2());
#endif
    return f(Portable());
}

}  // namespace sparsewright
