// The extension module: every set of kernels adds its functions to the one module.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include "common/isa.h"

namespace nb = nanobind;

void bind_masks(nb::module_& m);
void bind_csr(nb::module_& m);

NB_MODULE(_native, m) {
    m.doc() = "Native kernels. Internal: sparsewright.kernels checks the arguments.";
    m.def("best_isa", [] { return sparsewright::name_of(sparsewright::best_isa()); });
    m.def("resolve_isa", [](const std::string& name) {
        return sparsewright::name_of(sparsewright::isa_from_name(name));
    });
    m.attr("compiler") = SPARSEWRIGHT_COMPILER;
    m.attr("abi") = 3;
    bind_masks(m);
    bind_csr(m);
}
