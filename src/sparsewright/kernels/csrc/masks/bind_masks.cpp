#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <vector>

#include "common/isa.h"
#include "common/torch.h"
#include "masks/counts.h"
#include "masks/groups.h"
#include "masks/prune.h"
#include "masks/select.h"
#include "masks/uniform.h"

namespace sparsewright {
namespace {

using Threads = std::optional<int>;
using Mask = Array<const bool, 2>;

const uint8_t* bytes(const bool* mask) { return reinterpret_cast<const uint8_t*>(mask); }

// Fills `item`. Returns null, or the reason why these kernels cannot prune the pair.
const char* why_not_pair(nb::handle tensor, nb::handle mask, PruneItem& item) {
    Tensor data, keep;
    if (const char* why = read_tensor(tensor, data)) return why;
    if (const char* why = read_tensor(mask, keep)) return why;
    item = {static_cast<char*>(data.data), static_cast<const uint8_t*>(keep.data), data.numel(),
            float_bytes(data.dtype)};
    if (is_inference(tensor)) return "an inference tensor";
    if (!item.itemsize || keep.dtype != Dtype::boolean) return "dtypes";
    return lie_alike(data, keep) ? nullptr : "not one dense block of one shape in the same order";
}

void prune_items(const std::vector<PruneItem>& items, Threads asked, const std::string& isa) {
    int64_t total = 0;
    for (const auto& item : items) total += item.bytes();
    const int threads = choose_threads(asked, total);
    const Isa chosen = isa_from_name(isa);
    nb::gil_scoped_release release;
    prune_many(items, threads, chosen);
}

// Returns "", or the reason why the tensor was not pruned.
const char* run_prune(nb::handle tensor, nb::handle mask, Threads threads, const std::string& isa) {
    PruneItem item;
    if (const char* why = why_not_pair(tensor, mask, item)) return why;
    note_write(tensor);
    prune_items({item}, threads, isa);
    return "";
}

// Returns {}, or {index of a pair: reason} if nothing was pruned.
nb::dict run_prune_many(nb::sequence tensors, nb::sequence masks, Threads threads,
                        const std::string& isa) {
    const size_t size = nb::len(tensors);
    require(size == nb::len(masks), "as many masks as tensors are needed");
    std::vector<PruneItem> items(size);
    nb::dict refused;
    for (size_t i = 0; i < size; ++i) {
        const nb::object tensor = tensors[i], mask = masks[i];
        if (const char* why = why_not_pair(tensor, mask, items[i])) refused[nb::int_(i)] = why;
    }
    if (refused.size() == 0 && size) {
        note_write(tensors);
        prune_items(items, threads, isa);
    }
    return refused;
}

// Returns "", or the reason why the kernels cannot read a tensor.
const char* run_why_not(nb::handle tensor) {
    Tensor unused;
    const char* why = read_tensor(tensor, unused);
    return why ? why : "";
}

// Returns the first row with a NaN among its candidates, or -1.
int64_t run_select(nb::handle score, nb::handle num, std::optional<Mask> among, Array<bool, 2> out,
                   bool magnitude, Threads asked, const std::string& isa) {
    Tensor scores;
    require(!read_tensor(score, scores) && scores.is_contiguous() && scores.dims == 2,
            "score is not a contiguous tensor [rows, n]");
    const int64_t rows = scores.sizes[0], n = scores.sizes[1];
    Tensor counts;
    require(!read_tensor(num, counts) && counts.dtype == Dtype::int64 && counts.dims == 1 &&
                counts.sizes[0] == rows && (counts.strides[0] == 0 || counts.is_contiguous()),
            "num must be int64 [rows], contiguous or one number expanded");
    require(!among || (among->sizes[0] == rows && among->sizes[1] == n), "among must be [rows, n]");
    require(out.sizes[0] == rows && out.sizes[1] == n, "out must be [rows, n]");
    const SelectTask task{scores.data,
                          among ? bytes(among->data) : nullptr,
                          static_cast<const int64_t*>(counts.data),
                          counts.strides[0] == 0 ? 0 : 1,
                          reinterpret_cast<uint8_t*>(out.data),
                          rows,
                          n,
                          scores.dtype,
                          magnitude};
    const int threads = choose_threads(asked, rows * n * float_bytes(scores.dtype));
    const Isa chosen = isa_from_name(isa);
    nb::gil_scoped_release release;
    return select(task, threads, chosen);
}

// Returns the parts of a task that n:m groups and tiles share. Reads `score` into `scores`.
GroupTask read_groups(nb::handle score, nb::handle mask, bool fill, nb::handle out, int dim,
                      Tensor& scores) {
    require(!read_tensor(score, scores) && scores.is_contiguous(), "score must be contiguous");
    require(0 <= dim && dim < scores.dims, "score has no such dimension");
    Tensor marks, given;
    const auto is_mask = [&](nb::handle tensor, Tensor& read) {
        return !read_tensor(tensor, read) && read.dtype == Dtype::boolean && read.is_contiguous() &&
               read.dims == scores.dims &&
               std::equal(read.sizes, read.sizes + read.dims, scores.sizes);
    };
    require(is_mask(out, marks), "out must be bool, contiguous and shaped like score");
    require(mask.is_none() ? !fill : is_mask(mask, given), "mask must be None, or be like out");
    GroupTask task{};
    task.score = scores.data;
    task.mask = mask.is_none() ? nullptr : static_cast<const uint8_t*>(given.data);
    task.fill = fill;
    task.out = static_cast<uint8_t*>(marks.data);
    task.inner = 1;
    for (int i = dim + 1; i < scores.dims; ++i) task.inner *= scores.sizes[i];
    task.dtype = scores.dtype;
    return task;
}

// Returns false if a candidate is NaN.
bool run_select_n_m(nb::handle score, int n, int m, int dim, nb::handle mask, bool fill,
                    nb::handle out, bool magnitude, Threads asked, const std::string& isa) {
    Tensor scores;
    GroupTask task = read_groups(score, mask, fill, out, dim, scores);
    require(1 <= n && n <= m && m <= most_in_group, "n must be 1..m, and m at most 32");
    require(scores.sizes[dim] % m == 0, "m must divide the dimension");
    task.count = scores.numel() / m;
    task.n = n;
    task.m = m;
    task.magnitude = magnitude;
    const int threads = choose_threads(asked, scores.numel() * float_bytes(scores.dtype));
    const Isa chosen = isa_from_name(isa);
    nb::gil_scoped_release release;
    return select_n_m(task, threads, chosen);
}

// Returns false if a candidate is NaN.
bool run_select_tiles(nb::handle score, int n, nb::handle mask, bool fill, nb::handle out,
                      bool magnitude, Threads asked, const std::string& isa) {
    Tensor scores;
    GroupTask task = read_groups(score, mask, fill, out, 1, scores);
    require(1 <= n && n <= tile_side, "n must be 1..4");
    require(scores.sizes[0] % tile_side == 0 && scores.sizes[1] % tile_side == 0,
            "the first two dimensions must be divisible by 4");
    task.count = scores.numel() / (tile_side * tile_side);
    task.tiles_per_row = scores.sizes[1] / tile_side * task.inner;
    task.n = n;
    task.m = tile_side;
    task.magnitude = magnitude;
    const int threads = choose_threads(asked, scores.numel() * float_bytes(scores.dtype));
    const Isa chosen = isa_from_name(isa);
    nb::gil_scoped_release release;
    return select_tiles(task, threads, chosen);
}

void run_count_rows(Mask mask, Array<int64_t, 1> counts, Threads asked, const std::string& isa) {
    require(counts.numel() == mask.sizes[0], "counts must be [rows]");
    const int threads = choose_threads(asked, mask.numel());
    const Isa chosen = isa_from_name(isa);
    nb::gil_scoped_release release;
    count_rows(bytes(mask.data), mask.sizes[0], mask.sizes[1], counts.data, threads, chosen);
}

// Returns None if the masks do not hold their entries in the same order.
std::optional<std::pair<int64_t, int64_t>> run_count_changes(nb::handle old_mask,
                                                             nb::handle new_mask, Threads asked,
                                                             const std::string& isa) {
    Tensor before, after;
    require(!read_tensor(old_mask, before) && !read_tensor(new_mask, after), "not masks");
    require(before.dtype == Dtype::boolean && after.dtype == Dtype::boolean, "masks must be bool");
    if (!lie_alike(before, after)) return std::nullopt;
    const int64_t n = before.numel();
    const int threads = choose_threads(asked, n);
    const Isa chosen = isa_from_name(isa);
    nb::gil_scoped_release release;
    const Changes changes =
        count_changes(static_cast<const uint8_t*>(before.data),
                      static_cast<const uint8_t*>(after.data), n, threads, chosen);
    return std::pair(changes.dropped, changes.grown);
}

void run_uniform(nb::handle tensor, uint64_t key, uint64_t first, Threads asked,
                 const std::string& isa) {
    Tensor out;
    require(!read_tensor(tensor, out) && out.is_contiguous() && out.dtype == Dtype::float32,
            "uniform numbers need a contiguous float32 tensor");
    note_write(tensor);
    const int threads = choose_threads(asked, out.numel() * 4);
    const Isa chosen = isa_from_name(isa);
    nb::gil_scoped_release release;
    uniform(static_cast<float*>(out.data), out.numel(), key, first, threads, chosen);
}

}  // namespace

void bind_masks(nb::module_& m) {
    m.def("why_not", &run_why_not);
    m.def("prune_", &run_prune);
    m.def("prune_many_", &run_prune_many);
    m.def("select", &run_select);
    m.def("select_n_m", &run_select_n_m, nb::arg("score"), nb::arg("n"), nb::arg("m"),
          nb::arg("dim"), nb::arg("mask").none(), nb::arg("fill"), nb::arg("out"),
          nb::arg("magnitude"), nb::arg("threads").none(), nb::arg("isa"));
    m.def("select_tiles", &run_select_tiles, nb::arg("score"), nb::arg("n"), nb::arg("mask").none(),
          nb::arg("fill"), nb::arg("out"), nb::arg("magnitude"), nb::arg("threads").none(),
          nb::arg("isa"));
    m.def("count_rows", &run_count_rows);
    m.def("count_changes", &run_count_changes);
    m.def("uniform_", &run_uniform);
}

}  // namespace sparsewright
