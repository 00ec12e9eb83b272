#include "csr/vec_avx2.h"

#include "csr/product_loops.h"

namespace sparsewright {

const ProductLoops& product_loops(Avx2) {
    static constexpr ProductLoops loops = make_product_loops(64, 64);
    return loops;
}

}  // namespace sparsewright
