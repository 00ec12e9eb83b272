#include "common/torch.h"

#include <nanobind/ndarray.h>

#include <algorithm>
#include <stdexcept>

namespace sparsewright {
namespace {

// The first members of DLPack's DLPackExchangeAPI, version 1.x (dlpack.h in torch/include/ATen).
struct ExchangeApi {
    uint32_t major, minor;
    ExchangeApi* older;
    void* allocate;
    void* to_managed;
    void* from_managed;
    int (*to_dltensor)(void* tensor, nb::dlpack::dltensor* out);  // -1 means a Python error
};

constexpr const char* subclass = "a tensor subclass";
constexpr const char* elsewhere = "a tensor is not on the CPU";
constexpr const char* no_memory = "a tensor without memory of its own (sparse, torch.func)";
constexpr const char* many_dims = "a tensor of more than 8 dimensions";

// Work above this size uses threads, because every pass then goes to memory. A pass over cached
// memory takes only 15 us per MB.
constexpr int64_t threaded_bytes = 16 << 20;

struct Torch {
    PyObject *tensor, *parameter, *strided;
    PyObject* dtypes[int(Dtype::other)];
    PyObject* is_inference;  // the method's name
    nb::handle note_write, num_threads;
    const ExchangeApi* exchange;
} torch;

const ExchangeApi* find_exchange_api(nb::handle tensor_type) {
    nb::object capsule = nb::getattr(tensor_type, "__dlpack_c_exchange_api__", nb::none());
    if (!PyCapsule_IsValid(capsule.ptr(), "dlpack_exchange_api")) return nullptr;
    void* api = PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api");
    const auto* exchange = static_cast<const ExchangeApi*>(api);
    return exchange->major == 1 ? exchange : nullptr;
}

Dtype dtype_from(nb::dlpack::dtype type) {
    using Code = nb::dlpack::dtype_code;
    if (type.lanes != 1) return Dtype::other;
    const int bits = type.bits;
    switch (static_cast<Code>(type.code)) {
        case Code::Bool:
            return bits == 8 ? Dtype::boolean : Dtype::other;
        case Code::UInt:
            return bits == 16 ? Dtype::uint16 : Dtype::other;
        case Code::Int:
            return bits == 32 ? Dtype::int32 : bits == 64 ? Dtype::int64 : Dtype::other;
        case Code::Bfloat:
            return bits == 16 ? Dtype::bfloat16 : Dtype::other;
        case Code::Float:
            return bits == 16   ? Dtype::float16
                   : bits == 32 ? Dtype::float32
                   : bits == 64 ? Dtype::float64
                                : Dtype::other;
        default:
            return Dtype::other;
    }
}

const char* read_attributes(nb::handle tensor, Tensor& out) try {
    if (!nb::cast<bool>(tensor.attr("is_cpu"))) return elsewhere;
    if (tensor.attr("layout").ptr() != torch.strided) return no_memory;
    const nb::tuple sizes(tensor.attr("shape")), strides(tensor.attr("stride")());
    if (sizes.size() > Tensor::most_dims) return many_dims;
    out.data = reinterpret_cast<void*>(nb::cast<uintptr_t>(tensor.attr("data_ptr")()));
    const nb::object dtype = tensor.attr("dtype");
    out.dtype = Dtype(std::find(std::begin(torch.dtypes), std::end(torch.dtypes), dtype.ptr()) -
                      torch.dtypes);
    out.dims = int(sizes.size());
    for (int i = 0; i < out.dims; ++i) {
        out.sizes[i] = nb::cast<int64_t>(sizes[i]);
        out.strides[i] = nb::cast<int64_t>(strides[i]);
    }
    return nullptr;
} catch (const nb::python_error&) {
    return no_memory;
}

const char* read_exchanged(nb::handle tensor, Tensor& out) {
    nb::dlpack::dltensor from;
    if (torch.exchange->to_dltensor(tensor.ptr(), &from)) {
        PyErr_Clear();
        return read_attributes(tensor, out);  // it returns the reason
    }
    if (from.device.device_type != nb::device::cpu::value) return elsewhere;
    if (from.ndim > Tensor::most_dims) return many_dims;
    out.data = static_cast<char*>(from.data) + from.byte_offset;
    out.dtype = dtype_from(from.dtype);
    out.dims = from.ndim;
    std::copy_n(from.shape, from.ndim, out.sizes);
    std::copy_n(from.strides, from.ndim, out.strides);
    return nullptr;
}

}  // namespace

int64_t Tensor::numel() const {
    int64_t total = 1;
    for (int i = 0; i < dims; ++i) total *= sizes[i];
    return total;
}

bool Tensor::is_contiguous() const {
    int64_t expected = 1;
    bool follows = true;
    for (int i = dims - 1; i >= 0; --i) {
        follows &= sizes[i] == 1 || strides[i] == expected;
        expected *= sizes[i];
    }
    return follows || expected == 0;
}

bool Tensor::is_dense() const {
    const int64_t total = numel();
    for (int64_t filled = 1; filled < total;) {
        int next = 0;  // the dimension that continues the block filled so far
        while (next < dims && (sizes[next] == 1 || strides[next] != filled)) ++next;
        if (next == dims) return false;
        filled *= sizes[next];
    }
    return true;
}

bool lie_alike(const Tensor& a, const Tensor& b) {
    if (a.dims != b.dims || !std::equal(a.sizes, a.sizes + a.dims, b.sizes)) return false;
    if (a.is_contiguous() && b.is_contiguous()) return true;
    return std::equal(a.strides, a.strides + a.dims, b.strides) && a.is_dense();
}

void find_torch() {
    const nb::module_ module = nb::module_::import_("torch");
    const nb::module_ graph = nb::module_::import_("torch.autograd.graph");
    // These references are never released, because the module stays loaded until the process ends.
    const auto find = [](nb::handle owner, const char* name) {
        return nb::getattr(owner, name).release().ptr();
    };
    torch.tensor = find(module, "Tensor");
    torch.parameter = find(module.attr("nn"), "Parameter");
    torch.strided = find(module, "strided");
    const char* dtypes[] = {"bool",    "uint16",   "int32",   "int64",
                            "float16", "bfloat16", "float32", "float64"};
    for (int i = 0; i < int(Dtype::other); ++i) torch.dtypes[i] = find(module, dtypes[i]);
    torch.is_inference = PyUnicode_InternFromString("is_inference");
    torch.note_write = find(graph, "increment_version");
    torch.num_threads = find(module, "get_num_threads");
    torch.exchange = find_exchange_api(torch.tensor);
}

bool has_exchange_api() { return torch.exchange != nullptr; }

const char* read_tensor(nb::handle tensor, Tensor& out) {
    auto* type = reinterpret_cast<PyObject*>(Py_TYPE(tensor.ptr()));
    if (type != torch.tensor && type != torch.parameter) return subclass;
    return torch.exchange ? read_exchanged(tensor, out) : read_attributes(tensor, out);
}

bool is_inference(nb::handle tensor) {
    PyObject* self = tensor.ptr();
    const nb::object answer =
        nb::steal(PyObject_VectorcallMethod(torch.is_inference, &self, 1, nullptr));
    if (!answer.is_valid()) nb::raise_python_error();
    return answer.is(Py_True);
}

void note_write(nb::handle tensors) { torch.note_write(tensors); }

int choose_threads(std::optional<int> asked, int64_t bytes) {
    require(!asked || *asked >= 1, "threads must be at least 1");
    if (asked) return *asked;
    return bytes < threaded_bytes ? 1 : nb::cast<int>(torch.num_threads());
}

void require(bool ok, const char* message) {
    if (!ok) throw std::invalid_argument(message);
}

}  // namespace sparsewright
