#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <vector>

#include "common/isa.h"
#include "common/torch.h"
#include "masks/counts.h"
#include "masks/groups.h"
#include "masks/joint.h"
#include "masks/pool.h"
#include "masks/prune.h"
#include "masks/select.h"
#include "masks/squares.h"
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

Pooling pooling_from(const std::string& name) {
    if (name == "sum") return Pooling::sum;
    if (name == "squares") return Pooling::squares;
    require(name == "max", "pooling must be sum, squares or max");
    return Pooling::max;
}

void run_pool_scores(nb::handle score, const std::string& pooling, bool magnitude,
                     Array<double, 2> out, Threads asked, const std::string& isa) {
    Tensor scores;
    require(!read_tensor(score, scores) && scores.is_contiguous() && scores.dims == 4,
            "score is not a contiguous tensor [down, high, across, wide]");
    const int64_t* sizes = scores.sizes;
    require(out.sizes[0] == sizes[0] && out.sizes[1] == sizes[2], "out must be [down, across]");
    const BlockShape shape{sizes[0], sizes[1], sizes[2], sizes[3]};
    require(shape.numel() || !out.numel(), "blocks must have entries");
    const Pooling chosen = pooling_from(pooling);
    const int threads = choose_threads(asked, shape.numel() * float_bytes(scores.dtype));
    const Isa with = isa_from_name(isa);
    nb::gil_scoped_release release;
    pool_scores(scores.data, scores.dtype, shape, chosen, magnitude, out.data, threads, with);
}

void run_pool_mask(Array<const bool, 4> mask, Array<bool, 2> out, Threads asked,
                   const std::string& isa) {
    const int64_t* sizes = mask.sizes;
    require(out.sizes[0] == sizes[0] && out.sizes[1] == sizes[2], "out must be [down, across]");
    const BlockShape shape{sizes[0], sizes[1], sizes[2], sizes[3]};
    require(shape.numel() || !out.numel(), "blocks must have entries");
    const int threads = choose_threads(asked, shape.numel());
    const Isa with = isa_from_name(isa);
    nb::gil_scoped_release release;
    pool_mask(bytes(mask.data), shape, reinterpret_cast<uint8_t*>(out.data), threads, with);
}

void run_expand_blocks(Mask chosen, Array<bool, 4> out, Threads asked) {
    const int64_t* sizes = out.sizes;
    require(chosen.sizes[0] == sizes[0] && chosen.sizes[1] == sizes[2],
            "chosen must be [down, across]");
    const BlockShape shape{sizes[0], sizes[1], sizes[2], sizes[3]};
    const int threads = choose_threads(asked, shape.numel());
    nb::gil_scoped_release release;
    expand_blocks(bytes(chosen.data), shape, reinterpret_cast<uint8_t*>(out.data), threads);
}

// Returns the counts, or None if a candidate is NaN.
std::optional<std::vector<int64_t>> run_count_largest(nb::sequence tensors,
                                                      std::optional<nb::sequence> among,
                                                      int64_t num, bool magnitude, Threads asked,
                                                      const std::string& isa) {
    const size_t size = nb::len(tensors);
    require(!among || nb::len(*among) == size, "as many masks as tensors are needed");
    std::vector<JointTensor> joint(size);
    Dtype dtype = Dtype::float32;
    int64_t entries = 0;
    for (size_t i = 0; i < size; ++i) {
        Tensor tensor, mask;
        const nb::object of = tensors[i];
        require(!read_tensor(of, tensor) && tensor.is_contiguous(), "a tensor is not contiguous");
        require(i == 0 || tensor.dtype == dtype, "tensors have several dtypes");
        dtype = tensor.dtype;
        joint[i] = {tensor.data, nullptr, tensor.numel()};
        entries += tensor.numel();
        if (!among) continue;
        const nb::object candidates = (*among)[i];
        require(!read_tensor(candidates, mask) && mask.dtype == Dtype::boolean &&
                    mask.is_contiguous() && mask.numel() == tensor.numel(),
                "a mask is not bool and contiguous, with the size of its tensor");
        joint[i].among = static_cast<const uint8_t*>(mask.data);
    }
    require(num >= 0, "num must not be negative");
    const int threads = choose_threads(asked, entries * float_bytes(dtype));
    const Isa chosen = isa_from_name(isa);
    std::vector<int64_t> counts;
    nb::gil_scoped_release release;
    if (!count_largest(joint, dtype, num, magnitude, counts, threads, chosen)) return std::nullopt;
    return counts;
}

void run_tabulate_squares(nb::handle entries, Array<const int64_t, 1> prefixes, int shift,
                          int width, Array<int64_t, 3> table, Threads asked) {
    Tensor from;
    require(!read_tensor(entries, from) && from.is_contiguous(), "entries must be contiguous");
    require(shift >= 0 && width >= 1 && width <= 16 && shift + width < 64, "no such bits");
    require(table.sizes[0] == 3 && table.sizes[1] == prefixes.numel() &&
                table.sizes[2] == int64_t{1} << width,
            "table must be [3, prefixes, 2^width]");
    const SquareBins bins{prefixes.data, prefixes.numel(), shift, width};
    const int threads = choose_threads(asked, from.numel() * float_bytes(from.dtype));
    nb::gil_scoped_release release;
    tabulate_squares(from.data, from.dtype, from.numel(), bins, table.data, threads);
}

int64_t run_gather_squares(nb::handle entries, uint64_t low, uint64_t high, nb::handle out,
                           const std::string& isa) {
    Tensor from, to;
    require(!read_tensor(entries, from) && from.is_contiguous(), "entries must be contiguous");
    require(!read_tensor(out, to) && to.is_contiguous() && to.dtype == from.dtype &&
                to.numel() == from.numel(),
            "out must be contiguous, with the size and dtype of the entries");
    const Isa chosen = isa_from_name(isa);
    nb::gil_scoped_release release;
    return gather_squares(from.data, from.dtype, from.numel(), low, high, to.data, chosen);
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

    m.def("pool_scores", &run_pool_scores);
    m.def("pool_mask", &run_pool_mask);
    m.def("expand_blocks", &run_expand_blocks);

    m.def("count_largest", &run_count_largest, nb::arg("tensors"), nb::arg("among").none(),
          nb::arg("num"), nb::arg("magnitude"), nb::arg("threads").none(), nb::arg("isa"));

    m.def("tabulate_squares", &run_tabulate_squares);
    m.def("gather_squares", &run_gather_squares);
}

}  // namespace sparsewright
