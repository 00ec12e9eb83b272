// The extension module. Each folder binds its own functions. Arguments are torch tensors:
// sparsewright.kernels checks their meaning, and common/torch.h checks their memory.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include "common/isa.h"
#include "common/torch.h"

namespace sparsewright {

void bind_masks(nb::module_& m);
void bind_csr(nb::module_& m);

}  // namespace sparsewright

NB_MODULE(_native, m) {
    using namespace sparsewright;
    find_torch();
    m.doc() = "Native kernels. Internal: use sparsewright.kernels.";
    m.attr("abi") = 6;
    m.attr("compiler") = SPARSEWRIGHT_COMPILER;
    m.attr("has_exchange_api") = has_exchange_api();
    m.def("best_isa", [] { return name_of(best_isa()); });
    m.def("resolve_isa", [](const std::string& name) { return name_of(isa_from_name(name)); });
    bind_masks(m);
    bind_csr(m);
}
