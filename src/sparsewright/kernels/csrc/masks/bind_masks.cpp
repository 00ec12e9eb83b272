// Arguments are addresses and sizes, checked by sparsewright.kernels.native: taking tensors here
// (DLPack) cost more per tensor than all of Python's checks together.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include "masks/counts.h"
#include "masks/prune.h"
#include "masks/select.h"
#include "masks/uniform.h"

namespace nb = nanobind;

namespace {

using Address = std::uintptr_t;

template <class T>
T* pointer(Address address) {
    return reinterpret_cast<T*>(address);
}

void require(bool ok, const char* message) {
    if (!ok) throw std::invalid_argument(message);
}

void check_run(int64_t n, int threads) {
    require(n >= 0, "a size is negative");
    require(threads >= 1, "threads must be at least 1");
}

using Item = std::tuple<Address, Address, int64_t, int>;

void prune_many(const std::vector<Item>& list, int threads, const std::string& isa) {
    std::vector<sparsewright::PruneItem> items;
    items.reserve(list.size());
    for (const auto& [data, mask, numel, itemsize] : list) {
        check_run(numel, threads);
        require(itemsize == 2 || itemsize == 4 || itemsize == 8, "itemsize must be 2, 4 or 8");
        items.push_back({pointer<char>(data), pointer<uint8_t>(mask), numel, itemsize});
    }
    const sparsewright::Isa chosen = sparsewright::isa_from_name(isa);
    nb::gil_scoped_release release;
    sparsewright::prune_many(items, threads, chosen);
}

void prune(Address data, Address mask, int64_t numel, int itemsize, int threads,
           const std::string& isa) {
    prune_many({{data, mask, numel, itemsize}}, threads, isa);
}

int64_t select_mask(Address score, int format, int64_t rows, int64_t n, Address num, Address among,
                    Address out, bool magnitude, int threads, const std::string& isa) {
    check_run(rows, threads);
    check_run(n, threads);
    require(format >= 0 && format <= 3, "unknown score format");
    const sparsewright::SelectTask task{pointer<void>(score),
                                        pointer<uint8_t>(among),
                                        pointer<int64_t>(num),
                                        pointer<uint8_t>(out),
                                        rows,
                                        n,
                                        static_cast<sparsewright::Format>(format),
                                        magnitude};
    const sparsewright::Isa chosen = sparsewright::isa_from_name(isa);
    nb::gil_scoped_release release;
    return sparsewright::select(task, threads, chosen);
}

void count_rows(Address mask, int64_t rows, int64_t n, Address counts, int threads,
                const std::string& isa) {
    check_run(rows, threads);
    check_run(n, threads);
    const sparsewright::Isa chosen = sparsewright::isa_from_name(isa);
    nb::gil_scoped_release release;
    sparsewright::count_rows(pointer<uint8_t>(mask), rows, n, pointer<int64_t>(counts), threads,
                             chosen);
}

std::tuple<int64_t, int64_t> count_changes(Address old_mask, Address new_mask, int64_t n,
                                           int threads, const std::string& isa) {
    check_run(n, threads);
    const sparsewright::Isa chosen = sparsewright::isa_from_name(isa);
    nb::gil_scoped_release release;
    const auto changes = sparsewright::count_changes(
        pointer<uint8_t>(old_mask), pointer<uint8_t>(new_mask), n, threads, chosen);
    return {changes.dropped, changes.grown};
}

void uniform(Address out, int64_t n, uint64_t key, uint64_t first, int threads,
             const std::string& isa) {
    check_run(n, threads);
    const sparsewright::Isa chosen = sparsewright::isa_from_name(isa);
    nb::gil_scoped_release release;
    sparsewright::uniform(pointer<float>(out), n, key, first, threads, chosen);
}

}  // namespace

void bind_masks(nb::module_& m) {
    m.def("prune_", &prune);
    m.def("prune_many_", &prune_many);
    m.def("select", &select_mask);
    m.def("count_rows", &count_rows);
    m.def("count_changes", &count_changes);
    m.def("uniform_", &uniform);
}
