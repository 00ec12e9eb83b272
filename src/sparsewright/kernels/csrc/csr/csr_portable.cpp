#include "csr/vec_portable.h"

#include "csr/product_loops.h"

namespace sparsewright {

const ProductLoops& product_loops(Portable) {
    static constexpr ProductLoops loops = make_product_loops(32, 32);
    return loops;
}

}  // namespace sparsewright
