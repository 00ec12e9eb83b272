#include "masks/pool_loops.h"

namespace sparsewright {

const PoolLoops& pool_loops(Avx2) { return all_pool_loops; }

}  // namespace sparsewright
