// Access to torch: the memory of tensors, version counters, threads.
//
// The extension is not linked against torch, so one build works with every version.
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>
#include <optional>
#include <type_traits>

#include "common/dtype.h"

namespace sparsewright {

namespace nb = nanobind;

// The memory of a torch tensor. The torch tensor must outlive this struct.
struct Tensor {
    static constexpr int most_dims = 8;

    void* data;
    Dtype dtype;
    int dims;
    int64_t sizes[most_dims], strides[most_dims];  // strides count entries

    int64_t numel() const;
    bool is_contiguous() const;
    bool is_dense() const;  // one block of memory without gaps or overlap; any order of dimensions
};

// Returns whether two tensors have equal shapes and hold their entries in the same order, each in
// one block.
bool lie_alike(const Tensor& a, const Tensor& b);

// Looks up the torch objects that the functions below need. Call it once, before them.
void find_torch();

// Returns whether tensors are read through the table of C functions of newer torch versions
// (DLPack 1.3), which takes 0.05 us per tensor. Reading their attributes takes 0.4 us.
bool has_exchange_api();

// Fills `out`. Returns null, or the reason why the memory of `tensor` must not be accessed.
const char* read_tensor(nb::handle tensor, Tensor& out);

// Returns whether a tensor was created in inference mode. Writing to it outside that mode is an
// error.
bool is_inference(nb::handle tensor);

// Increments the version counter of a tensor, or of each tensor in a list, for an in-place write.
void note_write(nb::handle tensors);

// Returns `asked`, or else the number of threads to use for this many bytes.
int choose_threads(std::optional<int> asked, int64_t bytes);

// Raises ValueError if `ok` is false.
void require(bool ok, const char* message);

template <class T>
constexpr Dtype dtype_of = std::is_same_v<T, bool>       ? Dtype::boolean
                           : std::is_same_v<T, uint16_t> ? Dtype::uint16
                           : std::is_same_v<T, int32_t>  ? Dtype::int32
                           : std::is_same_v<T, int64_t>  ? Dtype::int64
                           : std::is_same_v<T, float>    ? Dtype::float32
                           : std::is_same_v<T, double>   ? Dtype::float64
                                                         : Dtype::other;

// An argument that must be a contiguous tensor of one dtype. Anything else raises TypeError.
template <class T, int dims>
struct Array {
    T* data;
    int64_t sizes[dims];

    int64_t numel() const {
        int64_t total = 1;
        for (int64_t size : sizes) total *= size;
        return total;
    }
    T& operator[](int64_t i) const { return data[i]; }
};

}  // namespace sparsewright

namespace nanobind::detail {

template <class T, int dims>
struct type_caster<sparsewright::Array<T, dims>> {
    using Argument = sparsewright::Array<T, dims>;
    NB_TYPE_CASTER(Argument, const_name("Tensor"))

    bool from_python(handle source, uint8_t, cleanup_list*) noexcept {
        sparsewright::Tensor tensor;
        if (sparsewright::read_tensor(source, tensor)) return false;
        if (tensor.dtype != sparsewright::dtype_of<std::remove_const_t<T>>) return false;
        if (tensor.dims != dims || !tensor.is_contiguous()) return false;
        value.data = static_cast<T*>(tensor.data);
        for (int i = 0; i < dims; ++i) value.sizes[i] = tensor.sizes[i];
        return true;
    }
};

}  // namespace nanobind::detail
