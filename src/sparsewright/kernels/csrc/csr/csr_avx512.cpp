#include "csr/vec_avx512.h"

#include "csr/product_loops.h"

namespace sparsewright {

const ProductLoops& product_loops(Avx512) {
    static constexpr ProductLoops loops = make_product_loops(64, 64);
    return loops;
}

}  // namespace sparsewright
